"""When condensing has made enough iterations, also where it was stopped before."""

import json

import numpy as np
import pytest
import run_helpers
import toy_run

from dc_jax.run import loop, metrics
from dc_jax.run.signals import Stopped
from dc_jax.run.stopping import is_level, is_past_best
from dc_jax.sets.set_file import load_synthetic_set


@pytest.mark.parametrize(
    ("losses", "num", "expected"),
    [
        ([4, 2, 3, 3], 2, True),  # 3, then 3.
        ([4, 2, 3, 2.5], 2, False),
        ([1, 1], 1, True),
        ([2, 1], 1, False),
        ([1, 1, 1], 2, False),  # Not yet twice as many.
        ([1, 1, 1, 1, 1], 2, False),  # Not between.
        ([9, 1, 3, 1, 2, 2], 2, True),  # 2, then 2; those before do not count.
        ([], 1, False),
    ],
)
def test_a_loss_is_level(losses, num, expected):
    assert is_level(dict(enumerate(losses, 1)), num) == expected


def test_a_loss_that_is_not_known_is_not_level():
    assert not is_level({1: 1.0, 2: 1.0, 4: 1.0}, 2)


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ({}, False),
        ({10: 0.5}, False),
        ({10: 0.5, 20: 0.4}, False),
        ({10: 0.5, 20: 0.4, 30: 0.5}, True),  # The first of equals.
        ({10: 0.5, 20: 0.6, 30: 0.5}, False),
    ],
)
def test_an_accuracy_is_past_its_best(accuracies, expected):
    assert is_past_best(accuracies, 20) == expected


# The toy's loss is that of a random walk, which rises.
CHANGES = {"iterations": 9, "patience": 2}


@pytest.mark.parametrize("stream", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_run_ends_once_its_loss_is_level(toy, tmp_path, caplog, stream):
    caplog.set_level("INFO", logger="absl")
    changes = CHANGES | {"dataset.stream": stream}
    result = run_helpers.condense(tmp_path / "run", **changes)
    assert result["iterations"] == 4
    assert "config" not in result["stopped"]
    assert f"Iteration 4 is the last: {result['stopped']}." in caplog.text
    metrics = run_helpers.read_metrics(tmp_path / "run")
    assert [line["iteration"] for line in metrics] == [1, 2, 3, 4]
    # Its images are those of a run of as many iterations, and so is its checkpoint.
    expected = run_helpers.condense(tmp_path / "short", iterations=4)
    run_helpers.assert_same_images(tmp_path / "run", tmp_path / "short")
    assert result["accuracies"] == expected["accuracies"]
    assert "stopped" not in expected
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"4 of 9: {result['stopped']}" in page
    # Finished, and other networks need no iteration.
    caplog.clear()
    assert run_helpers.condense(tmp_path / "run", **changes) == result
    assert result["stopped"] in caplog.text
    more = run_helpers.condense(tmp_path / "run", **changes, num_evaluations=3)
    assert (more["iterations"], more["stopped"]) == (4, result["stopped"])
    assert len(run_helpers.read_metrics(tmp_path / "run")) == 4
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert card["accuracy"]["stopped"] == result["stopped"]


@pytest.mark.parametrize("iteration", [1, 3])
def test_a_run_that_was_stopped_ends_where_it_would_have(
    toy, tmp_path, monkeypatch, iteration
):
    with monkeypatch.context() as patch:
        toy_run.stop_at(patch, iteration)
        with pytest.raises(Stopped):
            run_helpers.condense(tmp_path / "parts", **CHANGES)
    result = run_helpers.condense(tmp_path / "parts", **CHANGES)
    assert result["iterations"] == 4
    run_helpers.condense(tmp_path / "short", iterations=4)
    run_helpers.assert_same_images(tmp_path / "parts", tmp_path / "short")
    # With more patience it goes on; the loss goes on rising.
    result = run_helpers.condense(tmp_path / "parts", **CHANGES | {"patience": 3})
    assert result["iterations"] == 6


@pytest.mark.parametrize(("held_out", "expected"), [(100, 6), (None, 9)])
def test_only_held_out_images_tell_when_it_is_enough(
    toy, tmp_path, monkeypatch, held_out, expected
):
    # 40 %, then 50 % twice, whatever is tested.
    told = iter([0.4, 0.5, 0.5, 0.5])
    monkeypatch.setattr(loop, "accuracies", lambda counts: np.full((2, 2), next(told)))
    result = run_helpers.condense(
        tmp_path,
        iterations=9,
        eval_every=2,
        patience=2 if held_out else 5,
        **{"dataset.validation": held_out},
    )
    assert result["iterations"] == expected
    assert ("held-out" in result.get("stopped", "")) == bool(held_out)


@pytest.mark.parametrize("value", [0, -1])
def test_no_patience_is_none(value):
    with pytest.raises(ValueError, match=r"config\.patience must be at least 1, got"):
        run_helpers.tiny_config(patience=value)


def _take_ten_seconds(monkeypatch):
    """Each iteration takes ten seconds of the clock of a run."""
    now, write = [0.0], metrics.Metrics.loss

    def write_and_wait(self, *args):
        now[0] += 10
        write(self, *args)

    monkeypatch.setattr(metrics.Metrics, "loss", write_and_wait)
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])


