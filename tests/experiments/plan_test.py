"""The plan of a run: its work, chips, verdicts; compiling needs the extra `plan`."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from chip_helpers import is_missing
from toy import whitened

from configs import base
from dc_jax.config import Config
from dc_jax.data.sources import load_dataset
from dc_jax.data.store import make_store
from dc_jax.devices.layout import make_layout
from dc_jax.methods import METHODS
from experiments.plan import compiling, planning, table
from experiments.plan import target as targets
from experiments.plan.cost import count
from experiments.plan.hlo import parse
from experiments.plan.loops import Loops, loops_of
from experiments.plan.target import GIB, find_devices, load_target


def _config(**overrides) -> Config:
    values = base.get_config().to_dict()
    for name, value in overrides.items():
        group, _, field = name.rpartition("__")
        (values[group] if group else values)[field] = value
    return Config.create(values)


def _step_flops(config: Config, num_devices: int = 1) -> float:
    program = compiling.make_program(config, jax.devices()[:num_devices])
    jaxpr = program.step.trace(*program.args).jaxpr
    loops = loops_of(config)
    return count(jaxpr, while_trips=loops.trips, share=loops.share).flops


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


def test_targets():
    target = load_target("v5e:2x4")
    assert (target.platform, target.grid, target.clock) == ("tpu", "2x4", 1.5e9)
    assert load_target("v5e").grid == "1x1"
    assert load_target("v4").grid == "1x1x1"
    assert load_target("v4:2x2x2").options == {"chip_config_name": "megacore"}
    target = load_target("h100")
    assert (target.platform, target.grid, target.clock) == ("cuda", "1", None)
    assert load_target("h100:8").grid == "8"


@pytest.mark.parametrize("wrong", ["", "v9:2x4", "v5e:2x", "x v5e:2x4", "../v5e"])
def test_unknown_targets_are_named(wrong):
    with pytest.raises(ValueError, match="--target must be one of h100, v4, ") as info:
        load_target(wrong)
    assert repr(wrong) in str(info.value)


@pytest.mark.parametrize("wrong", ["h100:0", "h100:9", "h100:2x4"])
def test_a_machine_has_a_number_of_cards(wrong):
    with pytest.raises(ValueError, match=f"--target={wrong}: .* from 1 to 8"):
        load_target(wrong)


@pytest.mark.parametrize(
    ("name", "teraflops", "gigabytes_a_second", "gibibytes"),
    [
        ("v4", 275, 1200, 32),
        ("v5e", 197, 819, 16),
        ("v5p", 459, 2765, 96),
        ("v6e", 918, 1638, 32),
        ("h100", 494, 3350, 79.1 * 3 / 4),
    ],
)
def test_chips_are_as_published(name, teraflops, gigabytes_a_second, gibibytes):
    target = load_target(name)
    assert target.flops == teraflops * 1e12
    assert target.bandwidth == gigabytes_a_second * 1e9
    assert 0.95 * gibibytes * GIB < target.memory_bytes < gibibytes * GIB


@pytest.mark.parametrize(
    ("name", "products_a_cycle"),
    [
        ("v4", 8 * 128 * 128),
        ("v5e", 4 * 128 * 128),
        ("v5p", 8 * 128 * 128),
        ("v6e", 4 * 256 * 256),
    ],
)
def test_the_clock_is_that_of_the_peak(name, products_a_cycle):
    target = load_target(name)
    assert target.clock == pytest.approx(target.flops / 2 / products_a_cycle, rel=0.01)


def test_how_often_networks_are_trained():
    config = _config(ipc=10, outer_loop=4, inner_loop=6)
    assert loops_of(config) == (6, 0.75)
    assert loops_of(config).mean_trips == 4.5
    pooled = _config(ipc=10, inner_loop=6, pool__size=3)
    assert loops_of(pooled) == (6, 1)  # Also after the last outer step.


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


class _Traced:
    """Stands in for a traced step whose compilation fails or needs some bytes."""

    def __init__(self, error=None, **sizes):
        self._error, self._sizes = error, sizes

    def lower(self):
        return self

    def compile(self):
        if self._error:
            raise jax.errors.JaxRuntimeError(self._error)
        return self

    def memory_analysis(self):
        names = ("argument", "output", "temp", "generated_code", "alias")
        sizes = {f"{name}_size_in_bytes": self._sizes[name] for name in names}
        return type("Stats", (), sizes)

    def as_text(self):
        return "text"


def test_memory_is_what_the_compiler_places():
    sizes = {"argument": 1000, "output": 200, "generated_code": 4, "alias": 200}
    compiled = compiling.compile_program(_Traced(**sizes, temp=30), 1034)
    assert compiled == (1034, True, "text")
    compiled = compiling.compile_program(_Traced(**sizes, temp=31), 1034)
    assert compiled == (1035, False, "text")


def test_memory_that_does_not_suffice():
    traced = _Traced("RESOURCE_EXHAUSTED: Used 20.00G of 15.75G hbm")
    assert compiling.compile_program(traced, 1034) == (20 * GIB, False, None)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        compiling.compile_program(_Traced("INTERNAL: a bug"), 1034)


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


@pytest.mark.parametrize(("num_devices", "zca"), [(1, False), (4, False), (4, True)])
def test_the_shapes_of_a_store_are_those_of_the_store(num_devices, zca):
    dataset = load_dataset("digits")
    dataset = whitened(dataset) if zca else dataset
    layout = make_layout(_config(), 10, jax.devices()[:num_devices])
    assert layout.classes.size == num_devices
    shapes = compiling.make_store_shape(compiling.DATASETS["digits"], layout, zca=zca)
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


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_planned(method):
    assert _step_flops(_config(method=method, network__name="MLP", batch_real=8)) > 0


def test_an_unknown_dataset_is_named():
    with pytest.raises(ValueError, match="config.dataset.name must be one of"):
        compiling.make_program(_config(dataset__name="imagenet"), jax.devices())


def test_a_method_without_a_step_is_named():
    with pytest.raises(
        ValueError, match="must be one of dc, dsa, dm, dd, frepo, ncfm, mtt for"
    ):
        compiling.make_program(_config(method="random"), jax.devices())


PLAN = planning.Plan(
    target="v5e:2x4",
    num_devices=8,
    memory_bytes=4 * GIB,
    fits=True,
    flops=197e12,
    bytes=819e8,
    cycles=3e9,
    missing=7,
    seconds=2.0,
    hours=2000 / 3600,
)


def test_a_plan_for_a_tpu_in_words():
    text = planning.describe(_config(), PLAN)
    assert "digits, 1 image(s) per class, v5e:2x4, 8 device(s) used" in text
    assert "4 GiB of 15.8 GiB per device: fits" in text
    assert "limit     1 s for these operations at the published 197 TFLOP/s" in text
    assert "100 ms if all these bytes go through memory at 819 GB/s" in text
    assert "program   3e+09 cycles" in text
    assert "estimate  2 s per iteration of 5 experiment(s), 0.56 hours" in text
    assert "the compiler's own estimates at 1.5 GHz; never compared with a TPU" in text


def test_a_plan_for_a_gpu_in_words():
    changes = {"target": "h100", "cycles": None, "launches": 12345.0}
    text = planning.describe(_config(), dataclasses.replace(PLAN, **changes))
    assert "program   12,345 launches per iteration" in text
    assert "each launch is the longest of 5 us" in text


def test_a_plan_that_does_not_fit_in_words():
    nothing = dict.fromkeys(["memory_bytes", "cycles", "missing", "seconds", "hours"])
    plan = dataclasses.replace(PLAN, fits=False, **nothing)
    text = planning.describe(_config(), plan)
    assert "unknown of 15.8 GiB per device: does not fit\ntry       a smaller" in text
    assert text.endswith("estimate  none: the compiler ran out of memory")
    assert "| no | 197 | 1 | unknown | unknown |" in table.table_row("digits", 1, plan)


STEP = """
ENTRY %main (x: f32[250,1000]) -> f32[250,1000] {
  %x = f32[250,1000]{1,0} parameter(0)
  %y = f32[250,1000]{1,0} copy(%x), backend_config={"estimated_cycles":"3000"}
  ROOT %z = f32[250,1000]{1,0} copy(%y), backend_config={"estimated_cycles":"6000"}
}
"""


def test_the_time_of_a_program_depends_on_the_chip():
    plan = dataclasses.replace(PLAN, cycles=None, seconds=None)
    of_tpu = planning.estimate(plan, parse(STEP), load_target("v5e"), Loops())
    assert (of_tpu.cycles, of_tpu.launches) == (9000, None)
    assert of_tpu.seconds == pytest.approx(6e-6)
    h100 = load_target("h100")
    of_gpu = planning.estimate(plan, parse(STEP), h100, Loops())
    assert (of_gpu.cycles, of_gpu.launches) == (None, 2)
    # A megabyte is moved in less time than a launch takes.
    assert of_gpu.seconds == pytest.approx(2 * h100.launch.seconds)


def test_a_table_goes_on_where_it_stopped(monkeypatch, tmp_path):
    made = []

    def make_plan(config, target):
        made.append((config.dataset.name, config.ipc, target))
        if len(made) == 3:
            raise KeyboardInterrupt
        return dataclasses.replace(PLAN, target=target)

    monkeypatch.setattr(planning, "make_plan", make_plan)
    path = tmp_path / "new" / "rows.jsonl"

    def run():
        return list(table.run_table(["mnist"], ["v5e:2x4", "v4:2x2x2"], path))

    with pytest.raises(KeyboardInterrupt):
        run()
    assert len(path.read_text().splitlines()) == 2
    lines = run()
    # Six cells, and the one that was stopped.
    assert len(made) == 7
    assert lines[0] == table.HEAD
    assert lines[1] == "| mnist | 50 | v5e:2x4 | 8 | 4 GiB | yes | 197 | 1 | 2 | 0.56 |"
    assert all(line.count("|") == 11 for line in lines[1:])
    assert run() == lines
    assert len(made) == 7
    rows = map(json.loads, path.read_text().splitlines())
    assert {row["plan"]["target"] for row in rows} == {"v5e:2x4", "v4:2x2x2"}


def _run(*args) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "experiments.plan", *args],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        check=False,
    )


def test_wrong_flags_give_one_line():
    done = _run("--config=configs/digits.py", "--target=v9:2x2")
    assert done.returncode == 1
    assert "error: --target must be" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "package"), [("v5e:2x4", "libtpu"), ("h100", "jax-cuda12-plugin")]
)
def test_without_its_compiler_the_error_says_what_to_install(
    monkeypatch, name, package
):
    monkeypatch.setattr(targets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=f"--target={name} needs .* {package}") as info:
        find_devices(load_target(name))
    assert 'pip install -e ".[plan]"' in str(info.value)


needs_libtpu = pytest.mark.skipif(
    is_missing("v5e"), reason='libtpu is missing: pip install -e ".[plan]"'
)
needs_cuda = pytest.mark.skipif(
    is_missing("h100"), reason='the plug-in is missing: pip install -e ".[plan]"'
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "num"),
    [
        pytest.param("v5e:2x4", 8, marks=needs_libtpu),
        pytest.param("v4:2x2x2", 8, marks=needs_libtpu),
        pytest.param("v6e", 1, marks=needs_libtpu),
        pytest.param("h100", 1, marks=needs_cuda),
        pytest.param("h100:4", 4, marks=needs_cuda),
    ],
)
def test_digits_compile_and_fit(name, num):
    assert len(find_devices(load_target(name))) == num
    values = {"network__name": "ConvNetW64D1", "batch_real": 128}
    config = _config(**values, num_experiments=1)
    plan = planning.make_plan(config, name)
    assert plan.num_devices == num
    assert plan.fits
    assert 2**20 < plan.memory_bytes < 2**30
    assert num * plan.flops > 1e8
    target = load_target(name)
    assert planning.limit(plan, target) < plan.seconds < 1
    assert f"estimate  {1e3 * plan.seconds:.3g} ms" in planning.describe(config, plan)


@needs_libtpu
@pytest.mark.slow
def test_a_grid_that_libtpu_has_not():
    with pytest.raises(ValueError, match="--target=v5e:3x5"):
        find_devices(load_target("v5e:3x5"))
