"""Tests of the host's side of runs: a toy stands for the method and the evaluation."""

import dataclasses
import json
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_helpers
import toy_run

from dc_jax import progress
from dc_jax.data.sources import load_dataset
from dc_jax.run import compiled, evaluation, loop, runner, setup, stores, workdir
from dc_jax.run.checkpoint import Checkpointer
from dc_jax.run.evaluation import count_sets
from dc_jax.run.metrics import Metrics
from dc_jax.run.signals import Stopped
from dc_jax.sets import set_file

pytestmark = pytest.mark.usefixtures("quick_compile")


def test_the_toy_can_be_resumed_after_every_iteration(toy, tmp_path):
    run_helpers.condense(tmp_path / "whole", iterations=5)
    for iteration in (1, 2, 3, 4, 5):
        run_helpers.condense(tmp_path / "parts", iterations=iteration)
    run_helpers.assert_same_images(tmp_path / "parts", tmp_path / "whole")
    metrics = run_helpers.read_metrics(tmp_path / "parts")
    assert [line["iteration"] for line in metrics] == [1, 2, 3, 4, 5]


def test_a_stopped_run_continues_from_where_it_was_stopped(toy, tmp_path, monkeypatch):
    # None but the checkpoint that the signal asks for.
    changes = {"iterations": 5, "checkpoint_minutes": 60.0}
    run_helpers.condense(tmp_path / "whole", **changes)
    with monkeypatch.context() as patch:
        toy_run.stop_at(patch, 3, signal.SIGINT)
        with pytest.raises(Stopped, match=r"SIGINT; iteration 3") as stopped:
            run_helpers.condense(tmp_path / "parts", **changes)
    assert stopped.value.exit_code == 130
    assert (tmp_path / "parts" / "checkpoints" / "00000003.ckpt").exists()
    assert not (tmp_path / "parts" / "result.json").exists()
    # A line for each iteration that is saved, none for the one that was begun.
    lines = run_helpers.read_metrics(tmp_path / "parts")
    assert [line["iteration"] for line in lines] == [1, 2, 3]
    run_helpers.condense(tmp_path / "parts", **changes)
    run_helpers.assert_same_images(tmp_path / "parts", tmp_path / "whole")
    metrics = run_helpers.read_metrics(tmp_path / "parts")
    assert [line["iteration"] for line in metrics] == [1, 2, 3, 4, 5]


