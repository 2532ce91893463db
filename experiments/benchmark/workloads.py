"""The workloads in this project's own functions, jitted as the project does.

Each takes a case and changes of `config.execution`, and returns a jitted function and
its arguments on the device. With `counted` it is the program of the direct algorithm on
one device, whose operations are counted. All functions are pure, so every run does the
same work.
"""

import dataclasses
import importlib
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dc_jax.config import Config
from dc_jax.data.dataset import Dataset
from dc_jax.data.store import make_store, to_inputs
from dc_jax.devices.backend import Execution, batched
from dc_jax.devices.layout import Axis, make_layout, use_cpu_cores
from dc_jax.evaluation.protocol import make_protocol, phases
from dc_jax.methods import make_method
from dc_jax.methods.matching import make_matching
from dc_jax.run.compiled import compile_everywhere, compile_method, experiment_keys
from dc_jax.run.setup import make_parts
from dc_jax.training.accuracy import accuracy
from dc_jax.training.train import Recipe, TrainState, init_state, train
from experiments.benchmark.cases import Case
from experiments.plan import cost

Program = tuple[Callable[..., Any], tuple[Any, ...]]
Changes = Mapping[str, str]  # Fields of `config.execution` that are not the defaults.


def prepare(
    case: Case, **execution: str
) -> Callable[[], tuple[Callable[[], None], Callable[[], dict[str, Any]]]]:
    """Traces a workload.

    Args:
      case: the workload.
      execution: fields of `config.execution` that differ from their defaults.

    Returns:
      A function that compiles it, and returns one that runs it and one that reports.
    """
    if case.device == "cpu":
        use_cpu_cores()
    elif jax.default_backend() != "gpu":
        raise RuntimeError(f"JAX finds no GPU, only {jax.devices()[0].device_kind}.")
    function, args = PROGRAMS[case.workload](case, execution, counted=False)
    lowered = function.lower(*args)
    default_products = "tf32" if case.device == "gpu" else "float32"
    direct_cost = _direct_cost(case, execution)

    def compile_it() -> tuple[Callable[[], None], Callable[[], dict[str, Any]]]:
        began = time.perf_counter()
        compiled = lowered.compile()
        compile_seconds = time.perf_counter() - began
        placed, _ = compiled.input_shardings
        placed_args = jax.device_put(args, placed)

        def run() -> None:
            jax.block_until_ready(compiled(*placed_args))

        def facts() -> dict[str, Any]:
            return {
                "products": execution.get("dtype", default_products),
                "compile_seconds": round(compile_seconds, 3),
                "direct_flops": direct_cost.flops,
                "direct_bytes": direct_cost.bytes,
                **_facts(compiled),
            }

        return run, facts

    return compile_it


def _facts(compiled: Any) -> dict[str, Any]:
    memory = compiled.memory_analysis()
    devices = jax.devices()
    used = devices[0].memory_stats() or {}  # A CPU does not say.
    return {
        "version": jax.__version__,
        "devices": [device.device_kind for device in devices],
        "temporary_bytes": memory.temp_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "device_peak_bytes": used.get("peak_bytes_in_use"),
    }


def _direct_cost(case: Case, execution: Changes) -> cost.Cost:
    """Returns the work of the direct algorithm on one device."""
    function, args = PROGRAMS[case.workload](case, execution, counted=True)
    # Before the first outer step nothing is trained. The epochs of a workload of one
    # epoch are a loop of unknown length.
    share = 1 - 1 / case.outer_steps if case.outer_steps > 1 else 1.0
    return cost.count(function.trace(*args).jaxpr, while_trips=1, share=share)


def step(case: Case, execution: Changes, *, counted: bool) -> Program:
    """An iteration of some outer steps: fresh networks, real batches, updates."""
    return _step(case, make_config(case, execution, counted=counted))


def dm_step(case: Case, execution: Changes, *, counted: bool) -> Program:
    """An iteration of distribution matching, without augmentation."""
    config = make_config(case, execution, counted=counted)
    changes = {"method": "dm", "augmentation": "none"}
    return _step(case, dataclasses.replace(config, **changes))


def inner_epoch(case: Case, execution: Changes, *, counted: bool) -> Program:
    """One epoch of training on the synthetic set, as between two outer steps."""
    config = make_config(case, execution, counted=counted)
    network, how = _make_parts(config, random_dataset(case))
    recipe = make_matching(config, network, how).recipe
    return _epoch(case, recipe, how, how.layout.networks)


def eval_epoch(case: Case, execution: Changes, *, counted: bool) -> Program:
    """One epoch of the training of evaluation networks."""
    config = make_config(case, execution, counted=counted)
    dataset = random_dataset(case)
    network, how = _make_parts(config, dataset)
    protocol = make_protocol(
        config.evaluation, dataset_name=dataset.name, network_name=config.network.name
    )
    recipe, _ = phases(protocol, network, how)[0]
    return _epoch(case, recipe, how, how.layout.everything)


