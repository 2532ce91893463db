"""The same numbers on 1, 2 and 4 devices, and which device gets what."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_helpers
from jax.sharding import PartitionSpec as P
from toy import in_one_call, random_dataset

from dc_jax.data.store import make_store
from dc_jax.devices import layout
from dc_jax.devices.backend import Execution
from dc_jax.devices.layout import ONE_DEVICE, WHOLE, make_layout
from dc_jax.evaluation.evaluator import make_programs, train_by_protocol
from dc_jax.evaluation.protocol import Protocol
from dc_jax.methods import make_method
from dc_jax.networks import make_network
from dc_jax.networks.convolution import make_conv_fn
from dc_jax.run.compiled import compile_method

pytestmark = pytest.mark.usefixtures("quick_compile")
CLASSES, SHAPE, NETWORK = 3, (4, 4, 1), "ConvNetD1W8"


def _config(**changes):
    defaults = {
        "ipc": 2,
        "num_experiments": 3,
        "num_networks": 3,
        "mesh.net": None,
        "mesh.classes": None,
    }
    return run_helpers.tiny_config(**defaults | changes)


def _layout(num_devices, **changes):
    return make_layout(_config(**changes), CLASSES, jax.devices()[:num_devices])


# Unequal classes, the last of which has fewer images than are drawn.
DATASET = random_dataset((20, 11, 5), SHAPE)


def _network(name=NETWORK):
    return make_network(name, CLASSES, SHAPE, make_conv_fn("trilinear"))


def test_real_images_to_begin_with_are_the_same_on_a_mesh():
    config = _config(init="real")
    begins = []
    for devices in (ONE_DEVICE, _layout(2, **{"mesh.classes": 2})):
        execution = Execution("map", 8, devices)
        init, _ = compile_method(make_method(config, _network(), execution), execution)
        keys = jax.random.split(jax.random.key(0), 3)
        begins.append(init(make_store(DATASET, devices), keys).images)
    np.testing.assert_array_equal(*begins)


@pytest.mark.slow
@pytest.mark.parametrize(("num", "loop"), [(3, "map"), (4, "vmap")])
def test_evaluation_on_a_mesh_equals_that_on_one_device(num, loop):
    protocol = Protocol(NETWORK, 3, "none", 0.01, 0.9, 5e-4, 4)
    images = jnp.asarray(DATASET.train_images, jnp.float32) / 255
    labels = jnp.asarray(DATASET.train_labels)
    keys = jax.random.split(jax.random.key(0), num)

    def count(layout):
        network, execution = _network(), Execution(loop, 8, layout)
        training = train_by_protocol(protocol, network, execution)
        programs = make_programs(training, network, execution)
        evaluate = jax.jit(in_one_call(programs))
        return evaluate((images, labels), images, labels, keys)

    one, four = count(ONE_DEVICE), count(_layout(4))
    assert one.shape == four.shape == (num, CLASSES, CLASSES)
    np.testing.assert_array_equal(one, four)


def _on_four(function):
    layout = _layout(4, **{"mesh.classes": 4})
    return jax.jit(layout.spread(lambda *args: function(layout.classes, *args), P()))


@pytest.mark.parametrize("num", [1, 4, 5, 8])
def test_every_element_is_counted_once(num):
    def count(axis):
        indices, counts = axis.part(num)
        total = jnp.zeros(num, jnp.int32).at[indices].add(counts)
        return axis.sum(total), axis.gather(indices, num), axis.sum(len(indices))

    times, gathered, in_all = _on_four(count)()
    assert times.tolist() == [1] * num
    assert gathered.tolist() == list(range(num))
    assert in_all == 4 * -(-num // 4)


def test_one_device_has_all():
    indices, counts = WHOLE.part(3)
    assert indices.tolist() == [0, 1, 2]
    assert counts.all()
    assert WHOLE.sum(5) == 5
    assert WHOLE.gather("anything", 3) == "anything"


def test_a_device_holds_its_classes_alone():
    store = make_store(DATASET, _layout(2, **{"mesh.classes": 2}))
    one, two = (np.asarray(shard.data) for shard in store.images.addressable_shards)
    by_class = [DATASET.train_images[DATASET.train_labels == c] for c in range(CLASSES)]
    np.testing.assert_array_equal(one, np.concatenate(by_class[:2]))
    np.testing.assert_array_equal(two[:5], by_class[2])
    assert not two[5:].any()
    assert store.counts.tolist() == [20, 11, 5, 1]
    assert store.starts.tolist() == [0, 20, 0, 5]


@pytest.mark.parametrize(
    ("num_devices", "changes", "sizes"),
    [
        # Experiments, networks, classes.
        (1, {}, (1, 1, 1)),
        (3, {}, (3, 1, 1)),
        (4, {"num_experiments": 1, "num_networks": 2}, (1, 2, 2)),
        (4, {"num_experiments": 1, "num_networks": 1}, (1, 1, 3)),
        (4, {"num_experiments": 2, "num_networks": 1}, (2, 1, 2)),
        (4, {"mesh.net": 1}, (1, 1, 3)),
        (4, {"mesh.classes": 4}, (1, 1, 4)),
        (4, {"mesh.net": 2, "mesh.classes": 1, "num_experiments": 1}, (1, 2, 1)),
        (4, {"mesh.net": 1, "mesh.classes": 1}, (1, 1, 1)),
    ],
)
def test_the_split_leaves_least_to_a_device(num_devices, changes, sizes):
    layout = _layout(num_devices, **changes)
    axes = (layout.experiments, layout.networks, layout.classes)
    assert tuple(axis.size for axis in axes) == sizes
    assert (layout.mesh is None) == (sizes == (1, 1, 1))


def test_too_few_devices_is_one_line():
    match = r"^config.mesh.net x config.mesh.classes must be at most 4, .* 2 x 3\.$"
    with pytest.raises(ValueError, match=match):
        _layout(4, **{"mesh.net": 2, "mesh.classes": 3})
    match = r"^config.mesh.net must be .*num_experiments = 1 .* = 1, got 2\.$"
    with pytest.raises(ValueError, match=match):
        _layout(4, **{"mesh.net": 2, "num_experiments": 1, "num_networks": 1})


def test_several_processes_use_all_devices(monkeypatch):
    changes = {"num_experiments": 1, "num_networks": 1}
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match=r"^config.distributed must be True"):
        _layout(4, **changes)
    monkeypatch.setattr(layout.processes, "are_several", lambda: True)
    assert _layout(4, distributed=True, **changes).classes.size == 4
    match = r"^config.mesh must leave none of the 4 devices out .* classes = 3\.$"
    with pytest.raises(ValueError, match=match):
        _layout(4, distributed=True, **changes, **{"mesh.classes": 3})


def test_cores_are_counted_where_a_process_has_no_affinity(monkeypatch):
    """As on macOS and Windows."""
    updates = []
    monkeypatch.setattr(jax.config, "update", lambda *args: updates.append(args))
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.delattr(layout.os, "sched_getaffinity", raising=False)
    for count, num in ((6, 6), (None, 1)):
        monkeypatch.setattr(layout.os, "cpu_count", lambda count=count: count)
        layout.use_cpu_cores()
        assert updates.pop() == ("jax_num_cpu_devices", num)


@pytest.mark.slow
def test_a_device_waits_for_one_that_is_slow():
    """XLA ends a process whose devices wait for each other for a minute."""
    script = """