def test_short_steps_before_the_first_iteration_are_told_of_together(
    toy, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(progress, "_QUIET", 0.3)
    monkeypatch.setattr(Checkpointer, "restore", lambda *_: time.sleep(0.6))
    with caplog.at_level("INFO", logger="absl"):
        run_helpers.condense(tmp_path, iterations=1)
    assert "Preparing the iterations: after " in caplog.text


def test_images_that_cannot_be_loaded_end_the_run(toy, tmp_path, monkeypatch):
    load, loads = stores.HostStore.load, []

    def fail(self, offsets):
        loads.append(offsets)
        # One for the beginning, then one for each iteration.
        if len(loads) == 4:
            raise OSError("the disk is gone")
        return load(self, offsets)

    monkeypatch.setattr(stores.HostStore, "load", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        run_helpers.condense(tmp_path, **{"dataset.stream": True})
    assert [line["iteration"] for line in run_helpers.read_metrics(tmp_path)] == [1, 2]


def test_checkpoints_are_as_rare_as_the_config_says(toy, tmp_path, monkeypatch):
    saved = []
    save = Checkpointer.save

    def save_and_note(self, step, state, meta):
        saved.append(step)
        save(self, step, state, meta)

    monkeypatch.setattr(Checkpointer, "save", save_and_note)
    run_helpers.condense(tmp_path / "often", checkpoint_minutes=0.0)
    assert sorted(set(saved)) == [1, 2, 3, 4]
    saved.clear()
    run_helpers.condense(tmp_path / "rare", checkpoint_minutes=60.0)
    assert saved == [4]


def test_a_finished_run_is_not_done_again(toy, tmp_path, monkeypatch):
    result = run_helpers.condense(tmp_path)
    before = run_helpers.snapshot(tmp_path)
    assert len(toy) == 2
    with monkeypatch.context() as patch:
        patch.setattr(setup, "load", None)
        assert run_helpers.condense(tmp_path) == result
    assert len(toy) == 2
    assert run_helpers.snapshot(tmp_path) == before


def test_a_finished_run_is_evaluated_anew_with_more_networks(toy, tmp_path):
    run_helpers.condense(tmp_path / "whole")
    run_helpers.condense(tmp_path / "again")
    result = run_helpers.condense(tmp_path / "again", num_evaluations=3)
    assert result["num_evaluations"] == 3
    assert np.array(result["accuracies"]).shape == (2, 3)
    run_helpers.assert_same_images(tmp_path / "again", tmp_path / "whole")
    assert len(run_helpers.read_metrics(tmp_path / "again")) == 4


def test_a_longer_run_that_is_stopped_is_not_taken_for_finished(
    toy, tmp_path, monkeypatch
):
    run_helpers.condense(tmp_path, iterations=2)
    with monkeypatch.context() as patch:
        toy_run.stop_at(patch, 3)
        with pytest.raises(Stopped):
            run_helpers.condense(tmp_path, iterations=4)
    assert run_helpers.condense(tmp_path, iterations=4)["iterations"] == 4


def test_fewer_iterations_than_are_done_are_refused(toy, tmp_path):
    result = run_helpers.condense(tmp_path)
    images = run_helpers.load_images(tmp_path)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"config\.iterations .*least 4") as error:
            run_helpers.condense(tmp_path, iterations=3)
        assert "\n" not in str(error.value)
        assert "got 3" in str(error.value)
    np.testing.assert_array_equal(images, run_helpers.load_images(tmp_path))
    assert run_helpers.condense(tmp_path) == result


def test_another_run_does_not_touch_the_folder(toy, tmp_path):
    run_helpers.condense(tmp_path)
    before = run_helpers.snapshot(tmp_path)
    with pytest.raises(ValueError, match=r"config\.lr_img = 0\.1, not 0\.3") as error:
        run_helpers.condense(tmp_path, lr_img=0.3)
    assert "\n" not in str(error.value)
    assert run_helpers.snapshot(tmp_path) == before


def test_a_run_does_not_go_on_with_other_images(toy, tmp_path, monkeypatch):
    run_helpers.condense(tmp_path, iterations=2)
    dataset = load_dataset("digits")
    other = dataclasses.replace(dataset, train_images=1 - dataset.train_images)
    monkeypatch.setattr(setup, "load", lambda config: other)
    with pytest.raises(ValueError, match="a run on other images") as error:
        run_helpers.condense(tmp_path, iterations=4)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("iterations", "expected"), [(4, [2]), (5, [2, 4]), (2, []), (1, [])]
)
def test_accuracy_on_the_way(toy, tmp_path, iterations, expected):
    run_helpers.condense(tmp_path, iterations=iterations, eval_every=2)
    metrics = run_helpers.read_metrics(tmp_path)
    accuracies = [line for line in metrics if "accuracy_mean" in line]
    assert [line["iteration"] for line in accuracies] == expected
    assert all(0 < line["accuracy_mean"] < 1 for line in accuracies)
    assert len(metrics) == iterations + len(expected)
    assert len(toy) == 2 * (len(expected) + 1)


def test_accuracy_on_the_way_is_that_of_a_run_that_ends_there(toy, tmp_path):
    run_helpers.condense(tmp_path / "long", iterations=3, eval_every=2)
    result = run_helpers.condense(tmp_path / "short", iterations=2)
    (line,) = (
        line
        for line in run_helpers.read_metrics(tmp_path / "long")
        if "accuracy_mean" in line
    )
    assert line["accuracy_mean"] == result["accuracy_mean"]
    assert line["accuracy_std"] == result["accuracy_std"]


