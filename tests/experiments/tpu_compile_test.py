"""The programs compile for a TPU; none is needed, only the extra `tpu` (libtpu)."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from configs import base
from dc_jax.config import Config
from dc_jax.data.store import ClassStore
from dc_jax.devices.backend import Execution
from dc_jax.evaluation.evaluator import make_evaluate, train_by_protocol
from dc_jax.evaluation.protocol import make_protocol
from dc_jax.methods import make_method
from dc_jax.networks import make_network
from dc_jax.networks.convolution import make_conv_fn
from dc_jax.run.compiled import compile_method

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="libtpu, which compiles for a TPU, is missing: pip install 'jax[tpu]'",
    ),
]
CHIP = "v5e"
CHIP_BYTES = 16e9
CLASSES, SHAPE, EXPERIMENTS = 3, (8, 8, 1), 2
EXECUTION = Execution(network_loop="vmap", slice_size=16)
NETWORK = "ConvNetD2W8"


def _make_config() -> Config:
    values = base.get_config().to_dict()
    values |= {
        "ipc": 2,
        "outer_loop": 2,
        "inner_loop": 1,
        "num_networks": 2,
        "batch_real": 16,
    }
    return Config.create(values)


def _array(shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def _keys(num):
    return jax.eval_shape(lambda: jax.random.split(jax.random.key(0), num))


def _compile(function, *args):
    """Compiles for one chip; the arguments are shapes."""
    topology = topologies.get_topology_desc(topology_name=f"{CHIP}:2x2", platform="tpu")
    sharding = SingleDeviceSharding(topology.devices[0])
    placed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        args,
    )
    return function.lower(*placed).compile()


def _assert_fits(compiled):
    memory = compiled.memory_analysis()
    needed = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    assert 0 < needed < CHIP_BYTES


def test_condensing_compiles():
    network = make_network(NETWORK, CLASSES, SHAPE, make_conv_fn("native"))
    method = make_method(_make_config(), network, EXECUTION)
    init, step = compile_method(method, EXECUTION)
    store = ClassStore(
        images=_array((60, *SHAPE), jnp.uint8),
        starts=_array((CLASSES,), jnp.int32),
        counts=_array((CLASSES,), jnp.int32),
        mean=_array(SHAPE[2:]),
        std=_array(SHAPE[2:]),
        num_classes=CLASSES,
        max_count=20,
    )
    keys = _keys(EXPERIMENTS)
    state = jax.eval_shape(init, store, keys)
    compiled = _compile(step, state, store, keys, _array((), jnp.int32))
    _assert_fits(compiled)
    # The native convolutions of the networks are there.
    assert "convolution" in compiled.as_text()


def test_evaluating_compiles():
    network = make_network(NETWORK, CLASSES, SHAPE, make_conv_fn("native"))
    protocol = make_protocol(
        _make_config().evaluation, dataset_name="mnist", network_name=NETWORK
    )
    train_one = train_by_protocol(protocol, network, EXECUTION)
    compiled = _compile(
        jax.jit(make_evaluate(train_one, network, EXECUTION)),
        (_array((6, *SHAPE)), _array((6,), jnp.int32)),
        _array((50, *SHAPE)),
        _array((50,), jnp.int32),
        _keys(2),
    )
    _assert_fits(compiled)
