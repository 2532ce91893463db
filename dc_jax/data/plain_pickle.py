"""Reads pickles of plain values and NumPy arrays of bytes, without running anything.

A pickle is a program that names functions to call. `pickletools` takes it apart; here
its instructions make plain Python values only, and a call that the program asks for
becomes a `Call`, a note of it. Nothing is imported and nothing is called.
"""

import dataclasses
import pickletools
from typing import Any

import numpy as np

from dc_jax.errors import UserError

# The names that NumPy 1 and 2 give to what makes an array from its bytes.
_MAKE_EMPTY = {f"numpy.{core}.multiarray _reconstruct" for core in ("core", "_core")}
_MAKE_FROM_BUFFER = {f"numpy.{core}.numeric _frombuffer" for core in ("core", "_core")}

_CONSTANTS = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
}
# Whose argument is the value.
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "FLOAT", "BINFLOAT", "BYTEARRAY8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclasses.dataclass(eq=False)
class Call:
    """What a pickle would have called, and the state it would have given it."""

    function: str  # As in "numpy dtype".
    arguments: Any
    state: Any = None


class _Mark:
    """Where the items of a container begin."""


def read_plain_pickle(data: bytes) -> Any:
    """Returns the value of a pickle of any protocol, with a `Call` for every object.

    Strings of Python 2 become `str` as in Latin-1.

    Raises:
      UserError: it holds something else.
      LookupError, TypeError, ValueError: it is damaged.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name == "STOP":
            return stack.pop()
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            stack.append(_Mark)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name not in ("PROTO", "FRAME"):
            _act(name, argument, stack)
    raise UserError("it has no end")


def _act(name: str, argument: Any, stack: list[Any]) -> None:
    """Does what an instruction does to the values on the stack."""
    if name == "GLOBAL":
        stack.append(Call(argument, None))
    elif name == "STACK_GLOBAL":
        module, function = _pop(stack, 2)
        stack.append(Call(f"{module} {function}", None))
    elif name == "REDUCE":
        function, arguments = _pop(stack, 2)
        stack.append(Call(_check_call(function).function, arguments))
    elif name == "BUILD":
        (state,) = _pop(stack, 1)
        _check_call(stack[-1]).state = state
    elif name in _TUPLES:
        stack.append(tuple(_pop(stack, _TUPLES[name])))
    elif name == "TUPLE":
        stack.append(tuple(_pop_items(stack)))
    elif name == "LIST":
        stack.append(_pop_items(stack))
    elif name == "DICT":
        stack.append(_pairs(_pop_items(stack)))
    elif name in ("APPEND", "APPENDS"):
        items = _pop(stack, 1) if name == "APPEND" else _pop_items(stack)
        list.extend(stack[-1], items)
    elif name in ("SETITEM", "SETITEMS"):
        items = _pop(stack, 2) if name == "SETITEM" else _pop_items(stack)
        dict.update(stack[-1], _pairs(items))
    else:
        raise UserError(
            f"it has the instruction {name}, which plain values do not need"
        )


def _check_call(value: Any) -> Call:
    if not isinstance(value, Call):
        raise UserError(f"it has {type(value).__name__} where an object must be")
    return value


def _pop(stack: list[Any], num: int) -> list[Any]:
    if num > len(stack):
        raise UserError("it has fewer values than it needs")
    items = stack[-num:]
    del stack[-num:]
    return items


def _pop_items(stack: list[Any]) -> list[Any]:
    """Returns what is above the last mark."""
    items = []
    while (item := stack.pop()) is not _Mark:
        items.append(item)
    return items[::-1]


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(items[::2], items[1::2], strict=True))


def to_bytes(value: Any) -> bytes:
    """Returns what is bytes in a pickle of any protocol and Python.

    Raises:
      UserError, ValueError: it is something else.
    """
    if isinstance(value, Call) and value.function == "_codecs encode":
        # How Python 3 writes bytes with the protocols of Python 2.
        value, _ = value.arguments
    if isinstance(value, str):
        return value.encode("latin-1")
    if not isinstance(value, bytes | bytearray):
        raise UserError(f"it has {type(value).__name__} where bytes must be")
    return bytes(value)


def to_array(value: Any) -> np.ndarray:
    """Returns the array of a `Call`, uint8.

    Raises:
      UserError: it is something else, or not of uint8.
      LookupError, TypeError, ValueError: it is damaged.
    """
    if _check_call(value).function in _MAKE_EMPTY:
        _, shape, dtype, is_fortran, data = value.state
    elif value.function in _MAKE_FROM_BUFFER:
        data, dtype, shape, order = value.arguments
        is_fortran = order == "F"
    else:
        raise UserError(f"it has {value.function} where an array must be")
    is_dtype = _check_call(dtype).function == "numpy dtype"
    if not is_dtype or to_bytes(dtype.arguments[0]) != b"u1":
        raise UserError("it has an array that is not of uint8")
    array = np.frombuffer(to_bytes(data), np.uint8)
    return array.reshape(shape, order="F" if is_fortran else "C")
