"""Synthesises speech with the graphs in this folder. Needs numpy, soundfile and onnxruntime only.

    python example.py hello.wav
    python example.py hello.wav --phones "pau hh ax0 l ow1 pau" --voice bm_george --seed 7

The sequence: the codes of the voice, the phones (of phones.txt), their durations, then the sound, a
frame of K codes per 20 ms. Each predicted frame is conditioned on its phone, the next two phones,
and the remaining duration of its phone.
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
LM, VOCABULARY, SIZE = CONFIG["lm"], CONFIG["vocabulary"], CONFIG["codec"]["codebook_size"]
K, IDS, CAPACITY = LM["num_codebooks"], np.arange(LM["vocab_size"]), 1024
SPANS = {s["name"]: s for s in VOCABULARY["spans"] + VOCABULARY["guide_spans"]}
COLUMNS = [s["name"] for s in VOCABULARY["guide_spans"]]


def graph(name: str) -> ort.InferenceSession:
    return ort.InferenceSession(str(HERE / f"{name}.onnx"), providers=["CPUExecutionProvider"])


def special(*names: str) -> np.ndarray:
    return np.repeat([[VOCABULARY["specials"].index(n)] for n in names], K, axis=1)


def aligned(n: int, **columns: np.ndarray) -> np.ndarray:
    """Rows [n, S]: the ids of the given columns, -1 elsewhere."""
    rows = np.full((n, LM["guide_slots"]), -1)
    for name, values in columns.items():
        rows[:, COLUMNS.index(name)] = np.where(values >= 0, values + SPANS[name]["start"], -1)
    return rows


class Model:
    """One sequence. Each step reads and writes its keys and values in place."""

    def __init__(self, seed: int) -> None:
        self.prefill, self.step, self.frame = (
            graph("global_prefill"),
            graph("global_step"),
            graph("local_frame"),
        )
        state = [p for p in self.step.get_inputs() if p.name.startswith(("keys_", "values_"))]
        self.caches = {
            p.name: np.zeros((CAPACITY, *p.shape[1:]), np.float16 if "16" in p.type else np.float32)
            for p in state
        }
        self.last, self.position, self.random = (
            np.full((1, K), LM["start_id"]),
            0,
            np.random.default_rng(seed),
        )

    def hear(self, frames: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Feeds known frames [n, K]; returns the hidden state [n, D] that predicts each."""
        if self.position + len(frames) > CAPACITY:
            raise SystemExit(f"expected at most {CAPACITY} frames in total; use fewer phones")
        session, previous = (
            self.prefill if len(frames) > 1 else self.step,
            np.concatenate((self.last, frames[:-1])),
        )
        binding = session.io_binding()
        binding.bind_output("hidden", "cpu")
        for name, value in (
            ("previous", previous),
            ("position", np.array([self.position])),
            ("guide", rows),
        ):
            binding.bind_cpu_input(name, np.ascontiguousarray(value))
        for name, c in self.caches.items():
            binding.bind_input(name, "cpu", 0, c.dtype, c.shape, c.ctypes.data)
            binding.bind_output(f"{name}_out", "cpu", 0, c.dtype, c.shape, c.ctypes.data)
        session.run_with_iobinding(binding)
        self.last, self.position = frames[-1:], self.position + len(frames)
        return binding.get_outputs()[0].numpy()

    def say(
        self, row: np.ndarray, allowed: np.ndarray, temperature: float, tied: bool = False
    ) -> np.ndarray:
        """The next frame [K], from the ids that ``allowed`` [K, V] permits."""
        inputs = {
            "hidden": self.hear(self.last, row[None]),
            "uniform": self.random.random(K),
            "allowed": allowed,
            "top_k": np.array([0]),
        }
        frame = self.frame.run(
            None,
            inputs
            | {"temperature": np.array([temperature], np.float32), "top_p": np.array([0.95])},
        )[0]
        # `hear` feeds it in the next step.
        self.last = np.full((1, K), frame[0]) if tied else frame[None]
        return self.last[0]


parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("output")
parser.add_argument("--phones", default=HELLO)
parser.add_argument(
    "--voice", default=sorted(p.stem for p in (HERE / "voices").glob("*.safetensors"))[-1]
)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
data = (
    HERE / "voices" / f"{args.voice}.safetensors"
).read_bytes()  # a header in JSON, then the codes
start, offsets = 8 + struct.unpack("<Q", data[:8])[0], SPANS["audio"]["start"] + SIZE * np.arange(K)
voice = (
    np.frombuffer(data[start:], np.int32).reshape(json.loads(data[8:start])["codes"]["shape"])[:K].T
    + offsets
)
phones = np.array([(HERE / "phones.txt").read_text().split().index(p) for p in args.phones.split()])
spoken = np.repeat(phones[:, None] + SPANS["phone"]["start"], K, axis=1)
model = Model(args.seed)
known = np.concatenate(
    [
        special("start", "tts_task", "audio_prompt_start"),
        voice,
        special("audio_prompt_end", "phone_start"),
        spoken,
        special("phone_end", "duration_start"),
    ]
)
model.hear(known, aligned(len(known)))
features = aligned(
    len(phones),
    **{
        n: np.append(phones[i:], [-1] * i).astype(int)
        for i, n in enumerate(("phone_now", "phone_next", "phone_next2"))
    },
)
first, count = SPANS["duration"]["start"], SPANS["duration"]["size"]
planned = np.repeat(((first <= IDS) & (first + count > IDS))[None], K, axis=0)
durations = [model.say(row, planned, 0.7, tied=True)[0] - first + 1 for row in features]
model.hear(special("duration_end", "audio_start"), aligned(2))
rows, left = (
    np.repeat(features, durations, axis=0),
    np.repeat(np.cumsum(durations), durations) - np.arange(sum(durations)),
)
rows[:, COLUMNS.index("frames_left")] = (
    np.minimum(left, SPANS["frames_left"]["size"]) - 1 + SPANS["frames_left"]["start"]
)
codes = np.full((CONFIG["codec"]["num_codebooks"], len(rows)), -1)
codes[:K] = (
    np.array(
        [
            model.say(row, (offsets[:, None] <= IDS) & (offsets[:, None] + SIZE > IDS), 0.8)
            for row in rows
        ]
    )
    - offsets
).T
samples = graph("codec_decoder").run(None, {"codes": codes})[0]
soundfile.write(args.output, np.clip(samples, -1, 1), CONFIG["codec"]["sample_rate"])
print(f"{args.output}: {len(samples) / CONFIG['codec']['sample_rate']:.2f} s")
