"""The configuration of a run of continual learning, checked.

`configs/experiments/continual_run.py` explains every field.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from dc_jax.config import Config, check_values
from dc_jax.errors import UserError
from dc_jax.run.checks import check_names
from experiments.continual_learning.tasks import check_name


def _field(is_allowed: Callable[[Any], bool], allowed: str) -> Any:
    return dataclasses.field(metadata={"is_allowed": is_allowed, "allowed": allowed})


def _at_least(minimum: float) -> Any:
    return _field(lambda value: minimum <= value < math.inf, f"at least {minimum}")


def _positive() -> Any:
    return _field(lambda value: 0 < value < math.inf, "positive")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    iterations: int = _at_least(1)
    batch_size: int = _at_least(1)
    lr: float = _positive()
    momentum: float = _field(lambda value: 0 <= value < 1, "in [0, 1)")
    weight_decay: float = _at_least(0)
    fine_tuning: int = _at_least(0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContinualConfig:
    """One sequence of tasks."""

    seed: int = _field(lambda value: 0 <= value < 2**32, "in [0, 2**32)")
    tasks: str = _field(
        lambda value: all(name.strip() for name in value.split(",")),
        "names of datasets, separated by commas",
    )
    class_steps: int | None = _at_least(1)
    image_shape: str | None = _field(
        lambda value: re.fullmatch(r"[1-9]\d*(x[1-9]\d*){2}", value),
        "HEIGHTxWIDTHxCHANNELS",
    )
    path: str | None = _field(bool, "a folder")
    usps: str | None = _field(bool, "a folder")
    max_test: int = _at_least(1)
    distillation: float = _at_least(0)
    temperature: float = _positive()
    training: TrainingConfig
    condense: Config

    @classmethod
    def create(cls, values: Mapping[str, Any]) -> "ContinualConfig":
        """Checks plain values, such as those of `ConfigDict.to_dict()`; freezes them.

        Raises:
          UserError: a field is unknown, is missing, or has a wrong type or value, or
            fields exclude each other.
        """
        config = check_values(cls, values)
        if config.class_steps and len(config.task_names()) > 1:
            raise UserError(
                "config.tasks must be one dataset if config.class_steps is given, "
                f"got {config.tasks!r}."
            )
        if config.condense.method == "whole" or config.condense.num_experiments != 1:
            raise UserError(
                "config.condense must make one set: its method must not be 'whole' "
                "and its num_experiments must be 1, got "
                f"{config.condense.method!r} and {config.condense.num_experiments}."
            )
        if not isinstance(config.condense.ipc, int):
            raise UserError(
                "config.condense.ipc must be one number, because each task has other "
                f"classes, got {list(config.condense.ipc)}."
            )
        check_names(config.condensing("digits"))
        for name in config.task_names():
            check_name(name, config.shape())
        return config

    def to_dict(self) -> dict[str, Any]:
        """Returns the plain values from which `create` makes this config."""
        return dataclasses.asdict(self)

    def task_names(self) -> list[str]:
        """Returns the names of the datasets."""
        return [name.strip() for name in self.tasks.split(",")]

    def shape(self) -> tuple[int, int, int] | None:
        """Returns (H, W, D); None means the shape of the first dataset."""
        if self.image_shape is None:
            return None
        height, width, channels = map(int, self.image_shape.split("x"))
        return height, width, channels

    def condensing(self, name: str) -> Config:
        """Returns the config that condenses a task of this dataset."""
        values = self.condense.to_dict()
        base, *_ = name.split(":")
        dataset = values["dataset"] | {"name": base, "path": self.path}
        return Config.create(values | {"seed": self.seed, "dataset": dataset})
