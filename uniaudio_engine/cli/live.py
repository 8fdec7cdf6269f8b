"""``uniaudio live``: sound in and out while it is being made; from a microphone to a speaker, or
from pipe to pipe.

Not responsible for what happens to the sound: that is ``request/live.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, cast

from ..errors import InputError, shown
from ..request.options import Option
from ..request.task_table import TASKS

if TYPE_CHECKING:
    import io

    import numpy as np
    from numpy.typing import NDArray

    from ..engine import Engine

    Samples = NDArray[np.float32]

VERBS = {TASKS[name].verb: TASKS[name] for name in ("se", "vc", "tse", "sd")}
EPILOG = """examples:
  uniaudio live enhance
  uniaudio live convert --voice examples/voice.flac --input 2 --output 5
  uniaudio stream "Hello there." --raw -o - | uniaudio live enhance -i - -o - > clean.pcm
  uniaudio stream "Hello there." --raw -o - |
    uniaudio live convert --voice examples/voice.flac -i - -o - > other.pcm
get the example files: uniaudio examples
numbers and names of sound devices: python -m sounddevice"""
_FORMATS = {"s16le": "<i2", "f32le": "<f4"}
_READ = 1 << 16  # bytes of a pipe that are taken at once, at most
_BLOCK = 0.02  # seconds of sound that a device gives or takes at once
_WAITING = 50  # blocks of a microphone that wait for the model; more are dropped
_AHEAD, _MOST_AHEAD = 2, 12  # blocks that the speaker waits for at first, and has at most
_OPTIONS = tuple(o for o in TASKS["se"].options if not o.name.startswith("repetition"))


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Those beside the model's."""
    p.epilog = EPILOG
    p.add_argument("verb", choices=tuple(VERBS), metavar="VERB", help=", ".join(VERBS))
    p.add_argument(
        "--voice",
        metavar="VOICE",
        help="for convert and extract: a voice's name or file, or a sound",
    )
    p.add_argument(
        "-i",
        "--input",
        metavar="DEVICE",
        help="name or number of a microphone (default: the system's), or - for standard input",
    )
    p.add_argument(
        "-o",
        "--output",
        metavar="DEVICE",
        help="name or number of a speaker (default: the system's), or - for standard output",
    )
    p.add_argument(
        "--rate",
        type=int,
        metavar="HZ",
        help="of input and output (default: the microphone's, or for pipes the model's)",
    )
    p.add_argument(
        "--format",
        choices=tuple(_FORMATS),
        default="s16le",
        help="mono samples of pipes, without a header (default s16le)",
    )
    p.add_argument(
        "--level",
        default="auto",
        metavar="DBFS",
        help="level of the input's loud parts; by default it is measured as the sound comes",
    )
    p.add_argument(
        "--latency",
        default="low",
        metavar="SECONDS",
        help="of the sound devices: low, high or seconds (default low)",
    )
    for o in _OPTIONS:
        p.add_argument(f"--{o.name.replace('_', '-')}", metavar="N", help=o.help)


def run_live(args: argparse.Namespace, load_engine: Callable[[], Engine]) -> int:
    """Until the input ends, or Ctrl-C."""
    values = {o.name: _number(getattr(args, o.name), o) for o in _OPTIONS}
    values = {name: value for name, value in values.items() if value is not None}
    if args.voice is not None:
        values["voice"] = args.voice
    level = args.level if args.level == "auto" else _float("--level", args.level)
    pipes = (args.input == "-", args.output == "-")
    if pipes[0] and sys.stdin.isatty():
        raise InputError("expected a pipe or file for the input, got a terminal; redirect it")
    if pipes[1] and sys.stdout.isatty():
        raise InputError("expected a pipe or file for the sound, got a terminal; redirect it")
    devices = None if all(pipes) else Devices(args)
    rate = args.rate or (None if devices is None or pipes[0] else devices.rate())
    live = load_engine().open(VERBS[args.verb].name, sample_rate=rate, level=level, **values)
    with live, contextlib.ExitStack() as stack:
        source: Source
        sink: Sink
        source = (
            PipeSource(args.format)
            if pipes[0] or devices is None
            else stack.enter_context(devices.microphone(live.sample_rate))
        )
        sink = (
            PipeSink(args.format)
            if pipes[1] or devices is None
            else stack.enter_context(devices.speaker(live.sample_rate))
        )
        own, whole = live.latency_seconds, live.latency_seconds + source.latency + sink.latency
        added = "" if devices is None else f", {1000 * whole:.0f} ms with the sound devices"
        print(
            f"uniaudio: latency {1000 * own:.0f} ms ({live.latency} samples at {live.sample_rate} "
            f"Hz){added}; Ctrl-C ends",
            file=sys.stderr,
            flush=True,
        )
        with contextlib.suppress(KeyboardInterrupt):
            for block in source.blocks():
                sink.write(live.push(block))
            sink.write(live.flush())
    _report(args, live.meta, source, sink)
    return 0