def test_accuracy_on_the_way_is_there_once_after_a_stop(toy, tmp_path, monkeypatch):
    changes = {"iterations": 5, "eval_every": 2, "checkpoint_minutes": 60.0}
    run_helpers.condense(tmp_path / "whole", **changes)
    with monkeypatch.context() as patch:
        toy_run.stop_at(patch, 2)
        with pytest.raises(Stopped):
            run_helpers.condense(tmp_path / "parts", **changes)
    run_helpers.condense(tmp_path / "parts", **changes)
    parts, whole = (
        [
            {name: value for name, value in line.items() if name != "seconds"}
            for line in run_helpers.read_metrics(tmp_path / name)
        ]
        for name in ("parts", "whole")
    )
    assert parts == whole
    assert [line["iteration"] for line in whole] == [1, 2, 2, 3, 4, 4, 5]


def test_a_signal_may_kill_an_evaluation_since_all_is_saved(toy, tmp_path, monkeypatch):
    seen = []

    def note_and_count(*args):
        steps = {int(path.stem) for path in (tmp_path / "checkpoints").iterdir()}
        # A signal's number goes to the thread that ends the process.
        writer = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(writer)
        seen.append((steps, writer >= 0))
        return count_sets(*args)

    for module in (evaluation, loop):
        monkeypatch.setattr(module, "count_sets", note_and_count)
    before = signal.getsignal(signal.SIGTERM)
    run_helpers.condense(tmp_path, iterations=3, eval_every=2, checkpoint_minutes=60.0)
    assert seen == [({2}, True), ({2, 3}, True)]
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("goes_wrong", ["loss", "images"])
def test_not_finite_stops_the_run_and_keeps_what_was(
    toy, tmp_path, monkeypatch, goes_wrong
):
    changes = {"iterations": 5, "checkpoint_minutes": 60.0, "seed": 3}
    method = toy_run.toy_method(goes_wrong)
    monkeypatch.setattr(
        runner, "make_method", lambda *_: toy_run.toy_method(goes_wrong)
    )
    with pytest.raises(FloatingPointError, match=r"in iteration 3;") as error:
        run_helpers.condense(tmp_path, **changes)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    assert [line["iteration"] for line in run_helpers.read_metrics(tmp_path)] == [1, 2]
    assert not (tmp_path / "synthetic_set.npz").exists()

    config = run_helpers.tiny_config(**changes)
    init_keys, step_keys, _ = jax.vmap(
        lambda experiment: compiled.experiment_keys(config, experiment)
    )(jnp.arange(2)).T
    state, _ = jax.vmap(lambda key: method.init(None, key))(init_keys)
    # Either experiment is enough.
    assert sorted(state.opt_state.is_fragile.tolist()) == [False, True]
    for iteration in (0, 1):
        keys = jax.vmap(lambda key, i=iteration: jax.random.fold_in(key, i))(step_keys)
        state, *_ = jax.vmap(lambda state, key: method.step(state, None, key))(
            state, keys
        )
    restored = Checkpointer(tmp_path / "checkpoints").restore(state)
    assert restored.step == 2
    assert jnp.isfinite(restored.state.images).all()
    np.testing.assert_allclose(restored.state.images, state.images, rtol=1e-5)


