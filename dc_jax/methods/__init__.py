"""Condensation methods by name. A new method is one file and one line here."""

from collections.abc import Callable

import flax.linen as nn

from dc_jax.base import Method
from dc_jax.config import Config
from dc_jax.devices.backend import Execution
from dc_jax.errors import UserError
from dc_jax.methods import (
    characteristic_functions,
    dataset_distillation,
    distribution_matching,
    feature_regression,
    gradient_matching,
    trajectory_matching,
)
from dc_jax.methods.coresets import SELECTIONS

METHODS: dict[str, Callable[[Config, nn.Module, Execution], Method]] = {
    "dc": gradient_matching.make,
    "dsa": gradient_matching.make,  # Its default augmentation is not "none".
    "dm": distribution_matching.make,
    "dd": dataset_distillation.make,
    "frepo": feature_regression.make,
    "ncfm": characteristic_functions.make,
    "mtt": trajectory_matching.make,
}
# They choose real images, or take all of them; see `baselines`.
BASELINES = (*SELECTIONS, "whole")


def check_method(name: str) -> None:
    """Raises `UserError` if there is no such method."""
    names = (*METHODS, *BASELINES)
    if name not in names:
        raise UserError(
            f"config.method must be one of {', '.join(names)}, got {name!r}."
        )


def make_method(config: Config, network: nn.Module, execution: Execution) -> Method:
    """Returns the method of `config.method`, one of `METHODS`."""
    return METHODS[config.method](config, network, execution)
