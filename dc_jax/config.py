"""The configuration inside the program: frozen, typed and checked.

`configs/base.py` explains every field and holds the only defaults; here stand the
types and what values are allowed. A `ConfigDict` is turned into a `Config` once, at the
boundary, before anything is loaded or compiled.
"""

import dataclasses
import math
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dc_jax.errors import UserError
from dc_jax.files import is_unicode

INITS = ("noise", "real")
DISTANCES = ("ours", "mse", "cos")
# What images count as that a network never learned.
NEVER_LEARNED = ("max", "zero")
# Begins a strategy of Siamese augmentation where strategies of both kinds are allowed.
SIAMESE_PREFIX = "dsa:"
CONVOLUTIONS = ("native", "trilinear", "winograd")
NETWORK_LOOPS = ("vmap", "map")
# Sets whose images mean something else when they are flipped.
_DIGITS = ("digits", "mnist", "mnist_5k", "usps", "svhn", "svhn_cropped")
DTYPES = ("float32", "bfloat16")

# Outer steps and inner epochs of the authors' code, by images per class.
_PUBLISHED_LOOPS = {
    1: (1, 1),
    10: (10, 50),
    20: (20, 25),
    30: (30, 20),
    40: (40, 15),
    50: (50, 10),
}


def _at_least(minimum: float) -> dict[str, Any]:
    return {
        "is_allowed": lambda value: minimum <= value < math.inf,
        "allowed": f"at least {minimum}",
        # Of JAX's integers.
        "below": 2**31,
    }


def _one_of(*names: str) -> dict[str, Any]:
    return {
        "is_allowed": lambda value: value in names,
        "allowed": f"one of {', '.join(names)}",
    }


_POSITIVE = {"is_allowed": lambda value: 0 < value < math.inf, "allowed": "positive"}
_FRACTION = {"is_allowed": lambda value: 0 <= value < 1, "allowed": "in [0, 1)"}
_SEED = {"is_allowed": lambda value: 0 <= value < 2**32, "allowed": "in [0, 2**32)"}
_ANY = {"is_allowed": lambda value: True, "allowed": "anything"}
_NOT_EMPTY = {"is_allowed": bool, "allowed": "a name"}
_ADDRESS = {
    "is_allowed": lambda value: value.rpartition(":")[2].isdecimal(),
    "allowed": "HOST:PORT",
}