def _report(args: argparse.Namespace, meta: dict[str, Any], source: Source, sink: Sink) -> None:
    lost = {"dropped_seconds": round(source.dropped, 3), "overruns": source.overruns}
    lost["underruns"] = sink.underruns
    if args.json:
        print(json.dumps(meta | lost), file=sys.stderr if args.output == "-" else sys.stdout)
        return
    for note in [*meta["notes"], *source.notes]:
        print(f"uniaudio: note: {note}", file=sys.stderr)
    print(
        f"{meta['seconds']:.2f} s, seed {meta['seed']}, {meta['realtime_factor']:.1f} x realtime; "
        f"dropped {source.dropped:.2f} s of input in {source.overruns} over-runs, "
        f"{sink.underruns} under-runs of the output",
        file=sys.stderr,
    )


class Source(Protocol):
    """Where the sound comes from. ``dropped``: seconds of it that were lost, in ``overruns``.
    ``latency`` in seconds.
    """

    latency: float
    dropped: float
    overruns: int
    notes: list[str]

    def blocks(self) -> Iterator[Samples]: ...


class Sink(Protocol):
    """Where the sound goes. ``underruns``: how often it had to wait for samples."""

    latency: float
    underruns: int

    def write(self, samples: Samples) -> None: ...


class PipeSource:
    """Bare samples from standard input, as soon as they come. A pipe makes its writer wait, so
    nothing is lost.
    """

    latency = dropped = 0.0
    overruns = 0

    def __init__(self, format: str) -> None:
        self._format = format
        self.notes: list[str] = []

    def blocks(self) -> Iterator[Samples]:
        import numpy as np

        size, rest = np.dtype(_FORMATS[self._format]).itemsize, b""
        pipe = cast("io.BufferedReader", sys.stdin.buffer)
        while data := pipe.read1(_READ):
            data = rest + data
            whole = len(data) // size * size
            x, rest = np.frombuffer(data[:whole], _FORMATS[self._format]), data[whole:]
            yield (x / 32768.0 if size == 2 else x).astype(np.float32)
        if rest:
            self.notes.append(f"left out the input's last {len(rest)} bytes, which are no sample")


class PipeSink:
    """Bare samples to standard output, as soon as they are made."""

    latency = 0.0
    underruns = 0

    def __init__(self, format: str) -> None:
        self._format = format

    def write(self, samples: Samples) -> None:
        from ..audio.sound import to_pcm16

        data = to_pcm16(samples) if self._format == "s16le" else samples.astype("<f4").tobytes()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


