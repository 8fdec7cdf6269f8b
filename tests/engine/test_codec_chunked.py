"""Codecs with chunks and loudness normalisation, against the torch module; their streams; what they
reject.
"""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from codec_tools import (
    build,
    check_audio,
    check_codes,
    clip,
    double_of,
    native,
    seanet,
    torch_encode,
)

GROUP = {"channels": 2, "norm": "group"}
CONFIGS = {
    "encodec48": seanet(**GROUP, chunk_size=400, chunk_stride=396, normalize=True),
    "no-whole-frames": seanet(**GROUP, chunk_size=210, chunk_stride=150, normalize=True),
    "four-over-each": seanet(**GROUP, chunk_size=160, chunk_stride=40, normalize=True),
    "eight-and-odd": seanet(
        channels=3, chunk_size=157, chunk_stride=20, normalize=True, causal=True
    ),
    "side-by-side": seanet(causal=True, chunk_size=200, chunk_stride=200, normalize=True),
    "less-than-a-frame": seanet(chunk_size=25, chunk_stride=22, normalize=True, lstm_layers=1),
    "loudness-kept": seanet(**GROUP, chunk_size=200, chunk_stride=180),
    "whole-clip": seanet(**GROUP, normalize=True),
    "whole-clip-mono": seanet(normalize=True, causal=True),
}


@pytest.fixture(scope="module", params=list(CONFIGS), ids=list(CONFIGS))
def pair(request):
    config = CONFIGS[request.param]
    model = build(config)
    return config, model, double_of(config, model), native(config, model)


def lengths(config) -> list[int]:
    size, stride = config.chunk
    if not size:
        return [0, 1, config.frame_size, 333]
    return [
        0,
        1,
        stride,
        stride + 1,
        size - 1,
        size,
        size + 1,
        5 * stride,
        5 * stride + 1,
        4 * stride + size,
        911,
    ]


