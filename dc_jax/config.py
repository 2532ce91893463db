"""The configuration inside the program: frozen, typed and checked.

`configs/base.py` explains every field and holds its default. This module has the types
and the allowed values; `defaults` has the defaults that depend on others.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dc_jax import defaults
from dc_jax.errors import UserError
from dc_jax.fields import (
    ADDRESS,
    ANY,
    FRACTION,
    NOT_EMPTY,
    POSITIVE,
    PROBABILITY,
    SEED,
    allow,
    at_least,
    check_values,
    one_of,
)

FACTORS = (1, 2, 3, 4)  # Of multi-formation.
DISTANCES = ("ours", "mse", "cos")
# The evaluations, see `evaluation.protocol`.
PROTOCOLS = ("paper", "dsa", "strong", "frepo")


# How an axis is run: all at once, one after another, or some at once.
_LOOP = {
    "is_allowed": re.compile(r"vmap|map|chunk:[1-9]\d{0,5}").fullmatch,
    "allowed": "vmap, map, or chunk:N with N at once",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    name: str = allow(NOT_EMPTY)
    path: str | None = allow(NOT_EMPTY)
    image_size: int | None = allow(at_least(1))
    stream: bool = allow(ANY)
    validation: int | None = allow(at_least(1))
    zca: bool = allow(ANY)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    name: str = allow(NOT_EMPTY)
    begin: str = allow(one_of("random", "experts"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    network: str | None = allow(NOT_EMPTY)
    epochs: int | None = allow(at_least(0))
    augmentation: str | None = allow(NOT_EMPTY)
    protocol: str = allow(one_of(*PROTOCOLS))
    optimiser: str | None = allow(one_of("sgd", "adamw"))
    lr: float | None = allow(POSITIVE)
    momentum: float | None = allow(FRACTION)
    weight_decay: float | None = allow(at_least(0))
    batch_size: int | None = allow(at_least(1))
    schedule: str | None = allow(one_of("drop", "cosine"))
    cutmix: float | None = allow(PROBABILITY)
    loss: str | None = allow(one_of("cross_entropy", "squared_error"))
    random_baseline: bool = allow(ANY)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FormationConfig:
    factor: int = allow(one_of(*FACTORS))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoolConfig:
    size: int | None = allow(at_least(1))
    updates: int | None = allow(at_least(1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpertsConfig:
    number: int = allow(at_least(1))
    epochs: int | None = allow(at_least(1))
    lr: float = allow(POSITIVE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CharacteristicConfig:
    frequencies: int = allow(at_least(1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrajectoriesConfig:
    steps: int | None = allow(at_least(1))
    expert_epochs: int = allow(at_least(1))
    max_start: int | None = allow(at_least(1))
    growth: int | None = allow(at_least(0))
    threshold: float | None = allow(POSITIVE)
    lr_lr: float | None = allow(POSITIVE)
    gradient: str = allow(one_of("exact", "tesla"))

    @property
    def last_epoch(self) -> int:
        """Of an expert's training, the last that is looked at."""
        return self.max_start - 1 + self.expert_epochs


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    epochs: int = allow(at_least(1))
    lr: float | None = allow(POSITIVE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoresetConfig:
    epochs: int | None = allow(at_least(1))
    temperature: float | None = allow(POSITIVE)
    never_learned: str = allow(one_of("max", "zero"))
    networks: str | None = allow(NOT_EMPTY)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    convolution: str | None = allow(one_of("native", "mapped", "trilinear", "winograd"))
    network_loop: str | None = allow(_LOOP)
    class_loop: str | None = allow(_LOOP)
    precision: str = allow(one_of("default", "high", "highest"))
    dtype: str = allow(one_of("float32", "bfloat16"))
    slice_size: int | None = allow(at_least(1))
    compilation_cache: str | None = allow(NOT_EMPTY)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    net: int | None = allow(at_least(1))
    classes: int | None = allow(at_least(1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One run. `configs/base.py` explains the fields. `create` makes it."""

    seed: int = allow(SEED)
    method: str = allow(NOT_EMPTY)
    ipc: int | tuple[int, ...] = allow(at_least(1))
    iterations: int | None = allow(at_least(1))
    outer_loop: int | None = allow(at_least(1))
    inner_loop: int | None = allow(at_least(1))
    num_networks: int = allow(at_least(1))
    num_experiments: int = allow(at_least(1))
    num_evaluations: int = allow(at_least(1))
    init: str | None = allow(one_of("noise", "real", "kmeans"))
    labels: str | None = allow(one_of("hard", "soft", "learned"))
    augmentation: str | None = allow(NOT_EMPTY)
    distance: str = allow(one_of(*DISTANCES))
    batch_real: int | None = allow(at_least(1))
    sampler: str = allow(one_of("random", "kmeans"))
    candidates: int | None = allow(at_least(1))
    batch_train: int | None = allow(at_least(1))
    lr_img: float | None = allow(POSITIVE)
    lr_label: float | None = allow(POSITIVE)
    momentum_img: float = allow(FRACTION)
    lr_net: float | None = allow(POSITIVE)
    momentum_net: float = allow(FRACTION)
    patience: int | None = allow(at_least(1))
    minutes: float | None = allow(at_least(0))
    eval_every: int = allow(at_least(0))
    checkpoint_minutes: float = allow(at_least(0))
    tensorboard: bool = allow(ANY)
    dataset: DatasetConfig
    network: NetworkConfig
    evaluation: EvaluationConfig
    formation: FormationConfig
    pool: PoolConfig
    experts: ExpertsConfig
    characteristic: CharacteristicConfig
    trajectories: TrajectoriesConfig
    distillation: DistillationConfig
    coreset: CoresetConfig
    execution: ExecutionConfig
    mesh: MeshConfig
    distributed: bool = allow(ANY)
    coordinator_address: str | None = allow(ADDRESS)
    num_processes: int | None = allow(at_least(1))
    process_id: int | None = allow(at_least(0))

    @classmethod
    def create(cls, values: Mapping[str, Any]) -> "Config":
        """Checks plain values, as from `ConfigDict.to_dict()`, and freezes them.

        Fields that are None get the default that depends on the method. By the paper's
        evaluation, networks are trained with the augmentation that images are condensed
        with.

        Raises:
          UserError: a field is unknown, missing, of a wrong type or not allowed.
        """
        config = check_values(cls, values)
        of_method = defaults.method_defaults(config)
        missing = {n: v for n, v in of_method.items() if getattr(config, n) is None}
        config = dataclasses.replace(config, **missing)
        candidates = config.candidates or 4 * config.batch_real
        evaluation = config.evaluation
        is_open = evaluation.protocol == "paper" and evaluation.augmentation is None
        if is_open and config.augmentation != "none":
            evaluation = dataclasses.replace(
                evaluation, augmentation=config.training_augmentation
            )
        config = dataclasses.replace(
            config, candidates=candidates, evaluation=evaluation
        )
        for group, of_group in defaults.GROUP_DEFAULTS.items():
            part, values = getattr(config, group), of_group(config)
            missing = {n: v for n, v in values.items() if getattr(part, n) is None}
            part = dataclasses.replace(part, **missing)
            config = dataclasses.replace(config, **{group: part})
        return config

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values of JSON's types, which `create` takes."""
        ipc = list(self.ipc) if isinstance(self.ipc, tuple) else self.ipc
        return dataclasses.asdict(self) | {"ipc": ipc}

    def loops(self) -> tuple[int, int]:
        """Returns the outer steps T and the inner epochs between two of them.

        With a pool, in which networks go on training, or with experts: one step and ten
        epochs.
        """
        is_short = self.pool.size or self.network.begin == "experts"
        outer, inner = (1, 10) if is_short else defaults.default_loops(self.mean_ipc)
        return self.outer_loop or outer, self.inner_loop or inner

    def snapshots(self) -> tuple[int, ...]:
        """Returns the ages of experts that networks begin as, see `Method`."""
        return (
            tuple(range(self.experts.epochs + 1))
            if self.network.begin == "experts"
            else ()
        )

    @property
    def training_augmentation(self) -> str:
        """The strategy of `augment` for networks that are trained to condense."""
        is_augmented = self.augmentation != "none"
        return defaults.SIAMESE_PREFIX + self.augmentation if is_augmented else "none"

    @property
    def mean_ipc(self) -> int:
        """The synthetic images per class; the rounded mean where classes differ."""
        return round(float(np.mean(self.ipc)))

    def class_ipc(self, num_classes: int) -> tuple[int, ...]:
        """Returns the synthetic images of each class, `[C]`.

        Raises:
          UserError: there are not as many numbers as classes.
        """
        if isinstance(self.ipc, int):
            return (self.ipc,) * num_classes
        if len(self.ipc) != num_classes:
            wanted = f"one number, or {num_classes}, one for each class"
            raise UserError(f"config.ipc must be {wanted}, got {len(self.ipc)}.")
        return self.ipc


def describe_ipc(ipc: int | Sequence[int]) -> str:
    """Returns `10`; where classes differ, the least and the most, as in `1 to 10`."""
    least, most = int(np.min(ipc)), int(np.max(ipc))
    return str(most) if least == most else f"{least} to {most}"
