"""Tests of the benchmark: its sums, its plan, and the command on tiny sizes."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.benchmark import report
from experiments.benchmark.cases import SMOKE, Case
from experiments.benchmark.machine import machine
from experiments.benchmark.measure import compare, environment, measure, summarise
from experiments.benchmark.plan import groups, sized_cases
from experiments.benchmark.systems import DEVICES, OURS, SYSTEMS, TORCH
from experiments.benchmark.workloads import PROGRAMS

_TINY = ("--smoke", "--ipc=1", "--rounds=2")
_ROOT = Path(__file__).parent.parent.parent
_LOOPS = {1: (1, 1), 10: (10, 50)}


def test_ratios_are_of_turns_and_of_medians():
    ours, theirs = [1.0, 2.0, 4.0], [3.0, 4.0, 6.0]
    ratios = compare(ours, theirs)
    assert ratios["ratios"] == [3, 2, 1.5]
    assert ratios["median_of_ratios"] == 2
    assert ratios["ratio_of_medians"] == 2
    times = summarise(theirs)
    assert (times["median"], times["min"], times["max"]) == (4, 3, 6)


def test_cases_of_first_sizes_come_first():
    sizes = {
        "experiments": [1],
        "networks": [1, 4],
        "dataset": ["cifar10", "fashion_mnist"],
        "ipc": [10, 1],
    }
    cases = sized_cases(["outer_step"], sizes, {}, evaluations=20, loops=_LOOPS)
    chosen = [(case.networks, case.dataset, case.ipc) for case in cases]
    assert chosen == [
        (1, "cifar10", 10),
        (1, "cifar10", 1),
        (1, "fashion_mnist", 10),
        (4, "cifar10", 10),
        (1, "fashion_mnist", 1),
        (4, "cifar10", 1),
        (4, "fashion_mnist", 10),
        (4, "fashion_mnist", 1),
    ]
    assert list(cases.values()) == [True, *[False] * 7]
    colours = {(case.dataset, case.side, case.channels) for case in cases}
    assert colours == {("cifar10", 32, 3), ("fashion_mnist", 28, 1)}


def test_what_would_be_the_same_is_measured_once():
    sizes = {
        "experiments": [1, 5],
        "networks": [1, 4],
        "dataset": ["cifar10"],
        "ipc": [1, 10],
    }

    def chosen(workload):
        cases = sized_cases([workload], sizes, SMOKE, evaluations=20, loops=_LOOPS)
        return [(c.workload, c.ipc, c.networks, c.experiments) for c in cases]

    assert chosen("test_10k") == [("test_10k", 1, 20, 1)]
    assert [ipc for _, ipc, *_ in chosen("eval_epoch")] == [1, 10]
    assert len(chosen("inner_epoch")) == 4
    assert len(chosen("iteration")) == 8
    # An iteration for one image is an outer step.
    assert {name for name, ipc, *_ in chosen("iteration") if ipc == 1} == {"outer_step"}


def test_programs_get_ready_together():
    names = {Case(ipc=1): ["dc_jax"] * 3, Case(ipc=2): ["dc_jax"], Case(ipc=3): ["a"]}
    assert [len(group) for group in groups(names, jobs=1)] == [1, 1, 1]
    assert [len(group) for group in groups(names, jobs=4)] == [2, 1]
    assert list(groups(names, jobs=9)) == [names]


def test_the_systems_of_each_device():
    for kind, device in DEVICES.items():
        assert {*device.systems, *device.variants} <= {*SYSTEMS}
        assert {name for name, _ in device.peaks} <= {*PROGRAMS}
        Case(**device.sizes)
        variables = environment(kind)
        assert variables["JAX_PLATFORMS"] == ("cpu" if kind == "cpu" else "")


def test_a_system_that_fails_is_recorded():
    pythons = {OURS: "false", TORCH: "false"}
    records = list(measure({Case(): ["dc_jax", "pytorch"]}, pythons, rounds=1))
    assert [record["measurement"] for record in records] == ["failed", "failed"]
    assert [record["system"] for record in records] == ["dc_jax", "pytorch"]
    assert {record["error"] for record in records} == {"The process ended with 1."}


def test_a_system_is_not_waited_for_after_the_end(tmp_path):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexec sleep 60\n", "utf-8")
    script.chmod(0o700)
    began = time.monotonic()
    (record,) = measure(
        {Case(): ["dc_jax"]}, {OURS: str(script)}, rounds=1, end=began + 0.1
    )
    assert record["error"].startswith("No answer to prepare")
    assert time.monotonic() - began < 30


def _run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.benchmark", *_TINY, *arguments],
        cwd=_ROOT,
        env=os.environ | {"PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )


def _read(folder):
    lines = (folder / "benchmark.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _check_workload(record):
    assert len(record["seconds"]) == 2
    assert record["peak_mib"] >= record["peak_running_mib"] > 0
    if record["system"] == "dc_jax":
        assert record["direct_flops"] > 0
        assert record["compile_seconds"] > 0


@pytest.mark.slow
def test_the_command_without_pytorch(tmp_path):
    done = _run("--workloads=test_10k", "--nopytorch", f"--output={tmp_path}")
    assert done.returncode == 0, done.stderr
    records = _read(tmp_path)
    kinds = [record["measurement"] for record in records]
    assert kinds == ["machine", "peak", "peak", "peak", "workload"]
    assert {record.get("system", "dc_jax") for record in records} == {"dc_jax"}
    _check_workload(records[-1])
    assert (tmp_path / "benchmark.md").read_text("utf-8").strip() in done.stdout
    again = _run("--nopytorch", f"--output={tmp_path}")
    assert "already holds a benchmark" in again.stderr


@pytest.mark.slow
def test_everything(tmp_path):
    done = _run("--networks=1,2", "--startup", "--growth", f"--output={tmp_path}")
    assert done.returncode == 0, done.stderr
    records = _read(tmp_path)
    workloads = [r for r in records if r["measurement"] == "workload"]
    for record in workloads:
        _check_workload(record)
    assert not [r for r in records if r["measurement"] in ("failed", "left_out")]
    if importlib.util.find_spec("torch"):
        assert {record["system"] for record in workloads} == {"dc_jax", "pytorch"}
    assert (tmp_path / "growth.png").stat().st_size > 1000


@pytest.mark.slow
def test_without_time_all_is_left_out(tmp_path):
    done = _run("--nopytorch", "--seconds=0", f"--output={tmp_path}")
    assert "No answer to prepare within 0 s" in done.stderr


def test_bad_flags(tmp_path):
    for flag, error in (
        ("--shapes=mnist", "--shapes must be among fashion_mnist, cifar10, got mnist."),
        ("--networks=0", "--networks must be whole numbers of at least 1, got ['0']."),
    ):
        done = _run(flag, f"--output={tmp_path}")
        assert done.returncode
        assert error in done.stdout + done.stderr
    (tmp_path / "file").touch()
    done = _run(f"--output={tmp_path / 'file'}")
    assert f"{tmp_path / 'file'} is a file, not a folder." in done.stderr
    assert "Traceback" not in done.stderr


def _workload(system, **changes):
    return {
        "measurement": "workload",
        "system": system,
        **dataclasses.asdict(Case(workload="outer_step")),
        **summarise([2.0, 4.0] if system == "dc_jax" else [4.0, 8.0]),
        "growth": None,
        "version": "1.0",
        "products": "float32",
        "peak_mib": 200.0,
        "peak_running_mib": 100.0,
        "direct_flops": 30_000_000_000 if system == "dc_jax" else None,
        "direct_bytes": 6_000_000_000 if system == "dc_jax" else None,
        "compile_seconds": 1.0,
        **{f"{name}_bytes": 2**20 for name in ("temporary", "argument", "output")},
        **changes,
    }


def _peak(workload, per_second):
    peak = {"measurement": "peak", "workload": workload, "per_second": per_second}
    return _workload("dc_jax") | peak


def test_tables_and_plot_of_records(tmp_path):
    records = [{"measurement": "machine", **machine("cpu")}]
    records += [_peak("matmul_float32", 50e9), _peak("copy", 4e9)]
    for growth in (None, "ipc"):
        records += [_workload(s, growth=growth) for s in ("dc_jax", "pytorch")]
        ratio = compare([2.0, 4.0], [4.0, 8.0])
        case = dataclasses.asdict(Case())
        records.append(
            case
            | {"measurement": "ratio", "system": "pytorch", "growth": growth}
            | ratio
        )
    records.append(
        _workload("pytorch+compile", error="Too old.") | {"measurement": "failed"}
    )
    tables = report.write(records, tmp_path)
    sizes = "outer_step | fashion_mnist | 1 | 1 | 1"
    # 30 GFLOP in 3 seconds, of 50 GFLOP/s; 6 GB, of 4 GB/s.
    ours = "3000 (2000 to 4000) | – | 10 | 20 % | 2 | 50 %"
    assert f"| {sizes} | dc_jax | {ours} |" in tables
    theirs = "6000 (4000 to 8000) | 2 | 5 | 10 % | 1 | 25 %"
    assert f"| {sizes} | pytorch | {theirs} |" in tables
    assert f"| {sizes} | pytorch+compile | Too old. |" in tables
    assert "| ipc | 1 | pytorch | 6000 (4000 to 8000) | 2 | 100 (200) |" in tables
    assert (tmp_path / "growth.png").exists()