class Devices:
    """Microphone and speaker, through the package sounddevice."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Raises :class:`InputError` where the package or its library is missing."""
        instead = "or use pipes: -i - -o -"
        try:
            import sounddevice
        except ImportError:
            raise InputError(
                "a microphone or speaker needs sounddevice: pip install 'uniaudio-engine[live]'; "
                f"{instead}"
            ) from None
        except OSError as e:  # the package is there, PortAudio is not
            raise InputError(f"a microphone or speaker needs PortAudio ({e}); {instead}") from None
        self._library, self._instead = sounddevice, instead
        self._input, self._output = _device(args.input), _device(args.output)
        is_word = args.latency in ("low", "high")
        self._latency = args.latency if is_word else _float("--latency", args.latency)

    def rate(self) -> int:
        """The microphone's own rate."""
        with self._errors():
            return int(self._library.query_devices(self._input, "input")["default_samplerate"])

    @contextlib.contextmanager
    def microphone(self, rate: int) -> Iterator[Microphone]:
        source = Microphone(rate)
        stream = self._stream("InputStream", self._input, rate, source.take)
        with self._running(stream):
            source.latency = float(stream.latency)
            yield source

    @contextlib.contextmanager
    def speaker(self, rate: int) -> Iterator[Speaker]:
        sink = Speaker(rate)
        stream = self._stream("OutputStream", self._output, rate, sink.fill)
        with self._running(stream):
            sink.latency = float(stream.latency) + _AHEAD * _BLOCK
            yield sink

    def _stream(self, kind: str, device: int | str | None, rate: int, callback: Any) -> Any:
        with self._errors():
            return getattr(self._library, kind)(
                samplerate=rate,
                blocksize=round(_BLOCK * rate),
                device=device,
                channels=1,
                dtype="float32",
                latency=self._latency,
                callback=callback,
            )

    @contextlib.contextmanager
    def _running(self, stream: Any) -> Iterator[None]:
        with self._errors():
            stream.start()
        try:
            yield
        finally:
            stream.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """What the library says about devices, on one line."""
        try:
            yield
        except (self._library.PortAudioError, ValueError) as e:
            reason = " ".join(str(e.args[0] if e.args else e).split())
            raise InputError(
                f"expected a working sound device, got: {reason}; choose --input, --output and "
                f"--rate, {self._instead}"
            ) from None


class Microphone:
    """Blocks of a device. They wait for the model; where too many do, new ones are dropped."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._waiting: queue.Queue[Samples] = queue.Queue(_WAITING)
        self.latency = self.dropped = 0.0
        self.overruns = 0
        self.notes: list[str] = []

    def take(self, samples: Any, frames: int, time: Any, status: Any) -> None:
        """A block [n, 1] from the device, in the device's thread."""
        self.overruns += bool(status and status.input_overflow)
        try:
            self._waiting.put_nowait(samples[:, 0].copy())
        except queue.Full:
            self.overruns += 1
            self.dropped += frames / self._rate

    def blocks(self) -> Iterator[Samples]:
        while True:
            with contextlib.suppress(queue.Empty):  # Windows: Ctrl-C is seen between waits
                yield self._waiting.get(timeout=0.1)


class Speaker:
    """Samples for a device. It begins, and after an under-run begins again, with some in reserve;
    where too many wait, since two devices' clocks differ, the oldest are dropped.
    """

    def __init__(self, rate: int) -> None:
        import numpy as np

        block = round(_BLOCK * rate)
        self._least, self._most = _AHEAD * block, _MOST_AHEAD * block
        self._lock = threading.Lock()
        self._waiting = np.zeros(0, np.float32)
        self._playing = False
        self.latency = 0.0
        self.underruns = 0

    def write(self, samples: Samples) -> None:
        import numpy as np

        with self._lock:
            self._waiting = np.concatenate((self._waiting, samples))[-self._most :]
            self._playing |= len(self._waiting) >= self._least

    def fill(self, out: Any, frames: int, time: Any, status: Any) -> None:
        """A block [n, 1] for the device, in the device's thread."""
        with self._lock:
            n = min(frames, len(self._waiting)) if self._playing else 0
            out[:n, 0], self._waiting = self._waiting[:n], self._waiting[n:]
            out[n:] = 0
            if self._playing and n < frames:
                self.underruns += 1
                self._playing = False


def _device(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdecimal() else text


def _float(flag: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{flag}: expected a number, got {shown(text)}") from None


def _number(text: str | None, option: Option) -> int | float | None:
    if text is None:
        return None
    try:
        return option.check(int(text) if option.kind == "int" else float(text))
    except ValueError:
        return option.check(text)  # raises, and says what was expected