def test_every_checkpoint_damaged_is_an_error_of_one_line(toy, tmp_path):
    run_helpers.condense(tmp_path, iterations=2)
    for path in (tmp_path / "checkpoints").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="no checkpoint in .* is intact") as error:
        run_helpers.condense(tmp_path, iterations=4)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_the_newest_checkpoint_damaged_goes_back_one(toy, tmp_path):
    run_helpers.condense(tmp_path / "whole", iterations=4)
    run_helpers.condense(tmp_path / "parts", iterations=3)
    (tmp_path / "parts" / "checkpoints" / "00000003.ckpt").write_bytes(b"")
    run_helpers.condense(tmp_path / "parts", iterations=4)
    run_helpers.assert_same_images(tmp_path / "parts", tmp_path / "whole")
    metrics = run_helpers.read_metrics(tmp_path / "parts")
    assert [line["iteration"] for line in metrics] == [1, 2, 3, 4]


def test_experiments_do_not_depend_on_how_many_there_are(toy, tmp_path):
    run_helpers.condense(tmp_path / "two", num_experiments=2)
    run_helpers.condense(tmp_path / "one", num_experiments=1)
    two, one = (run_helpers.load_images(tmp_path / name) for name in ("two", "one"))
    assert (len(two), len(one)) == (2, 1)
    # The programs differ, so the last bit may.
    np.testing.assert_allclose(one[0], two[0], rtol=1e-5, atol=1e-6)


def test_what_is_not_evaluated_is_not_measured(toy, tmp_path, monkeypatch):
    calls = []

    def measure(*_):
        calls.append(1)
        return 0.0, 0.0

    monkeypatch.setattr(loop, "measure_evaluation", measure)
    config = run_helpers.tiny_config(iterations=1)
    runner.make_first_set(config, str(tmp_path / "set"), load_dataset("digits"))
    assert (calls, toy) == ([], [])
    run_helpers.condense(tmp_path / "run", iterations=1)
    assert calls == [1]


def test_seeds_differ(toy, tmp_path):
    run_helpers.condense(tmp_path / "a", iterations=1)
    run_helpers.condense(tmp_path / "b", iterations=1, seed=1)
    (a, _), (b, _) = (run_helpers.load_images(tmp_path / name) for name in "ab")
    assert (a != b).any()


def test_the_set_is_there_before_it_is_evaluated(toy, tmp_path, monkeypatch):
    run_helpers.condense(tmp_path / "whole")
    # A result of fewer iterations, which is of other images.
    run_helpers.condense(tmp_path / "run", iterations=2)

    def fail(*_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(runner, "evaluate_sets", fail)
        with pytest.raises(MemoryError):
            run_helpers.condense(tmp_path / "run")
    run_helpers.assert_same_images(tmp_path / "run", tmp_path / "whole")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"images.png", "images_1.png"} <= names
    assert not {"card.json", "result.json", "report.html"} & names
    recipe = json.loads(set_file.load_synthetic_set(tmp_path / "run").recipe)
    assert "accuracy_mean" not in recipe
    with monkeypatch.context() as patch:
        patch.setattr(Metrics, "loss", None)  # Nothing is condensed again.
        result = run_helpers.condense(tmp_path / "run")
    recipe = json.loads(set_file.load_synthetic_set(tmp_path / "run").recipe)
    assert recipe["accuracy_mean"] == pytest.approx(np.mean(result["accuracies"][0]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, r"config\.seed = 0, not 1"),
        ({"method": "dm"}, r"= 'dc', not 'dm'"),
    ],
)
def test_a_conflict_is_told_before_the_dataset_is_loaded(
    toy, tmp_path, monkeypatch, changes, message
):
    run_helpers.condense(tmp_path, iterations=1)
    monkeypatch.setattr(setup, "load", None)
    with pytest.raises(ValueError, match=message):
        run_helpers.condense(tmp_path, iterations=1, **changes)


def test_a_folder_in_use_is_told_before_the_dataset_is_loaded(
    toy, tmp_path, monkeypatch
):
    run_helpers.condense(tmp_path, iterations=1)
    monkeypatch.setattr(setup, "load", None)
    with workdir.locked(tmp_path), pytest.raises(ValueError, match="in use"):
        run_helpers.condense(tmp_path, iterations=2)
