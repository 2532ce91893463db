"""Sweeps: cells run, continue and fail one by one; here and on Ray."""

import csv
import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
import types

import fsspec
import numpy as np
import pytest
import run_helpers
from ml_collections import ConfigDict

from configs.experiments import ablations as ablations_config
from configs.experiments import table1 as table1_config
from dc_jax.config import Config
from dc_jax.report.published import TABLE1, Value
from dc_jax.run import workdir
from experiments import dd_comparison, table1
from experiments.architecture_search import __main__ as search
from experiments.sweep import experiment, matrix, ray_tasks, results, tables
from experiments.sweep.cells import Cell, flatten
from experiments.sweep.mirror import Mirror
from experiments.sweep.paper import TABLE2

_ROOT = run_helpers.ROOT
# Of all networks an MLP compiles fastest.
_FIELDS = run_helpers.TINY | {"network.name": "MLP", "num_experiments": 1}


def _cell(ipc=1, evaluates=(), **changes):
    labels = {"dataset": "digits", "ipc": ipc}
    if evaluates:
        labels["tested with"] = "LeNet"
    return Cell(
        labels, "configs/digits.py", _FIELDS | {"ipc": ipc} | changes, evaluates
    )


def _run_here(cells, folder):
    return [
        (cell.name, failure)
        for cell, failure in experiment.run_here(cells, Mirror(folder))
    ]


