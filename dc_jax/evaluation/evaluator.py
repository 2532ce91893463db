"""Evaluates sets: trains networks on them from scratch, and tests these networks.

Evaluations differ only in how one network is trained: a function
`train_one(data, key) -> variables`, where `data` is any tree of arrays. There are two:
`train_by_protocol`, which every set is compared by, and `train_by_learning_rates`,
which is dataset distillation's own.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from dc_jax.base import SyntheticSet, flatten_set
from dc_jax.data.store import normalise
from dc_jax.devices.backend import Execution, batched
from dc_jax.evaluation.protocol import Protocol, phases
from dc_jax.training.accuracy import confusion
from dc_jax.training.train import Recipe, init_state, train
from dc_jax.training.unrolled import init_xavier, train_unrolled

TrainOne = Callable[[Any, Any], dict[str, Any]]


def make_evaluate(
    train_one: TrainOne, network: nn.Module, execution: Execution
) -> Callable[..., jax.Array]:
    """Returns a pure function that trains and tests N networks.

    It is `evaluate(data, test_images, test_labels, keys) -> counts`. The test images
    are `[n, H, W, D]`, normalised, and their labels `[n]`. The keys may be any tree of
    arrays `[N, ...]`. The counts are a confusion matrix for each network, `[N, C, C]`,
    see `accuracy.confusion`.
    """
    devices = execution.layout.everything

    def evaluate(
        data: Any, test_images: jax.Array, test_labels: jax.Array, keys: Any
    ) -> jax.Array:
        def evaluate_one(key: Any) -> jax.Array:
            variables, size = train_one(data, key), execution.slice_size
            return confusion(
                network, variables, test_images, test_labels, slice_size=size
            )

        num = len(jax.tree.leaves(keys)[0])
        mine, _ = devices.part(num)
        my_keys = jax.tree.map(lambda leaf: leaf[mine], keys)
        counts = batched(evaluate_one, execution.network_loop)(my_keys)
        return devices.gather(counts, num)

    return execution.layout.spread(evaluate, P())


def train_by_protocol(
    protocol: Protocol, network: nn.Module, execution: Execution
) -> TrainOne:
    """Returns the training of one network by the common protocol.

    Its data are normalised images and their labels, `([n, H, W, D], [n])`.
    """
    parts = phases(protocol, network, execution)

    def train_one(data: tuple[jax.Array, jax.Array], key: jax.Array) -> dict[str, Any]:
        images, _ = data
        init_key, *train_keys = jax.random.split(key, 1 + len(parts))
        variables = network.init(init_key, images[:1])
        return train_in_phases(parts, variables, data, train_keys)

    return train_one


def train_in_phases(
    parts: Sequence[tuple[Recipe, int]],  # see `protocol.phases`
    variables: dict[str, Any],
    data: tuple[jax.Array, jax.Array],  # images and labels, ([n, H, W, D], [n])
    keys: Sequence[jax.Array],  # one for each recipe
) -> dict[str, Any]:
    """Trains a network by one recipe after another, each with a new optimiser."""
    for (recipe, epochs), key in zip(parts, keys, strict=True):
        state = init_state(recipe, variables)
        variables = train(recipe, state, *data, epochs=epochs, key=key).variables
    return variables


def train_by_learning_rates(network: nn.Module) -> TrainOne:
    """Returns the training of one network by a set's own learning rates.

    Its data are those of `train_unrolled`: normalised images, labels and learning
    rates, `([C, I, H, W, D], [C, I], [R, I])`.
    """

    def train_one(data: tuple[jax.Array, ...], key: jax.Array) -> dict[str, Any]:
        images, labels, learning_rates = data
        variables = init_xavier(network, key, images[0, :1])
        return train_unrolled(network, variables, images, labels, learning_rates)

    return train_one


def accuracies(counts: np.ndarray) -> np.ndarray:
    """Returns the fraction that is on the diagonal. `[..., C, C]` -> `[...]`."""
    counts = np.asarray(counts, np.float64)
    return counts.trace(axis1=-2, axis2=-1) / counts.sum(axis=(-2, -1))


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Trains networks on sets and tests them, by programs that are compiled once."""

    test_images: np.ndarray  # [n, H, W, D], not normalised, as in a `Dataset`
    test_labels: np.ndarray  # [n]
    protocol: Protocol  # How `by_protocol` trains.
    # What `make_evaluate` returns for `train_by_protocol`, jitted; and the same for
    # `train_by_learning_rates`.
    by_protocol: Callable[..., jax.Array]
    by_learning_rates: Callable[..., jax.Array] | None = None
    at_once: int | None = None  # Networks that one call of a program trains; None: all.

    def count(self, synthetic: SyntheticSet, keys: Any) -> np.ndarray:
        """Returns a confusion matrix for each network that the protocol trains.

        The keys `[N]`, one for each network, to `[N, C, C]`, float64.
        """
        images, labels = flatten_set(
            jnp.asarray(synthetic.images), np.asarray(synthetic.labels)
        )
        data = (images, jnp.asarray(labels))
        return self._count(self.by_protocol, data, synthetic, keys)

    def count_own(self, synthetic: SyntheticSet, keys: Any) -> np.ndarray:
        """Returns what `count` does, for training by the set's own learning rates."""
        arrays = (synthetic.images, synthetic.labels, synthetic.learning_rates)
        data = tuple(jnp.asarray(array) for array in arrays)
        return self._count(self.by_learning_rates, data, synthetic, keys)

    def _count(self, program, data, synthetic, keys) -> np.ndarray:
        """Returns what a program counts for all keys, `at_once` of them in a call."""
        test_images = normalise(self.test_images, synthetic.mean, synthetic.std)
        test_labels = jnp.asarray(self.test_labels)
        num = len(jax.tree.leaves(keys)[0])
        size = self.at_once or num
        # The last group is filled up, so that one program does for all.
        places = np.minimum(np.arange(-(-num // size) * size), num - 1)
        counts = []
        for group in places.reshape(-1, size):
            some = jax.tree.map(lambda leaf, group=group: leaf[group], keys)
            of_some = program(data, test_images, test_labels, some)
            counts.append(np.asarray(of_some, np.float64))
        return np.concatenate(counts)[:num]
