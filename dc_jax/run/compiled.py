"""The programs of a run, over all experiments, and the keys they are called with.

The only module with `jax.jit`: what it compiles are the pure functions of a method, the
evaluation of a set, and training on the whole training set.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from dc_jax.base import CondenseState, Method
from dc_jax.config import Config
from dc_jax.data.store import ClassStore, store_specs
from dc_jax.devices.backend import Execution, batched, compiler_options
from dc_jax.devices.layout import Layout
from dc_jax.evaluation.evaluator import TrainOne, make_evaluate

# What an experiment's key is folded with for the evaluation by a set's own learning
# rates. `fold_in(key, i)` equals `split(key, n)[i]`, so it must be above every n.
_OWN = 2**31


def compile_method(
    method: Method, execution: Execution
) -> tuple[Callable[..., CondenseState], Callable[..., Any]]:
    """Returns a method's functions over the axis E of experiments, jitted.

    They are `init(store, keys)` and `step(state, store, keys, iteration)` with keys
    `[E]`. A step does not donate its input: that is the state to save when the step
    turns out bad, or is not waited for, and it is no larger than the images.

    Args:
      method: for one experiment.
      execution: how experiments, too, are run.
    """
    layout = execution.layout

    def init(store: ClassStore, keys: jax.Array) -> CondenseState:
        return jax.vmap(lambda key: method.init(store, key))(keys)

    def step(
        state: CondenseState, store: ClassStore, keys: jax.Array, iteration: jax.Array
    ) -> tuple[CondenseState, dict[str, jax.Array]]:
        def one(state: CondenseState, key: jax.Array):
            state, metrics = method.step(state, store, iteration_key(key, iteration))
            values = (metrics["loss"], state.images, state.raw_lrs)
            finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(values)]
            return state, {**metrics, "is_finite": jnp.stack(finite).all()}

        mine, _ = layout.experiments.part(len(keys))
        mine_state, mine_keys = jax.tree.map(lambda leaf: leaf[mine], (state, keys))
        results = batched(one, execution.network_loop)(mine_state, mine_keys)
        return layout.experiments.gather(results, len(keys))

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)  # A program has its name.
        def spread(*args: Any) -> Any:
            specs = tuple(
                store_specs(arg) if isinstance(arg, ClassStore) else P() for arg in args
            )
            return layout.spread(function, specs)(*args)

        return jax.jit(spread, compiler_options=compiler_options(layout))

    return compiled(init), compiled(step)


def compile_draws(method: Method) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Returns what `init(store, keys)` and a step draw, for all experiments, jitted.

    They are `init_draws(store, keys)` and `step_draws(store, keys, iteration)` with
    keys `[E]`, and return offsets `[C, P]`.
    """

    def init_draws(store: ClassStore, keys: jax.Array) -> jax.Array:
        offsets = jax.lax.map(lambda key: method.init_draws(store, key), keys)
        return jnp.moveaxis(offsets, 0, 1).reshape(store.num_classes, -1)

    def step_draws(store: ClassStore, keys: jax.Array, iteration: jax.Array):
        keys = jax.vmap(lambda key: iteration_key(key, iteration))(keys)
        offsets = jax.lax.map(lambda key: method.step_draws(store, key), keys)
        return jnp.moveaxis(offsets, 0, 1).reshape(store.num_classes, -1)

    return jax.jit(init_draws), jax.jit(step_draws)


def compile_evaluation(
    train_one: TrainOne, network: nn.Module, execution: Execution
) -> Callable[..., jax.Array]:
    """Returns what trains and tests networks, see `make_evaluate`, jitted."""
    return jax.jit(
        make_evaluate(train_one, network, execution),
        compiler_options=compiler_options(execution.layout),
    )


def compile_everywhere(
    function: Callable[..., Any], layout: Layout
) -> Callable[..., Any]:
    """Returns a function that runs on every device with the same arguments, jitted."""
    return jax.jit(
        layout.spread(function, P()), compiler_options=compiler_options(layout)
    )


def iteration_key(key: jax.Array, iteration: jax.Array) -> jax.Array:
    """Returns an experiment's key for an iteration."""
    return jax.random.fold_in(key, iteration)


def experiment_keys(config: Config, experiment: int | jax.Array) -> jax.Array:
    """Returns an experiment's keys for its beginning, its steps, its evaluation."""
    return jax.random.split(_experiment_key(config.seed, experiment), 3)


def evaluation_keys(seed: int, experiment: int, num: int) -> jax.Array:
    """Returns the keys of the networks that the common protocol trains.

    Args:
      seed: of the run.
      experiment: whose set they are trained on.
      num: N, the number of networks.

    Returns:
      Shape `[N]`.
    """
    _, _, key = jax.random.split(_experiment_key(seed, experiment), 3)
    return jax.random.split(key, num)


def own_evaluation_keys(seed: int, experiment: int, num: int) -> jax.Array:
    """Returns the keys of the networks that a set's own learning rates train.

    They are like those of `evaluation_keys`, and different from them.
    """
    key = jax.random.fold_in(_experiment_key(seed, experiment), _OWN)
    return jax.random.split(key, num)


def _experiment_key(seed: int, experiment: int | jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), experiment)
