"""Options of a request: any value becomes either a number within the limits or a one-line error."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uniaudio_engine import InputError
from uniaudio_engine.request.options import Option

LIMITS = {"int": (0, 100), "float": (0.5, 4.0)}
VALUES = st.one_of(
    st.integers(),
    st.floats(),
    st.booleans(),
    st.text(max_size=5),
    st.complex_numbers(),
    st.lists(st.integers(), max_size=3),
    st.builds(np.array, st.lists(st.integers(0, 9), max_size=3)),
    st.builds(np.int64, st.integers(-5, 105)),
    st.builds(np.float32, st.floats(0, 5)),
)


@pytest.mark.parametrize("kind", LIMITS)
@given(value=VALUES)
def test_a_value_is_a_number_within_the_limits_or_refused(kind: str, value: object) -> None:
    low, high = LIMITS[kind]
    option = Option("size", kind, 1, low, high, "a size")  # type: ignore[arg-type]
    try:
        number = option.check(value)
    except InputError as e:
        assert str(e).startswith("size: expected a") and "\n" not in str(e)
        scalar = isinstance(value, (int, np.integer) if kind == "int" else (int, float, np.number))
        assert isinstance(value, bool) or not scalar or not low <= value <= high  # type: ignore[operator]
    else:
        assert type(number) is (int if kind == "int" else float)
        assert low <= number <= high and math.isfinite(number) and number == value


def test_none_is_the_default() -> None:
    assert Option("size", "int", 7, 0, 100, "").check(None) == 7
