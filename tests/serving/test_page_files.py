"""What the playground is made of: its files, their headers, and its arithmetic."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from server_tools import Running

from uniaudio_engine.serving import page as page_package

FOLDER = Path(page_package.__file__).parent
FILES = sorted(
    p.relative_to(FOLDER).as_posix()
    for p in FOLDER.rglob("*")
    if p.is_file() and "__pycache__" not in p.parts and p.suffix != ".py"
)


@pytest.fixture
def client(server: Running) -> Any:
    with server.client() as client:
        yield client


@pytest.mark.parametrize("name", ["", *(f"page/{name}" for name in FILES)])
def test_each_file_is_served_with_strict_headers(client: httpx.Client, name: str) -> None:
    response = client.get(f"/{name}")
    assert response.status_code == 200
    policy = dict(
        part.strip().split(" ", 1)
        for part in response.headers["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert set(policy.values()) == {"'none'", "'self'"}
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    kinds = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    kind = kinds.get(name.rpartition(".")[2], "text/html")
    assert response.headers["Content-Type"].startswith(kind)
    tag = {"If-None-Match": response.headers["ETag"]}
    again = client.get(f"/{name}", headers=tag)
    assert again.status_code == 304 and not again.content


@pytest.mark.parametrize(
    "path",
    [
        "/page/",
        "/page/__init__.py",
        "/page/../settings.py",
        "/page/..%2fsettings.py",
        "/page/%2e%2e/settings.py",
        "/page//etc/passwd",
        "/page/examples/../../pyproject.toml",
        "/page/examples/README.md",
        "/page/style.css/",
        "/page/x%00.css",
    ],
)
def test_nothing_else_is_served(server: Running, path: str) -> None:
    with server.socket() as s:  # a client of httpx would tidy up the path
        s.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while part := s.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b'"error"' in answer


def test_example_sounds_come_along(client: httpx.Client) -> None:
    table = (FOLDER / "tasks.js").read_text()
    names = set(re.findall(r"'([\w-]+\.(?:flac|txt))'", table))
    assert len(names) > 8
    for name in names:
        assert client.get(f"/page/examples/{name}").status_code == 200, name


def test_the_page_needs_to_know_little(client: httpx.Client) -> None:
    assert client.get("/page/about.json").json() == {"model": "tiny", "sample_rate": 16000}


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_fetched_from_elsewhere(name: str) -> None:
    text = (FOLDER / name).read_text()
    addresses = set(re.findall(r"(?:https?:)?//[a-z][\w.-]*\.[a-z]{2,}[^\s'\"]*", text))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    assert len(text.splitlines()) < 500


def test_the_page_is_valid_enough_for_its_policy() -> None:
    html = (FOLDER / "index.html").read_text()
    assert not re.search(r"\sstyle=|\son\w+=|<style|<script(?![^>]*src=)", html)
    ids = re.findall(r'\sid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"\$\('([\w-]+)'\)", (FOLDER / "main.js").read_text()))
    assert used - set(ids) == set()


def test_every_icon_is_in_the_sprite() -> None:
    html = (FOLDER / "index.html").read_text()
    symbols = set(re.findall(r'<symbol id="i-([\w-]+)"', html))
    scripts = "".join((FOLDER / name).read_text() for name in FILES if name.endswith(".js"))
    used = set(re.findall(r"(?:icon|button)\((?:[^()]*?, )??'([a-z]+)'", scripts))
    used |= set(re.findall(r"icon: '([a-z]+)'", scripts))
    used &= set(re.findall(r"'([a-z]+)'", scripts))
    assert len(used) > 15 and used <= symbols, used - symbols


@pytest.fixture(scope="module")
def evaluate(server: Running) -> Any:
    """Runs JavaScript in a browser that has the page's modules."""
    from page_tools import open_browser, watched

    with open_browser() as browser, watched(browser, server) as watch:
        watch.load()
        yield watch.page.evaluate


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 96000])
def test_resampling(evaluate: Any, rate: int) -> None:
    """A tone in the pass band keeps its level and place; what would alias is gone."""
    code = """async ([rate, hertz, piece]) => {
      const { resample, Resampler, concatenate } = await import('/page/resample.js');
      const x = Float32Array.from({ length: rate },
        (_, i) => 0.5 * Math.sin(2 * Math.PI * hertz * i / rate));
      const r = new Resampler(rate, 16000), parts = [];
      for (let at = 0; at < x.length; at += piece) parts.push(r.push(x.slice(at, at + piece)));
      parts.push(r.flush());
      const whole = resample(x, rate, 16000), streamed = concatenate(parts);
      return [Array.from(whole), whole.every((v, i) => v === streamed[i]), streamed.length];
    }"""
    whole, same, length = evaluate(code, [rate, 1000, 777])
    assert same and length == len(whole) == 16000
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    error = np.abs(np.array(whole) - expected)[400:-400].max()
    assert error < 2e-4
    if rate > 22000:
        aliased, _, _ = evaluate(code, [rate, min(10_500, 0.49 * rate), 1024])
        assert np.abs(aliased[400:-400]).max() < 5e-5  # 80 dB down