def test_parity_at_any_length(pair) -> None:
    config, model, double, codec = pair
    size, stride = config.chunk
    frames = ties = 0
    for n in lengths(config):
        x = clip(config, n, n) * np.float32(0.01 if n % 2 else 1)
        codes, scales = codec.encode_scaled(x)
        assert codes.shape == (3, config.frames(n)) and codec.frames(n) == config.frames(n)
        expected = torch_encode(model, torch.from_numpy(x)[None])[1][0].numpy()
        assert scales.dtype == np.float32 and scales.shape == expected.shape
        assert (np.abs(scales - expected) <= 1e-6 * expected).all()
        f, m = check_codes(codes, model, double, x)
        frames, ties = frames + f, ties + m
        for k in (1, 3):
            some, same = codec.encode_scaled(x, num_codebooks=k)
            assert np.array_equal(some, codes[:k]) and np.array_equal(same, scales)
            pcm = codec.decode(codes[:k], scales)
            assert pcm.shape[-1] >= n
            check_audio(pcm, model, double, codes[:k], scales)
        if size and n and config.frames(n) > 2:  # a last chunk that is not whole
            check_audio(
                codec.decode(
                    codes[:, :-1], scales[: -(-(codes.shape[1] - 1) // codec.chunk_frames)]
                ),
                model,
                double,
                codes[:, :-1],
                scales[: -(-(codes.shape[1] - 1) // codec.chunk_frames)],
            )
    assert ties <= max(1, frames // 50), f"{ties} near-ties in {frames} frames"


def test_silence_has_a_scale(pair) -> None:
    config, _, _, codec = pair
    x = clip(config, 500, 1) * 0
    codes, scales = codec.encode_scaled(x)
    assert np.isfinite(codec.decode(codes, scales)).all()
    if config.normalizes:
        assert (scales == np.float32(1e-8)).all()
        assert np.abs(codec.decode(codes, scales)).max() < 1e-5


def test_loudness_comes_back() -> None:
    """The same sound at a hundredth of its level: the same codes, and a hundredth of the samples."""
    config = CONFIGS["encodec48"]
    codec = native(config, build(config))
    x = clip(config, 1500, 3)
    loud, quiet = codec.encode_scaled(x), codec.encode_scaled(x / 128)
    assert np.array_equal(loud[0], quiet[0]) and np.allclose(loud[1], quiet[1] * 128, rtol=1e-5)
    a, b = codec.decode(*loud), codec.decode(*quiet)
    assert np.abs(a - 128 * b).max() < 1e-5 * np.abs(a).max()


def test_streams_equal_offline(pair) -> None:
    config, model, _, codec = pair
    if not config.chunk[0]:
        for make in (codec.encoder_stream, codec.decoder_stream):
            with pytest.raises(ValueError, match="whole clips"):
                make()
        return
    rng = np.random.default_rng(1)
    for n in lengths(config):
        x = clip(config, n, 3)
        codes, scales = codec.encode_scaled(x)
        pcm = codec.decode(codes, scales)
        for threads in (1, 3):
            other = native(config, model, threads)
            again = other.encode_scaled(x)
            assert np.array_equal(again[0], codes) and np.array_equal(again[1], scales)
            assert np.array_equal(other.decode(codes, scales), pcm)
            encoder, decoder = other.encoder_stream(), other.decoder_stream()
            got, levels, played, at = [], [], [], 0
            while at < n:
                m = int(rng.integers(0, 2 * config.chunk[0]))
                c, s = encoder.push_scaled(x[..., at : at + m])
                at = min(at + m, n)
                assert (
                    sum(g.shape[1] for g in got) + c.shape[1]
                    >= (at - encoder.lookahead) // config.frame_size
                )
                got.append(c)
                levels.append(s)
                if rng.random() < 0.3:
                    heir = other.encoder_stream()
                    heir.restore(encoder.save())
                    encoder = heir.fork()
            c, s = encoder.flush_scaled()
            got, levels = np.concatenate([*got, c], axis=1), np.concatenate([*levels, s])
            assert np.array_equal(got, codes) and np.array_equal(levels, scales)
            at, used, frames = 0, 0, codec.chunk_frames
            while at < codes.shape[1]:
                m = int(rng.integers(0, 2 * frames))
                begun = -(-min(at + m, codes.shape[1]) // frames)  # chunks that have begun by then
                played.append(
                    decoder.push(
                        codes[:, at : at + m], scales[used:begun] if config.normalizes else None
                    )
                )
                at, used = at + m, begun
                if rng.random() < 0.5:
                    heir = other.decoder_stream()
                    heir.restore(decoder.save())
                    decoder = heir.fork()
            played.append(decoder.flush())
            assert np.array_equal(np.concatenate(played, axis=-1), pcm)
            # a flushed stream starts anew
            once = decoder.push(codes, scales)
            assert np.array_equal(np.concatenate((once, decoder.flush()), axis=-1), pcm)


def test_loudness_is_never_lost() -> None:
    config = CONFIGS["encodec48"]
    codec = native(config, build(config))
    x = clip(config, 1000, 4)
    codes, scales = codec.encode_scaled(x)
    stream, decoder = codec.encoder_stream(), codec.decoder_stream()
    for call in (lambda: codec.encode(x), lambda: stream.push(x), stream.flush):
        with pytest.raises(ValueError, match="normalises loudness") as e:
            call()
        assert "\n" not in str(e.value)
    assert len(scales) == 3
    for wrong in (
        None,
        scales[:2],
        np.append(scales, scales[:1]),
        scales.astype(int),
        scales[None],
        scales * np.nan,
        -scales,
        scales * 0,
        "loud",
    ):
        for decode in (codec.decode, decoder.push):
            with pytest.raises(ValueError, match="scales: expected") as e:
                decode(codes, wrong)
            assert "\n" not in str(e.value)
    # a push brings the scales of the chunks that its frames begin, no more and no fewer
    decoder.push(codes[:, :3], scales[:1])
    with pytest.raises(ValueError, match="scales: expected 0"):
        decoder.push(codes[:, 3:7], scales[:1])
    with pytest.raises(ValueError, match="scales: expected 1"):
        decoder.push(codes[:, 3:12])
    with pytest.raises(ValueError, match="codes: expected the 3 codebooks"):
        decoder.push(codes[:1, 3:4])
    played = [
        decoder.push(codes[:, 3:12], scales[1:2]),
        decoder.push(codes[:, 12:], scales[2:]),
        decoder.flush(),
    ]
    assert np.array_equal(np.concatenate(played, axis=-1), codec.decode(codes, scales))
    plain = native(CONFIGS["loudness-kept"], build(CONFIGS["loudness-kept"]))
    codes, none = plain.encode_scaled(x)
    assert np.array_equal(plain.encode(x), codes) and none.shape == (0,)
    with pytest.raises(ValueError, match="scales: expected none"):
        plain.decode(codes, scales)


def test_damaged_states_are_refused_or_harmless() -> None:
    config = CONFIGS["no-whole-frames"]
    codec = native(config, build(config))
    x = clip(config, 700, 5)
    codes, scales = codec.encode_scaled(x)
    encoder, decoder = codec.encoder_stream(), codec.decoder_stream()
    encoder.push_scaled(x[:, :333])
    decoder.push(codes[:, :8], scales[:2])
    rng = np.random.default_rng(0)
    refused = 0
    for stream, push in (
        (encoder, lambda s: s.push_scaled(x)),
        (decoder, lambda s: s.push(codes[:, :1], scales[:1])),
    ):
        state = stream.save()
        assert stream.fork().save() == state
        for i in range(400):
            bad = bytearray(state)
            bad[int(rng.integers(0, min(len(bad), 200 if i % 2 else len(bad))))] ^= 1 << int(
                rng.integers(0, 8)
            )
            if i % 5 == 0:
                del bad[int(rng.integers(0, len(bad))) :]
            copy = stream.fork()
            try:
                copy.restore(bytes(bad))
            except ValueError as e:
                assert "same codec" in str(e) and copy.save() == state
                refused += 1
                continue
            try:  # what is there may not be what was meant, but it works, or says what it expects
                push(copy)
            except ValueError as e:
                assert "expected" in str(e)
    assert refused > 300
