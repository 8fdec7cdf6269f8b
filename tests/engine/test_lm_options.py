"""Options of the language model that other projects' models need: refusals, and what they change."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from lm_tools import BASE, CONFIGS, GLOBAL, native_lm, random_inputs, torch_lm

from uniaudio_engine import _C
from uniaudio_engine.storage.config import ConfigError, LMConfig, from_dict, to_dict
from uniaudio_engine.storage.weight_shapes import matrix_part

ENDING = {"end_id": 4, "min_frames": 3, "seed": 3, "temperature": 3.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_width": -1}, "lm.global.head_width: expected 0 to 1024"),
        ({"head_width": 2000}, "lm.global.head_width: expected 0 to 1024"),
        ({"head_width": 5}, "lm.global.head_dim: expected an even number"),
        ({"heads": 5}, "lm.global.heads: expected a divisor of width"),
        ({"rope_frequencies": (1.0,)}, "lm.global.rope_frequencies: expected none, or one for"),
        ({"rope_frequencies": (9.0,) * 4}, "lm.global.rope_frequencies: expected 0 to 3.14"),
        ({"rope_frequencies": (float("nan"),) * 4}, "lm.global.rope_frequencies: expected"),
        ({"activation": "relu"}, "activation: expected"),
        ({"window": -1}, "lm.global.window: expected 0 to 1048576"),
    ],
)
def test_both_readers_refuse_the_same_stacks(changes: dict[str, Any], message: str) -> None:
    c = replace(BASE, global_=replace(GLOBAL, **changes))
    with pytest.raises(ConfigError, match=message) as e:
        from_dict(LMConfig, json.loads(json.dumps(to_dict(c))), "config.lm").check()
    assert "\n" not in str(e.value)
    text = json.dumps(to_dict(c))
    with pytest.raises(ValueError, match="expected") as e:
        _C.LM(text, {})
    assert "\n" not in str(e.value)


def test_a_shared_table_has_rows_of_the_local_width() -> None:
    c = replace(BASE, tied_local=True)
    message = "lm.tied_local: expected false, or a local width of 24, .* got .*20"
    with pytest.raises(ConfigError, match=message):
        c.check()
    with pytest.raises(ValueError, match=message):
        _C.LM(json.dumps(to_dict(c)), {})


@pytest.mark.parametrize("name", ["base", "tied", "everything"])
def test_bfloat16_tables_stay_as_they_are_stored(name: str) -> None:
    """The same bits as those of the widened table, in steps as in one pass."""
    c = CONFIGS[name]
    weights = {k: v.bfloat16() for k, v in torch_lm(c).state_dict().items()}
    text = json.dumps(to_dict(c))
    half = _C.LM(text, {k: v.view(torch.uint16).numpy() for k, v in weights.items()})
    wide = _C.LM(text, {k: v.float().numpy() for k, v in weights.items()})
    inputs = random_inputs(c, 20)
    np.testing.assert_array_equal(half.logits(*inputs), wide.logits(*inputs))
    made = [m.session(20).generate(20, _C.Sampling(seed=1)) for m in (half, wide)]
    np.testing.assert_array_equal(*made)


def refused(message: str, **values: Any) -> None:
    lm = native_lm(BASE, torch_lm(BASE))
    with pytest.raises(ValueError, match=message) as e:
        lm.session(4).generate(1, _C.Sampling(**values))
    assert "\n" not in str(e.value)


def test_sampling_of_each_slot_is_checked() -> None:
    one = _C.Sampling()
    refused("slots: expected one for each of 3 slots, got 2", slots=[one, one])
    refused(r"slots\[1\].top_p: expected above 0", slots=[one, _C.Sampling(top_p=0.0), one])
    refused("forced: expected one for each of 3 slots, got 1", forced=[3])
    refused("forced: expected -1 .* got 53", forced=[53, -1, -1])
    refused("tie_slots: expected false with slots or forced", forced=[1, 2, 3], tie_slots=True)


def test_each_slot_draws_by_its_own_rules() -> None:
    lm = native_lm(BASE, torch_lm(BASE))
    greedy, hot = _C.Sampling(greedy=True), _C.Sampling(temperature=2.0, top_k=5)
    mixed = lm.session(40).generate(40, _C.Sampling(seed=1, slots=[greedy, hot, greedy]))
    logits = lm.logits(mixed)
    best = logits.argmax(-1)
    assert np.array_equal(mixed[:, 0], best[:, 0]) and np.array_equal(mixed[:, 2], best[:, 2])
    assert not np.array_equal(mixed[:, 1], best[:, 1])
    top5 = np.sort(logits[:, 1], -1)[:, -5]
    assert (logits[np.arange(40), 1, mixed[:, 1]] >= top5).all()
    # the same rules for all slots are those of the whole
    whole = _C.Sampling(seed=1, temperature=2.0, top_k=5)
    same = _C.Sampling(seed=1, slots=[hot] * 3)
    made = [lm.session(40).generate(40, s) for s in (whole, same)]
    np.testing.assert_array_equal(*made)


def test_forced_slots() -> None:
    lm = native_lm(BASE, torch_lm(BASE))
    out = lm.session(30).generate(30, _C.Sampling(greedy=True, forced=[-1, 7, -1]))
    assert (out[:, 1] == 7).all()
    best = lm.logits(out).argmax(-1)
    assert np.array_equal(out[:, [0, 2]], best[:, [0, 2]])


@pytest.mark.parametrize("where", ["first", "last", "any"])
def test_the_end_frame_is_kept(where: str) -> None:
    """It is the frame that would have been left out, and its later slots are drawn as ever."""
    lm = native_lm(BASE, torch_lm(BASE))
    options = {**ENDING, "end_slots": where}
    short, long = lm.session(64), lm.session(64)
    dropped = short.generate(64, _C.Sampling(**options))
    kept = long.generate(64, _C.Sampling(**options, keep_end_frame=True))
    assert short.finished and long.finished
    assert len(kept) == len(dropped) + 1 == long.frames < 64
    np.testing.assert_array_equal(kept[:-1], dropped)
    assert 4 in kept[-1]
    assert len(long.generate(2, _C.Sampling(**options))) == 0
    # in pieces, and beside another stream, it is the same
    pieces = lm.session(64)
    parts = [pieces.generate(3, _C.Sampling(**options, keep_end_frame=True)) for _ in range(20)]
    np.testing.assert_array_equal(np.concatenate(parts), kept)
    both = [lm.session(64), lm.session(64)]
    samplings = [_C.Sampling(**options, keep_end_frame=True), _C.Sampling(seed=8)]
    made = _C.LM.generate_batch(both, 64, samplings)
    np.testing.assert_array_equal(made[0], kept)
    np.testing.assert_array_equal(made[1], lm.session(64).generate(64, _C.Sampling(seed=8)))


def test_a_forced_slot_ends_the_sequence_without_showing_it() -> None:
    """The end is decided by what slot 0 would have been; what it is, is forced."""
    lm = native_lm(BASE, torch_lm(BASE))
    session = lm.session(64)
    options = {**ENDING, "allowed": [[(0, 53)], [(10, 20)], [(10, 20)]], "forced": [5, -1, -1]}
    out = session.generate(64, _C.Sampling(**options, keep_end_frame=True))
    assert session.finished and 3 < len(out) < 64
    assert (out[:, 0] == 5).all() and out[:, 1:].min() >= 10


LONG = replace(BASE, global_=replace(GLOBAL, window=21), max_frames=600)


@pytest.mark.parametrize("kv_dtype", ["float32", "bfloat16", "int8"])
def test_a_window_bounds_memory_and_changes_no_number(kv_dtype: str) -> None:
    """The cache slides while a session reads and speaks; one pass over all frames does not."""
    lm = native_lm(LONG, torch_lm(LONG), f"int8/{kv_dtype}")
    frames = random_inputs(LONG, 300)[0]
    assert (
        lm.held_bytes(300, 600)
        == lm.held_bytes(600, 600)
        < native_lm(BASE, torch_lm(BASE), f"int8/{kv_dtype}").memory_bytes(64) * 3 + 600 * 3 * 4
    )
    greedy = _C.Sampling(greedy=True)
    session = lm.session(600)
    session.prefill(frames)
    made = session.generate(290, greedy)
    logits = lm.logits(np.concatenate((frames, made)))
    np.testing.assert_array_equal(logits[300:].argmax(-1), made)
    # in parts, from a fork, and from a saved state
    parts = lm.session(600)
    for at in (0, 7, 150, 151):
        parts.prefill(frames[at : {0: 7, 7: 150, 150: 151}.get(at, 300)])
    first = parts.generate(200, greedy)
    fork, restored = parts.fork(), lm.session(600)
    restored.restore(parts.save())
    for each in (parts, fork, restored):
        rest = each.generate(90, greedy)
        np.testing.assert_array_equal(np.concatenate((first, rest)), made)
    # beside a session that is elsewhere, and after a reset
    other = lm.session(600)
    other.prefill(frames[:40])
    session.reset()
    session.prefill(frames)
    both = _C.LM.generate_batch([session, other], 290, [greedy, greedy])
    np.testing.assert_array_equal(both[0], made)


def test_a_head_on_the_global_stack_names_its_ids() -> None:
    c = CONFIGS["global_head"]
    lm = native_lm(c, torch_lm(c))
    out = lm.session(30).generate(30, _C.Sampling(seed=2))
    assert out[:, 0].min() >= 11 and out[:, 0].max() < 41
    logits = lm.logits(out)
    assert np.isneginf(logits[:, 0, :11]).all() and np.isneginf(logits[:, 0, 41:]).all()
    assert np.isfinite(logits[:, 0, 11:41]).all() and np.isfinite(logits[:, 1:]).all()
    for allowed in ([[(0, 20)], [(0, 53)], [(0, 53)]], [[(30, 20)], [(0, 53)], [(0, 53)]]):
        with pytest.raises(ValueError, match="slot 0: expected ids that its head has, 11 to 40"):
            lm.session(4).generate(1, _C.Sampling(allowed=allowed))
    with pytest.raises(ValueError, match="slot 0: expected ids that its head has"):
        lm.session(4).generate(1, _C.Sampling(end_id=4))
    with pytest.raises(ConfigError, match="lm.global_head_size: expected 0 to 42"):
        replace(c, global_head_size=43).check()


@pytest.mark.parametrize("name", ["global_head", "project_head", "slot_weights", "depth"])
def test_slots_with_weights_of_their_own_keep_streams_apart(name: str) -> None:
    """Several streams, a guided one among them, draw what each draws alone."""
    c = CONFIGS[name]
    lm = native_lm(c, torch_lm(c), "int8")
    frames = random_inputs(c, 20)[0]

    def start(i: int) -> _C.LMSession:
        session, other = lm.session(60), lm.session(60)
        session.prefill(frames[: 5 + i])
        other.prefill(frames[10:12])
        if i % 3 == 1:
            session.set_guidance(other, 2.0)
        return session

    samplings = [_C.Sampling(seed=i, top_k=9, greedy=i == 2) for i in range(5)]
    alone = [start(i).generate(30, samplings[i]) for i in range(5)]
    together = _C.LM.generate_batch([start(i) for i in range(5)], 30, samplings)
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)
    greedy = lm.logits(np.concatenate((frames[:7], alone[2])))[7:].argmax(-1)
    np.testing.assert_array_equal(greedy, alone[2])


@pytest.mark.parametrize("name", ["slot_weights_bias", "depth"])
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_weights_of_slots_are_stored_quantized_as_they_are_rounded(name: str, dtype: str) -> None:
    c = CONFIGS[name]
    model = torch_lm(c)
    stored = {}
    for key, value in model.state_dict().items():
        part = matrix_part(key)
        if part is None:
            stored[key] = value.numpy()
        else:
            kept = "int8" if part == "head" else dtype
            stored[key], stored[f"{key}_scale"] = _C.quantize(value.numpy(), kept)
    inputs = random_inputs(c, 20)
    read = _C.LM(json.dumps(to_dict(c)), stored, dtype)
    np.testing.assert_array_equal(read.logits(*inputs), native_lm(c, model, dtype).logits(*inputs))


def test_each_slot_has_weights_of_its_own() -> None:
    """Those of one slot change the logits of that slot and, by its keys and values, of later ones."""
    c = CONFIGS["depth"]
    model = torch_lm(c)
    inputs = random_inputs(c, 12)
    before = native_lm(c, model).logits(*inputs)
    rows = c.local.hidden  # of a slot; slot 2 is the second of the local stack
    with torch.no_grad():
        model.local.blocks()[0].mlp.up.weight[rows : 2 * rows] += 0.1
    changed = (native_lm(c, model).logits(*inputs) != before).any((0, 2))
    assert changed.tolist() == [False, False, True, True]


def test_what_each_slot_reads() -> None:
    """Projections of each slot are read once a frame, shared ones at each slot."""
    shared = CONFIGS["base"]
    own = replace(shared, slot_weights=True)
    read = [native_lm(c, torch_lm(c)).weight_bytes_per_frame for c in (shared, own)]
    norms = 4 * sum(p.numel() for p in torch_lm(own).local.parameters() if p.dim() == 1)
    assert read[0] - read[1] == 2 * norms


def test_conditioning_project_needs_a_local_slot() -> None:
    c = replace(CONFIGS["project_head"], num_codebooks=1)
    message = "num_codebooks: expected 2 or more with conditioning project"
    with pytest.raises(ConfigError, match=message):
        c.check()
    with pytest.raises(ValueError, match=message) as e:
        _C.LM(json.dumps(to_dict(c)), {})
    assert "\n" not in str(e.value)


def test_local_tables_may_have_some_ids_only() -> None:
    c = CONFIGS["local_table"]
    lm = native_lm(c, torch_lm(c))
    out = lm.session(30).generate(30, _C.Sampling(seed=2))
    assert out[:, 1:].min() >= 20 and out[:, 1:].max() < 51 and out[:, 0].min() < 20
    logits = lm.logits(out)
    assert np.isneginf(logits[:, 1:, :20]).all() and np.isneginf(logits[:, 1:, 51:]).all()
    assert np.isfinite(logits[:, 1:, 20:51]).all()
    with pytest.raises(ValueError, match="slot 1: expected ids that its head has, 20 to 50"):
        lm.session(4).generate(1, _C.Sampling(allowed=[[(11, 9)], [(0, 53)], [(20, 5)]]))
    for changes in (
        {"local_table_size": 34},
        {"local_table_size": 0},
        {"conditioning": "add"},
        {"tied_head": True},
    ):
        wrong = replace(c, **changes)
        with pytest.raises(ConfigError, match="lm.local_table_s"):
            wrong.check()
        with pytest.raises(ValueError, match="local_table_s"):
            _C.LM(json.dumps(to_dict(wrong)), {})


@pytest.mark.parametrize("forced", [[-1, -1, 7], [-1, 25, 7], [30, -1, -1], [30, 25, 7]])
def test_a_fixed_slot_needs_no_logits_and_changes_no_draw(forced: list[int]) -> None:
    """What comes after a slot is drawn as if the slot's id had been drawn."""
    c = CONFIGS["local_table"]
    lm = native_lm(c, torch_lm(c))
    sampling = _C.Sampling(seed=4, forced=forced)
    alone = lm.session(40).generate(40, sampling)
    for slot, id in enumerate(forced):
        assert id < 0 or (alone[:, slot] == id).all()
    logits = lm.logits(alone)
    free = _C.Sampling(seed=4)
    sampler = _C.Sampler(free, json.dumps(to_dict(c)))
    for t in range(40):
        for slot, id in enumerate(forced):
            drawn = (
                alone[t, slot] if id >= 0 else sampler.sample(logits[t, slot], slot, t, alone[:t])
            )
            assert drawn == alone[t, slot]
    with_others = [_C.Sampling(seed=4, forced=forced), free, sampling]
    together = _C.LM.generate_batch([lm.session(40) for _ in range(3)], 40, with_others)
    for found in (together[0], together[2]):
        np.testing.assert_array_equal(found, alone)


