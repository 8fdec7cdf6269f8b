"""Text for models that read it as it is written."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uniaudio_engine.text.written import plain_written

INDENT = " " * 8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the sea was calm that day", "The sea was calm that day."),
        ("The sea was calm, that day!", "The sea was calm, that day!"),
        ("hello there", INDENT + "Hello there."),  # before fewer than five words
        ("This   is a\ttest -- of [marks] and {x}", 'This is a test. of "marks" and "x".'),
        ("so it goes, and then it ends...", "So it goes, and then it ends."),
        ("is that what you really want?!?!", "Is that what you really want?!"),
        ("first A -> B and then to C", "First A, B and then to C."),
        ("- read one_two and my_name, as they are", "Read one two and my name, as they are."),
        ("## A title with many more words", "A title with many more words."),
        ("[notes on it](https://x.org/a_b), or ask me_x", None),
        ("write to ops+tts@example.ai or see app.js.map", None),
        ("真的假的？？？！！！", "真的假的？！"),
        ("这 是　一 段 文本", "这是一段文本。"),
        ("这是Anthropic的npm包", "这是 Anthropic 的 npm 包。"),
        ("他说【重要通知】明天发布", '他说"重要通知"明天发布。'),
        ("请求接入 -> 身份——处理", "请求接入，身份。处理。"),
        ("今天20:00维护......", "今天20:00维护。"),
        ("zero\u200bwidth and \x07 control in it", "Zerowidth and control in it."),
        ("Äpfel kosten 3,50 €, sagt er.", "Äpfel kosten 3,50 €, sagt er."),
        ("... — ()", ""),
    ],
)
def test_rules(text: str, expected: str | None) -> None:
    found = plain_written(text)
    if expected is None:  # addresses and names of files stay as they are
        for word in ("https://x.org/a_b", "ops+tts@example.ai", "app.js.map"):
            assert (word in text) == (word in found)
        assert "[" not in found and "me_x" not in found
        return
    assert found == expected


_PIECES = st.sampled_from(
    [
        *"ab Z9_.,!?…-—–<=>[]{}()【】「」《》，。！？字カ한é#@/:+\"'\u200b\u3000\ue000\x00",
        "http://a.b/c",
        "->",
        "...",
    ]
)


@given(st.lists(_PIECES, max_size=30).map("".join))
def test_any_text(text: str) -> None:
    found = plain_written(text)
    spoken = [c.lower() for c in text if unicodedata.category(c)[0] in "LN"]
    kept = [c.lower() for c in found if unicodedata.category(c)[0] in "LN"]
    assert kept == spoken  # no letter and no digit is lost or added
    assert bool(found) == bool(spoken)
    assert not any(unicodedata.category(c).startswith("C") for c in found)
    assert not found.strip().startswith((" ", "\n")) and found == found.rstrip()
