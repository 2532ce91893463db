"""Tests of the benchmark: its sums, and the command on tiny sizes."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.benchmark import report
from experiments.benchmark.cases import Case
from experiments.benchmark.machine import machine
from experiments.benchmark.measure import compare, summarise

_TINY = ("--smoke", "--ipc=1", "--rounds=2")
_ROOT = Path(__file__).parent.parent.parent


def test_ratios_are_of_turns_and_of_medians():
    seconds = {"dc_jax": [1.0, 2.0, 4.0], "pytorch": [3.0, 4.0, 6.0]}
    ratios = compare(seconds)
    assert ratios["ratios"] == [3, 2, 1.5]
    assert ratios["median_of_ratios"] == 2
    assert ratios["ratio_of_medians"] == 2
    times = summarise(seconds["pytorch"])
    assert (times["median"], times["min"], times["max"]) == (4, 3, 6)


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
    assert kinds == ["machine", "matmul", "matmul", "workload"]
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
    if importlib.util.find_spec("torch"):
        assert {record["system"] for record in workloads} == {"dc_jax", "pytorch"}
    assert (tmp_path / "growth.png").stat().st_size > 1000


def _workload(system, **changes):
    return {
        "measurement": "workload",
        "system": system,
        **dataclasses.asdict(Case(workload="outer_step")),
        **summarise([2.0, 4.0] if system == "dc_jax" else [4.0, 8.0]),
        "growth": None,
        "version": "1.0",
        "peak_mib": 200.0,
        "peak_running_mib": 100.0,
        "direct_flops": 30_000_000_000,
        "compile_seconds": 1.0,
        **{f"{name}_bytes": 2**20 for name in ("temporary", "argument", "output")},
        **changes,
    }


def test_tables_and_plot_of_records(tmp_path):
    records = [{"measurement": "machine", **machine()}]
    matmul = {"measurement": "matmul", "gflops": 50.0, "cores": None, "growth": None}
    records.append(_workload("dc_jax") | matmul)
    for growth in (None, "ipc"):
        records += [_workload(s, growth=growth) for s in ("dc_jax", "pytorch")]
        ratio = compare({"dc_jax": [2.0, 4.0], "pytorch": [4.0, 8.0]})
        records.append({"measurement": "ratio", "growth": growth, **ratio})
    tables = report.write(records, tmp_path)
    assert "| outer_step | 1 | 1 | 3 (2 to 4) | 3 | 6 (4 to 8) | 2 | 2 |" in tables
    # 30 GFLOP in 3 seconds, of 50 GFLOP/s.
    assert "| outer_step | 1 | 1 | 30 | 10 | 20 % | 5 |" in tables
    assert "| ipc | 1 | 3 (2 to 4) | 6 (4 to 8) | 2 | 100 (200) |" in tables
    assert (tmp_path / "growth.png").exists()
