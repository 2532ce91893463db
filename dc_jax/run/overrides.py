"""A config for a call from Python: the defaults, the arguments, and overrides."""

import difflib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging
from flax.traverse_util import flatten_dict, unflatten_dict

from dc_jax.base import SyntheticSet
from dc_jax.config import Config
from dc_jax.defaults import SIAMESE_PREFIX
from dc_jax.errors import UserError
from dc_jax.run.checks import check_names, check_recipe
from dc_jax.sets.card import training_of

# The name of the dataset of a call.
NAME = "arrays"
# What a call may say of its dataset.
_OF_DATASET = ("dataset.stream", "dataset.zca")
# Fields of the config that would have no effect here, or another than they say.
_NOT_HERE = ("eval_every", "num_experiments", "num_evaluations", "distributed")


def make_set_config(
    fields: Mapping[str, Any], overrides: Mapping[str, Any] | None
) -> Config:
    """Returns the config of `make_values`, of a set that is to be made."""
    return Config.create(make_values(fields, overrides))


def make_evaluation_config(
    synthetic_set: SyntheticSet,
    given: Mapping[str, Any],
    overrides: Mapping[str, Any] | None,
) -> Config:
    """Returns the config of an evaluation, by a set's recipe and what is given.

    Raises:
      UserError: it is no set, or a field is wrong.
    """
    if not isinstance(synthetic_set, SyntheticSet):
        raise UserError(
            "synthetic_set must be a set of condense, select or load_synthetic_set, "
            f"got {synthetic_set!r:.80}."
        )
    training = training_of(synthetic_set)
    if "evaluation.protocol" in (overrides or {}):  # Not the recipe's values then.
        training = {n: value for n, value in training.items() if n == "network"}
        name = json.loads(synthetic_set.recipe or "{}").get("dataset", NAME)
        given = {"dataset.name": str(name), **given}
    given = {name: value for name, value in given.items() if value is not None}
    if "evaluation.epochs" not in {*given, *(overrides or {})}:
        check_recipe(training)
    fields = {f"evaluation.{name}": value for name, value in training.items()}
    config = Config.create(make_values(fields | given, overrides))
    check_names(config)
    augmentation = config.evaluation.augmentation or ""
    is_own = augmentation.startswith(SIAMESE_PREFIX)
    is_own = is_own and config.evaluation.protocol == "paper"
    if is_own and "evaluation.augmentation" not in (overrides or {}):
        logging.warning(
            "The set's recipe trains with augmentation %s for %s epochs, as the "
            "authors of its method do. To compare it with sets of other methods, give "
            "all overrides={'evaluation.protocol': 'strong'}, or 'paper'.",
            augmentation,
            config.evaluation.epochs,
        )
    return config


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
        is_own = name.startswith("dataset.") and name not in _OF_DATASET
        if is_own or name in _NOT_HERE:
            raise UserError(f"overrides: {name!r} is not for calls from Python.")
        if name in fields and not name.startswith("evaluation."):
            raise UserError(f"overrides: {name!r} is an argument of the call itself.")
        values[name] = value
    for name, value in values.items():
        values[name] = value.item() if isinstance(value, np.generic) else value
    return unflatten_dict(values, sep=".")
