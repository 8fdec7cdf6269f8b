"""Voices that clients upload, beside those of the model.

A voice belongs to the API key that it was uploaded with; other keys neither see nor use it.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections.abc import Mapping
from pathlib import Path

from ..audio.voice import Voice
from ..engine import Engine
from ..errors import InputError, first_few, shown
from .errors import ApiError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class Voices:
    """``folder``: where uploaded voices are kept; None keeps them in memory.

    File names are hashes, so that no name from a request reaches the file system. Safe to use from
    several threads.
    """

    def __init__(
        self,
        engine: Engine,
        folder: Path | None = None,
        most: int = 100,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self._engine, self._folder, self._most = engine, folder, most
        self._aliases = dict(aliases or {})
        self._uploaded: dict[str, dict[str, Voice]] = {}
        self._read: dict[Path, int] = {}  # files that have been read, with their times
        self._lock = threading.Lock()
        unknown = sorted(set(self._aliases.values()) - set(engine.voices()))
        if unknown:
            raise InputError(
                f"voice alias: expected a voice of the model ({first_few(engine.voices(), 20)}), "
                f"got {first_few(unknown)}"
            )
        if folder is not None:
            self._load(folder)

    def names(self, owner: str) -> list[tuple[str, bool]]:
        """Names of the voices of a key, each with whether it was uploaded."""
        with self._lock:
            self._sync(owner)
            own = list(self._uploaded.get(owner, ()))
        return [(n, False) for n in self._engine.voices()] + [(n, True) for n in own]

    def find(self, name: str, owner: str) -> Voice:
        """A voice by its name. Raises :class:`ApiError` for an unknown one."""
        with self._lock:
            self._sync(owner)
            voice = self._uploaded.get(owner, {}).get(name)
        if voice is not None:
            return voice
        name = self._aliases.get(name, name)
        if name in self._engine.voices():
            return self._engine.voice(name)
        known = [n for n, _ in self.names(owner)]
        raise ApiError(
            400,
            f"voice: expected one of {first_few(known, 30) or 'none'}, got {shown(name)}",
            param="voice",
        )

    def add(self, voice: Voice, owner: str) -> None:
        """Keep a voice; one of the same name and key is replaced."""
        self.check_name(voice.name)
        if self._most == 0:
            raise ApiError(403, "this server takes no voices; the operator may give it --voices")
        with self._lock:
            self._sync(owner)
            own = self._uploaded.setdefault(owner, {})
            if voice.name not in own and len(own) >= self._most:
                raise ApiError(
                    429, f"expected at most {self._most} voices, got one more; delete one"
                )
            if self._folder is not None:
                path = self._path(voice.name, owner)
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                voice.save(path)
            own[voice.name] = voice

    def check_name(self, name: str) -> None:
        """Raise :class:`ApiError` unless a voice may be uploaded under this name."""
        if not _NAME.fullmatch(name):
            raise ApiError(
                400,
                "name: expected 1 to 64 letters, digits, - and _, the first a letter or digit, got "
                f"{shown(name)}",
                param="name",
            )
        if name in self._engine.voices() or name in self._aliases:
            raise ApiError(
                400, f"name: {name} is a voice of the model; choose another", param="name"
            )

    def delete(self, name: str, owner: str) -> None:
        with self._lock:
            self._sync(owner)
            if name in self._uploaded.get(owner, {}):
                del self._uploaded[owner][name]
                if self._folder is not None:
                    self._path(name, owner).unlink(missing_ok=True)
                return
        if name in self._engine.voices():
            raise ApiError(403, f"voice {name} belongs to the model and cannot be deleted")
        raise ApiError(404, f"there is no voice {shown(name)}", code="voice_not_found")

    def _path(self, name: str, owner: str) -> Path:
        assert self._folder is not None
        digest = hashlib.sha256(name.encode()).hexdigest()[:32]
        return self._folder / (owner or "local") / f"{digest}.safetensors"

    def _load(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            owners = [p.name for p in folder.iterdir() if p.is_dir()]
        except OSError as e:
            raise InputError(f"{folder}: expected a folder for voices, got: {e.strerror}") from None
        for owner in sorted(owners):
            self._sync("" if owner == "local" else owner)

    def _sync(self, owner: str) -> None:
        """Reads what has changed in the owner's folder: other servers may share it."""
        if self._folder is None:
            return
        folder = self._folder / (owner or "local")
        found: dict[Path, int] = {}
        for path in sorted(folder.glob("*.safetensors")):
            with contextlib.suppress(FileNotFoundError):  # deleted just now
                found[path] = path.stat().st_mtime_ns
        before = {p: t for p, t in self._read.items() if p.parent == folder}
        if found == before:
            return
        voices = {}
        for path in found:
            voice = Voice.load(path)
            self._engine.model.audio.check_voice(voice)
            voices[voice.name] = voice
        self._uploaded[owner] = voices
        self._read = {p: t for p, t in self._read.items() if p.parent != folder} | found