def test_a_cell_is_run_evaluated_and_recorded(tmp_path):
    cell = _cell()
    on_mlp = _cell(evaluates=(cell,), **{"evaluation.network": "MLP"})
    cells = [cell, on_mlp]
    assert cell.read_result(tmp_path) is None
    assert _run_here(cells, tmp_path) == [
        ("digits-1", None),
        ("digits-1-LeNet", None),
    ]
    rows = results.write_rows(cells, tmp_path)
    assert [row["ipc"] for row in rows] == [1, 1]
    # The same set, the same networks.
    assert rows[0]["result"]["accuracies"] == rows[1]["result"]["accuracies"]
    with open(tmp_path / "results.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    mean = 100 * rows[0]["result"]["accuracy_mean"]
    assert lines[0]["accuracy"] == f"{mean:.2f}"
    assert lines[1]["tested with"] == "LeNet"
    assert lines[0]["networks"] == "2"
    # With other values it is another run, whose result is not there.
    assert _cell(seed=1).read_result(tmp_path) is None
    assert _cell(evaluates=(_cell(seed=1),)).read_result(tmp_path) is None


def test_every_set_that_a_cell_evaluates_has_its_line(tmp_path):
    sets = (_cell(), _cell(ipc=2))
    cell = _cell(evaluates=sets)
    result = {
        "accuracies": [[0.1, 0.3], [0.7, 0.9]],
        "accuracy_mean": 0.5,
        "accuracy_std": 0.3,
        "num_evaluations": 2,
        "num_experiments": 2,
        "seconds": 3.0,
    }
    folder = tmp_path / cell.name
    folder.mkdir()
    (folder / "evaluations.jsonl").write_text(json.dumps(result))
    cell.finish(tmp_path)
    results.write_rows([*sets, cell], tmp_path)
    with open(tmp_path / "results.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["of"] for line in lines] == ["digits-1", "digits-2"]
    assert [line["accuracy"] for line in lines] == ["20.00", "80.00"]
    assert {(line["std"], line["networks"], line["sets"]) for line in lines} == {
        ("10.00", "2", "1")
    }
    (row,) = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
    assert row["result"] == result


def test_a_folder_has_one_experiment_and_is_a_folder(tmp_path):
    results.claim("table1", tmp_path)
    results.check_is_ours("table1", tmp_path, "x")
    with pytest.raises(ValueError, match="--output=x has results of another .* table1"):
        results.check_is_ours("ablations", tmp_path, "x")
    (tmp_path / "file").write_text("")
    options = types.SimpleNamespace(output=str(tmp_path / "file" / "sub"), list=True)
    with pytest.raises(ValueError, match="file is no folder"):
        experiment.open_output(options)


@pytest.mark.parametrize("name", ["results.csv", "table1.md"])
def test_files_of_others_are_not_overwritten(name, tmp_path):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"no experiment's, as {name}; choose another"):
        results.check_is_ours("table1", tmp_path, "x")


@pytest.mark.parametrize(
    "content", ['{"values"', "[]", '{"values": {}}', '{"values": {}, "result": {}}']
)
def test_a_damaged_record_is_named(content, tmp_path):
    cell = _cell()
    (tmp_path / cell.name).mkdir()
    (tmp_path / cell.name / "cell.json").write_text(content)
    message = r"digits-1/cell\.json is .*damaged .*delete .*digits-1/cell\.json"
    with pytest.raises(ValueError, match=message):
        cell.read_result(tmp_path)


@pytest.mark.parametrize("content", [None, "", "[]", '{"seconds": 1}'])
def test_a_damaged_result_is_named(content, tmp_path):
    cell = _cell()
    (tmp_path / cell.name).mkdir()
    if content is not None:
        (tmp_path / cell.name / "result.json").write_text(content)
    with pytest.raises(ValueError, match=r"digits-1.*result.*delete .*digits-1\.$"):
        cell.finish(tmp_path)


def test_folders_of_other_runs_are_refused_before_any_is_run(tmp_path):
    folder = tmp_path / "digits-1"
    other = Config.create(_cell(seed=7).values())
    workdir.claim(other, folder)
    # It has nothing yet that could be lost.
    experiment.check_cells([_cell()], tmp_path)
    (folder / "metrics.jsonl").touch()
    with pytest.raises(ValueError, match=r"digits-1 holds a run with config\.seed = 7"):
        experiment.check_cells([_cell()], tmp_path)
    # Which may be continued.
    experiment.check_cells([_cell(seed=7, iterations=9)], tmp_path)


def test_cells_that_follow_are_run_and_kept(tmp_path, capsys):
    first, more = _cell(), _cell(ipc=2)
    seen = []

    def make_more(_, rows):
        seen.append([row["ipc"] for row in rows])
        return [more]

    def report(_, rows, folder):
        return f"{len(rows)} rows"

    def run(**options):
        flags = {"output": str(tmp_path), "list": False, "ray": None} | options
        experiment.run_all(
            None,
            lambda _: [first],
            report,
            types.SimpleNamespace(**flags),
            make_more=make_more,
            name="x",
        )
        return capsys.readouterr().out

    def read():
        return (tmp_path / "results.csv").read_text()

    # What follows is not known before.
    assert "--config.ipc=1 " in run(list=True)
    assert not seen
    assert not (tmp_path / "results.csv").exists()
    assert run() == "2 rows\n"  # Once.
    assert seen == [[1]]
    table = read()
    assert table.count("\n") == 3
    # The one that follows is listed, and the results of the others stay.
    (tmp_path / more.name / "cell.json").unlink()
    assert "--config.ipc=2 " in run(list=True)
    assert read() == table


def test_a_cell_that_fails_does_not_keep_the_others_from_running(tmp_path):
    bad = _cell(ipc=2, **{"network.name": "Conv"})
    good = _cell()
    of_bad = _cell(ipc=2, evaluates=(bad,))
    (_, failure), last, (_, unmade) = _run_here([bad, good, of_bad], tmp_path)
    assert "config.network.name" in failure
    assert last == ("digits-1", None)
    assert "no set of digits-2" in unmade


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([_cell(), _cell()], "two cells are named digits-1"),
        ([_cell(evaluates=(_cell(),))], "digits-1-LeNet evaluates digits-1: not there"),
    ],
)
def test_impossible_sweeps_are_refused(cells, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        experiment.check_cells(cells, tmp_path)
    with pytest.raises(KeyError, match="iteration"):
        experiment.check_cells([_cell(iteration=3)], tmp_path)
    with pytest.raises(ValueError, match=r"config\.ipc"):
        experiment.check_cells([_cell(ipc=0)], tmp_path)


def _start(name, folder, *flags):
    return subprocess.Popen(
        [
            *(sys.executable, "-m", f"experiments.{name}"),
            *(
                f"--config=configs/experiments/{name}.py:smoke",
                f"--output={folder}",
                *flags,
            ),
        ],
        cwd=run_helpers.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_table_is_made_once(tmp_path):
    process = _start("table1", tmp_path, "--list")
    listed = process.communicate(timeout=60)[0].splitlines()
    cells = table1.make_cells(table1_config.get_config("smoke"))
    assert [shlex.split(line) for line in listed] == [
        cell.command(tmp_path) for cell in cells
    ]
    output = _start("table1", tmp_path).communicate(timeout=300)[0]
    assert f"{len(cells)} of {len(cells)} cells are to be run." in output
    table = (tmp_path / "table1.md").read_text()
    assert table in output
    assert "| digits | 1 |" in table
    assert _start("table1", tmp_path, "--list").communicate(timeout=60)[0] == ""
    output = _start("table1", tmp_path).communicate(timeout=60)[0]
    assert f"0 of {len(cells)} cells are to be run." in output
    assert table in output
    # The figure is of the same cells.
    flags = ("--config=configs/experiments/table1.py:smoke",)
    output = _start("figure1", tmp_path, *flags).communicate(timeout=60)[0]
    assert f"0 of {len(cells)} cells are to be run." in output
    assert (tmp_path / "figure1.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("experiment", "lines"),
    [
        ("cross_architecture", ["| MLP |", "| ConvNetD1W8 |"]),
        ("ablations", ["| mse |", "| ours |", "| noise |", "| MLP |"]),
        ("continual_learning", ["| random | 0.0 |", "| random | 1.0 |"]),
        ("architecture_search", ["| random |", "| early stopping |", "| whole |"]),
        ("dd_comparison", ["| digits | 1 |", "| digits | all |"]),
    ],
)
def test_the_smoke_experiments_run(experiment, lines, tmp_path):
    process = _start(experiment, tmp_path)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    for line in lines:
        *_, row = [text for text in output.splitlines() if text.startswith(line)]
        assert "±" in row or "Spearman" in output
    # A line for each accuracy, a table, and a figure where the paper has one.
    with open(tmp_path / "results.csv", newline="") as file:
        assert all(float(line["accuracy"]) > 0 for line in csv.DictReader(file))
    assert list(tmp_path.glob("*.md"))
    figures = list(tmp_path.glob("*.png"))
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in figures)
    assert figures or experiment == "dd_comparison"
    assert experiment != "ablations" or tmp_path / "figure3.png" in figures


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


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output=gs://bucket/x"], "needs an --output that is a folder of all"),
        (["--output=nothere://x", "--nolist"], "--output=nothere://x needs a package"),
        (["--output=x", "--config.run.nothere=1"], "no such field of the config"),
        (["--output=x", "--config.ipc=(0,)"], "config.ipc"),
        (["--output=x", "--config.methods=('dcc',)"], "config.method must be one of"),
        (["--output=x", "--config.datasets=('mnistt',)"], "there is no configs/mnistt"),
        (
            [f"--config={_ROOT}/configs/experiments/ablations.py", "--output=x"],
            "--config is not one of configs/experiments/table1.py",
        ),
    ],
)
def test_a_bad_command_line_is_answered_in_one_line(flags, message, tmp_path):
    # With the default config.
    process = subprocess.run(
        [sys.executable, "-m", "experiments.table1", "--list", *flags],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(run_helpers.ROOT)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1
    assert process.stderr.startswith("error: ")
    assert process.stderr.count("\n") == 1
    assert message in process.stderr


def test_ctrl_c_stops_an_experiment_without_a_trace(tmp_path):
    process = _start("table1", tmp_path)
    _wait_for_lines(tmp_path / "digits-random-1" / "log.txt", 1)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 130
    assert "Traceback" not in output
    assert output.endswith("Stopped by SIGINT. The same command continues.\n")


def test_a_stopped_sweep_stops_its_cell_and_goes_on(tmp_path):
    program = (
        "import sys; from pathlib import Path; import sweep_test as t; "
        "t._run_here([t._cell(iterations=int(sys.argv[2]))], Path(sys.argv[1]))"
    )

    def start(iterations):
        return subprocess.Popen(
            [sys.executable, "-c", program, tmp_path, str(iterations)],
            cwd=run_helpers.ROOT,
            env=os.environ | {"PYTHONPATH": f"{run_helpers.ROOT}:tests"},
        )

    with start(1000) as process:
        _wait_for_lines(tmp_path / "digits-1" / "metrics.jsonl", 3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 143
    done = len(run_helpers.read_metrics(tmp_path / "digits-1"))
    assert 3 <= done < 1000
    assert "Stopped by SIGTERM" in (tmp_path / "digits-1" / "log.txt").read_text()
    with start(done + 1) as process:
        assert process.wait(120) == 0
    log = (tmp_path / "digits-1" / "log.txt").read_text()
    assert f"Continuing after iteration {done}." in log


def _wait_for_lines(path, number):
    end = time.monotonic() + 120
    while not path.exists() or path.read_text().count("\n") < number:
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # By Ray.
def test_a_killed_worker_of_ray_costs_nothing(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    changes = {"iterations": 60}
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    _run_here([_cell(**changes)], tmp_path / "here")
    cells = [_cell(**changes), _cell(ipc=2), _cell(ipc=3, seed=-1)]
    done = ray_tasks.run_on_ray(
        cells, Mirror(tmp_path / "ray"), address="local", resources=["CPU=1"]
    )

    def kill():
        _wait_for_lines(tmp_path / "ray" / "digits-1" / "metrics.jsonl", 5)
        workers = subprocess.run(
            ["pgrep", "-f", "ray::run_cell"], capture_output=True, text=True
        )
        for pid in workers.stdout.split():
            os.kill(int(pid), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    failures = {cell.name: failure for cell, failure in done}
    killer.join()
    message = "config.seed must be in [0, 2**32), got -1."
    assert failures.pop("digits-3") == message
    assert failures == {"digits-1": None, "digits-2": None}
    np.testing.assert_array_equal(
        run_helpers.load_images(tmp_path / "ray" / "digits-1"),
        run_helpers.load_images(tmp_path / "here" / "digits-1"),
    )


def test_a_sweep_in_a_bucket(tmp_path, monkeypatch):
    # Other tests of this process have begun with JAX already.
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    bucket = f"memory://{tmp_path.name}/sweep"
    cell = _cell()
    on_mlp = _cell(evaluates=(cell,), **{"evaluation.network": "MLP"})
    options = types.SimpleNamespace(output=bucket, list=False, ray=None)
    rows = []

    def report(_, found, folder):
        rows[:] = found

    def run(machine, cells):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))
        experiment.run_all(None, lambda _: cells, report, options, name="x")

    run("a", [cell, on_mlp])
    names = {path.rpartition("/")[2] for path in fsspec.filesystem("memory").find("/")}
    assert {"cell.json", "synthetic_set.npz", "results.csv"} <= names
    assert ".lock" not in names
    # As by Ray on another machine, where the set is found.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    ray_tasks.run_cell(on_mlp, Mirror.open(bucket), 1)
    assert (Mirror.open(bucket).folder / cell.name / "synthetic_set.npz").exists()
    assert not (Mirror.open(bucket).folder / cell.name / "checkpoints").exists()

    def refuse(*_):
        raise AssertionError("run again")

    call = experiment._call
    monkeypatch.setattr(experiment, "_call", refuse)
    run("c", [cell, on_mlp])
    first, second = (row["result"]["accuracies"] for row in rows)
    assert first == second
    # What is no more in the bucket is not done.
    system = fsspec.filesystem("memory")
    (record,) = [p for p in system.find("/") if p.endswith("digits-1/cell.json")]
    system.rm(record)
    with pytest.raises(AssertionError, match="run again"):
        run("c", [cell, on_mlp])
    monkeypatch.setattr(experiment, "_call", call)
    run("c", [cell, on_mlp])
    assert system.exists(record)
    refused = pytest.raises(OSError, match="cannot be read or written")
    with refused, Mirror.open(bucket)._opened():
        raise RuntimeError("no network")


def test_sets_of_dd_are_in_two_columns(tmp_path):
    config = ConfigDict({"datasets": {"mnist": {}}})
    own = {"accuracy_mean": 0.8, "accuracy_std": 0.1}
    common = {"accuracy_mean": 0.5, "accuracy_std": 0.2, "own_protocol": own}
    rows = [
        {"dataset": "mnist", "ipc": 10, "method": "dd", "result": common},
        {"dataset": "mnist", "ipc": 10, "method": "dc", "result": own},
        {"dataset": "mnist", "ipc": "all", "method": "whole", "result": own},
    ]
    assert dd_comparison.report(config, rows, tmp_path).splitlines()[:4] == [
        "| dataset | ipc | dd, own training | dd, common training | dc | whole |",
        "| --- | --- | --- | --- | --- | --- |",
        "| mnist | 10 | 80.0 ± 10.0 (79.5 ± 8.1) | 50.0 ± 20.0 "
        "| 80.0 ± 10.0 (93.9 ± 0.6) |  |",
        "| mnist | all |  |  |  | 80.0 ± 10.0 (99.5 ± 0.0) |",
    ]


def test_tables():
    result = {"accuracy_mean": 0.9149, "accuracy_std": 0.0051}
    rows = [
        {"dataset": "mnist", "ipc": 1, "method": "dc", "result": result},
        {"dataset": "mnist", "ipc": 10, "method": "random", "result": result},
    ]
    text = tables.pivot(
        rows,
        ("dataset", "ipc"),
        "method",
        lambda row: TABLE1[row["dataset"], row["ipc"], row["method"]],
    )
    assert text.splitlines() == [
        "| dataset | ipc | dc | random |",
        "| --- | --- | --- | --- |",
        "| mnist | 1 | 91.5 ± 0.5 (91.7 ± 0.5) |  |",
        "| mnist | 10 |  | 91.5 ± 0.5 (95.1 ± 0.9) |",
    ]
    assert str(Value(3.5, 0.3, is_verified=False)) == "3.5 ± 0.3?"
    assert TABLE2["ConvNet", "ResNet18"] == Value(90.0, 0.8)
    assert flatten({"a": 1, "b": {"c": {"d": 2}}}) == {"a": 1, "b.c.d": 2}


def test_a_matrix_says_what_it_was_tested_on(tmp_path):
    config = ConfigDict(
        {
            "dataset": "fashion_mnist",
            "run": {"dataset": {"validation": 2000}},
            "tables": {"t": (("a", "b", "set", "LeNet"), ("a", "c", "set", "MLP"))},
        }
    )
    row = {
        "set": "set",
        "tested with": "LeNet",
        "result": {"accuracy_mean": 0.5, "accuracy_std": 0.1},
    }
    text = matrix.report(config, [row], tmp_path, lambda *_: Value(60.0, 1.0))
    table, note = text.removeprefix("t\n\n").split("\n\n")
    assert table.splitlines() == [
        "| condensed with | b |",
        "| --- | --- |",
        "| a | 50.0 ± 10.0 (60.0 ± 1.0) |",
    ]
    assert note.endswith(
        "Ours are of fashion_mnist, the paper's of mnist. "
        "Ours are tested on 2000 images held out of the training set."
    )
    assert (tmp_path / "t.md").read_text() == f"{table}\n\n{note}\n"
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    on_mnist = ConfigDict({"dataset": "mnist", "run": {}, "tables": config.tables})
    text = matrix.report(on_mnist, [row], tmp_path, lambda *_: None)
    assert "Ours" not in text
    making = [
        {"set": name, "result": {"iterations": number}}
        for name, number in (("set", 200), ("b", 50), ("c", 200))
    ]
    text = matrix.report(on_mnist, [row, *making], tmp_path, lambda *_: None)
    assert text.endswith("1000 in the paper: 200 (set, c); 50 (b).")
    text = matrix.report(on_mnist, [row, making[0]], tmp_path, lambda *_: None)
    assert text.endswith("1000 in the paper: 200.")
