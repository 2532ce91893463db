"""Compiles the step of a run for chips that need not be there, without images."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dc_jax.config import Config
from dc_jax.data.store import ClassStore, class_blocks, store_specs
from dc_jax.data.whitening import Whitening
from dc_jax.devices.backend import make_execution
from dc_jax.devices.layout import Layout, make_layout
from dc_jax.errors import UserError
from dc_jax.methods import METHODS, make_method
from dc_jax.networks import make_network
from dc_jax.networks.convolution import make_conv_fn
from dc_jax.run.compiled import compile_method, experiment_keys


class DataShape(NamedTuple):
    """The training split of a dataset.

    Attributes:
      image_shape: (H, W, D).
      counts: images of each class.
      dtype: of the images.
    """

    image_shape: tuple[int, int, int]
    counts: tuple[int, ...]
    dtype: Any = jnp.uint8


_SVHN = DataShape(
    (32, 32, 3), (4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659)
)
DATASETS = {
    "digits": DataShape(
        (8, 8, 1), (142, 146, 142, 146, 145, 145, 145, 143, 139, 144), jnp.float32
    ),
    "mnist": DataShape(
        (28, 28, 1), (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
    ),
    "fashion_mnist": DataShape((28, 28, 1), (6000,) * 10),
    "svhn": _SVHN,
    "svhn_cropped": _SVHN,
    "cifar10": DataShape((32, 32, 3), (5000,) * 10),
    "cifar100": DataShape((32, 32, 3), (500,) * 100),
}


class Program(NamedTuple):
    """The step of a run, ready to be lowered.

    Attributes:
      step: jitted.
      args: shapes of its arguments, on the devices.
      layout: the devices that it uses.
    """

    step: Callable[..., Any]
    args: tuple[Any, ...]
    layout: Layout


class Compiled(NamedTuple):
    """A compiled program.

    Attributes:
      memory_bytes: of arguments, results, temporaries and code on each device; None if
        the compiler ran out of memory without saying how much it needs.
      fits: whether they fit into the memory of the device.
      text: the program, see `hlo.parse`; None if the compiler ran out of memory.
    """

    memory_bytes: int | None
    fits: bool
    text: str | None = None


def make_program(config: Config, devices: Sequence[Any]) -> Program:
    """Returns the step of a run as the run itself compiles it for these devices.

    Raises:
      UserError: the method has no step; the dataset is not in `DATASETS`, is streamed
        or is split; or there are too few devices.
    """
    if config.method not in METHODS:
        raise UserError(
            f"config.method must be one of {', '.join(METHODS)} for a plan, got "
            f"{config.method!r}."
        )
    if config.dataset.stream or config.dataset.validation:
        raise UserError(
            "a plan is for all training images in memory: config.dataset.stream must "
            "be False and config.dataset.validation None."
        )
    if config.dataset.name not in DATASETS:
        raise UserError(
            f"config.dataset.name must be one of {', '.join(DATASETS)} here, got "
            f"{config.dataset.name!r}."
        )
    data = DATASETS[config.dataset.name]
    layout = make_layout(config, len(data.counts), devices)
    network = make_network(
        config.network.name,
        len(data.counts),
        data.image_shape,
        make_conv_fn(config.execution.convolution, layout.platform),
        dtype=config.execution.dtype,
    )
    how, shape = config.execution, data.image_shape
    execution = make_execution(how, network, shape, layout, ipc=config.mean_ipc)
    method = make_method(config, network, execution)
    init, step = compile_method(method, execution)
    store = make_store_shape(data, layout, zca=config.dataset.zca)
    if method.snapshots:
        variables = jax.eval_shape(
            network.init, jax.random.key(0), jnp.zeros((1, *data.image_shape))
        )
        size = sum(leaf.size for leaf in jax.tree.leaves(variables))
        shape = (config.experts.number, len(method.snapshots), size)
        experts = jax.ShapeDtypeStruct(shape, jnp.float32)
        store = store.replace(experts=_place(experts, layout, P()))
    keys = jax.eval_shape(
        jax.vmap(lambda experiment: experiment_keys(config, experiment)[1]),
        jax.ShapeDtypeStruct((config.num_experiments,), jnp.int32),
    )
    state = jax.eval_shape(init, store, keys)
    iteration = jax.ShapeDtypeStruct((), jnp.int32)
    state, keys, iteration = jax.tree.map(
        lambda leaf: _place(leaf, layout, P()), (state, keys, iteration)
    )
    return Program(step, (state, store, keys, iteration), layout)


def make_store_shape(
    data: DataShape, layout: Layout, *, zca: bool = False
) -> ClassStore:
    """Returns the shapes of what `make_store` returns for a dataset."""
    blocks = class_blocks(np.array(data.counts), layout.classes.size)
    num_images = len(blocks) * int(blocks.sum(1).max())
    classes = jax.ShapeDtypeStruct((blocks.size,), jnp.int32)
    channels = jax.ShapeDtypeStruct(data.image_shape[2:], jnp.float32)
    size = math.prod(data.image_shape)
    whitening = Whitening(
        center=jax.ShapeDtypeStruct(data.image_shape, jnp.float32),
        matrix=jax.ShapeDtypeStruct((size, size), jnp.float32),
    )
    store = ClassStore(
        images=jax.ShapeDtypeStruct((num_images, *data.image_shape), data.dtype),
        starts=classes,
        counts=classes,
        mean=channels,
        std=channels,
        num_classes=len(data.counts),
        max_count=max(data.counts),
        devices=layout.classes,
        whitening=whitening if zca else None,
    )
    return jax.tree.map(
        lambda leaf, spec: _place(leaf, layout, spec), store, store_specs(store)
    )


def _place(leaf: Any, layout: Layout, spec: P) -> jax.ShapeDtypeStruct:
    sharding = NamedSharding(layout.mesh, spec) if layout.mesh else None
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def compile_program(traced: Any, memory_bytes: int) -> Compiled:
    """Compiles a traced program for devices with some memory."""
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Compiled(parse_needed(str(error)), fits=False)
    stats = compiled.memory_analysis()
    needed = (
        stats.argument_size_in_bytes
        + stats.output_size_in_bytes
        + stats.temp_size_in_bytes
        + stats.generated_code_size_in_bytes
        - stats.alias_size_in_bytes
    )
    return Compiled(needed, needed <= memory_bytes, compiled.as_text())


def parse_needed(message: str) -> int | None:
    """Returns the bytes that the compiler says it would have needed, or None."""
    match = re.search(r"(?:Used |\()([\d.]+)([KMGT])\)? (?:of|exceeds)", message)
    if match is None:
        return None
    return int(float(match[1]) * 2 ** (10 * (1 + "KMGT".index(match[2]))))
