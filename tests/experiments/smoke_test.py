"""The experiments: their configs, their smallest runs, and their command."""

import csv
import importlib
import os
import shlex
import signal
import subprocess
import sys
import time
import types

import pytest
import run_helpers

from configs.experiments import ablations as ablations_config
from configs.experiments import table1 as table1_config
from dc_jax.config import Config
from dc_jax.devices import layout
from experiments import ablations, cross_architecture, dd_comparison, figure1, table1
from experiments.architecture_search import __main__ as search
from experiments.continual_learning import __main__ as figure4
from experiments.sweep import experiment, matrix, ray_tasks, results
from experiments.sweep.mirror import Mirror


def _start(name, folder, *flags):
    config = f"--config=configs/experiments/{name}.py:smoke"
    return subprocess.Popen(
        [sys.executable, "-m", f"experiments.{name}", config, f"--output={folder}"]
        + list(flags),
        cwd=run_helpers.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(
    ("name", "make_cells", "sizes"),
    [
        ("table1", table1.make_cells, ("paper", "cpu", "smoke")),
        ("cross_architecture", matrix.make_cells, ("paper", "cpu", "smoke")),
        ("ablations", matrix.make_cells, ablations_config._SIZES),
        ("dd_comparison", dd_comparison.make_cells, ("paper", "cpu", "smoke")),
        ("architecture_search", search.make_cells, ("paper", "cpu", "smoke")),
    ],
)
def test_every_config_makes_cells_that_can_be_run(name, make_cells, sizes, tmp_path):
    module = importlib.import_module(f"configs.experiments.{name}")
    for size in sizes:
        config = module.get_config(size)
        # What is often changed can be.
        config.run.dataset.path = "somewhere"
        cells = make_cells(config)
        experiment.check_cells(cells, tmp_path)
        for cell in cells:
            values = cell.values()
            assert values["dataset"]["path"] == "somewhere"
            Config.create(values)
    with pytest.raises(ValueError, match="has the sizes paper, .*, got 'nothere'"):
        module.get_config("nothere")


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize(
    ("name", "module", "make_cells", "lines"),
    [
        ("table1", figure1, table1.make_cells, ["| digits | dc |"]),
        pytest.param(
            *("cross_architecture", cross_architecture, matrix.make_cells, ["| MLP |"]),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("ablations", ablations, matrix.make_cells),
            ["| mse |", "| ours |", "| noise |"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("continual_learning", figure4, figure4.make_cells),
            ["| random | 0.0 |", "| random | 1.0 |"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("architecture_search", search, search.make_cells),
            ["| random |", "| early stopping |", "| whole |"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("dd_comparison", dd_comparison, dd_comparison.make_cells),
            ["| digits | 1 |", "| digits | all |"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_smoke_experiments_run(
    name, module, make_cells, lines, tmp_path, monkeypatch
):
    """All cells of an experiment, in this process as by Ray, and its report."""
    monkeypatch.setattr(layout, "use_cpu_cores", lambda cores: None)
    config = importlib.import_module(f"configs.experiments.{name}").get_config("smoke")
    # One device compiles faster than the four of the tests.
    group = config.run if name != "continual_learning" else config.run.condense
    group.mesh = {"net": 1, "classes": 1}
    if name == "table1":
        config.methods = ("random", "dc")
    elif name == "cross_architecture":
        config.tables = {name: config.tables[name][:1]}
    cells = make_cells(config)
    for cell in cells:
        ray_tasks.run_cell(cell, Mirror(tmp_path), 1)
    rows = results.write_rows(cells, tmp_path)
    assert len(rows) == len(cells)
    report = module.report(config, rows, tmp_path)
    for line in lines:
        *_, row = [text for text in report.splitlines() if text.startswith(line)]
        assert "±" in row or "Spearman" in report
    # A line for each accuracy, a table, and a figure if the paper has one.
    with open(tmp_path / "results.csv", newline="") as file:
        assert all(float(line["accuracy"]) > 0 for line in csv.DictReader(file))
    assert list(tmp_path.glob("*.md"))
    figures = list(tmp_path.glob("*.png"))
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in figures)
    assert figures or name in ("dd_comparison", "cross_architecture")


def test_the_command_lists_its_cells_and_names_bad_flags(tmp_path):
    process = _start("table1", tmp_path, "--list")
    listed = process.communicate(timeout=60)[0].splitlines()
    cells = table1.make_cells(table1_config.get_config("smoke"))
    assert [shlex.split(line) for line in listed] == [
        cell.command(tmp_path) for cell in cells
    ]
    # With the default config, from another folder.
    process = subprocess.run(
        [sys.executable, "-m", "experiments.table1", "--list", "--output=x"]
        + ["--config.methods=('dcc',)"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(run_helpers.ROOT)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1
    (line,) = run_helpers.without_progress(process.stderr).splitlines()
    assert line.startswith("error: config.method must be one of")


def test_a_config_of_another_experiment_is_refused(tmp_path):
    config = ablations_config.get_config("smoke")
    options = types.SimpleNamespace(output=str(tmp_path), list=True)
    with pytest.raises(ValueError, match="--config must be like x"):
        experiment.run_all(
            *(config, table1.make_cells, table1.report), options=options, name="x"
        )


@pytest.mark.slow
def test_a_table_is_made_once(tmp_path):
    cells = table1.make_cells(table1_config.get_config("smoke"))
    output = _start("table1", tmp_path).communicate(timeout=300)[0]
    assert f"Running {len(cells)} of {len(cells)} cells." in output
    table = (tmp_path / "table1.md").read_text()
    assert table in output
    assert "| digits | 1 |" in table
    assert _start("table1", tmp_path, "--list").communicate(timeout=60)[0] == ""
    output = _start("table1", tmp_path).communicate(timeout=60)[0]
    assert f"Running 0 of {len(cells)} cells." in output
    assert table in output
    # The figure is of the same cells.
    flags = ("--config=configs/experiments/table1.py:smoke",)
    output = _start("figure1", tmp_path, *flags).communicate(timeout=60)[0]
    assert f"Running 0 of {len(cells)} cells." in output
    assert (tmp_path / "figure1.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_ctrl_c_stops_an_experiment_without_a_trace(tmp_path):
    process = _start("table1", tmp_path)
    log, end = tmp_path / "digits-random-1" / "log.txt", time.monotonic() + 120
    while not log.exists() or not log.read_text():
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 130
    assert "Traceback" not in output
    assert output.endswith("Stopped by SIGINT. The same command continues.\n")
