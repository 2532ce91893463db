"""Tests of the metrics file and of signals."""

import json
import os
import shutil
import signal
import threading

import jax.numpy as jnp
import numpy as np
import pytest
import toy

from dc_jax.devices import processes
from dc_jax.report import kept
from dc_jax.run.checkpoint import Checkpointer
from dc_jax.run.metrics import Metrics
from dc_jax.run.signals import Stopped, StopSignals
from dc_jax.sets.make import make_set


class _NeverReady:
    """Stands for an array that is still being computed."""

    def is_ready(self) -> bool:
        return False


def _write(folder, *iterations, first=0):
    with Metrics(folder, first=first, total=9) as metrics:
        for iteration in iterations:
            metrics.loss(iteration, np.array([iteration, iteration + 1.0]))


def _read(folder):
    text = (folder / "metrics.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _iterations(folder):
    return [line["iteration"] for line in _read(folder)]


def test_a_line_has_the_mean_and_the_loss_of_each_experiment(tmp_path):
    with Metrics(tmp_path, first=0, total=1) as metrics:
        metrics.loss(1, np.array([2.0, 4.0]))
    (line,) = _read(tmp_path)
    assert line.pop("seconds") >= 0
    assert line == {"iteration": 1, "loss": 3.0, "losses": [2.0, 4.0]}


def test_a_line_has_the_layers_where_there_are_any(tmp_path):
    with Metrics(tmp_path, first=0, total=2) as metrics:
        metrics.loss(
            1, np.array([3.0]), {"layers": {"conv/kernel": 1.0, "dense/kernel": 2.0}}
        )
        metrics.loss(2, np.array([3.0]), {})
    first, second = _read(tmp_path)
    assert first["layers"] == {"conv/kernel": 1.0, "dense/kernel": 2.0}
    assert "layers" not in second


def test_snapshots_of_the_first_experiment_are_kept_until_they_are_redone(tmp_path):
    dataset = toy.random_dataset((2, 2), (8, 8, 1))
    synthetic = make_set(np.random.default_rng(0).normal(size=(2, 1, 8, 8, 1)), dataset)
    with Metrics(tmp_path, first=0, total=9) as metrics:
        for iteration in range(7):
            metrics.images(iteration, lambda: synthetic)
    pngs = kept.read_snapshots(tmp_path)
    assert list(pngs) == [0, 1, 2, 5]
    assert pngs[5] == kept.snapshot(synthetic)
    _write(tmp_path, 3, first=2)
    assert list(kept.read_snapshots(tmp_path)) == [0, 1, 2]


def test_other_processes_than_the_first_keep_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "is_first", lambda: False)
    with Metrics(tmp_path, first=0, total=9, tensorboard=True) as metrics:
        metrics.images(0, lambda: pytest.fail("not wanted"))
        metrics.loss(1, np.array([1.0]))
        metrics.accuracy(1, np.array([[1.0]]))
    assert list(tmp_path.iterdir()) == []


def test_accuracy_line_has_mean_and_standard_deviation(tmp_path):
    with Metrics(tmp_path, first=0, total=1) as metrics:
        metrics.accuracy(7, np.array([[0.25, 0.75], [0.25, 0.75]]))
    (line,) = _read(tmp_path)
    del line["seconds"]
    assert line == {"iteration": 7, "accuracy_mean": 0.5, "accuracy_std": 0.25}


def test_lines_can_be_read_while_the_run_goes_on(tmp_path):
    with Metrics(tmp_path, first=0, total=2) as metrics:
        metrics.loss(1, np.array([1.0]))
        assert _iterations(tmp_path) == [1]


def test_continues_after_the_checkpoint(tmp_path):
    _write(tmp_path, 1, 2, 3, 4)
    kept = _read(tmp_path)[:2]
    _write(tmp_path, 3, 4, 5, first=2)
    assert _iterations(tmp_path) == [1, 2, 3, 4, 5]
    assert _read(tmp_path)[:2] == kept


