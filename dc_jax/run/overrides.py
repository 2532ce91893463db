"""A config for a call from Python: the defaults, the arguments, and overrides."""

import difflib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dc_jax.config import Config
from dc_jax.errors import UserError

# The name of the dataset of a call.
NAME = "arrays"
# Fields of the config that would have no effect here, or another than they say.
_NOT_HERE = ("eval_every", "num_experiments", "num_evaluations", "distributed")


def make_config(
    fields: Mapping[str, Any], overrides: Mapping[str, Any] | None
) -> Config:
    """Returns the config of `make_values`."""
    return Config.create(make_values(fields, overrides))


def make_values(
    fields: Mapping[str, Any], overrides: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Returns the defaults with other values of some fields, by dotted names, nested.

    Raises:
      UserError: an override is unknown, not for here, or of a wrong value.
    """
    from dc_jax.configs import base  # Only where it is used: it is a file for users.

    values = flatten_dict(base.get_config().to_dict(), sep=".")
    values |= {"num_experiments": 1, "dataset.name": NAME, **fields}
    for name, value in (overrides or {}).items():
        if name not in values:
            near = difflib.get_close_matches(str(name), values, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ": see configs/base.py."
            raise UserError(f"overrides: {name!r} is not a field of the config{hint}")
        is_own = name.startswith("dataset.") and name != "dataset.stream"
        if is_own or name in _NOT_HERE:
            raise UserError(f"overrides: {name!r} is not for calls from Python.")
        if name in fields and not name.startswith("evaluation."):
            raise UserError(f"overrides: {name!r} is an argument of the call itself.")
        values[name] = value
    for name, value in values.items():
        values[name] = value.item() if isinstance(value, np.generic) else value
    return unflatten_dict(values, sep=".")
