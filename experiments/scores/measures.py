"""What is measured of every set: accuracies of networks that are trained on it."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dc_jax.base import SyntheticSet
from dc_jax.config import Config
from dc_jax.data.dataset import Dataset
from dc_jax.devices.layout import make_layout
from dc_jax.errors import UserError
from dc_jax.evaluation.evaluator import accuracies
from dc_jax.run.checks import check_names, naming
from dc_jax.run.evaluation import build_evaluator, count_sets
from dc_jax.run.saving import summarise
from dc_jax.run.set_trainer import Evaluator
from dc_jax.run.setup import make_evaluation
from dc_jax.sets.make import decode_set
from dc_jax.sets.set_file import set_pixels
from experiments.scores import KINDS
from experiments.scores.rows import Row

# Between the name of this measure and that of its network.
ON = "on "


@dataclasses.dataclass(frozen=True)
class Measure:
    """An accuracy: of which images and labels, by which evaluation."""

    kind: str  # Of `KINDS`.
    fields: dict[str, Any]  # Of the config, by dotted names.
    change: Callable[[SyntheticSet], SyntheticSet] = lambda one: one
    only_soft: bool = False  # Whether it differs from `strong` for soft labels alone.


def make_measures(networks: Sequence[str]) -> dict[str, Measure]:
    """Returns the measures by name; `networks` are those of the cross-architecture."""
    strong = {"evaluation.protocol": "strong"}
    plain = {"evaluation.augmentation": "none", "evaluation.cutmix": 0.0}
    return {
        "paper": Measure("paper", {"evaluation.protocol": "paper"}),
        "strong": Measure("strong", strong),
        "plain": Measure("plain", strong | plain),
        "hard": Measure("hard", strong, _without_soft_labels, only_soft=True),
        "pixels": Measure("pixels", strong, _of_8_bits),
        **{
            f"{ON}{name}": Measure("networks", strong | {"evaluation.network": name})
            for name in networks
        },
    }


def choose(kinds: Sequence[str], networks: Sequence[str]) -> dict[str, Measure]:
    """Returns the measures of some kinds by name.

    Raises:
      UserError: there is no such kind, or nothing is left to measure.
    """
    for one in kinds:
        if one not in KINDS:
            raise UserError(
                f"--measures must be among {', '.join(KINDS)}, got {one!r}."
            )
    every = make_measures(networks).items()
    chosen = {name: measure for name, measure in every if measure.kind in kinds}
    if not chosen:
        raise UserError(
            f"--measures must name one of {', '.join(KINDS)}, and --networks a network "
            f"for the last, got {','.join(kinds)!r} and {','.join(networks)!r}."
        )
    return chosen


def with_found(
    chosen: Mapping[str, Measure], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Measure]:
    """Returns these measures and those that the rows of an earlier call have."""
    found = dict.fromkeys(name for row in rows for name in row["cells"])
    networks = [name.removeprefix(ON) for name in found if name.startswith(ON)]
    every = make_measures(networks)
    return {name: every[name] for name in found if name in every} | dict(chosen)


def _without_soft_labels(one: SyntheticSet) -> SyntheticSet:
    return one.replace(soft_labels=None)


def _of_8_bits(one: SyntheticSet) -> SyntheticSet:
    """Returns the set that an export as PNG holds."""
    one = decode_set(one)
    is_image = (np.asarray(one.labels) >= 0)[..., None, None, None]
    images = (set_pixels(one) / np.float32(255) - one.mean) / one.std
    if one.whitening is not None:
        images = one.whitening.whiten(images)
    return one.replace(images=np.where(is_image, images, 0).astype(np.float32))


class Meter:
    """Measures sets by evaluations that are built once."""

    def __init__(
        self, values: Mapping[str, Any], dataset: Dataset, measures: dict[str, Measure]
    ):
        """Makes all networks, so that what is wrong with one is told first.

        Raises:
          UserError: a network is unknown or needs larger images, or the config is
            unusable.
        """
        self.measures, self._dataset = measures, dataset
        self._configs = {n: _config(values, m.fields) for n, m in measures.items()}
        for config in self._configs.values():
            check_names(config)
        self._evaluators: dict[str, Evaluator] = {}
        for name in measures:
            is_other = name.startswith(ON)
            with naming("--networks") if is_other else contextlib.nullcontext():
                self._evaluator(name)

    def networks(self) -> list[str]:
        """Returns the other networks that are measured."""
        names = [name for name in self.measures if name.startswith(ON)]
        return [name.removeprefix(ON) for name in names]

    def made_with(self, name: str, row: Row) -> dict[str, Any]:
        """Returns all that the accuracy of a measure follows from, but the code."""
        config = self._configs[name]
        return {
            "set": row.checksum(),
            "dataset": self._dataset.checksum(),
            "seed": config.seed,
            "networks": config.num_evaluations,
            "protocol": vars(self._evaluator(name).protocol),
        }

    def measure(self, name: str, row: Row) -> dict[str, Any]:
        """Returns the accuracies of networks, as `summarise` does, and `made_with`.

        The sets of a row share the networks.
        """
        config, change = self._configs[name], self.measures[name].change
        num = max(1, config.num_evaluations // len(row.sets))
        config = dataclasses.replace(config, num_evaluations=num)
        sets = [change(one) for one in row.sets]
        counts = count_sets(config, self._evaluator(name), sets)
        return summarise(accuracies(counts)) | {"made_with": self.made_with(name, row)}

    def _evaluator(self, name: str) -> Evaluator:
        """Returns the evaluation of a measure; those with the same fields share it."""
        fields = repr(self.measures[name].fields)
        if fields not in self._evaluators:
            config, data = self._configs[name], self._dataset
            classes, shape = data.num_classes, data.image_shape
            parts = make_evaluation(
                config, data.name, classes, shape, make_layout(config, classes)
            )
            self._evaluators[fields] = build_evaluator(
                *parts, data.test_images, data.test_labels
            )
        return self._evaluators[fields]


def _config(values: Mapping[str, Any], fields: Mapping[str, Any]) -> Config:
    flat = flatten_dict(dict(values), sep=".") | dict(fields)
    return Config.create(unflatten_dict(flat, sep="."))
