"""Speaks with the graphs beside this file: numpy, soundfile and onnxruntime, nothing else.

    python example.py hello.wav
    python example.py hello.wav --phones "pau hh ax0 l ow1 pau" --voice slt-102-163 --seed 7

Phones are those of phones.txt (`uniaudio` makes them from text).  The sequence: the voice's codes, the phones, their durations, then the sound, a
frame of K codes each 20 ms; with each predicted frame go the phone that it is in, the two that follow, and how long it still lasts.
"""

import argparse
import json
import struct
from pathlib import Path

import numpy as np
import onnxruntime as ort
import soundfile

HERE = Path(__file__).parent
HELLO = "pau hh ax0 l ow1 pau dh ih1 s ih1 z ax0 v oy1 s ih0 n ax0 n ah1 dh er0 r ah1 n t ay1 m pau"
CONFIG = json.loads((HERE / "config.json").read_text())
LM, VOCABULARY = CONFIG["lm"], CONFIG["vocabulary"]
K, V, CAPACITY = LM["num_codebooks"], LM["vocab_size"], 1024
SPANS = {s["name"]: s for s in VOCABULARY["spans"] + VOCABULARY["guide_spans"]}
COLUMNS = [s["name"] for s in VOCABULARY["guide_spans"]]


def graph(name):
    return ort.InferenceSession(str(HERE / f"{name}.onnx"), providers=["CPUExecutionProvider"])


def special(*names):
    return np.repeat([[VOCABULARY["specials"].index(n)] for n in names], K, axis=1)


def tokens(span, values):
    return np.repeat(np.asarray(values)[:, None] + SPANS[span]["start"], K, axis=1)


def guide_rows(columns, n):
    """Rows [n, S]: the given columns' ids, nothing elsewhere."""
    rows = np.full((n, LM["guide_slots"]), -1)
    for name, values in columns.items():
        rows[:, COLUMNS.index(name)] = np.where(values >= 0, values + SPANS[name]["start"], -1)
    return rows


class Model:
    """One sequence; its keys and values lie in arrays that each step reads and writes in place."""

    def __init__(self, seed):
        self.prefill, self.step, self.frame = graph("global_prefill"), graph("global_step"), graph("local_frame")
        ports = [p for p in self.step.get_inputs() if p.name.startswith(("keys_", "values_"))]
        self.caches = {p.name: np.zeros((CAPACITY, *p.shape[1:]), np.float32 if p.type == "tensor(float)" else np.float16) for p in ports}
        self.last, self.position, self.random = np.full((1, K), LM["start_id"]), 0, np.random.default_rng(seed)

    def hear(self, frames, guide):
        """Known frames [n, K] -> what the model knew before each."""
        session, previous = self.prefill if len(frames) > 1 else self.step, np.concatenate((self.last, frames[:-1]))
        binding = session.io_binding()
        binding.bind_output("hidden", "cpu")
        for name, value in (("previous", previous), ("position", np.array([self.position])), ("guide", guide)):
            binding.bind_cpu_input(name, np.ascontiguousarray(value))
        for name, cache in self.caches.items():
            binding.bind_input(name, "cpu", 0, cache.dtype, cache.shape, cache.ctypes.data)
            binding.bind_output(f"{name}_out", "cpu", 0, cache.dtype, cache.shape, cache.ctypes.data)
        session.run_with_iobinding(binding)
        self.last, self.position = frames[-1:], self.position + len(frames)
        return binding.get_outputs()[0].numpy()

    def say(self, guide, allowed, temperature, tied=False):
        """The next frame [K], each id among those allowed [K, V]."""
        hidden = self.hear(self.last, guide)  # the frame itself is not known yet: last is set below
        inputs = {"hidden": hidden, "uniform": self.random.random(K), "allowed": allowed, "top_k": np.array([0])}
        inputs |= {"temperature": np.array([temperature], np.float32), "top_p": np.array([0.95])}
        frame = self.frame.run(None, inputs)[0]
        self.last = np.full((1, K), frame[0]) if tied else frame[None]
        return self.last[0]


def voice_codes(path):
    """int32 [K, T] of a safetensors file that holds only these."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    entry = json.loads(data[8 : 8 + size])["codes"]
    begin, end = entry["data_offsets"]
    return np.frombuffer(data[8 + size + begin : 8 + size + end], np.int32).reshape(entry["shape"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output")
    parser.add_argument("--phones", default=HELLO)
    parser.add_argument("--voice", default=sorted(p.stem for p in (HERE / "voices").glob("*.safetensors"))[-1])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    phones = np.array([(HERE / "phones.txt").read_text().split().index(p) for p in args.phones.split()])
    size = CONFIG["codec"]["codebook_size"]
    offsets = SPANS["audio"]["start"] + size * np.arange(K)
    voice = voice_codes(HERE / "voices" / f"{args.voice}.safetensors")[:K].T + offsets
    known = [special("start", "tts_task", "audio_prompt_start"), voice, special("audio_prompt_end", "phone_start"), tokens("phone", phones)]
    known = np.concatenate([*known, special("phone_end", "duration_start")])
    model = Model(args.seed)
    model.hear(known, guide_rows({}, len(known)))
    ahead = {name: np.append(phones[i:], [-1] * i).astype(int) for i, name in enumerate(("phone_now", "phone_next", "phone_next2"))}
    ids, span = np.arange(V), SPANS["duration"]
    allowed = np.repeat(((ids >= span["start"]) & (ids < span["start"] + span["size"]))[None], K, axis=0)
    features = guide_rows(ahead, len(phones))
    durations = [model.say(row[None], allowed, 0.7, tied=True)[0] - span["start"] + 1 for row in features]
    end = special("duration_end", "audio_start")
    model.hear(end, guide_rows({}, 2))
    rows = np.repeat(features, durations, axis=0)
    left = np.repeat(np.cumsum(durations), durations) - np.arange(len(rows))
    rows[:, COLUMNS.index("frames_left")] = np.minimum(left, SPANS["frames_left"]["size"]) - 1 + SPANS["frames_left"]["start"]
    if model.position + len(rows) > CAPACITY:
        raise SystemExit(f"expected at most {CAPACITY} frames in all, got {model.position + len(rows)}; give fewer phones")
    allowed = (ids >= offsets[:, None]) & (ids < offsets[:, None] + size)
    frames = np.array([model.say(row[None], allowed, 0.8) for row in rows])
    codes = np.full((CONFIG["codec"]["num_codebooks"], len(frames)), -1)
    codes[:K] = (frames - offsets).T
    samples = graph("codec_decoder").run(None, {"codes": codes})[0]
    soundfile.write(args.output, np.clip(samples, -1, 1), CONFIG["codec"]["sample_rate"])
    print(f"{args.output}: {len(samples) / CONFIG['codec']['sample_rate']:.2f} s")


if __name__ == "__main__":
    main()