def test_accuracy_of_the_checkpointed_iteration_is_measured_again(tmp_path):
    with Metrics(tmp_path, first=0, total=9) as metrics:
        for iteration in (1, 2):
            metrics.loss(iteration, np.array([1.0]))
            metrics.accuracy(iteration, np.array([[0.5]]))
    _write(tmp_path, 3, first=2)
    kept = [(line["iteration"], "loss" in line) for line in _read(tmp_path)]
    assert kept == [(1, True), (1, False), (2, True), (3, True)]


def test_a_run_that_starts_again_drops_every_line(tmp_path):
    _write(tmp_path, 1, 2)
    _write(tmp_path, first=0)
    assert _iterations(tmp_path) == []


@pytest.mark.parametrize("torn", ['{"iteration": 3, "lo', "{", "\0\0\0"])
def test_survives_a_torn_last_line(tmp_path, torn):
    _write(tmp_path, 1, 2)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    _write(tmp_path, 3, first=2)
    assert _iterations(tmp_path) == [1, 2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_noticed_and_its_handler_restored(number):
    before = signal.getsignal(number)
    with StopSignals() as signals:
        assert signals.wait(jnp.zeros(2))
        assert signals.number is None
        os.kill(os.getpid(), number)
        assert signals.number == number
        assert not signals.wait(jnp.zeros(2))
    assert signal.getsignal(number) is before


def test_handlers_are_restored_after_an_error():
    before = signal.getsignal(signal.SIGTERM)

    def fail():
        with StopSignals():
            raise KeyError("anything")

    with pytest.raises(KeyError, match="anything"):
        fail()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_ends_the_wait_for_values_that_are_not_ready():
    with StopSignals() as signals:
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        assert not signals.wait({"loss": _NeverReady()})
        timer.join()


def test_told_to_stop_does_not_wait_at_all():
    signals = StopSignals()
    signals.number = signal.SIGTERM
    assert not signals.wait([_NeverReady()])


def test_outside_the_main_thread_signals_are_left_alone():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work():
        with StopSignals() as signals:
            seen.append(signals.wait(jnp.zeros(2)))
            seen.append(signal.getsignal(signal.SIGTERM) is before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True, True]


@pytest.mark.parametrize(
    ("number", "name", "code"),
    [
        (signal.SIGTERM, "SIGTERM", 143),
        (signal.SIGINT, "SIGINT", 130),
        (signal.SIGHUP, "SIGHUP", 129),
    ],
)
def test_stopped_names_the_signal_and_has_the_shells_exit_code(number, name, code):
    stopped = Stopped(number, 12)
    assert stopped.exit_code == code
    assert name in str(stopped)
    assert "iteration 12" in str(stopped)


@pytest.mark.parametrize("change", ["delete", "move", "replace"])
def test_a_folder_that_vanishes_ends_the_run(tmp_path, change):
    folder = tmp_path / "run"
    folder.mkdir()
    with Metrics(folder, first=0, total=9) as metrics:
        metrics.loss(1, np.array([1.0]))
        if change == "move":
            folder.rename(tmp_path / "moved")
        else:
            shutil.rmtree(folder)
        if change == "replace":
            folder.mkdir()
            (folder / "metrics.jsonl").touch()
        with pytest.raises(FileNotFoundError, match=str(folder)) as error:
            metrics.loss(2, np.array([1.0]))
    assert "\n" not in str(error.value)
    assert folder.exists() == (change == "replace")
    # Nor is it made again by what else a run writes.
    if change != "replace":
        with pytest.raises(FileNotFoundError):
            kept.save_snapshot(folder, 1, b"")
        with pytest.raises(OSError, match="cannot be written"):
            Checkpointer(folder / "checkpoints").save(1, {"x": jnp.zeros(1)}, {})
        assert not folder.exists()
