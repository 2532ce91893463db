"""The programs of a run, over all experiments, and the keys they are called with.

The only module that compiles an algorithm: the pure functions of a method, the
evaluation of a set, and training on the whole training set. (`data/store.py` compiles a
copy.)
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.interpreters.partial_eval import dce_jaxpr
from jax.sharding import PartitionSpec as P

from dc_jax.base import CondenseState, Method, Offsets
from dc_jax.config import Config
from dc_jax.data.store import ClassStore, store_specs
from dc_jax.devices.backend import Execution, batched, compiler_options
from dc_jax.evaluation.evaluator import Programs, Training, make_programs

# What an experiment's key is folded with for the evaluation by a set's own learning
# rates. `fold_in(key, i)` equals `split(key, n)[i]`, so it must be above every n.
_OWN = 2**31


def compile_method(
    method: Method, execution: Execution
) -> tuple[Callable[..., CondenseState], Callable[..., Any]]:
    """Returns a method's functions over the axis E of experiments, jitted.

    They are `init(store, keys) -> state` and `step(state, store, keys, iteration) ->
    (state, metrics)` with keys `[E]`. A step does not donate its input: that is the
    state to save if the step turns out bad, and it is no larger than the images.
    """
    layout = execution.layout

    def init(store: ClassStore, keys: jax.Array) -> CondenseState:
        def one(key: jax.Array) -> CondenseState:
            return method.init(store, key)[0]

        return batched(one, execution.network_loop)(keys)

    def step(
        state: CondenseState, store: ClassStore, keys: jax.Array, iteration: jax.Array
    ) -> tuple[CondenseState, dict[str, Any]]:
        def one(state: CondenseState, key: jax.Array):
            key = iteration_key(key, iteration)
            state, metrics, _ = method.step(state, store, key)
            values = (metrics["loss"], state.replace(opt_state=()))
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

        return _jit(spread, execution)

    return compiled(init), compiled(step)


def compile_draws(
    method: Method, store: ClassStore
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Returns programs that find out what `init` and a step draw from the store.

    They are `init_draws(keys)` and `step_draws(keys, iteration)` with keys `[E]`, and
    return the offsets of all experiments, `[C, P]`. They are the method's own functions
    without all that the offsets do not depend on. The method is for one device, and the
    store is the index of the training images, see `HostStore`.

    Raises:
      ValueError: what a step draws depends on the state.
    """
    store = jax.tree.map(jnp.asarray, store)
    state, _ = jax.eval_shape(method.init, store, jax.random.key(0))

    def init(key: jax.Array) -> Offsets:
        return method.init(store, key)[1]

    def step(key: jax.Array) -> Offsets:
        return _without_argument(lambda state: method.step(state, store, key)[2], state)

    def of_experiments(draw: Callable[[jax.Array], Offsets], keys: jax.Array):
        # Each leaf is [E, ..., C, num].
        leaves = jax.tree.leaves(jax.lax.map(draw, keys))
        moved = [jnp.moveaxis(leaf, -2, 0) for leaf in leaves]
        nothing = jnp.zeros((store.num_classes, 0), jnp.int32)
        flat = [leaf.reshape(store.num_classes, -1) for leaf in moved]
        return jnp.concatenate([nothing, *flat], axis=1)

    def step_draws(keys: jax.Array, iteration: jax.Array) -> jax.Array:
        keys = jax.vmap(lambda key: iteration_key(key, iteration))(keys)
        return of_experiments(step, keys)

    return jax.jit(functools.partial(of_experiments, init)), jax.jit(step_draws)


def _without_argument(function: Callable[[Any], Any], shapes: Any) -> Any:
    """Returns the result of a function that does not use its argument.

    Raises:
      ValueError: the result depends on the argument, a tree of these shapes.
    """
    closed, out_shapes = jax.make_jaxpr(function, return_shape=True)(shapes)
    # What does not lead to the result is left out: for a step, all its networks.
    jaxpr, is_used = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    if any(is_used):
        raise ValueError(
            "the images that a method's step draws from the store must not depend on "
            "its state."
        )
    leaves = jax.core.eval_jaxpr(jaxpr, closed.consts)
    return jax.tree.unflatten(jax.tree.structure(out_shapes), leaves)


def compile_evaluation(
    training: Training, network: nn.Module, execution: Execution
) -> Programs:
    """Returns what trains and tests networks, see `make_programs`, jitted."""
    programs = make_programs(training, network, execution)
    phases = [
        phase._replace(
            start=_jit(phase.start, execution), train=_jit(phase.train, execution)
        )
        for phase in programs.phases
    ]
    return Programs(
        _jit(programs.init, execution), phases, _jit(programs.test, execution)
    )


def compile_everywhere(
    function: Callable[..., Any], execution: Execution
) -> Callable[..., Any]:
    """Returns a function that runs on every device with the same arguments, jitted."""
    return _jit(execution.layout.spread(function, P()), execution)


def _jit(function: Callable[..., Any], execution: Execution) -> Callable[..., Any]:
    """Returns a function jitted for the devices, in the precision of a run."""

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        with jax.default_matmul_precision(execution.precision):
            return function(*args)

    return jax.jit(run, compiler_options=compiler_options(execution.layout))


def iteration_key(key: jax.Array, iteration: jax.Array) -> jax.Array:
    """Returns an experiment's key for an iteration."""
    return jax.random.fold_in(key, iteration)


def experiment_keys(config: Config, experiment: int | jax.Array) -> jax.Array:
    """Returns an experiment's keys for its beginning, its steps, its evaluation."""
    return jax.random.split(_experiment_key(config.seed, experiment), 3)


def evaluation_keys(seed: int, experiment: int, num: int) -> jax.Array:
    """Returns the keys of the networks that the common protocol trains on a set.

    Shape `[N]`, where N is `num`.
    """
    _, _, key = jax.random.split(_experiment_key(seed, experiment), 3)
    return jax.random.split(key, num)


def own_evaluation_keys(seed: int, experiment: int, num: int) -> jax.Array:
    """Returns those of the networks that a set's own learning rates train, `[N]`."""
    key = jax.random.fold_in(_experiment_key(seed, experiment), _OWN)
    return jax.random.split(key, num)


def _experiment_key(seed: int, experiment: int | jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), experiment)
