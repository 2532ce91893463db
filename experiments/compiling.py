"""Compiles the step of a run for the chips of a topology, without chips or images."""

import importlib.util
import os
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from dc_jax.config import Config
from dc_jax.convolution import make_conv_fn
from dc_jax.data import ClassStore
from dc_jax.execution import Execution, largest_activation
from dc_jax.methods import make_method
from dc_jax.networks import make_network
from dc_jax.runner import compile_method
from experiments.chips import Chip

# As dc_jax.execution has it off the CPU: bytes of the largest activation of a slice.
_SLICE_BYTES = 2**27


class DataShape(NamedTuple):
    """The training split of a dataset.

    Attributes:
      image_shape: (H, W, D).
      num_images: n.
      num_classes: C.
      max_count: images of the largest class.
      dtype: of the images.
    """

    image_shape: tuple[int, int, int]
    num_images: int
    num_classes: int
    max_count: int
    dtype: Any = jnp.uint8


_SVHN = DataShape((32, 32, 3), 73257, 10, 13861)
DATASETS = {
    "digits": DataShape((8, 8, 1), 1437, 10, 146, jnp.float32),
    "mnist": DataShape((28, 28, 1), 60000, 10, 6742),
    "fashion_mnist": DataShape((28, 28, 1), 60000, 10, 6000),
    "svhn": _SVHN,
    "svhn_cropped": _SVHN,
    "cifar10": DataShape((32, 32, 3), 50000, 10, 5000),
    "cifar100": DataShape((32, 32, 3), 50000, 100, 500),
}


class Program(NamedTuple):
    """The step of a run, ready to be lowered.

    Attributes:
      step: jitted.
      args: shapes of its arguments, on the devices.
      num_devices: that it uses.
      slice_size: images whose activations are held at once.
    """

    step: Callable[..., Any]
    args: tuple[Any, ...]
    num_devices: int
    slice_size: int


class Memory(NamedTuple):
    """What a program needs of a device.

    Attributes:
      bytes: arguments, results, temporaries and code; None if the compiler gave up
        without saying.
      fits: whether the compiler could place them.
    """

    bytes: int | None
    fits: bool


def check_libtpu() -> None:
    """Checks that programs can be compiled for a TPU here.

    Raises:
      ValueError: libtpu is missing.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            'libtpu, which compiles for a TPU, is missing: pip install -e ".[tpu]".'
        )


def get_devices(topology: str, chip: Chip) -> list[Any]:
    """Returns the devices of a topology, one a chip.

    Raises:
      ValueError: libtpu has no such topology.
    """
    # Otherwise libtpu asks the cloud which machine this is.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    options = {"chip_config_name": chip.chip_config} if chip.chip_config else {}
    try:
        return topologies.get_topology_desc(
            topology_name=topology, platform="tpu", **options
        ).devices
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"--topology={topology}: {error}") from error


def make_program(config: Config, devices: Sequence[Any]) -> Program:
    """Returns the step of a run as the runner compiles it on a TPU.

    Raises:
      ValueError: the dataset is not in `DATASETS`.
    """
    if config.dataset.name not in DATASETS:
        raise ValueError(
            f"config.dataset.name must be one of {', '.join(DATASETS)} here, got "
            f"{config.dataset.name!r}."
        )
    data = DATASETS[config.dataset.name]
    network = make_network(
        config.network.name,
        data.num_classes,
        data.image_shape,
        make_conv_fn(config.execution.convolution or "native"),
    )
    execution = tpu_execution(config, network, data.image_shape)
    method = make_method(config, network, execution)
    init, step = compile_method(method, execution.network_loop)
    store = make_store_shape(data)
    keys = jax.eval_shape(
        lambda: jax.random.split(jax.random.key(0), config.num_experiments)
    )
    state = jax.eval_shape(init, store, keys)
    args = (state, store, keys, jax.ShapeDtypeStruct((), jnp.int32))
    sharding = SingleDeviceSharding(devices[0])
    placed = jax.tree.map(lambda leaf: _place(leaf, sharding), args)
    return Program(step, placed, 1, execution.slice_size)


def tpu_execution(
    config: Config, network: Any, image_shape: tuple[int, int, int]
) -> Execution:
    """Returns what `make_execution` returns on a TPU."""
    slice_size = config.execution.slice_size or max(
        1, _SLICE_BYTES // largest_activation(network, image_shape)
    )
    return Execution(config.execution.network_loop or "vmap", slice_size)


def make_store_shape(data: DataShape) -> ClassStore:
    """Returns the class-major store of a dataset as shapes."""
    classes = jax.ShapeDtypeStruct((data.num_classes,), jnp.int32)
    channels = jax.ShapeDtypeStruct(data.image_shape[2:], jnp.float32)
    return ClassStore(
        images=jax.ShapeDtypeStruct((data.num_images, *data.image_shape), data.dtype),
        starts=classes,
        counts=classes,
        mean=channels,
        std=channels,
        max_count=data.max_count,
    )


def _place(leaf: Any, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def measure_memory(program: Program, chip: Chip) -> Memory:
    """Compiles a program and returns the memory that a device needs for it."""
    try:
        compiled = program.step.lower(*program.args).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Memory(parse_needed(str(error)), fits=False)
    stats = compiled.memory_analysis()
    needed = (
        stats.argument_size_in_bytes
        + stats.output_size_in_bytes
        + stats.temp_size_in_bytes
        + stats.generated_code_size_in_bytes
        - stats.alias_size_in_bytes
    )
    return Memory(needed, fits=needed <= chip.hbm_bytes)


def parse_needed(message: str) -> int | None:
    """Returns the bytes that the compiler says it would have needed, if it does."""
    match = re.search(r"(?:Used |\()([\d.]+)([KMGT])\)? (?:of|exceeds)", message)
    if match is None:
        return None
    return int(float(match[1]) * 2 ** (10 * (1 + "KMGT".index(match[2]))))
