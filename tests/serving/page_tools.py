"""Chromium for the tests of the page: a browser, and a page that is watched."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from server_tools import Running

pytest.importorskip(
    "playwright", reason="the page is tested with Playwright; pip install '.[test]'"
)

from playwright.sync_api import Browser, Download, Page, expect, sync_playwright

EXAMPLES = Path(__file__).parents[2] / "examples"
PHONE, DESKTOP = {"width": 360, "height": 740}, {"width": 1440, "height": 900}
# No display, no sandbox for root, a microphone that beeps, and nothing that looks for the network.
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)
# What is sent to the speaker passes a tap, which the tests ask for the loudest sample.
_TAP = """
window.loudest = 0;
const connect = AudioNode.prototype.connect;
AudioNode.prototype.connect = function (target, ...rest) {
  if (target instanceof AudioDestinationNode) {
    const tap = new AnalyserNode(this.context, {fftSize: 2048});
    const samples = new Float32Array(2048);
    connect.call(this, tap);
    setInterval(() => {
      tap.getFloatTimeDomainData(samples);
      for (const x of samples) window.loudest = Math.max(window.loudest, Math.abs(x));
    }, 20);
  }
  return connect.call(this, target, ...rest);
};
"""


def chromium() -> str:
    """The program; skips the tests where there is none."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium here; install it (Debian: chromium) or name it in CHROMIUM")
    return path


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    path = chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page of a server. At its end nothing may have gone wrong in the console, and nothing may
    have been asked of another server.
    """

    def __init__(self, browser: Browser, server: Running, **options: Any) -> None:
        self.server = server
        self.context = browser.new_context(**{"viewport": DESKTOP, **options})
        self.context.set_default_timeout(10_000)
        self.context.add_init_script(_TAP)
        self.problems: list[str] = []
        self.expected = ""  # what a problem may contain
        self.page = self.open_page()

    def open_page(self) -> Page:
        page = self.context.new_page()
        page.on("console", self._heard)
        page.on("pageerror", lambda e: self.problems.append(f"error: {e}"))
        page.on("request", self._asked)
        return page

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"{message.type}: {message.text}")

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((f"{self.server.url}/", f"blob:{self.server.url}/")):
            self.problems.append(f"a request to {request.url}")

    def load(self, fragment: str = "", page: Page | None = None) -> Page:
        page = page or self.page
        page.goto(f"{self.server.url}/{fragment}")
        expect(page.locator("#run")).to_be_enabled()
        return page

    def close(self) -> None:
        self.context.close()
        found = [p for p in self.problems if not (self.expected and self.expected in p)]
        assert not found, found


@contextlib.contextmanager
def watched(browser: Browser, server: Running, **options: Any) -> Iterator[Watched]:
    watch = Watched(browser, server, **options)
    try:
        yield watch
    finally:
        watch.close()


def choose(page: Page, task: str) -> None:
    """A task by its radio button, as a click on its label does."""
    page.locator(f"label.task:has(input[value={task}])").click()
    expect(page.locator(f"input[value={task}]")).to_be_checked()


def done(page: Page) -> None:
    expect(page.locator("#state")).to_contain_text("Done: ", timeout=30_000)
    expect(page.locator("#error")).to_have_text("")


def generate(page: Page) -> None:
    page.locator("#run").click()
    done(page)


def samples_of(download: Download) -> np.ndarray:
    """A downloaded WAV as int16."""
    assert download.suggested_filename.endswith(".wav")
    data = Path(download.path()).read_bytes()
    samples, rate = soundfile.read(io.BytesIO(data), dtype="int16")
    assert rate == 16000
    return samples


def result(page: Page) -> np.ndarray:
    """The result, through the button for its download."""
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download as WAV").click()
    return samples_of(waiting.value)