@pytest.mark.parametrize(("minutes", "expected"), [(0, 1), (0.5, 3), (0.6, 4)])
def test_a_run_ends_once_its_minutes_are_over(
    toy, tmp_path, monkeypatch, caplog, minutes, expected
):
    caplog.set_level("INFO", logger="absl")
    with monkeypatch.context() as patch:
        _take_ten_seconds(patch)
        result = run_helpers.condense(tmp_path / "run", iterations=9, minutes=minutes)
    assert result["iterations"] == expected
    assert f"Iteration {expected} is the last: {result['stopped']}." in caplog.text
    run_helpers.condense(tmp_path / "short", iterations=expected)
    run_helpers.assert_same_images(tmp_path / "run", tmp_path / "short")
    # Without the limit the same run goes on.
    result = run_helpers.condense(tmp_path / "run", iterations=9)
    assert (result["iterations"], "stopped" in result) == (9, False)


@pytest.mark.parametrize(("minutes", "expected"), [(0.5, 3), (0.3, 2)])
def test_the_minutes_are_those_of_all_sessions(
    toy, tmp_path, monkeypatch, minutes, expected
):
    _take_ten_seconds(monkeypatch)
    with monkeypatch.context() as patch:
        toy_run.stop_at(patch, 2)
        with pytest.raises(Stopped):
            run_helpers.condense(tmp_path, iterations=9, minutes=0.5)
    result = run_helpers.condense(tmp_path, iterations=9, minutes=minutes)
    assert result["iterations"] == expected


def test_a_run_with_all_its_iterations_was_not_stopped(toy, tmp_path, monkeypatch):
    _take_ten_seconds(monkeypatch)
    result = run_helpers.condense(tmp_path, iterations=3, minutes=0.5)
    assert (result["iterations"], "stopped" in result) == (3, False)


@pytest.mark.parametrize("method", ["dm", "frepo"])
def test_no_minutes_end_a_stopped_run_with_what_it_has(
    toy, tmp_path, monkeypatch, method
):
    changes = {"method": method, "iterations": 9}
    with monkeypatch.context() as patch:
        toy_run.stop_at(patch, 2)
        with pytest.raises(Stopped):
            run_helpers.condense(tmp_path, **changes)
    with pytest.raises(FileNotFoundError, match="minutes=0"):
        load_synthetic_set(tmp_path)
    result = run_helpers.condense(tmp_path, **changes, minutes=0)
    assert result["iterations"] == len(run_helpers.read_metrics(tmp_path)) == 2
    assert load_synthetic_set(tmp_path).images.shape == toy_run.SHAPE


@pytest.mark.parametrize("value", [-1, float("nan")])
def test_minutes_are_not_negative(value):
    with pytest.raises(ValueError, match=r"config\.minutes must be at least 0, got"):
        run_helpers.tiny_config(minutes=value)
