"""The playground in a browser: what a visitor does, and what comes of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from page_tools import (
    DESKTOP,
    EXAMPLES,
    PHONE,
    Watched,
    choose,
    done,
    generate,
    open_browser,
    result,
    samples_of,
    watched,
)
from playwright.sync_api import Browser, Page, expect
from server_tools import LONG_TEXT, Running, running, until

from uniaudio_engine import Engine
from uniaudio_engine.audio.sound import to_pcm16

TEXT = "Hello there, Dr. Lee."


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture
def visit(browser: Browser, server: Running) -> Iterator[Watched]:
    with watched(browser, server) as watch:
        watch.load()
        yield watch


@pytest.fixture
def page(visit: Watched) -> Page:
    return visit.page


def test_type_and_hear(page: Page, engine: Engine) -> None:
    page.get_by_label("Text", exact=True).fill(TEXT)
    page.get_by_label("Voice", exact=True).select_option("one")
    page.get_by_label("Seed", exact=True).fill("7")
    generate(page)
    until(lambda: page.evaluate("window.loudest") > 0.001, 10)  # what the speaker gets
    sound = result(page)
    expected = engine.generate("tts", text=TEXT, voice="one", seed=7)
    np.testing.assert_array_equal(sound, np.frombuffer(to_pcm16(expected.samples), "<i2"))
    assert np.abs(sound.astype(float)).max() > 100
    assert re.fullmatch(r"[\d.]+ ms", page.locator("[data-metric=first]").inner_text())
    assert float(page.locator("[data-metric=speed]").inner_text()) > 0
    seconds = len(sound) / 16000
    assert page.locator("[data-metric=length]").inner_text() == f"{seconds:.2f} s"


def test_words_are_marked_as_they_are_heard(page: Page) -> None:
    words = ["One", "two", "three", "four"]
    page.get_by_label("Text", exact=True).fill(" ".join(words) + ".")
    page.evaluate("""() => {
      window.heard = [];
      const watch = () => {
        const word = document.querySelector('.word.now')?.textContent;
        if (word && word !== heard.at(-1)) heard.push(word);
        requestAnimationFrame(watch);
      };
      watch();
    }""")
    page.locator("#run").click()
    expect(page.locator(".transcript")).to_have_text("One two three four.")
    until(lambda: page.evaluate("heard.at(-1)") == "four", 20)
    heard = page.evaluate("heard")
    assert len(heard) > 2 and [w for w in words if w in heard] == heard  # in order, each once


def test_playing_again_and_seeking(page: Page) -> None:
    generate(page)
    page.locator("#cancel").click()
    play = page.get_by_role("button", name="Play", exact=True)
    position = page.get_by_label("Position in seconds")
    position.fill("0.1")
    assert float(position.input_value()) == pytest.approx(0.1)
    play.click()
    until(lambda: float(position.input_value()) > 0.1, 10)


def test_record_and_enhance(page: Page) -> None:
    choose(page, "se")
    page.get_by_role("button", name="Record", exact=True).click()
    name = page.locator(".sound-name")
    expect(name).to_contain_text("Recording · 1.", timeout=15_000)
    page.get_by_role("button", name="Stop recording").click()
    expect(name).to_contain_text("recording.wav")
    seconds = float(name.inner_text().split("·")[1].removesuffix(" s"))
    assert 1.0 <= seconds < 10.0
    generate(page)
    assert len(result(page)) / 16000 == pytest.approx(seconds, abs=0.006)


def test_upload_a_file_and_pick_a_span(page: Page, engine: Engine) -> None:
    choose(page, "a_edit")
    page.locator("[data-input=source] input[type=file]").set_input_files(EXAMPLES / "rain.flac")
    expect(page.locator(".sound-name")).to_contain_text("rain.flac · 4.7")
    box = page.locator(".request .wave").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 20, steps=4)
    page.mouse.up()
    begin, end = (
        float(page.get_by_label(label, exact=True).input_value()) for label in ("From", "to")
    )
    assert begin == pytest.approx(4.73 / 4, abs=0.1) and end == pytest.approx(4.73 / 2, abs=0.1)
    page.get_by_label("Seed", exact=True).fill("3")
    generate(page)
    expected = engine.generate(
        "a_edit",
        instruction=page.get_by_label("Instruction").input_value(),
        source=EXAMPLES / "rain.flac",
        span=(begin, end),
        seed=3,
    )
    np.testing.assert_array_equal(result(page), np.frombuffer(to_pcm16(expected.samples), "<i2"))


def test_a_file_that_is_no_sound(page: Page) -> None:
    choose(page, "se")
    picker = page.locator("[data-input=source] input[type=file]")
    picker.set_input_files({"name": "a.txt", "mimeType": "text/plain", "buffer": b"no sound"})
    expect(page.locator("#error")).to_have_text(re.compile(r"a\.txt: expected a sound.*"))


def test_cancel(page: Page, server: Running) -> None:
    page.get_by_label("Text", exact=True).fill(LONG_TEXT)
    page.locator("#run").click()
    expect(page.locator("[data-metric=first]")).to_contain_text("ms")
    page.keyboard.press("Escape")
    expect(page.locator("#state")).to_contain_text("Cancelled after")
    until(server.idle, 2.0)  # the whole text takes longer
    assert len(result(page)) > 0  # what came can be kept
    page.get_by_label("Text", exact=True).fill(TEXT)
    generate(page)


def test_a_link_gives_the_same_sound(visit: Watched) -> None:
    page = visit.page
    choose(page, "i_tts")
    page.get_by_label("Text", exact=True).fill("Straße & café #1 = 100 %?")
    page.locator("summary", has_text="Options").click()
    page.get_by_label("Temperature", exact=True).fill("0.7")
    generate(page)
    sound = result(page)
    page.get_by_role("button", name="Copy link").click()
    expect(page.locator("#state")).to_contain_text("link")
    url = urlsplit(page.url)
    values = parse_qs(url.fragment)
    assert set(values) == {"task", "text", "instruction", "temperature", "seed"}
    other = visit.load(f"#{url.fragment}", visit.open_page())
    expect(other.get_by_label("Seed", exact=True)).to_have_value(values["seed"][0])
    generate(other)
    np.testing.assert_array_equal(result(other), sound)


def test_a_link_has_no_sound_in_it(visit: Watched) -> None:
    page = visit.page
    choose(page, "s_edit")
    page.get_by_role("button", name="Example", exact=True).click()
    expect(page.locator(".sound-name")).to_contain_text("sentence.flac")
    generate(page)
    sound = result(page)
    page.get_by_role("button", name="Copy link").click()
    expect(page.locator("#state")).to_contain_text("link")
    fragment = urlsplit(page.url).fragment
    assert len(fragment) < 200 and parse_qs(fragment)["source"] == ["example:sentence.flac"]
    other = visit.load(f"#{fragment}", visit.open_page())
    expect(other.locator(".sound-name")).to_contain_text("sentence.flac")
    generate(other)
    np.testing.assert_array_equal(result(other), sound)


def test_a_seed_can_be_used_again(page: Page) -> None:
    sounds = []
    for _ in range(2):
        generate(page)
        sounds.append(result(page))
    assert len(sounds[0]) != len(sounds[1]) or (sounds[0] != sounds[1]).any()
    page.get_by_role("button", name=re.compile(r"Use seed \d+ again")).click()
    generate(page)
    np.testing.assert_array_equal(result(page), sounds[1])


def test_every_task(page: Page, engine: Engine) -> None:
    for task in engine.tasks():
        choose(page, task["name"])
        if any(i["modality"] == "score" for i in task["inputs"]):
            expect(page.get_by_label("Score")).to_have_value(re.compile("tempo"))
        example = page.get_by_role("button", name="Example", exact=True)
        if any(i["modality"] in ("audio", "units", "context") for i in task["inputs"]):
            example.first.click()
            expect(page.locator(".sound-name").first).to_contain_text(".flac")
        generate(page)
        assert len(result(page)) > 160, task["name"]


def test_options_follow_the_schema(page: Page) -> None:
    page.locator("summary", has_text="Options").click()
    speed = page.get_by_label("Speed", exact=True)
    assert [speed.get_attribute(a) for a in ("min", "max", "placeholder")] == ["0.25", "4", "1"]
    speed.fill("9")
    page.locator("#run").click()
    expect(page.locator("#error")).to_contain_text("Speed: ")
    speed.fill("4")
    page.get_by_label("Seed", exact=True).fill("1")
    generate(page)
    fast = result(page)
    page.get_by_role("button", name="Back to defaults").click()
    generate(page)
    assert len(fast) < 0.6 * len(result(page))


def test_an_error_of_the_server_is_one_line(visit: Watched) -> None:
    page, visit.expected = visit.page, "400 (Bad Request)"
    page.locator("summary", has_text="Options").click()
    page.get_by_label("Phones").fill("no such phones")
    page.get_by_label("Text", exact=True).fill("")
    page.locator("#run").click()
    expect(page.locator("#error")).to_contain_text("Text is missing")
    page.get_by_label("Text", exact=True).fill(TEXT)
    with page.expect_response("**/v1/tasks/tts") as waiting:
        page.locator("#run").click()
    assert waiting.value.status == 400
    expect(page.locator("#error")).to_contain_text("either text or phones")


def test_a_voice_is_kept_and_deleted(page: Page) -> None:
    voice = page.get_by_label("Voice", exact=True)
    voice.select_option(label="From a recording…")
    own = page.locator(".own-voice")
    own.locator("input[type=file]").set_input_files(EXAMPLES / "voice.flac")
    page.locator("summary", has_text="Keep it as a voice").click()
    page.get_by_label("Name of the voice").fill("mine")
    page.get_by_role("button", name="Keep", exact=True).click()
    expect(page.locator("#error")).to_contain_text("agrees")
    page.get_by_label("The speaker agrees to this use.").check()
    page.get_by_role("button", name="Keep", exact=True).click()
    expect(voice).to_have_value("mine")
    page.get_by_label("Seed", exact=True).fill("5")
    generate(page)
    page.get_by_role("button", name="Delete voice").click()
    expect(page.locator("#state")).to_have_text("Voice mine is deleted.")
    assert "mine" not in voice.locator("option").all_inner_texts()


def test_keyboard_only(page: Page) -> None:
    def tab_to(selector: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            focus = page.evaluate(
                """() => {
                  const e = document.activeElement;
                  const box = e.closest('label') ?? e;
                  return [getComputedStyle(box).outlineStyle, e.outerHTML.slice(0, 90)];
                }"""
            )
            assert focus[0] != "none", f"no visible focus on {focus[1]}"
            if page.locator(selector).evaluate("e => e === document.activeElement"):
                return
        raise AssertionError(f"{selector} cannot be reached by Tab")

    tab_to("input[name=task]:checked")
    while not page.locator("input[value=t2s]").is_checked():
        page.keyboard.press("ArrowDown")
    tab_to("[data-input=text]")
    page.keyboard.press("Control+A")
    page.keyboard.type("a loud bell")
    tab_to("#seed")
    page.keyboard.type("11")
    page.keyboard.press("Enter")
    done(page)
    tab_to("button[aria-label='Download as WAV']")
    with page.expect_download() as waiting:
        page.keyboard.press("Enter")
    assert len(samples_of(waiting.value)) == 4 * 16000


@pytest.mark.parametrize("scheme, size", [("light", DESKTOP), ("dark", PHONE)])
def test_accessible_and_within_the_screen(
    browser: Browser, server: Running, scheme: str, size: dict[str, int]
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with watched(browser, server, viewport=size, color_scheme=scheme) as watch:
        page = watch.load()
        generate(page)
        for task in ("tts", "a_edit", "svs"):
            choose(page, task)
            page.locator("summary", has_text="Options").click()
            if task == "a_edit":
                page.get_by_role("button", name="Example", exact=True).click()
                expect(page.locator(".sound-name")).to_contain_text("rain.flac")
                page.locator("#seed").fill("x")
                page.locator("#run").click()
                expect(page.locator("#error")).to_contain_text("Seed")
                page.locator("#seed").fill("")
            if task == "svs":
                voice = page.get_by_label("Voice", exact=True)
                voice.select_option(label="From a recording…")
            found = axe.run(page).response["violations"]
            bad = [f"{v['id']}: {v['nodes'][0]['html']}" for v in found if _is_bad(v)]
            assert not bad, bad
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= size["width"], f"{task} is {wide} pixels wide"


def _is_bad(violation: dict[str, str]) -> bool:
    return violation["impact"] in ("serious", "critical")


def test_a_server_with_a_key(browser: Browser, engine: Engine) -> None:
    key = "correct-horse-battery"
    with running(engine, api_keys=(key,)) as server, watched(browser, server) as watch:
        page, watch.expected = watch.page, "401 (Unauthorized)"
        page.goto(server.url)
        field = page.get_by_label("Key", exact=True)
        field.fill("wrong-horse-battery")
        page.get_by_role("button", name="Connect").click()
        expect(page.locator("#key-error")).to_contain_text("valid API key")
        field.fill(key)
        page.get_by_role("button", name="Connect").click()
        expect(page.locator("#run")).to_be_enabled()
        generate(page)
        page.get_by_role("button", name="Copy link").click()
        assert key not in page.url and page.evaluate("localStorage.length") == 0