def test_10k(case: Case, execution: Changes, *, counted: bool) -> Program:
    """One pass over the test images."""
    dataset = random_dataset(case, num_test=case.num_test)
    config = make_config(case, execution, counted=counted)
    network, how = _make_parts(config, dataset)
    images = to_inputs(dataset.test_images, dataset.mean, dataset.std, None)

    def test(variables: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        def test_one(variables: Any) -> jax.Array:
            return accuracy(
                network, variables, images, labels, slice_size=how.slice_size
            )

        mine, _ = how.layout.everything.part(case.networks)
        mine = jax.tree.map(lambda leaf: leaf[mine], variables)
        results = batched(test_one, how.network_loop)(mine)
        return how.layout.everything.gather(results, case.networks)

    variables = jax.vmap(lambda key: network.init(key, images[:1]))(_keys(case))
    args = (variables, images, jnp.asarray(dataset.test_labels))
    return compile_everywhere(test, how), args


def matmul(case: Case, execution: Changes, *, counted: bool) -> Program:
    """A product of two matrices, which shows what the device can do."""
    del execution, counted
    kind = case.workload.removeprefix("matmul_")
    dtype = jnp.bfloat16 if kind == "bfloat16" else jnp.float32
    matrix = jax.random.normal(jax.random.key(0), (case.matrix, case.matrix), dtype)
    # By default a GPU that has TF32 uses it for products of float32.
    precision = "highest" if kind == "float32" else "default"
    return jax.jit(lambda a, b: jnp.matmul(a, b, precision=precision)), (matrix, matrix)


def copy(case: Case, execution: Changes, *, counted: bool) -> Program:
    """Reads an array once and writes its negative."""
    del execution, counted
    array = jnp.ones(case.copy_mib * 2**18, jnp.float32)
    return jax.jit(jnp.negative), (array,)


PROGRAMS: dict[str, Callable[..., Program]] = {
    "outer_step": step,
    "iteration": step,
    "dm_step": dm_step,
    "inner_epoch": inner_epoch,
    "eval_epoch": eval_epoch,
    "test_10k": test_10k,
    "matmul_float32": matmul,
    "matmul_tf32": matmul,
    "matmul_bfloat16": matmul,
    "copy": copy,
}


def make_config(case: Case, execution: Changes, *, counted: bool) -> Config:
    """Returns the paper's run on a dataset with the sizes of a case.

    With `counted` it computes every convolution directly, on one device.
    """
    config = importlib.import_module(f"configs.{case.dataset}").get_config()
    config.ipc = case.ipc
    config.outer_loop = case.outer_steps
    config.inner_loop = case.inner_epochs
    config.num_networks = case.networks
    config.num_experiments = case.experiments
    config.batch_real = case.batch_real
    config.batch_train = case.batch_train
    config.network.name = f"ConvNetW{case.width}D{case.depth}"
    config.evaluation.batch_size = case.batch_train
    config.execution.update(execution)
    if counted:
        config.execution.convolution = "native"
        config.mesh.net = config.mesh.classes = 1
    return Config.create(config.to_dict())


def random_dataset(
    case: Case, *, real_per_class: int = 1, num_test: int = 1
) -> Dataset:
    """Returns random images instead of the dataset."""
    rng = np.random.default_rng(0)

    def split(num: int) -> tuple[np.ndarray, np.ndarray]:
        shape = (num, case.side, case.side, case.channels)
        labels = np.arange(num, dtype=np.int32) % case.classes
        return rng.integers(0, 256, shape, np.uint8), labels

    return Dataset(
        case.dataset,
        "random numbers",
        *split(case.classes * real_per_class),
        *split(num_test),
        class_names=tuple(str(label) for label in range(case.classes)),
        mean=np.full(case.channels, 0.5, np.float32),
        std=np.full(case.channels, 0.25, np.float32),
    )


def _make_parts(config: Config, dataset: Dataset) -> tuple[nn.Module, Execution]:
    """Returns the network and how to run it on all devices."""
    layout = make_layout(config, dataset.num_classes)
    return make_parts(config, dataset, "network", layout)


def _step(case: Case, config: Config) -> Program:
    """An iteration of the config's method, for all experiments."""
    dataset = random_dataset(case, real_per_class=case.real_per_class)
    network, execution = _make_parts(config, dataset)
    method = make_method(config, network, execution)
    init, step = compile_method(method, execution)
    store = make_store(dataset, execution.layout)
    experiments = jnp.arange(case.experiments)
    init_keys, step_keys, _ = jax.vmap(partial(experiment_keys, config))(experiments).T
    return step, (init(store, init_keys), store, step_keys, jnp.int32(0))


def _epoch(case: Case, recipe: Recipe, execution: Execution, devices: Axis) -> Program:
    """One epoch over a random synthetic set, for every network."""
    num = case.classes * case.ipc
    images = jax.random.normal(
        jax.random.key(0), (num, case.side, case.side, case.channels)
    )
    labels = jnp.repeat(jnp.arange(case.classes), case.ipc)

    def init(key: jax.Array) -> TrainState:
        return init_state(recipe, recipe.network.init(key, images[:1]))

    # The number of epochs is an argument, as in an evaluation.
    def run(states, images, labels, epochs, keys) -> TrainState:
        def train_one(state: TrainState, key: jax.Array) -> TrainState:
            return train(recipe, state, images, labels, epochs=epochs, key=key)

        mine, _ = devices.part(case.networks)
        mine = jax.tree.map(lambda leaf: leaf[mine], (states, keys))
        results = batched(train_one, execution.network_loop)(*mine)
        return devices.gather(results, case.networks)

    keys = _keys(case)
    args = (jax.vmap(init)(keys), images, labels, jnp.int32(1), keys)
    return compile_everywhere(run, execution), args


def _keys(case: Case) -> jax.Array:
    return jax.random.split(jax.random.key(0), case.networks)
