"""The command line: what each subcommand does, and one line for every bad input."""

from __future__ import annotations

import io
import json
import os
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from cli_tools import SAY, bad_files, everything

import uniaudio_engine
import uniaudio_engine.storage.folder
from uniaudio_engine import Engine, read_audio
from uniaudio_engine.cli.main import main
from uniaudio_engine.storage.tensors import load_tensors

pytestmark = pytest.mark.usefixtures("place")


def test_tts_writes_what_the_engine_makes(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    how = ["--seed", "7", "--voice", "voice.wav", "--speed", "1.5", "--json"]
    assert main(["tts", "Hello there.", "-o", "a.wav", *how]) == 0
    meta = json.loads(capsys.readouterr().out)
    assert meta["seed"] == 7 and meta["output"] == "a.wav" and meta["speed"] == 1.5
    audio = Engine.from_pretrained(tiny_folder).tts(
        "Hello there.", seed=7, prompt="voice.wav", speed=1.5
    )
    assert np.abs(read_audio("a.wav", 16000).samples - audio.samples).max() < 1e-4
    assert sorted(os.listdir()) == ["a.wav", "voice.wav"]


def test_all_ways_give_the_same_sound(
    capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    say = ["Hello there.", "--seed", "7"]
    assert main(["tts", *say, "-o", "a.wav"]) == 0
    expected = Path("a.wav").read_bytes()
    assert main(["stream", *say, "-o", "b.wav"]) == 0
    assert Path("b.wav").read_bytes() == expected
    assert main(["run", "tts", "text=Hello there.", "seed=7", "-o", "c.wav"]) == 0
    assert Path("c.wav").read_bytes() == expected
    capsysbinary.readouterr()
    assert main(["tts", *say, "-o", "-"]) == 0
    assert capsysbinary.readouterr().out == expected
    assert main(["stream", *say, "-o", "-", "--chunk-frames", "3,9"]) == 0
    assert capsysbinary.readouterr().out[44:] == expected[44:]
    assert main(["stream", *say, "-o", "-", "--raw"]) == 0
    assert capsysbinary.readouterr().out == expected[44:]
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello there."))
    assert main(["tts", "-", "--seed", "7", "-o", "d.wav"]) == 0
    assert Path("d.wav").read_bytes() == expected
    with open("text.txt", "wb") as f:
        f.write("\ufeffHello there.".encode("utf-16-le"))
    with open("text.txt") as f:
        monkeypatch.setattr(sys, "stdin", f)
        assert main(["stream", "-", "--seed", "7", "-o", "e.wav"]) == 0
    assert Path("e.wav").read_bytes() == expected


def test_jsonl(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("in.jsonl").write_text(
        '{"text": "Hello.", "seed": 1, "output": "a.wav"}\n\n'
        '{"text": "Hello there.", "speed": 2}\n{"phones": "hh ax0"}\n'
    )
    os.mkdir("out")
    assert (
        main(
            [
                "run",
                "tts",
                "--jsonl",
                "in.jsonl",
                "-o",
                "out",
                "--seed",
                "5",
                "--batch",
                "2",
                "--json",
            ]
        )
        == 0
    )
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(os.listdir("out")) == ["00003.wav", "00004.wav", "a.wav"]
    assert [line["seed"] for line in lines] == [1, 5, 5]
    alone = Engine.from_pretrained(tiny_folder).tts("Hello there.", speed=2, seed=5)
    assert np.abs(read_audio("out/00003.wav", 16000).samples - alone.samples).max() < 1e-4


def test_codec_there_and_back(tiny_folder: Path) -> None:
    engine = Engine.from_pretrained(tiny_folder)
    assert main(["codec", "encode", "voice.wav", "-o", "c.safetensors"]) == 0
    codes = load_tensors("c.safetensors")[0]["codes"]
    assert np.array_equal(codes, engine.encode("voice.wav"))
    assert main(["codec", "decode", "c.safetensors", "-o", "back.flac", "--codebooks", "2"]) == 0
    assert (
        np.abs(read_audio("back.flac", 16000).samples - engine.decode(codes[:2]).samples).max()
        < 1e-4
    )


def test_voices(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["voices", "voice.wav", "-o", "anna.safetensors", "--name", "Anna"]) == 0
    assert main(["tts", "Hello.", "--voice", "anna.safetensors", "-o", "a.wav", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["voice"] == "Anna"
    assert main(["voices", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_bench_prints_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--json", "--seconds", "1", "--repeat", "1", "--seed", "3"]) == 0
    figures = json.loads(capsys.readouterr().out)
    for key in (
        "ms_per_frame",
        "prefill_ms",
        "first_chunk_ms",
        "realtime_factor",
        "weight_bytes_per_frame",
        "bandwidth_gb_per_s",
        "bandwidth_fraction",
        "threads",
        "isa",
        "seed",
        "dtype",
        "kv_dtype",
    ):
        assert key in figures
    assert figures["seed"] == 3


def test_bench_reads_no_blocks_that_do_not_fit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uniaudio_engine.cli.bench.available_bytes", lambda: 40.0 * 2**20)
    assert main(["bench", "--peaks", "--json", "--threads", "1"]) == 0
    reads = [k for k in json.loads(capsys.readouterr().out) if k.startswith("read_")]
    assert reads == [f"read_{size}_mib_gb_per_s" for size in (1, 4, 16)]


def test_bench_measures_the_machine_without_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--peaks", "--json", "--threads", "2", "-m", "absent"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["threads"] == 2 and figures["isa"]
    rates = [v for k, v in figures.items() if k.endswith("per_s")]
    assert len(rates) > 5 and min(rates) > 0
    assert main(["bench", "--peaks", "--threads", "1000"]) == 2
    assert "threads: expected" in capsys.readouterr().err


def test_doctor_info_tasks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        " ".join(line.split()[0] for line in lines)
        == "python isa threads bandwidth model text sound gpu onnx"
    )
    assert "not used" in lines[-2]
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"] == ["tts"]
    assert main(["tasks", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "tts"
    monkeypatch.setattr(uniaudio_engine.storage.folder, "MODELS", Path("none"))
    assert main(["doctor", "--json"]) == 1
    assert "NOT WORKING: no model is bundled" in json.loads(capsys.readouterr().out)["model"]


BAD: dict[str, list[str]] = {
    "no command": [],
    "unknown command": ["sing"],
    "unknown flag": [*SAY, "--loud"],
    "no output": ["tts", "Hello."],
    "no text": ["tts", "-o", "a.wav"],
    "empty text": ["tts", "", "-o", "a.wav"],
    "symbols": ["tts", "*** ---", "-o", "a.wav"],
    "unknown phone": ["tts", "--phones", "hh zz", "-o", "a.wav"],
    "zero bytes": [*SAY, "--prompt", "bad/zero.wav"],
    "truncated": [*SAY, "--prompt", "bad/truncated.wav"],
    "nan": [*SAY, "--prompt", "bad/nan.wav"],
    "no sound": [*SAY, "--prompt", "bad/text.wav"],
    "no prompt": [*SAY, "--prompt", "bad/none.wav"],
    "no voice": [*SAY, "--voice", "nobody"],
    "output folder": ["tts", "Hello.", "-o", "none/a.wav"],
    "output is a folder": ["tts", "Hello.", "-o", "bad.wav"],
    "output on /proc": ["tts", "Hello.", "-o", "/proc/a.wav"],
    "output type": ["tts", "Hello.", "-o", "a.mp9"],
    "seed": [*SAY, "--seed", "x"],
    "seed sign": [*SAY, "--seed", "-1"],
    "temperature": [*SAY, "--temperature", "9"],
    "temperature nan": [*SAY, "--temperature", "nan"],
    "top-p": [*SAY, "--top-p", "0"],
    "top-k": [*SAY, "--top-k", "1.5"],
    "speed": [*SAY, "--speed", "0"],
    "device": [*SAY, "--device", "cuda"],
    "dtype": [*SAY, "--dtype", "int3"],
    "kv-dtype": [*SAY, "--kv-dtype", "int4"],
    "threads": [*SAY, "--threads", "0"],
    "max-seconds": [*SAY, "--max-seconds", "0"],
    "model": [*SAY, "-m", "none"],
    "model hub": [*SAY, "-m", "somebody/model"],
    "model file": [*SAY, "-m", "voice.wav"],
    "chunk frames": ["stream", "Hello.", "-o", "a.wav", "--chunk-frames", "1,x"],
    "chunk zero": ["stream", "Hello.", "-o", "a.wav", "--chunk-frames", "0"],
    "stream type": ["stream", "Hello.", "-o", "a.xyz"],
    "bare samples in a wav": ["stream", "Hello.", "--raw", "-o", "a.wav"],
    "unknown task": ["run", "dance", "-o", "a.wav"],
    "no pair": ["run", "tts", "Hello", "-o", "a.wav"],
    "unknown input": ["run", "tts", "txt=Hello", "-o", "a.wav"],
    "jsonl absent": ["run", "tts", "--jsonl", "none", "-o", "out"],
    "jsonl no folder": ["run", "tts", "--jsonl", "bad/ok.jsonl", "-o", "none"],
    "jsonl broken": ["run", "tts", "--jsonl", "bad/broken.jsonl", "-o", "out"],
    "jsonl list": ["run", "tts", "--jsonl", "bad/list.jsonl", "-o", "out"],
    "jsonl empty": ["run", "tts", "--jsonl", "bad/empty.jsonl", "-o", "out"],
    "jsonl value": ["run", "tts", "--jsonl", "bad/value.jsonl", "-o", "out"],
    "jsonl path": ["run", "tts", "--jsonl", "bad/path.jsonl", "-o", "out"],
    "jsonl twice": ["run", "tts", "--jsonl", "bad/twice.jsonl", "-o", "out"],
    "jsonl binary": ["run", "tts", "--jsonl", "bad/nan.wav", "-o", "out"],
    "encode output": ["codec", "encode", "voice.wav", "-o", "a.wav"],
    "decode sound": ["codec", "decode", "voice.wav", "-o", "a.wav"],
    "decode other": ["codec", "decode", "bad/other.safetensors", "-o", "a.wav"],
    "decode range": ["codec", "decode", "bad/range.safetensors", "-o", "a.wav"],
    "codebooks": ["codec", "encode", "voice.wav", "-o", "c.safetensors", "--codebooks", "9"],
    "voice output": ["voices", "voice.wav", "-o", "v.wav"],
    "voice no output": ["voices", "voice.wav"],
    "voice no input": ["voices", "-o", "v.safetensors"],
    "bench repeat": ["bench", "--repeat", "0"],
    "bench seed": ["bench", "--seed", "x"],
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(
    case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bad_files()
    before = everything()
    assert main(BAD[case]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("uniaudio: error: ") and err.count("\n") == 1 and len(err) < 500, err
    assert everything() == before


def test_written_waves_are_plain() -> None:
    assert main([*SAY, "--seed", "1"]) == 0
    with wave.open("a.wav") as w:
        assert (w.getnchannels(), w.getsampwidth(), w.getframerate()) == (1, 2, 16000)
        assert w.getnframes() % 320 == 0 and w.getnframes() > 0
