"""The playground: one page, its modules and the example sounds, from memory.

Every file is read when the application is made. A request chooses among them by name, so that no
path of a client reaches the file system.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response

from ...cli.examples import example_files
from ...engine import Engine
from ...errors import InputError
from ..errors import ApiError

_FOLDER = Path(__file__).parent
_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".flac": "audio/flac",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
# Nothing from elsewhere, nothing inline, and no page of another origin around this one.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Cache-Control": "no-cache",  # ask every time; the answer is 304 unless the file has changed
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
}


@dataclass(frozen=True)
class _File:
    data: bytes
    headers: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> _File:
        data = path.read_bytes()
        tag = f'"{hashlib.sha256(data).hexdigest()[:24]}"'
        return cls(data, {**_HEADERS, "Content-Type": _MEDIA_TYPES[path.suffix], "ETag": tag})

    def answer(self, request: Request) -> Response:
        if request.headers.get("if-none-match") == self.headers["ETag"]:
            return Response(status_code=304, headers=self.headers)
        return Response(self.data, headers=self.headers)


def routes(engine: Engine) -> APIRouter:
    """``/`` and ``/page/…``; they need no API key, as they tell nothing that the package does not.

    The page itself asks for the key where the server has one.
    """
    router = APIRouter(include_in_schema=False)
    files = _page_files()
    about: dict[str, str | int]
    about = {"model": engine.config.name, "sample_rate": engine.sample_rate}

    @router.get("/")
    async def page(request: Request) -> Response:
        return files["index.html"].answer(request)

    @router.get("/page/about.json")
    async def about_model() -> dict[str, str | int]:
        """What the page has to know before it can ask for anything."""
        return about

    @router.get("/page/{name:path}")
    async def file(name: str, request: Request) -> Response:
        if name not in files:
            raise ApiError(404, "the page has no file of this name")
        return files[name].answer(request)

    return router


def _page_files() -> dict[str, _File]:
    """The page's files by their path below ``/page/``."""
    paths = {p.relative_to(_FOLDER).as_posix(): p for p in sorted(_FOLDER.rglob("*"))}
    try:
        paths |= {f"examples/{p.name}": p for p in example_files()}
    except InputError:
        pass  # an installation without examples; the page says so where one is asked for
    return {name: _File.read(p) for name, p in paths.items() if p.suffix in _MEDIA_TYPES}
