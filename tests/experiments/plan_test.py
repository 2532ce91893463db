"""The plan of a TPU run: its work, chips, verdicts; compiling needs libtpu."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding
from toy import in_one_call

from configs import base
from dc_jax.config import Config
from dc_jax.data.sources import load_dataset
from dc_jax.data.store import make_store
from dc_jax.devices.backend import Execution
from dc_jax.devices.layout import ONE_DEVICE, make_layout
from dc_jax.evaluation.evaluator import make_programs, train_by_protocol
from dc_jax.evaluation.protocol import make_protocol
from dc_jax.networks import make_network
from dc_jax.networks.convolution import make_conv_fn
from experiments.plan import compiling, planning
from experiments.plan.chips import CHIPS, GIB, Chip, parse_topology
from experiments.plan.cost import Cost, count

HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None


def _config(**overrides) -> Config:
    values = base.get_config().to_dict()
    for name, value in overrides.items():
        group, _, field = name.rpartition("__")
        (values[group] if group else values)[field] = value
    return Config.create(values)


def _step_flops(config: Config, num_devices: int = 1) -> float:
    program = compiling.make_program(config, jax.devices()[:num_devices])
    jaxpr = program.step.trace(*program.args).jaxpr
    return count(jaxpr, while_trips=planning.mean_epochs(config)).flops


def test_flops_of_the_step_of_an_mlp():
    # Digits, an MLP 64 -> 128 -> 128 -> 10: a forward pass of an image.
    first, rest = 2 * 64 * 128, 2 * (128 * 128 + 128 * 10)
    training = 2 * first + 3 * rest  # no gradient of the images
    both = 3 * (first + rest)
    settings = {
        "network__name": "MLP",
        "batch_real": 16,
        "num_experiments": 2,
        "num_networks": 3,
        "ipc": 4,
        "inner_loop": 7,
    }
    flops = {
        steps: _step_flops(_config(**settings, outer_loop=steps)) for steps in (1, 3)
    }
    real = 2 * 3 * 10 * 16 * training
    inner = 2 * 3 * 7 * 10 * 4 * training
    synthetic = flops[1] - real
    # The gradient with respect to the images of a gradient: two to three times that.
    assert 2 * 3 * 10 * 4 * both < synthetic < 2 * 3 * 10 * 4 * 3 * both
    # Trained before two of the three outer steps.
    assert flops[3] == 3 * flops[1] + 2 * inner


def test_topologies():
    assert parse_topology("v5e:2x4") is CHIPS["v5e"]
    assert parse_topology("v4:2x2x2") is CHIPS["v4"]
    for wrong in ("v5e", "v5e:8", "v9:2x4", "v5e:2x", "x v5e:2x4"):
        with pytest.raises(ValueError, match="--topology must be"):
            parse_topology(wrong)


@pytest.mark.parametrize(
    ("name", "teraflops", "gigabytes", "gigabytes_a_second"),
    [
        ("v4", 275, 32, 1200),
        ("v5e", 197, 16, 819),
        ("v5p", 459, 96, 2765),
        ("v6e", 918, 32, 1638),
    ],
)
def test_chips_are_as_published(name, teraflops, gigabytes, gigabytes_a_second):
    chip = CHIPS[name]
    assert chip.flops == teraflops * 1e12
    assert chip.bandwidth == gigabytes_a_second * 1e9
    assert 0.95 * gigabytes * GIB < chip.hbm_bytes < gigabytes * GIB


def test_the_roofline_is_the_slower_of_both():
    chip = Chip(flops=100.0, bandwidth=10.0, hbm_bytes=1)
    assert planning.roofline(Cost(200.0, 10.0), chip) == 2.0
    assert planning.roofline(Cost(200.0, 30.0), chip) == 3.0


@pytest.mark.parametrize(
    ("message", "needed"),
    [
        ("temporaries (640.00G) exceeds available HBM (15.75G).", 640 * GIB),
        ("in memory space hbm. Used 1.50T of 15.75G hbm.", 1536 * GIB),
        ("Used 512.00M of 1.00G hbm", 512 * 2**20),
        ("something else", None),
    ],
)
def test_needed_memory_is_read_from_the_compiler(message, needed):
    assert compiling.parse_needed(message) == needed


class _Step:
    """Stands in for a jitted step whose compilation fails or needs some bytes."""

    def __init__(self, error=None, **sizes):
        self._error, self._sizes = error, sizes

    def lower(self, *args):
        return self

    def compile(self):
        if self._error:
            raise jax.errors.JaxRuntimeError(self._error)
        return self

    def memory_analysis(self):
        names = ("argument", "output", "temp", "generated_code", "alias")
        sizes = {f"{name}_size_in_bytes": self._sizes[name] for name in names}
        return type("Stats", (), sizes)


def _memory(step) -> compiling.Memory:
    chip = Chip(flops=1.0, bandwidth=1.0, hbm_bytes=1034)
    return compiling.measure_memory(compiling.Program(step, (), ONE_DEVICE), chip)


def test_memory_is_what_the_compiler_places():
    sizes = {"argument": 1000, "output": 200, "generated_code": 4, "alias": 200}
    assert _memory(_Step(**sizes, temp=30)) == (1034, True)
    assert _memory(_Step(**sizes, temp=31)) == (1035, False)


def test_memory_that_does_not_suffice():
    assert _memory(_Step("RESOURCE_EXHAUSTED: Used 20.00G of 15.75G hbm")) == (
        20 * GIB,
        False,
    )
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        _memory(_Step("INTERNAL: a bug"))


def test_the_shapes_of_digits_are_those_of_the_dataset():
    dataset = load_dataset("digits")
    assert compiling.DATASETS["digits"] == (
        dataset.image_shape,
        tuple(np.bincount(dataset.train_labels)),
        dataset.train_images.dtype,
    )


@pytest.mark.parametrize(
    ("name", "images"),
    [("mnist", 60000), ("svhn", 73257), ("cifar10", 50000), ("cifar100", 50000)],
)
def test_published_numbers_of_images(name, images):
    assert sum(compiling.DATASETS[name].counts) == images


@pytest.mark.parametrize("num_devices", [1, 4])
def test_the_shapes_of_a_store_are_those_of_the_store(num_devices):
    dataset = load_dataset("digits")
    layout = make_layout(_config(), 10, jax.devices()[:num_devices])
    assert layout.classes.size == num_devices
    shapes = compiling.make_store_shape(compiling.DATASETS["digits"], layout)
    store = make_store(dataset, layout)
    assert jax.tree.structure(shapes) == jax.tree.structure(store)
    for shape, leaf in zip(
        jax.tree.leaves(shapes), jax.tree.leaves(store), strict=True
    ):
        assert (shape.shape, shape.dtype) == (leaf.shape, leaf.dtype)
        if num_devices > 1:
            assert shape.sharding == leaf.sharding


def test_each_of_several_devices_has_its_part_of_the_work():
    settings = {"network__name": "MLP", "batch_real": 16, "ipc": 4, "inner_loop": 7}
    config = _config(**settings, num_experiments=2, num_networks=2, outer_loop=3)
    assert make_layout(config, 10, jax.devices()).networks.size == 2
    assert _step_flops(config, 4) == _step_flops(config) / 4


def test_an_unknown_dataset_is_named():
    with pytest.raises(ValueError, match="config.dataset.name must be one of"):
        compiling.make_program(_config(dataset__name="imagenet"), jax.devices())


PLAN = planning.Plan(
    topology="v5e:2x4",
    num_devices=8,
    memory_bytes=4 * GIB,
    fits=True,
    flops=197e12,
    bytes=819e8,
    seconds=1.0,
    hours=1000 / 3600,
)


def test_a_plan_in_words():
    text = planning.describe(_config(), PLAN)
    assert "4 GiB of 15.8 GiB per device: fits" in text
    assert "computing 1 s at 197 TFLOP/s" in text
    assert "moving    100 ms at 819 GB/s" in text
    assert "estimate  1 s per iteration of 5 experiment(s), 0.28 hours" in text
    plan = dataclasses.replace(PLAN, fits=False, memory_bytes=None)
    text = planning.describe(_config(), plan)
    assert "unknown of 15.8 GiB per device: does not fit\ntry       a smaller" in text


def test_a_table_goes_on_where_it_stopped(monkeypatch, tmp_path):
    made = []

    def make_plan(config, topology):
        made.append((config.dataset.name, config.ipc, topology))
        if len(made) == 3:
            raise KeyboardInterrupt
        return dataclasses.replace(PLAN, topology=topology)

    monkeypatch.setattr(planning, "make_plan", make_plan)
    monkeypatch.setattr(planning.importlib.metadata, "version", lambda name: "1")
    path = tmp_path / "new" / "rows.jsonl"

    def run():
        return list(planning.run_table(["mnist"], ["v5e:2x4", "v4:2x2x2"], path))

    with pytest.raises(KeyboardInterrupt):
        run()
    assert len(path.read_text().splitlines()) == 2
    table = run()
    # Six cells, and the one that was stopped.
    assert len(made) == 7
    assert table[0] == planning.TABLE_HEAD
    assert table[1] == "| mnist | 50 | v5e:2x4 | 8 | 4 GiB | yes | 197 | 1 | 0.28 |"
    assert all(line.count("|") == 10 for line in table[1:])
    assert run() == table
    assert len(made) == 7
    rows = map(json.loads, path.read_text().splitlines())
    assert {row["plan"]["topology"] for row in rows} == {"v5e:2x4", "v4:2x2x2"}


def _run(*args) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "experiments.plan", *args],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        check=False,
    )


def test_wrong_flags_give_one_line():
    done = _run("--config=configs/digits.py", "--topology=v9:2x2")
    assert done.returncode == 1
    assert "error: --topology must be" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(HAS_LIBTPU, reason="libtpu is there")
def test_without_libtpu_the_error_says_what_to_install():
    done = _run("--config=configs/digits.py")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: libtpu")
    assert 'pip install -e ".[tpu]"' in done.stderr


needs_libtpu = pytest.mark.skipif(
    not HAS_LIBTPU, reason='libtpu is missing: pip install -e ".[tpu]"'
)


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:2x4", "v4:2x2x2"])
def test_digits_compile_and_fit(topology):
    devices = compiling.get_devices(topology, parse_topology(topology))
    assert len(devices) == 8
    values = {"network__name": "ConvNetW64D1", "batch_real": 128}
    plan = planning.make_plan(_config(**values, num_experiments=1), topology)
    assert plan.num_devices == 8
    assert plan.fits
    assert 2**20 < plan.memory_bytes < 2**30
    assert 8 * plan.flops > 1e8


@needs_libtpu
@pytest.mark.slow
def test_a_topology_that_libtpu_has_not():
    with pytest.raises(ValueError, match="--topology=v5e:3x5"):
        compiling.get_devices("v5e:3x5", CHIPS["v5e"])


@needs_libtpu
@pytest.mark.slow
def test_evaluating_compiles_and_fits():
    shape, execution = (8, 8, 1), Execution(network_loop="vmap", slice_size=16)
    network = make_network("ConvNetD2W8", 3, shape, make_conv_fn("native"))
    protocol = make_protocol(
        _config().evaluation, dataset_name="mnist", network_name="ConvNetD2W8"
    )
    training = train_by_protocol(protocol, network, execution)
    device = compiling.get_devices("v5e:2x2", CHIPS["v5e"])[0]

    def array(*shape, dtype="float32"):
        sharding = SingleDeviceSharding(device)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
    args = (
        (array(6, *shape), array(6, dtype="int32")),
        *(array(50, *shape), array(50, dtype="int32")),
        array(2, dtype=keys.dtype),
    )
    step = jax.jit(in_one_call(make_programs(training, network, execution)))
    memory = compiling.measure_memory(
        compiling.Program(step, args, ONE_DEVICE), CHIPS["v5e"]
    )
    assert memory.fits
    assert memory.bytes > 0
