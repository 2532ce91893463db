"""Evaluating sets: networks trained on them from scratch, and their test accuracy."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from dc_jax.base import CondenseState, SyntheticSet, flatten_set, make_labels
from dc_jax.config import Config
from dc_jax.data.dataset import Dataset
from dc_jax.data.store import normalise
from dc_jax.devices.layout import Layout
from dc_jax.evaluation.protocol import Protocol, accuracies, make_protocol
from dc_jax.networks import without_batch_norm
from dc_jax.run.compiled import (
    compile_evaluation,
    compile_own_evaluation,
    experiment_keys,
)
from dc_jax.run.setup import make_parts
from dc_jax.sets.card import training_of

# Makes another key of that of the common protocol.
_OWN = 1


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Trains networks on a set and tests them, in one program that is compiled once.

    Attributes:
      dataset: whose test split is used.
      protocol: how the networks are trained.
      train_and_test: see `make_evaluate`; jitted.
      train_and_test_own: see `make_evaluate_own`; jitted. For sets with learning rates.
      at_once: keys in one call of these; None for all.
    """

    dataset: Dataset
    protocol: Protocol
    train_and_test: Callable[..., jax.Array]
    train_and_test_own: Callable[..., jax.Array] | None = None
    at_once: int | None = None

    def __call__(self, synthetic: SyntheticSet, keys: jax.Array) -> np.ndarray:
        """Returns the test accuracy for each key, a fraction. Keys `[N]` -> `[N]`."""
        return accuracies(self.count(synthetic, keys))

    def count(self, synthetic: SyntheticSet, keys: jax.Array) -> np.ndarray:
        """Returns the confusion matrix of each key. Keys `[N]` -> `[N, C, C]`.

        Or of each network of each key, see `make_evaluate`: `[N, names, C, C]`.
        """
        images, labels = flatten_set(
            jnp.asarray(synthetic.images), np.asarray(synthetic.labels)
        )
        return self._in_groups(
            self.train_and_test,
            *(images, jnp.asarray(labels)),
            *self._test_split(synthetic),
            keys=keys,
        )

    def log_recipe(self, synthetic: SyntheticSet, path: str) -> None:
        """Logs where the recipe of a set, which is from `path`, has other training."""
        ours = dataclasses.asdict(self.protocol)
        differing = [
            f"{name} {value}"
            for name, value in training_of(synthetic).items()
            if name in ours and value != ours[name]
        ]
        if differing:
            logging.info("The recipe of %s has %s.", path, ", ".join(differing))

    def own(self, synthetic: SyntheticSet, keys: jax.Array) -> np.ndarray:
        """Returns the accuracy of networks trained with the set's learning rates."""
        counts = self._in_groups(
            self.train_and_test_own,
            jnp.asarray(synthetic.images),
            jnp.asarray(synthetic.labels),
            jnp.asarray(synthetic.learning_rates),
            *self._test_split(synthetic),
            keys=keys,
        )
        return accuracies(counts)

    def _in_groups(
        self, program: Callable[..., jax.Array], *args: jax.Array, keys: jax.Array
    ) -> np.ndarray:
        """Returns what the program does for all keys, some of them at once."""
        num = len(keys)
        size = self.at_once or num
        # The last group is filled up, so that one program does for all.
        places = np.minimum(np.arange(-(-num // size) * size), num - 1)
        results = [
            np.asarray(program(*args, keys[group]), np.float64)
            for group in places.reshape(-1, size)
        ]
        return np.concatenate(results)[:num]

    def _test_split(self, synthetic: SyntheticSet) -> tuple[jax.Array, jax.Array]:
        """Returns the test images as the set is normalised, and their labels."""
        images = normalise(self.dataset.test_images, synthetic.mean, synthetic.std)
        return images, jnp.asarray(self.dataset.test_labels)


def make_evaluator(config: Config, dataset: Dataset, layout: Layout) -> Evaluator:
    """Returns the evaluation of a run.

    The network is `config.evaluation.network`; where that is None, what
    `without_batch_norm` makes of the one that condensed. The whole training set has
    images enough for batch norm.

    Raises:
      UserError: the network or the augmentation is unknown.
    """
    name = config.evaluation.network or config.network.name
    if not config.evaluation.network and config.method != "whole":
        name = without_batch_norm(name)
    if not config.evaluation.network and name != config.network.name:
        logging.info(
            "Evaluating with %s in place of %s, whose batch norm needs more images. "
            "config.evaluation.network names another.",
            *(name, config.network.name),
        )
        evaluation = dataclasses.replace(config.evaluation, network=name)
        config = dataclasses.replace(config, evaluation=evaluation)
    protocol = make_protocol(
        config.evaluation, dataset_name=dataset.name, network_name=config.network.name
    )
    field = "evaluation" if config.evaluation.network else "network"
    network, execution = make_parts(config, dataset, field, layout)
    return Evaluator(
        dataset,
        protocol,
        compile_evaluation(protocol, network, execution),
        compile_own_evaluation(network, execution),
        # One after another on each device. Of a call with several devices XLA on CPU
        # lets go of little before its end: 0.4 MB an epoch were seen, so it is kept
        # short.
        layout.everything.size if execution.network_loop == "map" else None,
    )


def evaluate_sets(
    config: Config, evaluator: Evaluator, sets: list[SyntheticSet]
) -> np.ndarray:
    """Returns the accuracies of fresh networks trained on each set, `[E, N]`.

    Of networks of several names `[E, N, names]`.
    """
    return accuracies(count_sets(config, evaluator, sets))


def count_sets(
    config: Config, evaluator: Evaluator, sets: list[SyntheticSet]
) -> np.ndarray:
    """Returns what fresh networks trained on each set take for what, `[E, N, C, C]`."""
    logging.info(
        "Evaluating %d set(s) with %d networks each: %s.",
        len(sets),
        config.num_evaluations,
        evaluator.protocol,
    )
    keys = [
        jax.random.split(experiment_keys(config, experiment)[2], config.num_evaluations)
        for experiment in range(len(sets))
    ]
    return np.stack([evaluator.count(s, k) for s, k in zip(sets, keys, strict=True)])


def evaluate_own(
    config: Config, evaluator: Evaluator, sets: list[SyntheticSet]
) -> np.ndarray | None:
    """Returns what `evaluate_sets` does, but by the sets' own learning rates.

    None where a set has none.
    """
    if not sets or any(one.learning_rates is None for one in sets):
        return None
    results = []
    for experiment, synthetic in enumerate(sets):
        key = jax.random.fold_in(experiment_keys(config, experiment)[2], _OWN)
        keys = jax.random.split(key, config.num_evaluations)
        results.append(evaluator.own(synthetic, keys))
    return np.stack(results)


def make_sets(
    config: Config, state: CondenseState, dataset: Dataset
) -> list[SyntheticSet]:
    """Returns the set of each experiment of a state, whose leaves are `[E, ...]`."""
    labels = make_labels(config.class_ipc(dataset.num_classes))
    sets = [make_set(images, dataset, labels) for images in np.asarray(state.images)]
    if state.raw_lrs is None:
        return sets
    rates = np.asarray(jax.nn.softplus(state.raw_lrs), np.float32)
    return [one.replace(learning_rates=r) for one, r in zip(sets, rates, strict=True)]


def make_set(
    images: np.ndarray, dataset: Dataset, labels: np.ndarray | None = None
) -> SyntheticSet:
    """Returns the images `[C, I, H, W, D]` with what is needed to use them.

    Args:
      images: normalised; 0 in blank slots.
      dataset: that they are of.
      labels: `[C, I]`; None where there are no blank slots.
    """
    if labels is None:
        num_classes, ipc = images.shape[:2]
        labels = make_labels((ipc,) * num_classes)
    return SyntheticSet(
        images=np.asarray(images, np.float32),
        labels=labels,
        mean=dataset.mean,
        std=dataset.std,
        class_names=dataset.class_names,
    )