def _field(rule: dict[str, Any]) -> Any:
    return dataclasses.field(metadata=rule)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    name: str = _field(_NOT_EMPTY)
    path: str | None = _field(_NOT_EMPTY)
    image_size: int | None = _field(_at_least(1))
    stream: bool = _field(_ANY)
    validation: int | None = _field(_at_least(1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    name: str = _field(_NOT_EMPTY)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    network: str | None = _field(_NOT_EMPTY)
    epochs: int | None = _field(_at_least(0))
    augmentation: str | None = _field(_NOT_EMPTY)
    lr: float = _field(_POSITIVE)
    momentum: float = _field(_FRACTION)
    weight_decay: float = _field(_at_least(0))
    batch_size: int = _field(_at_least(1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    epochs: int = _field(_at_least(1))
    lr: float | None = _field(_POSITIVE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoresetConfig:
    epochs: int = _field(_at_least(1))
    never_learned: str = _field(_one_of(*NEVER_LEARNED))
    networks: str | None = _field(_NOT_EMPTY)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    convolution: str | None = _field(_one_of(*CONVOLUTIONS))
    network_loop: str | None = _field(_one_of(*NETWORK_LOOPS))
    dtype: str = _field(_one_of(*DTYPES))
    slice_size: int | None = _field(_at_least(1))
    compilation_cache: str | None = _field(_NOT_EMPTY)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    net: int | None = _field(_at_least(1))
    classes: int | None = _field(_at_least(1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One run. The fields are explained in `configs/base.py`.

    `create` fills in those whose default depends on the method; they are never None.
    """

    seed: int = _field(_SEED)
    method: str = _field(_NOT_EMPTY)
    ipc: int | tuple[int, ...] = _field(_at_least(1))
    iterations: int | None = _field(_at_least(1))
    outer_loop: int | None = _field(_at_least(1))
    inner_loop: int | None = _field(_at_least(1))
    num_networks: int = _field(_at_least(1))
    num_experiments: int = _field(_at_least(1))
    num_evaluations: int = _field(_at_least(1))
    init: str | None = _field(_one_of(*INITS))
    augmentation: str | None = _field(_NOT_EMPTY)
    distance: str = _field(_one_of(*DISTANCES))
    batch_real: int | None = _field(_at_least(1))
    batch_train: int = _field(_at_least(1))
    lr_img: float | None = _field(_POSITIVE)
    momentum_img: float = _field(_FRACTION)
    lr_net: float = _field(_POSITIVE)
    momentum_net: float = _field(_FRACTION)
    eval_every: int = _field(_at_least(0))
    checkpoint_minutes: float = _field(_at_least(0))
    tensorboard: bool = _field(_ANY)
    dataset: DatasetConfig
    network: NetworkConfig
    evaluation: EvaluationConfig
    distillation: DistillationConfig
    coreset: CoresetConfig
    execution: ExecutionConfig
    mesh: MeshConfig
    distributed: bool = _field(_ANY)
    coordinator_address: str | None = _field(_ADDRESS)
    num_processes: int | None = _field(_at_least(1))
    process_id: int | None = _field(_at_least(0))

    @classmethod
    def create(cls, values: Mapping[str, Any]) -> "Config":
        """Checks plain values, as of `ConfigDict.to_dict()`, and freezes them.

        What depends on the method is filled in where it is None.

        Raises:
          UserError: a field is unknown, missing, of a wrong type or not allowed.
        """
        return _fill(check_values(cls, values))

    def to_dict(self) -> dict[str, Any]:
        """Returns the plain values, as JSON has them, that `create` makes this of."""
        values = dataclasses.asdict(self)
        if isinstance(self.ipc, tuple):
            values["ipc"] = list(self.ipc)
        return values

    def loops(self) -> tuple[int, int]:
        """Returns the outer steps T and the inner epochs between two of them."""
        outer, inner = default_loops(self.mean_ipc)
        return self.outer_loop or outer, self.inner_loop or inner

    @property
    def mean_ipc(self) -> int:
        """The synthetic images a class, where they differ their mean, rounded."""
        return round(float(np.mean(self.ipc)))

    def class_ipc(self, num_classes: int) -> tuple[int, ...]:
        """Returns the synthetic images of each class, `[C]`.

        Raises:
          UserError: there are not as many numbers as classes.
        """
        if isinstance(self.ipc, int):
            return (self.ipc,) * num_classes
        if len(self.ipc) != num_classes:
            raise UserError(
                f"config.ipc must be one number, or {num_classes}, one for each class, "
                f"got {len(self.ipc)}."
            )
        return self.ipc


def describe_ipc(ipc: int | Sequence[int]) -> str:
    """Returns `10`, or where classes differ the least and the most, `1 to 10`."""
    least, most = int(np.min(ipc)), int(np.max(ipc))
    return str(most) if least == most else f"{least} to {most}"


def method_defaults(config: Config) -> dict[str, Any]:
    """Returns the fields whose default depends on the method, with their values.

    Those of gradient matching are for any method that has no others. DSA and DM have
    what the authors give: main.py and main_DM.py of their code, and its README. DD has
    what its authors' code has for ten classes: batches of 1,024, and 400 epochs, which
    are about 20,000 of them at the 50,000 images of CIFAR-10.
    """
    siamese = "color_crop_cutout_flip_scale_rotate"
    if config.dataset.name in _DIGITS:
        siamese = "color_crop_cutout_scale_rotate"
    defaults = {
        "iterations": 1000,
        "init": "noise",
        "batch_real": 256,
        "lr_img": 0.1,
        "augmentation": "none",
    }
    others = {
        "dsa": {"init": "real", "augmentation": siamese},
        "dm": {
            "iterations": 20000,
            "init": "real",
            "lr_img": 10.0 if config.mean_ipc >= 100 else 1.0,
            "augmentation": siamese,
        },
        "dd": {"iterations": 20000, "batch_real": 102, "lr_img": 0.01},
    }
    return defaults | others.get(config.method, {})


def _fill(config: Config) -> Config:
    """Returns a config in which nothing that depends on the method is None.

    Networks are evaluated with the augmentation that the images were condensed for.
    """
    missing = {
        name: value
        for name, value in method_defaults(config).items()
        if getattr(config, name) is None
    }
    config = dataclasses.replace(config, **missing)
    if config.evaluation.augmentation is not None or config.augmentation == "none":
        return config
    evaluation = dataclasses.replace(
        config.evaluation, augmentation=SIAMESE_PREFIX + config.augmentation
    )
    return dataclasses.replace(config, evaluation=evaluation)


def default_loops(ipc: int) -> tuple[int, int]:
    """Returns the outer steps T and inner epochs for any number of images a class.

    The authors' code has a table for 1, 10, 20, 30, 40 and 50. Between its entries:
    T = ipc and 500 / ipc epochs; above 50, what the authors advise: 50 and 10.
    """
    if ipc in _PUBLISHED_LOOPS:
        return _PUBLISHED_LOOPS[ipc]
    return (ipc, round(500 / ipc)) if ipc < 50 else (50, 10)


def check_values(cls: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    """Returns a dataclass of plain values, which its fields say how to check.

    Args:
      cls: the metadata of its fields have `is_allowed`, a function of the value, and
        `allowed`, which says it in words, and perhaps `below`, which all values are;
        groups of fields are dataclasses themselves.
      values: of all fields.
      prefix: of the fields' names in errors.

    Raises:
      UserError: a field is unknown, missing, of a wrong type or not allowed.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name in values:
        if name not in fields:
            raise UserError(
                f"config.{prefix}{name} is not a field; there are "
                f"{', '.join(prefix + known for known in fields)}."
            )
    hints = typing.get_type_hints(cls)
    checked = {}
    for name, field in fields.items():
        if name not in values:
            raise UserError(f"config.{prefix}{name} is missing.")
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            if not isinstance(values[name], Mapping):
                raise UserError(
                    f"config.{prefix}{name} must be a group of fields, got "
                    f"{values[name]!r}."
                )
            checked[name] = check_values(hint, values[name], f"{prefix}{name}.")
        else:
            checked[name] = _check(values[name], hint, field, prefix + name)
    return cls(**checked)


def _check(value: Any, hint: Any, field: dataclasses.Field, name: str) -> Any:
    kind, *others = typing.get_args(hint) or (hint,)
    if value is None and type(None) in others:
        return None
    if isinstance(value, list | tuple) and value and tuple[int, ...] in others:
        return tuple(
            _check(one, kind, field, f"{name}[{i}]") for i, one in enumerate(value)
        )
    # Python refuses to print, or to convert to float, much longer ones.
    if isinstance(value, int) and value.bit_length() > 64:
        raise UserError(
            f"config.{name} must be {kind.__name__}, got an integer of "
            f"{value.bit_length()} bits."
        )
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        words = {type(None): " or None", tuple[int, ...]: " or a list of int"}
        allowed = kind.__name__ + "".join(words[other] for other in others)
        raise UserError(f"config.{name} must be {allowed}, got {value!r}.")
    if kind is str and not is_unicode(value):
        raise UserError(f"config.{name} must be valid Unicode, got {value!r}.")
    if not field.metadata["is_allowed"](value):
        raise UserError(
            f"config.{name} must be {field.metadata['allowed']}, got {value!r}."
        )
    if "below" in field.metadata and value >= field.metadata["below"]:
        raise UserError(
            f"config.{name} must be below {field.metadata['below']}, got {value!r}."
        )
    return value