def test_wav(evaluate: Any) -> None:
    import io

    import soundfile

    data = evaluate(
        """async () => {
          const { wavBlob, PcmReader } = await import('/page/wav.js');
          const samples = Float32Array.of(0, 0.5, -0.5, 1, -1, 2, 1 / 32768, -1 / 32768);
          return Array.from(new Uint8Array(await wavBlob(samples, 22050).arrayBuffer()));
        }"""
    )
    samples, rate = soundfile.read(io.BytesIO(bytes(data)), dtype="int16")
    assert rate == 22050
    assert samples.tolist() == [0, 16384, -16384, 32767, -32768, 32767, 1, -1]


def test_pcm_in_pieces_of_any_length_is_kept_exactly(evaluate: Any) -> None:
    """Every 16-bit number survives the way in and the way out again."""
    same = evaluate(
        """async () => {
          const { wavBlob, PcmReader } = await import('/page/wav.js');
          const { concatenate } = await import('/page/resample.js');
          const all = Int16Array.from({ length: 65536 }, (_, i) => i - 32768);
          const bytes = new Uint8Array(all.buffer), reader = new PcmReader(), parts = [];
          for (let at = 0, n = 1; at < bytes.length; at += n, n = (n * 7) % 31 + 1) {
            parts.push(reader.push(bytes.slice(at, at + n)));
          }
          const file = await wavBlob(concatenate(parts), 16000).arrayBuffer();
          return new Int16Array(file.slice(44)).every((v, i) => v === all[i]);
        }"""
    )
    assert same


@pytest.mark.parametrize("hertz", [250, 1000, 6000])
def test_a_tone_is_one_row_of_the_spectrogram(evaluate: Any, hertz: int) -> None:
    columns = evaluate(
        """async (hertz) => {
          const { Spectrum } = await import('/page/spectrum.js');
          const spectrum = new Spectrum(16000);
          const x = Float32Array.from({ length: 16000 },
            (_, i) => 0.5 * Math.sin(2 * Math.PI * hertz * i / 16000));
          const columns = [];
          for (let at = 0; at < 16000; at += 999) {
            columns.push(...spectrum.push(x.slice(at, at + 999)));
          }
          return columns.map((c) => Array.from(c));
        }""",
        hertz,
    )
    assert 97 <= len(columns) <= 100
    middle = np.array(columns[20:-20])
    top = 1127 * np.log1p(8000 / 700)
    row = 96 * 1127 * np.log1p(hertz / 700) / top - 0.5
    assert np.abs(middle.argmax(axis=1) - row).max() < 2
    assert middle.max() > 200 and np.median(middle) < 60


def test_links(evaluate: Any) -> None:
    values = {"text": "a & b = c # d % ü\n“x”", "seed": "18446744073709551", "speed": "1.5"}
    code = """async (values) => {
      const { toFragment, fromFragment } = await import('/page/link.js');
      return [fromFragment(toFragment({ task: 'tts', values })), fromFragment('#'),
        fromFragment('#text=x')];
    }"""
    there, empty, none = evaluate(code, values)
    assert there == {"task": "tts", "values": values} and empty is none is None


def test_words_are_found_in_the_text(evaluate: Any) -> None:
    words = [
        {"word": "doctor", "start": 0, "end": 0.5, "characters": [3, 6]},
        {"word": "", "start": 0.5, "end": 0.6, "characters": [6, 6]},
        {"word": "Lee", "start": 0.6, "end": 1, "characters": [7, 10]},
    ]
    code = """async ([text, words]) => {
      const { Transcript } = await import('/page/transcript.js');
      const t = new Transcript(() => {});
      t.reset(text);
      t.add(words.slice(0, 1));
      t.add(words);
      const now = [0.2, 0.7, 3].map((at) => (t.at(at), t.current?.textContent ?? null));
      return [t.element.textContent, t.words.map((w) => w.element.textContent), now];
    }"""
    text, found, now = evaluate(code, ["😀, Dr. Lee!", words])
    assert text == "😀, Dr. Lee!"
    assert found == ["Dr.", "Lee"] and now == ["Dr.", "Lee", None]
