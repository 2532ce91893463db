"""Sweeps: cells are run, recorded, stopped and continued; here, in a bucket, on Ray."""

import csv
import json
import os
import signal
import subprocess
import threading
import time
import types

import fsspec
import numpy as np
import pytest
import run_helpers
import toy_cell
from fsspec.implementations.dirfs import DirFileSystem

from dc_jax.config import Config
from dc_jax.devices import layout
from dc_jax.run import workdir
from experiments.sweep import experiment, processes, ray_tasks, results
from experiments.sweep.cells import Cell, flatten
from experiments.sweep.mirror import Mirror

# Of all networks an MLP compiles fastest.
_FIELDS = run_helpers.TINY | {"network.name": "MLP", "num_experiments": 1}


def _cell(ipc=1, evaluates=(), **changes):
    """A cell of the main command."""
    labels = {"dataset": "digits", "ipc": ipc}
    if evaluates:
        labels["tested with"] = "LeNet"
    return Cell(
        labels, "configs/digits.py", _FIELDS | {"ipc": ipc} | changes, evaluates
    )


def _toy(ipc=1, evaluates=()):
    """A cell of a command that takes no time."""
    labels = {"toy": "toy", "ipc": ipc} | ({"on": "set"} if evaluates else {})
    changes = {"ipc": ipc}
    return Cell(labels, "configs/digits.py", changes, evaluates, module="toy_cell")


@pytest.fixture
def toys(monkeypatch):
    """Lets processes import the toy command."""
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(toy_cell.__file__))


def _run_here(cells, folder):
    done = processes.run_here(cells, Mirror(folder))
    return [(cell.name, failure) for cell, failure in done]


def _read_csv(folder):
    with open(folder / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_cell_of_the_main_command_is_run_evaluated_and_recorded(tmp_path):
    cell = _cell()
    on_mlp = _cell(evaluates=(cell,), **{"evaluation.network": "MLP"})
    cells = [cell, on_mlp]
    assert cell.read_result(tmp_path) is None
    assert _run_here(cells, tmp_path) == [("digits-1", None), ("digits-1-LeNet", None)]
    rows = results.write_rows(cells, tmp_path)
    assert [row["ipc"] for row in rows] == [1, 1]
    # The same set, the same networks.
    assert rows[0]["result"]["accuracies"] == rows[1]["result"]["accuracies"]
    lines = _read_csv(tmp_path)
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
    lines = [json.dumps(one) for one in ({"seconds": 0}, result)]
    (folder / "evaluations.jsonl").write_text("\n".join(lines))
    cell.finish(tmp_path)
    results.write_rows([*sets, cell], tmp_path)
    lines = _read_csv(tmp_path)
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
    with pytest.raises(ValueError, match="--output=x .* of another .* table1"):
        results.check_is_ours("ablations", tmp_path, "x")
    (tmp_path / "file").write_text("")
    options = types.SimpleNamespace(output=str(tmp_path / "file" / "sub"), list=True)
    with pytest.raises(ValueError, match="file is a file, not a folder"):
        experiment.open_output(options)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "table1.md").write_text("mine")
    with pytest.raises(ValueError, match=r"such as table1\.md; choose another"):
        results.check_is_ours("table1", tmp_path / "other", "x")


def test_damaged_records_and_results_are_named(tmp_path):
    cell = _cell()
    (tmp_path / cell.name).mkdir()
    for content in ('{"values"', '{"values": {}, "result": {}}'):
        (tmp_path / cell.name / "cell.json").write_text(content)
        with pytest.raises(ValueError, match=r"digits-1/cell\.json .*damaged"):
            cell.read_result(tmp_path)
    with pytest.raises(ValueError, match=r"digits-1 is missing .*delete .*digits-1\.$"):
        cell.finish(tmp_path)


