"""The workloads in this project's own functions, jitted as the project does.

Each takes a case and returns a jitted function and its arguments on the device. With
`counted` it is the program of the direct algorithm on one device, whose operations are
counted. All functions are pure, so every run does the same work.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from configs import fashion_mnist
from dc_jax.config import Config
from dc_jax.data.dataset import Dataset
from dc_jax.data.store import make_store, normalise
from dc_jax.devices.backend import Execution, batched, compiler_options
from dc_jax.devices.layout import Axis, make_layout, use_cpu_cores
from dc_jax.evaluation.protocol import make_protocol, phases
from dc_jax.methods import make_method
from dc_jax.methods.gradient_matching import make_matching
from dc_jax.run.compiled import compile_method, experiment_keys
from dc_jax.run.setup import make_parts
from dc_jax.training.accuracy import accuracy
from dc_jax.training.train import Recipe, TrainState, init_state, train
from experiments.benchmark.cases import Case
from experiments.plan import cost

Program = tuple[Callable[..., Any], tuple[Any, ...]]


def prepare(case: Case) -> tuple[Callable[[], None], Callable[[], dict[str, Any]]]:
    """Compiles a workload; returns functions that run it and that report on it."""
    use_cpu_cores()
    function, args = PROGRAMS[case.workload](case, counted=False)
    began = time.perf_counter()
    compiled = function.lower(*args).compile()
    compile_seconds = time.perf_counter() - began
    placed, _ = compiled.input_shardings
    args = jax.device_put(args, placed)

    def run() -> None:
        jax.block_until_ready(compiled(*args))

    def facts() -> dict[str, Any]:
        memory = compiled.memory_analysis()
        return {
            "version": jax.__version__,
            "devices": [device.device_kind for device in jax.devices()],
            "compile_seconds": round(compile_seconds, 3),
            "temporary_bytes": memory.temp_size_in_bytes,
            "argument_bytes": memory.argument_size_in_bytes,
            "output_bytes": memory.output_size_in_bytes,
            "direct_flops": _direct_flops(case),
        }

    return run, facts


def _direct_flops(case: Case) -> int:
    function, args = PROGRAMS[case.workload](case, counted=True)
    # The only loop of unknown length is over epochs, and there is one epoch.
    return cost.count(function.trace(*args).jaxpr, while_trips=1).flops


def outer_step(case: Case, *, counted: bool) -> Program:
    """An iteration of one outer step: fresh networks, real batches, one update."""
    return _step(case, make_config(case, counted=counted))


def dm_step(case: Case, *, counted: bool) -> Program:
    """An iteration of distribution matching, without augmentation."""
    config = make_config(case, counted=counted)
    changes = {"method": "dm", "augmentation": "none"}
    return _step(case, dataclasses.replace(config, **changes))


def inner_epoch(case: Case, *, counted: bool) -> Program:
    """One epoch of training on the synthetic set, as between two outer steps."""
    config = make_config(case, counted=counted)
    network, execution = _make_parts(config, random_dataset(case))
    recipe = make_matching(config, network, execution).recipe
    return _epoch(case, recipe, execution, execution.layout.networks)


def eval_epoch(case: Case, *, counted: bool) -> Program:
    """One epoch of the training of evaluation networks."""
    config = make_config(case, counted=counted)
    dataset = random_dataset(case)
    network, execution = _make_parts(config, dataset)
    protocol = make_protocol(
        config.evaluation, dataset_name=dataset.name, network_name=config.network.name
    )
    recipe, _ = phases(protocol, network, execution)[0]
    return _epoch(case, recipe, execution, execution.layout.everything)


def test_10k(case: Case, *, counted: bool) -> Program:
    """One pass over the test images."""
    dataset = random_dataset(case, num_test=case.num_test)
    config = make_config(case, counted=counted)
    network, execution = _make_parts(config, dataset)
    images = normalise(dataset.test_images, dataset.mean, dataset.std)

    def test(variables: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        def test_one(variables: Any) -> jax.Array:
            return accuracy(
                network, variables, images, labels, slice_size=execution.slice_size
            )

        mine, _ = execution.layout.everything.part(case.networks)
        mine = jax.tree.map(lambda leaf: leaf[mine], variables)
        results = batched(test_one, execution.network_loop)(mine)
        return execution.layout.everything.gather(results, case.networks)

    variables = jax.vmap(lambda key: network.init(key, images[:1]))(_keys(case))
    args = (variables, images, jnp.asarray(dataset.test_labels))
    return _compiled(test, execution), args


def matmul(case: Case, *, counted: bool) -> Program:
    """A product of two matrices, which shows what the machine can do."""
    del counted
    matrix = jax.random.normal(jax.random.key(0), (case.matrix, case.matrix))
    return jax.jit(jnp.matmul), (matrix, matrix)


PROGRAMS: dict[str, Callable[..., Program]] = {
    "outer_step": outer_step,
    "inner_epoch": inner_epoch,
    "eval_epoch": eval_epoch,
    "test_10k": test_10k,
    "dm_step": dm_step,
    "matmul": matmul,
}


def make_config(case: Case, *, counted: bool) -> Config:
    """Returns the paper's run on FashionMNIST with the sizes of a case."""
    config = fashion_mnist.get_config()
    config.ipc = case.ipc
    config.outer_loop = 1
    config.num_networks = case.networks
    config.num_experiments = 1
    config.batch_real = case.batch_real
    config.batch_train = case.batch_train
    config.network.name = f"ConvNetW{case.width}D{case.depth}"
    config.evaluation.batch_size = case.batch_train
    if counted:
        config.execution.convolution = "native"
        config.mesh.net = config.mesh.classes = 1
    return Config.create(config.to_dict())


