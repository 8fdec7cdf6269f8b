"""Speed of the codecs on this machine: ``python benchmarks/codec.py [--json] [--threads N]
[--repeat N]``.

Measures the v1-shaped SEANet codec (random weights), the bundled spectral codec and the bundled
filters on 4 s clips and on single 20 ms frames, residual vector quantization alone, and the
real FFT. The latter is compared with pocketfft in NumPy (one transform at a time, as in the codec)
and in SciPy, if installed (several at a time). Every figure is the median of the repeats. GFLOP/s
count a multiply-add as two, and are compared with the peak of multiply-adds on registers measured in
the same run. Codes and samples of the streams are checked against the one-shot calls.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

try:
    from scipy import fft as scipy_fft
except ImportError:
    scipy_fft = None

from uniaudio_engine import _C
from uniaudio_engine.storage.config import CodecConfig, SeanetConfig, to_dict
from uniaudio_engine.storage.folder import ModelFolder, find_folder, load_folder
from uniaudio_engine.storage.weight_shapes import codec_shapes

SECONDS = 4.0
V1 = CodecConfig(
    "seanet", num_codebooks=12, codebook_size=1024, codebook_dim=128, seanet=SeanetConfig()
)
LM_CODEBOOKS = {"v1": 3, "bundled": 4}  # the number of codebooks that the LM uses


def v1_weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 weights by tensor name, scaled so that signals keep their magnitude through
    the layers.
    """
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in codec_shapes(V1).items():
        fan = int(np.prod(shape[1:])) if len(shape) > 1 else 100
        scale = 0.3 if name == "quantizer.codebooks" else fan**-0.5
        weights[name] = (rng.standard_normal(tuple(shape)) * scale).astype(np.float32)
    return weights


def seanet_macs(c: CodecConfig) -> tuple[float, float]:
    """Multiply-adds per second of audio: (encoder, decoder), without activations."""
    assert c.seanet is not None
    s = c.seanet
    rate, width = float(c.sample_rate), s.filters
    encoder = rate * s.channels * width * s.kernel_size
    decoder = rate * s.channels * width * s.last_kernel_size
    for ratio in reversed(s.ratios):
        hidden = width // s.compress
        block = width * hidden * (s.residual_kernel_size + 1) + (
            width * width if s.conv_shortcut else 0
        )
        resample = (
            width * 2 * width * 2 * ratio / ratio
        )  # per row at the higher rate; 2 * ratio taps
        encoder += rate * (block * s.residual_layers + resample)
        decoder += rate * (block * s.residual_layers + resample)
        rate, width = rate / ratio, width * 2
    lstm = rate * 8 * width * width * s.lstm_layers
    encoder += lstm + rate * width * c.codebook_dim * s.last_kernel_size
    decoder += lstm + rate * width * c.codebook_dim * s.kernel_size
    return encoder, decoder