def test_impossible_sweeps_are_refused_before_any_cell_runs(tmp_path):
    for cells, message in (
        ([_toy(), _toy()], "two cells are named toy-1"),
        ([_toy(evaluates=(_toy(),))], "toy-1-set evaluates toy-1, which no cell"),
        ([_cell(iteration=3)], "iteration"),
        ([_cell(ipc=0)], r"config\.ipc"),
        ([Cell({"a": 1}, "configs/mnistt.py", {})], "there is no configs/mnistt"),
    ):
        with pytest.raises(ValueError, match=message):
            experiment.check_cells(cells, tmp_path)


def test_folders_of_other_runs_are_refused_before_any_cell_runs(tmp_path):
    folder = tmp_path / "digits-1"
    other = Config.create(_cell(seed=7).values())
    workdir.claim(other, folder)
    # It has nothing yet that could be lost.
    experiment.check_cells([_cell()], tmp_path)
    (folder / "metrics.jsonl").touch()
    with pytest.raises(ValueError, match=r"digits-1 holds a run with config\.seed = 7"):
        experiment.check_cells([_cell()], tmp_path)
    # The same run may be continued.
    experiment.check_cells([_cell(seed=7, iterations=9)], tmp_path)


def _run_all(output, cells, make_more=lambda *_: [], **options):
    """Runs a sweep of these cells; returns its rows."""
    rows = []

    def report(_, found, folder):
        rows[:] = found
        return f"{len(found)} rows"

    flags = types.SimpleNamespace(output=output, list=False, ray=None)
    flags.__dict__.update(options)
    experiment.run_all(
        *(None, lambda _: cells, report, make_more), options=flags, name="x"
    )
    return rows


@pytest.mark.usefixtures("toys")
def test_cells_that_follow_are_run_and_kept(tmp_path, capsys):
    first, more = _toy(), _toy(ipc=2)
    seen = []

    def make_more(_, rows):
        seen.append([row["ipc"] for row in rows])
        return [more]

    def run(**options):
        _run_all(str(tmp_path), [first], make_more, **options)
        return capsys.readouterr().out

    # What follows is not known before.
    assert "--config.ipc=1 " in run(list=True)
    assert not seen
    assert not (tmp_path / "results.csv").exists()
    assert run() == "2 rows\n"  # Once.
    assert seen == [[1]]
    table = (tmp_path / "results.csv").read_text()
    assert table.count("\n") == 3
    # The one that follows is listed, and the results of the others stay.
    (tmp_path / more.name / "cell.json").unlink()
    assert "--config.ipc=2 " in run(list=True)
    assert (tmp_path / "results.csv").read_text() == table


@pytest.mark.usefixtures("toys")
def test_a_cell_that_fails_does_not_keep_the_others_from_running(tmp_path):
    bad, good = _toy(toy_cell.FAILS), _toy()
    of_bad = _toy(toy_cell.FAILS, evaluates=(bad,))
    (_, failure), last, (_, missing) = _run_here([bad, good, of_bad], tmp_path)
    assert failure == "error: this cell fails"
    assert last == ("toy-1", None)
    assert "no set of toy-97" in missing
    with pytest.raises(ValueError, match=r"1 of 2 cells failed \(toy-97\)"):
        _run_all(str(tmp_path), [bad, good])