def random_dataset(
    case: Case, *, real_per_class: int = 1, num_test: int = 1
) -> Dataset:
    """Returns random grey images instead of FashionMNIST."""
    rng = np.random.default_rng(0)

    def split(num: int) -> tuple[np.ndarray, np.ndarray]:
        shape = (num, case.side, case.side, 1)
        labels = np.arange(num, dtype=np.int32) % case.classes
        return rng.integers(0, 256, shape, np.uint8), labels

    return Dataset(
        "fashion_mnist",
        "random numbers",
        *split(case.classes * real_per_class),
        *split(num_test),
        class_names=tuple(str(label) for label in range(case.classes)),
        mean=np.array([0.5], np.float32),
        std=np.array([0.25], np.float32),
    )


def _make_parts(config: Config, dataset: Dataset) -> tuple[nn.Module, Execution]:
    """Returns the network and how to run it on all devices."""
    layout = make_layout(config, dataset.num_classes)
    return make_parts(config, dataset, "network", layout)


def _step(case: Case, config: Config) -> Program:
    """An iteration of the config's method."""
    dataset = random_dataset(case, real_per_class=case.real_per_class)
    network, execution = _make_parts(config, dataset)
    method = make_method(config, network, execution)
    init, step = compile_method(method, execution)
    store = make_store(dataset, execution.layout)
    init_key, step_key, _ = experiment_keys(config, 0)
    return step, (init(store, init_key[None]), store, step_key[None], jnp.int32(0))


def _compiled(function: Callable[..., Any], execution: Execution) -> Any:
    layout = execution.layout
    return jax.jit(
        layout.spread(function, P()), compiler_options=compiler_options(layout)
    )


def _epoch(case: Case, recipe: Recipe, execution: Execution, devices: Axis) -> Program:
    """One epoch over a random synthetic set, for every network."""
    num = case.classes * case.ipc
    images = jax.random.normal(jax.random.key(0), (num, case.side, case.side, 1))
    labels = jnp.repeat(jnp.arange(case.classes), case.ipc)

    def init(key: jax.Array) -> TrainState:
        return init_state(recipe, recipe.network.init(key, images[:1]))

    # The number of epochs is an argument, as it is in a run.
    def run(states, images, labels, epochs, keys) -> TrainState:
        def train_one(state: TrainState, key: jax.Array) -> TrainState:
            return train(recipe, state, images, labels, epochs=epochs, key=key)

        mine, _ = devices.part(case.networks)
        mine = jax.tree.map(lambda leaf: leaf[mine], (states, keys))
        results = batched(train_one, execution.network_loop)(*mine)
        return devices.gather(results, case.networks)

    keys = _keys(case)
    args = (jax.vmap(init)(keys), images, labels, jnp.int32(1), keys)
    return _compiled(run, execution), args


def _keys(case: Case) -> jax.Array:
    return jax.random.split(jax.random.key(0), case.networks)
