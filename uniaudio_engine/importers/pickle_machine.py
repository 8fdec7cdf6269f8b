"""Reads pickles as data. Python's unpickler calls whatever a file names; this one calls only the
functions that its caller permits.

A pickle is a program for a stack machine. Here GLOBAL gives a :class:`Global` (a name; nothing is
imported). REDUCE and similar opcodes call the function of ``known`` with that name, or else give a
:class:`StandIn`. BUILD, which sets attributes, does nothing. Memory use is proportional to the size
of the pickle. Keys of dicts are strings, numbers, bytes or None; entries with other keys are
dropped, since hashing deep tuples could overflow the C stack. Source: Python's pickletools, which
documents and decodes the opcodes.
"""

from __future__ import annotations

import io
import pickletools
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

MAX_OPCODES = 4_000_000
# A call may go over all that it is handed, and a pickle can hand the same list to every call.
# Without such sharing a value takes at least one opcode; the sizes of tensors are shared.
_HANDED, _FREE = 4, 1000
_KEYS = (str, int, float, bool, bytes, type(None))


class PickleError(ValueError):
    """Something that a pickle must not contain, as a noun phrase."""


@dataclass(frozen=True)
class Global:
    """A class or function by name, not looked up."""

    name: str


class StandIn:
    """Stands in for an object that is not plain data. It only has the name of its class."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = brief(name)[1:-1]

    def __repr__(self) -> str:
        return f"<stand-in for {self.name}>"


def brief(value: object) -> str:
    """A pickled value for an error message.

    ``repr`` alone could take exponential time: parts may refer to each other many times.
    """
    short = reprlib.Repr()
    short.maxlevel, short.maxtuple, short.maxlist, short.maxdict = 2, 6, 6, 2
    text = " ".join(short.repr(value).split())
    return text if len(text) <= 60 else text[:59] + "…"


def unpickle(
    f: io.BytesIO, known: Mapping[str, Callable[..., Any]], persistent: Callable[[Any], Any]
) -> Any:
    """The object of the pickle at ``f``'s position; moves the position behind it.

    Raises :class:`PickleError`.
    """
    machine = _Machine(known, persistent)
    try:
        for number, (opcode, arg, _) in enumerate(pickletools.genops(f)):
            if number >= MAX_OPCODES:
                raise PickleError(f"more than {MAX_OPCODES} steps")
            machine.step(opcode.name, arg)
        if len(machine.stack) != 1:
            raise PickleError("no single object")
        return machine.stack[0]
    except PickleError:
        raise
    except (
        ValueError,
        TypeError,
        IndexError,
        KeyError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as e:
        raise PickleError(f"an unreadable pickle: {brief(str(e))}") from None


class _Machine:
    def __init__(
        self, known: Mapping[str, Callable[..., Any]], persistent: Callable[[Any], Any]
    ) -> None:
        self.known, self.persistent = known, persistent
        self.steps = self.handed = 0  # opcodes, and values that calls were handed
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # stacks below the marks
        self.memo: dict[int, Any] = {}

    def step(self, name: str, arg: Any) -> None:
        self.steps += 1
        stack = self.stack
        if name in _PUSH:
            stack.append(arg)
        elif name in _NEW:
            stack.append(_NEW[name]())
        elif name in _CONSTANT:
            stack.append(_CONSTANT[name])
        elif name in ("PROTO", "FRAME", "STOP"):
            pass
        elif name == "MARK":
            self.below.append(stack)
            self.stack = []
        elif name in ("POP", "POP_MARK"):
            self.pop_mark() if name == "POP_MARK" or not stack else stack.pop()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[arg] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[arg])
        elif name in _COLLECT:
            items = self.pop_mark()
            self.stack.append(_COLLECT[name](items))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            if len(stack) < count:
                raise PickleError("an empty stack")
            stack[-count:] = [tuple(stack[-count:])]
        elif name in ("APPEND", "APPENDS", "ADDITEMS"):
            items = [stack.pop()] if name == "APPEND" else self.pop_mark()
            if isinstance(self.stack[-1], list):
                self.stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else self.pop_mark()
            if isinstance(self.stack[-1], dict):
                self.stack[-1].update(_dict(items))
        elif name == "GLOBAL":
            stack.append(_global(*arg.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_global(module, attribute))
        elif name in ("REDUCE", "NEWOBJ"):
            args, function = stack.pop(), stack.pop()
            stack.append(self.call(function, args))
        elif name == "NEWOBJ_EX":
            del stack[-2:]
            stack.append(self.call(stack.pop(), None))
        elif name == "INST":
            self.pop_mark()
            self.stack.append(self.call(_global(*arg.split(" ", 1)), None))
        elif name == "OBJ":
            function = self.pop_mark()[0]
            self.stack.append(self.call(function, None))
        elif name == "BUILD":
            stack.pop()
            stack[-1]  # noqa: B018 (IndexError where there is nothing to build)
        elif name in ("BINPERSID", "PERSID"):
            stack.append(self.persistent(stack.pop() if name == "BINPERSID" else arg))
        else:  # EXT*, out-of-band buffers
            raise PickleError(f"the opcode {name}")

    def pop_mark(self) -> list[Any]:
        if not self.below:
            raise PickleError("a missing mark")
        items = self.stack
        self.stack = self.below.pop()
        return items

    def call(self, function: Any, args: Any) -> Any:
        if not isinstance(function, Global):
            return StandIn(type(function).__name__)
        call = self.known.get(function.name)
        if call is None or not isinstance(args, tuple):
            return StandIn(function.name)
        self.handed += sum(len(a) for a in args if isinstance(a, (list, tuple, dict)))
        if self.handed > _HANDED * self.steps + _FREE:
            raise PickleError("calls that go over the same values again and again")
        return call(*args)


def _global(module: Any, name: Any) -> Global:
    if type(module) is not str or type(name) is not str:
        raise PickleError(f"a class named {brief(name)}")
    return Global(f"{module}.{name}")


def _dict(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise PickleError("a key without a value")
    return {k: v for k, v in zip(items[::2], items[1::2], strict=True) if type(k) in _KEYS}


_PUSH = {
    "INT",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG",
    "LONG1",
    "LONG4",
    "FLOAT",
    "BINFLOAT",
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
    "UNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE",
    "BINUNICODE8",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
    "BYTEARRAY8",
}
_NEW: dict[str, Callable[[], Any]] = {
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
    "EMPTY_TUPLE": tuple,
}
_CONSTANT = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_COLLECT: dict[str, Callable[[list[Any]], Any]] = {
    "LIST": list,
    "TUPLE": tuple,
    "DICT": _dict,
    "FROZENSET": list,
}