@pytest.mark.parametrize("keep", [False, True])
def test_a_whole_frame_may_end_the_sequence(keep: bool) -> None:
    c = CONFIGS["base"]
    lm = native_lm(c, torch_lm(c))
    free = lm.session(40).generate(40, _C.Sampling(seed=9))
    at = 17
    end = [int(free[at, 0]), -1, int(free[at, 2])]
    same = (free[:, [0, 2]] == free[at, [0, 2]]).all(1)
    first = int(np.nonzero(same)[0][0])
    session = lm.session(40)
    out = session.generate(40, _C.Sampling(seed=9, end_frame=end, keep_end_frame=keep))
    np.testing.assert_array_equal(out, free[: first + keep])
    assert session.finished
    later = _C.Sampling(seed=9, end_frame=end, min_frames=first + 1)
    ends = np.nonzero(same[first + 1 :])[0]
    expected = first + 1 + int(ends[0]) if len(ends) else 40
    assert len(lm.session(40).generate(40, later)) == expected
    sampler = _C.Sampler(later, json.dumps(to_dict(c)))
    assert sampler.ends_frame(free[first].tolist(), first + 1)
    assert not sampler.ends_frame(free[first].tolist(), first)
    for wrong, message in (([-1, -1, -1], "at least one id"), ([1], "one for each of 3 slots")):
        with pytest.raises(ValueError, match=f"end_frame: expected {message}"):
            lm.session(4).generate(1, _C.Sampling(end_frame=wrong))
