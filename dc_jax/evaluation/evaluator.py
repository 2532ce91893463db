"""How sets are evaluated: networks are trained on them from scratch, and tested.

Evaluations differ only in how one network is trained, a `Training`. There are two:
`train_by_protocol`, which every set is compared by, and `train_by_learning_rates`,
which is dataset distillation's own. All functions are pure; `run/set_trainer.py` calls
them, some epochs at a time.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from dc_jax.devices.backend import Execution, batched
from dc_jax.evaluation.protocol import Protocol, phases
from dc_jax.training.accuracy import confusion
from dc_jax.training.train import Recipe, TrainState, init_state, train
from dc_jax.training.unrolled import init_xavier, train_unrolled

Data = Any  # A tree of arrays to train on: images, labels, what a training needs.


class Phase(NamedTuple):
    """A phase of a training, with an optimiser of its own."""

    start: Callable[[TrainState], TrainState]  # Makes the optimiser's state anew.
    # (state, data, key, done, until) -> state: trains from epoch `done` to `until`.
    train: Callable[..., TrainState]
    epochs: int


class Training(NamedTuple):
    """How a network is trained on data. The key is that of the network."""

    init: Callable[[Data, Any], TrainState]  # (data, key) -> state
    phases: Sequence[Phase]  # One after another.


class Programs(NamedTuple):
    """The same for N networks at once, and their test.

    The keys are any tree of arrays `[N, ...]`. The leaves of the states are `[n, ...]`,
    each device has its part of them, and n is N rounded up to a multiple of the
    devices.
    """

    init: Callable[[Data, Any], TrainState]  # (data, keys) -> states
    phases: Sequence[Phase]  # Of states and keys.
    # (states, images, labels) -> confusion matrices `[n, C, C]`, see
    # `accuracy.confusion`, for test images `[k, H, W, D]`, normalised, and labels.
    test: Callable[..., jax.Array]


def make_programs(
    training: Training, network: nn.Module, execution: Execution
) -> Programs:
    """Returns the functions that train and test networks on the devices."""
    layout, loop = execution.layout, execution.network_loop
    devices = layout.everything
    split, whole = P(devices.name) if devices.size > 1 else P(), P()

    def mine(keys: Any) -> Any:
        places, _ = devices.part(len(jax.tree.leaves(keys)[0]))
        return jax.tree.map(lambda leaf: leaf[places], keys)

    def init(data: Data, keys: Any) -> TrainState:
        return batched(lambda key: training.init(data, key), loop)(mine(keys))

    def test(states: TrainState, images: jax.Array, labels: jax.Array) -> jax.Array:
        def test_one(state: TrainState) -> jax.Array:
            size, variables = execution.slice_size, state.variables
            return confusion(network, variables, images, labels, slice_size=size)

        counts = batched(test_one, loop)(states)
        return devices.gather(counts, devices.size * len(counts))

    def of_all(phase: Phase) -> Phase:
        def train(
            states: TrainState, data: Data, keys: Any, done: jax.Array, until: jax.Array
        ) -> TrainState:
            def train_one(state: TrainState, key: Any) -> TrainState:
                return phase.train(state, data, key, done, until)

            return batched(train_one, loop)(states, mine(keys))

        def start(states: TrainState) -> TrainState:
            return jax.vmap(phase.start)(states)

        return Phase(
            layout.spread(start, split, split),
            layout.spread(train, (split, whole, whole, whole, whole), split),
            phase.epochs,
        )

    return Programs(
        layout.spread(init, whole, split),
        [of_all(phase) for phase in training.phases],
        layout.spread(test, (split, whole, whole)),
    )


def train_by_protocol(
    protocol: Protocol, network: nn.Module, execution: Execution
) -> Training:
    """Returns the training of one network by the common protocol.

    Its data are normalised images and their labels, `([n, H, W, D], [n])`, or soft
    labels, `[n, C]`.
    """
    return train_by_recipes(phases(protocol, network, execution))


def train_by_recipes(recipes: Sequence[tuple[Recipe, int]]) -> Training:
    """Returns the training by one recipe after another, for the epochs of each."""

    def split(key: jax.Array) -> jax.Array:
        return jax.random.split(key, 1 + len(recipes))

    def init(data: Data, key: jax.Array) -> TrainState:
        (images, _), (recipe, _) = data, recipes[0]
        return init_state(recipe, recipe.network.init(split(key)[0], images[:1]))

    def make_phase(place: int, recipe: Recipe, epochs: int) -> Phase:
        def train_some(
            state: TrainState,
            data: Data,
            key: jax.Array,
            done: jax.Array,
            until: jax.Array,
        ) -> TrainState:
            own = split(key)[1 + place]
            return train(recipe, state, *data, epochs=until, done=done, key=own)

        return Phase(lambda s: init_state(recipe, s.variables), train_some, epochs)

    return Training(init, [make_phase(i, *one) for i, one in enumerate(recipes)])


def train_by_learning_rates(network: nn.Module) -> Training:
    """Returns the training of one network by a set's own learning rates.

    Its data are those of `train_unrolled`: normalised images, labels and learning
    rates, `([C, I, H, W, D], [C, I], [R, I])`. It is short, and counts as one epoch.
    """

    def init(data: Data, key: jax.Array) -> TrainState:
        images, _, _ = data
        variables = init_xavier(network, key, images[0, :1])
        return TrainState(variables, (), jnp.zeros((), jnp.int32))

    def train_all(state: TrainState, data: Data, *_: jax.Array) -> TrainState:
        return state._replace(variables=train_unrolled(network, state.variables, *data))

    return Training(init, [Phase(lambda state: state, train_all, 1)])


def accuracies(counts: np.ndarray) -> np.ndarray:
    """Returns the fraction that is on the diagonal. `[..., C, C]` -> `[...]`."""
    counts = np.asarray(counts, np.float64)
    return counts.trace(axis1=-2, axis2=-1) / counts.sum(axis=(-2, -1))