def spectral_macs(c: CodecConfig) -> tuple[float, float]:
    """Multiply-adds per second of audio in the spectral family: (encoder, decoder), no FFTs."""
    assert c.spectral is not None
    s = c.spectral
    encoder_in = (s.encoder_window // 2 + 1) * 3 * s.encoder_subframes
    decoder_out = (s.decoder_window // 2 + 1) * 3 * s.decoder_subframes
    rate = c.sample_rate / c.frame_size

    def net(n_in: int, width: int, hidden: int, blocks: int, n_out: int) -> float:
        return rate * (n_in * width + blocks * width * (2 * hidden + s.kernel_size) + width * n_out)

    return (
        net(encoder_in, s.encoder_width, s.encoder_hidden, s.encoder_blocks, c.codebook_dim),
        net(c.codebook_dim, s.decoder_width, s.decoder_hidden, s.decoder_blocks, decoder_out),
    )


def timed(f: Callable[[], Any]) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    f()
    return (time.perf_counter() - start) * 1e3


def median(f: Callable[[], Any], repeat: int) -> float:
    f()
    return statistics.median(timed(f) for _ in range(repeat))


def stream_frames(
    codec: _C.Codec, x: np.ndarray, codes: np.ndarray, pcm: np.ndarray
) -> dict[str, list[float]]:
    """Milliseconds per frame of one encoder and one decoder stream: in turn, as in live conversion,
    and each alone.
    """
    k, size = codes.shape[0], codec.frame_size
    times: dict[str, list[float]] = {"encode": [], "decode": [], "both": []}
    frames = codes.shape[1]
    encoder, decoder = codec.encoder_stream(k), codec.decoder_stream()
    got: list[np.ndarray] = []
    for t in range(frames):
        times["encode"].append(
            timed(lambda t=t: got.append(encoder.push(x[t * size : (t + 1) * size])))
        )  # type: ignore[misc]
    got.append(encoder.flush())
    if not np.array_equal(np.concatenate(got, axis=1), codes):
        raise SystemExit("codes of the stream differ from the one-shot call's")
    got = []
    for t in range(frames):
        times["decode"].append(timed(lambda t=t: got.append(decoder.push(codes[:, t : t + 1]))))  # type: ignore[misc]
    got.append(decoder.flush())
    if not np.array_equal(np.concatenate(got), pcm):
        raise SystemExit("samples of the stream differ from the one-shot call's")
    for t in range(frames):
        times["both"].append(
            timed(
                lambda t=t: (
                    encoder.push(x[t * size : (t + 1) * size]),
                    decoder.push(codes[:, t : t + 1]),
                )
            )
        )  # type: ignore[misc]
    return {name: v[20:] for name, v in times.items()}  # without the first frames


def measure_codec(
    name: str, config: CodecConfig, weights: dict[str, np.ndarray], threads: int, repeat: int
) -> dict[str, Any]:
    codec = _C.Codec(json.dumps(to_dict(config)), weights, threads)
    x = (np.random.default_rng(1).standard_normal(int(SECONDS * config.sample_rate)) * 0.1).astype(
        np.float32
    )
    k = LM_CODEBOOKS[name]
    codes = codec.encode(x, k)
    pcm = codec.decode(codes)
    encode, decode = (seanet_macs if config.seanet else spectral_macs)(config)
    rvq = k * config.codebook_size * config.codebook_dim * config.sample_rate / config.frame_size
    result: dict[str, Any] = {"codebooks": k}
    for part, macs, run in (
        ("encode", encode + rvq, lambda: codec.encode(x, k)),
        ("decode", decode, lambda: codec.decode(codes)),
    ):
        ms = median(run, repeat)
        result[part] = {
            "ms": round(ms, 3),
            "realtime": round(SECONDS * 1e3 / ms, 1),
            "gflops": round(2e-6 * macs * SECONDS / ms, 1),
        }
    runs = [stream_frames(codec, x, codes, pcm) for _ in range(max(1, repeat // 4))]
    result["frame_ms"] = {
        part: round(statistics.median(t for r in runs for t in r[part]), 4)
        for part in ("encode", "decode", "both")
    }
    return result


def measure_filter(folder: ModelFolder, name: str, threads: int, repeat: int) -> dict[str, Any]:
    """A filter of the bundled model, on a clip and frame by frame."""
    c = folder.config.filters[name]
    f = _C.PostFilter(json.dumps(to_dict(c)), dict(folder.filters[name]), threads)
    rate, frame = folder.config.codec.sample_rate, folder.config.codec.frame_size
    x = np.random.default_rng(1).standard_normal(int(SECONDS * rate)).astype(np.float32) / 10
    voice = f.voice(x)  # of a filter that hears none: no numbers
    ms = median(lambda: f.apply(x, voice=voice), repeat)
    stream, each, parts = f.stream(voice=voice), [], []
    for at in range(0, len(x), frame):
        part = slice(at, at + frame)
        each.append(timed(lambda part=part: parts.append(stream.push(x[part]))))
    parts.append(stream.flush())
    if not np.array_equal(np.concatenate(parts), f.apply(x, voice=voice)):
        raise SystemExit("samples of the stream differ from the one-shot call's")
    ends, block = 2 * c.bins * c.width, c.width * (2 * c.hidden + c.kernel_size)
    macs = rate / c.hop * (ends + c.blocks * block)
    return {
        "ms": round(ms, 3),
        "realtime": round(SECONDS * 1e3 / ms, 1),
        "gflops": round(2e-6 * macs * SECONDS / ms, 1),
        "frame_ms": round(statistics.median(each[20:]), 4),
    }


def measure_rvq(threads: int, repeat: int) -> list[dict[str, Any]]:
    rows, size, dim = 1500, 1024, 128
    rng = np.random.default_rng(2)
    out = []
    for stages in (3, 8):
        books = (
            rng.standard_normal((stages, size, dim)).astype(np.float32)
            * (0.8 ** np.arange(stages, dtype=np.float32))[:, None, None]
        )
        z = rng.standard_normal((rows, dim)).astype(np.float32) * np.float32(1.5)
        vq = _C.ResidualVQ(books, threads)
        same = np.array_equal(vq.encode(z), vq.encode_plain(z))
        ms = median(lambda vq=vq, z=z: vq.encode(z), repeat)  # type: ignore[misc]
        out.append(
            {
                "stages": stages,
                "ms": round(ms, 3),
                "gflops": round(2e-6 * rows * stages * size * dim / ms, 1),
                "equals_plain": same,
            }
        )
    return out


def measure_fft(repeat: int) -> list[dict[str, Any]]:
    out = []
    for length in (640, 960):
        x = np.random.default_rng(3).standard_normal((2000, length)).astype(np.float32)
        ours = median(lambda x=x: _C.rfft(x), repeat)  # type: ignore[misc]
        numpy = median(lambda x=x: np.fft.rfft(x), repeat)  # type: ignore[misc]
        scipy = median(lambda x=x: scipy_fft.rfft(x), repeat) if scipy_fft else None  # type: ignore[misc]
        out.append(
            {
                "length": length,
                "us": round(ours / 2, 3),
                "numpy_us": round(numpy / 2, 3),
                "scipy_us": round(scipy / 2, 3) if scipy else None,
            }
        )
    return out


def cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            fields = dict(line.strip().split("\t: ", 1) for line in f if "\t: " in line)
        return f"{fields.get('model name', platform.machine())} (family {fields.get('cpu family', '?')})"
    except OSError:
        return platform.machine()


def measure(threads: int, repeat: int) -> dict[str, Any]:
    """All measurements, with the machine and its peaks."""
    folder = load_folder(find_folder(None))
    bounds = [
        (_C.fma_peak(threads), _C.read_bandwidth(threads, 256), _C.read_bandwidth(threads, 16))
    ]
    result: dict[str, Any] = {
        "machine": f"{cpu_name()}, {os.cpu_count()} processors",
        "isa": _C.isa(),
        "threads": threads,
        "repeat": repeat,
        "v1": measure_codec("v1", V1, v1_weights(), threads, repeat),
        "bundled": measure_codec("bundled", folder.config.codec, folder.codec, threads, repeat),
        "filters": {n: measure_filter(folder, n, threads, repeat) for n in folder.config.filters},
        "rvq": measure_rvq(threads, repeat),
        "fft": measure_fft(repeat),
    }
    bounds.append(
        (_C.fma_peak(threads), _C.read_bandwidth(threads, 256), _C.read_bandwidth(threads, 16))
    )
    peak, memory, cache = (max(b[i] for b in bounds) for i in range(3))
    result |= {
        "fma_peak_gflops": round(peak, 1),
        "memory_gb_per_s": round(memory, 1),
        "cache_gb_per_s": round(cache, 1),
    }
    for part in (
        *(result[name][p] for name in ("v1", "bundled") for p in ("encode", "decode")),
        *result["filters"].values(),
        *result["rvq"],
    ):
        part["of_peak"] = round(part["gflops"] / peak, 3)
    return result


def show(r: dict[str, Any]) -> None:
    print(f"{r['machine']}, {r['isa']}, {r['threads']} threads, medians of {r['repeat']}")
    print(
        f"multiply-adds on registers {r['fma_peak_gflops']} GFLOP/s; reads {r['memory_gb_per_s']} "
        f"GB/s over 256 MB, {r['cache_gb_per_s']} GB/s over 16 MB\n"
    )
    print(
        "| codec, 4 s clip | ms | × realtime | GFLOP/s | of the peak | ms / frame, streamed |\n"
        "|---|---|---|---|---|---|"
    )
    for name in ("v1", "bundled"):
        for part in ("encode", "decode"):
            p = r[name][part]
            print(
                f"| {name}, {part}, {r[name]['codebooks']} codebooks | {p['ms']} | "
                f"{p['realtime']} | {p['gflops']} | {p['of_peak']} | {r[name]['frame_ms'][part]} |"
            )
        print(
            f"| {name}, encode and decode of each frame in turn | | | | | "
            f"{r[name]['frame_ms']['both']} |"
        )
    for name, p in r["filters"].items():
        print(
            f"| bundled, {name} | {p['ms']} | {p['realtime']} | {p['gflops']} | {p['of_peak']} | "
            f"{p['frame_ms']} |"
        )
    print(
        "\n| RVQ encode, 1500 × 128, 1024 codewords | ms | GFLOP/s of the full search | of the "
        "peak | codes equal the plain kernel's |\n|---|---|---|---|---|"
    )
    for q in r["rvq"]:
        print(
            f"| {q['stages']} stages | {q['ms']} | {q['gflops']} | {q['of_peak']} | "
            f"{q['equals_plain']} |"
        )
    print("\n| real FFT | µs | NumPy's pocketfft, µs | SciPy's, µs |\n|---|---|---|---|")
    for f in r["fft"]:
        print(f"| {f['length']} | {f['us']} | {f['numpy_us']} | {f['scipy_us'] or 'absent'} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeat", type=int, default=15)
    a = parser.parse_args()
    result = measure(a.threads, a.repeat)
    if a.json:
        print(json.dumps(result, indent=2))
    else:
        show(result)


if __name__ == "__main__":
    main()
