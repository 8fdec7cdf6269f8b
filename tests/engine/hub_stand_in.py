"""A model hub on loopback that serves files of a folder, and any answer that a test puts in its way."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """``models``: folder by name. ``info``: replaces parts of a model's description, or all of it
    with bytes. ``status``: an error for every request. ``asked``: the requests so far.
    """

    def __init__(self) -> None:
        self.models: dict[str, Path] = {}
        self.info: dict[str, Any] | bytes = {}
        self.status = 0
        self.delay = 0.0
        self.asked: list[str] = []
        self.endpoint = ""

    def describe(self, name: str) -> bytes:
        if isinstance(self.info, bytes):
            return self.info
        folder = self.models[name]
        files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
        siblings = [
            {
                "rfilename": p.relative_to(folder).as_posix(),
                "size": p.stat().st_size,
                "blobId": _digest(p),
            }
            for p in files
        ]
        return json.dumps(
            {"id": name, "sha": COMMIT, "siblings": siblings, "private": False} | self.info
        ).encode()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, body: bool) -> None:
            path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            time.sleep(hub.delay)
            if hub.status:
                return self._send(b"no", {}, body, hub.status)
            parts = path.strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                name, revision = "/".join(parts[2:4]), "/".join(parts[5:]) or "main"
                if self._missing(name, revision, body):
                    return None
                return self._send(hub.describe(name), {}, body)
            name, revision, file = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
            if self._missing(name, revision, body):
                return None
            found = hub.models[name] / file
            if not found.is_file():
                return self._send(b"", {"X-Error-Code": "EntryNotFound"}, body, 404)
            headers = {"ETag": f'"{_digest(found)}"', "X-Repo-Commit": COMMIT}
            return self._send(found.read_bytes(), headers, body)

        def _missing(self, name: str, revision: str, body: bool) -> bool:
            code = "" if name in hub.models else "RepoNotFound"
            if not code and revision not in ("main", "v1", COMMIT):
                code = "RevisionNotFound"
            if code:
                self._send(b"", {"X-Error-Code": code}, body, 404)
            return bool(code)

        def _send(
            self, data: bytes, headers: dict[str, str], body: bool, status: int = 200
        ) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use_hub(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub library of this process talks to ``hub``; all caches are in ``cache``."""
    from huggingface_hub import constants

    template = f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    monkeypatch.setenv("UNIAUDIO_CACHE", str(cache / "converted"))


def environment(hub: Hub, cache: Path) -> dict[str, str]:
    """The same for another process."""
    return {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(cache / "hf"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "UNIAUDIO_CACHE": str(cache / "converted"),
    }
