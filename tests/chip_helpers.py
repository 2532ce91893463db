"""Programs of a run, compiled for chips that need not be there."""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from toy import in_one_call

from configs import cifar10
from dc_jax.config import Config
from dc_jax.devices.backend import make_execution
from dc_jax.devices.layout import make_layout
from dc_jax.evaluation.evaluator import make_programs, train_by_protocol
from dc_jax.evaluation.protocol import make_protocol
from dc_jax.networks import make_network
from dc_jax.networks.convolution import make_conv_fn
from experiments.plan import compiling, hlo
from experiments.plan.target import check_compiler, find_devices, load_target

# CIFAR-10 with fewer classes and images. The loops are as in a full run.
SMALL = compiling.DataShape((32, 32, 3), (300,) * 3)
NETWORK = "ConvNetD2W32"
SETTINGS = {"ipc": 2, "inner_loop": 2, "batch_real": 64, "num_experiments": 1}


class Convolution(NamedTuple):
    """A convolution of a program: its kind and the sides of its window."""

    kind: str
    window: tuple[int, ...]


class Compiled(NamedTuple):
    """What the tests look at."""

    program: hlo.Program
    temporary_bytes: int

    @property
    def convolutions(self) -> list[Convolution]:
        """All convolutions with a window, also inside fusions."""
        found = []
        for computation in self.program.computations.values():
            for operation in computation.values():
                call = re.search(
                    r'custom_call_target="([^"]*conv[^"]*)"', operation.rest
                )
                if operation.kind != "convolution" and not call:
                    continue
                sides = re.search(r"window=\{size=([\dx]+)", operation.rest)
                window = tuple(map(int, sides[1].split("x"))) if sides else ()
                found.append(Convolution(call[1] if call else "", window))
        return found

    @property
    def largest_window(self) -> int:
        """The longest side of all windows."""
        return max(side for conv in self.convolutions for side in conv.window)


def is_missing(target: str) -> bool:
    """Whether programs cannot be compiled for a target here."""
    try:
        check_compiler(load_target(target))
    except ValueError:
        return True
    return False


def make_config(**changes) -> Config:
    """Returns a small run; `execution` may be some of its fields."""
    values = cifar10.get_config().to_dict()
    values["network"]["name"] = NETWORK
    values["execution"] |= changes.pop("execution", {})
    return Config.create(values | SETTINGS | changes)


def compile_step(target: str, **changes) -> Compiled:
    """Compiles an iteration of a small run for the first device of a target."""
    program = compiling.make_program(make_config(**changes), _one_device(target))
    return _compile(program.step, program.args)


def compile_training(target: str, num: int = 4) -> Compiled:
    """Compiles what trains and tests networks on a set, for one device of a target."""
    config = make_config()
    num_classes, shape = len(SMALL.counts), SMALL.image_shape
    layout = make_layout(config, num_classes, _one_device(target))
    network = make_network(
        *(NETWORK, num_classes, shape), make_conv_fn(None, layout.platform)
    )
    execution = make_execution(
        config.execution, network, shape, layout, ipc=config.mean_ipc
    )
    protocol = make_protocol(
        config.evaluation, dataset_name="cifar10", network_name=NETWORK
    )
    training = train_by_protocol(protocol, network, execution)

    def array(*shape, dtype=jnp.float32):
        sharding = NamedSharding(layout.mesh, P())
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), num))
    args = (
        (array(6, *shape), array(6, dtype=jnp.int32)),
        *(array(500, *shape), array(500, dtype=jnp.int32)),
        array(num, dtype=keys.dtype),
    )
    return _compile(
        jax.jit(in_one_call(make_programs(training, network, execution))), args
    )


def _one_device(target: str) -> list[jax.Device]:
    try:
        return find_devices(load_target(target))[:1]
    except NotImplementedError:
        # JAX loads the compiler for GPUs only where there is a driver, or for CPUs.
        pytest.skip("without a driver of NVIDIA this needs JAX_PLATFORMS=cpu")


def _compile(function, args) -> Compiled:
    compiled = function.lower(*args).compile()
    temporary = compiled.memory_analysis().temp_size_in_bytes
    return Compiled(hlo.parse(compiled.as_text()), temporary)