import time
import jax, jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from dc_jax.devices.layout import use_cpu_cores

use_cpu_cores()

def wait(place):
    time.sleep(65 * int(place))
    return jnp.float32(place)

def gather():
    place = jax.lax.axis_index("x")
    place = jax.pure_callback(wait, jax.ShapeDtypeStruct((), jnp.float32), place)
    return jax.lax.all_gather(place, "x")

mesh = jax.make_mesh((2,), ("x",))
specs = {"in_specs": (), "out_specs": P(), "check_vma": False}
print(jax.jit(jax.shard_map(gather, mesh=mesh, **specs))())
"""
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
    environment.pop("XLA_FLAGS", None)
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout == "[0. 1.]\n", done.stderr
    assert "may be stuck" not in done.stderr


def test_a_core_is_a_device_unless_the_user_says_otherwise(monkeypatch):
    updates = []
    monkeypatch.setattr(jax.config, "update", lambda *args: updates.append(args))
    monkeypatch.setattr(layout.os, "sched_getaffinity", lambda _: {0, 1, 2})
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    flag = "--xla_cpu_collective_call_terminate_timeout_seconds=7"
    monkeypatch.setenv("XLA_FLAGS", flag)
    layout.use_cpu_cores()
    assert updates == [("jax_num_cpu_devices", 3)]
    assert os.environ["XLA_FLAGS"] == flag
    for most, num in ((2, 2), (8, 3)):
        layout.use_cpu_cores(most)
        assert updates.pop() == ("jax_num_cpu_devices", num)
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    layout.use_cpu_cores()
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "4")
    layout.use_cpu_cores()
    assert len(updates) == 1
