"""Fields of frozen configs, and the check of plain values against them."""

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Any

from dc_jax.errors import UserError
from dc_jax.files.content import is_unicode


def at_least(minimum: float) -> dict[str, Any]:
    """Returns the rule of numbers that are not below `minimum`, nor too large."""
    return {
        "is_allowed": lambda value: minimum <= value < math.inf,
        "allowed": f"at least {minimum}",
        "below": 2**31,  # The largest integers of JAX are just below.
    }


def one_of(*values: Any) -> dict[str, Any]:
    """Returns the rule of a choice."""
    return {
        "is_allowed": lambda value: value in values,
        "allowed": f"one of {', '.join(map(str, values))}",
    }


POSITIVE = {"is_allowed": lambda value: 0 < value < math.inf, "allowed": "positive"}
FRACTION = {"is_allowed": lambda value: 0 <= value < 1, "allowed": "in [0, 1)"}
PROBABILITY = {"is_allowed": lambda value: 0 <= value <= 1, "allowed": "in [0, 1]"}
SEED = {"is_allowed": lambda value: 0 <= value < 2**32, "allowed": "in [0, 2**32)"}
ANY = {"is_allowed": lambda value: True, "allowed": "anything"}
NOT_EMPTY = {"is_allowed": bool, "allowed": "a name"}
ADDRESS = {
    "is_allowed": lambda value: value.rpartition(":")[2].isdecimal(),
    "allowed": "HOST:PORT",
}


def allow(rule: dict[str, Any]) -> Any:
    """Returns a field of a dataclass that `check_values` checks by a rule.

    It has `is_allowed`, a function of the value, and `allowed`, which describes the
    allowed values in words. All values are less than `below` where it is given.
    """
    return dataclasses.field(metadata=rule)


def check_values(cls: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    """Checks plain values, by field, and returns the dataclass that holds them.

    The fields of `cls` are made by `allow`, or are dataclasses themselves. `prefix`
    comes before their names in errors.

    Raises:
      UserError: a field is unknown, missing, of a wrong type or not allowed.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name in values:
        if name not in fields:
            known = ", ".join(prefix + field for field in fields)
            raise UserError(f"config.{prefix}{name} is not a field; there are {known}.")
    hints = typing.get_type_hints(cls)
    checked = {}
    for name, field in fields.items():
        if name not in values:
            raise UserError(f"config.{prefix}{name} is missing.")
        value, hint, path = values[name], hints[name], prefix + name
        if not dataclasses.is_dataclass(hint):
            checked[name] = _check(value, hint, field, path)
        elif isinstance(value, Mapping):
            checked[name] = check_values(hint, value, f"{path}.")
        else:
            raise UserError(f"config.{path} must be a group of fields, got {value!r}.")
    return cls(**checked)


def _check(value: Any, hint: Any, field: dataclasses.Field, name: str) -> Any:
    kind, *others = typing.get_args(hint) or (hint,)
    if value is None and type(None) in others:
        return None
    if isinstance(value, list | tuple) and value and tuple[int, ...] in others:
        pairs = enumerate(value)
        return tuple(_check(one, kind, field, f"{name}[{i}]") for i, one in pairs)
    # Python refuses to print much longer integers, or to convert them to float.
    if isinstance(value, int) and value.bit_length() > 64:
        got = f"an integer of {value.bit_length()} bits"
        raise UserError(f"config.{name} must be {kind.__name__}, got {got}.")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        words = {type(None): " or None", tuple[int, ...]: " or a list of int"}
        allowed = kind.__name__ + "".join(words[other] for other in others)
        raise UserError(f"config.{name} must be {allowed}, got {value!r}.")
    if kind is str and not is_unicode(value):
        raise UserError(f"config.{name} must be valid Unicode, got {value!r}.")
    rule = field.metadata
    if not rule["is_allowed"](value):
        raise UserError(f"config.{name} must be {rule['allowed']}, got {value!r}.")
    if "below" in rule and value >= rule["below"]:
        raise UserError(f"config.{name} must be below {rule['below']}, got {value!r}.")
    return value