@pytest.mark.usefixtures("toys")
def test_a_stopped_sweep_stops_its_cell(tmp_path):
    cell = _toy(toy_cell.WAITS)
    log = tmp_path / cell.name / "log.txt"

    def stop():
        _wait_for_lines(log, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(SystemExit) as stopped:
        _run_here([cell, _toy()], tmp_path)
    thread.join()
    assert stopped.value.code == 143
    assert log.read_text() == "waits\nsaved its state\n"
    assert not (tmp_path / "toy-1").exists()
    # A shell that runs tests in the background has them ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            _run_here([_toy(toy_cell.IS_STOPPED)], tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)


def _wait_for_lines(path, number):
    end = time.monotonic() + 120
    while not path.exists() or path.read_text().count("\n") < number:
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.usefixtures("toys")
def test_a_sweep_in_a_bucket(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "use_cpu_cores", lambda cores: None)
    bucket = f"memory://{tmp_path.name}/sweep"
    system = fsspec.filesystem("memory")
    cell = _toy()
    on_set = _toy(evaluates=(cell,))

    def use(machine):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))
        return Mirror.open(bucket)

    first = use("a")
    (first.folder / cell.name / "checkpoints").mkdir(parents=True)
    (first.folder / cell.name / "checkpoints" / "1").touch()
    (first.folder / cell.name / ".lock").touch()
    _run_all(bucket, [cell, on_set])
    names = {path.rpartition("/")[2] for path in system.find(tmp_path.name)}
    assert names == {
        *("cell.json", "result.json", "log.txt"),
        *("results.csv", "results.jsonl", "experiment.txt"),
    }
    # As by Ray on another machine, which finds the set.
    second = use("b")
    ray_tasks.run_cell(on_set, Mirror.open(bucket), 1)
    assert (second.folder / cell.name / "result.json").exists()
    call, calls = processes._call, []
    monkeypatch.setattr(processes, "_call", lambda *a: calls.append(a) or call(*a))
    use("c")
    ran, evaluated = _run_all(bucket, [cell, on_set])
    assert ran["result"]["accuracies"] == evaluated["result"]["accuracies"]
    assert not calls
    # What is no longer in the bucket is not done.
    (record,) = [p for p in system.find("/") if p.endswith("toy-1/cell.json")]
    system.rm(record)
    _run_all(bucket, [cell, on_set])
    assert len(calls) == 1
    assert system.exists(record)


def test_the_record_of_a_cell_is_copied_last(tmp_path, monkeypatch):
    memory = type(fsspec.filesystem("memory"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    output = Mirror.open(f"memory://{tmp_path.name}")
    folder = output.folder / "a"
    folder.mkdir(parents=True)
    for name in ("cell.json", "a.npz", "z.npz"):
        (folder / name).write_text(name)
    copied = []

    def spy(name):
        method = getattr(memory, name)
        monkeypatch.setattr(
            *(memory, name),
            lambda self, *a, **k: copied.append(a[-1]) or method(self, *a, **k),
        )

    spy("put_file")
    output.push("a")
    assert len(copied) == 3
    assert copied[-1].endswith("a/cell.json")
    copied.clear()
    spy("cat_file")
    output.pull("a")
    assert len(copied) == 3
    assert copied[-1].endswith("a/cell.json")


def test_outputs_that_cannot_be_used():
    options = types.SimpleNamespace(output="gs://bucket/x", list=True)
    with pytest.raises(ValueError, match="needs an --output that is a folder of all"):
        experiment.open_output(options)
    with pytest.raises(ValueError, match="--output=nothere://x needs a package"):
        Mirror.open("nothere://x").pull()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("no network"), "cannot be read or written .*no network"),
        (KeyError("no bucket"), "cannot be read or written .*no bucket"),
    ],
)
def test_errors_of_a_bucket_are_named(tmp_path, monkeypatch, error, expected):
    def fail(*args):
        raise error

    monkeypatch.setattr(DirFileSystem, "find", fail)
    with pytest.raises(OSError, match=expected):
        Mirror.open(f"memory://{tmp_path.name}").pull()


def test_a_bug_is_no_error_of_a_bucket(tmp_path, monkeypatch):
    def fail(*args):
        raise RuntimeError("a bug")

    output = Mirror.open(f"memory://{tmp_path.name}")
    monkeypatch.setattr(Mirror, "_forget_others", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        output.pull()
    monkeypatch.setattr(DirFileSystem, "find", lambda: None)  # Called with a path.
    with pytest.raises(TypeError):
        output.pull()


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


def test_values_are_flattened():
    assert flatten({"a": 1, "b": {"c": {"d": 2}}, "e": None}) == {"a": 1, "b.c.d": 2}
