"""A finished run that lost a file, or was stopped at its end: nothing else is lost."""

import json
import shutil

import numpy as np
import pytest
import run_helpers

from dc_jax.run import finished, runner


def _interrupt(*_, **__):
    raise KeyboardInterrupt


def _files(folder):
    """The files with results; not the times at which they were written."""
    names = ("result.json", "confusion.csv", "neighbours.npz", "synthetic_set.npz")
    return {name: (folder / name).read_bytes() for name in names}


def test_a_stop_after_the_evaluation_loses_no_accuracy(toy, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(finished, "add_neighbours", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_helpers.condense(tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert not (tmp_path / "neighbours.npz").exists()
    toy.clear()
    assert run_helpers.condense(tmp_path) == result
    assert toy == []
    names = {path.name for path in tmp_path.iterdir()}
    assert {"neighbours.npz", "report.html"} <= names
    files = json.loads((tmp_path / "card.json").read_text())["files"]
    assert "neighbours.npz" in files
    before = run_helpers.snapshot(tmp_path)
    assert run_helpers.condense(tmp_path) == result
    assert run_helpers.snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "num_evaluations"),
    [("neighbours.npz", 0), ("synthetic_set.npz", 0), ("confusion.csv", 2)],
)
def test_only_what_is_missing_is_made_again(
    toy, tmp_path, monkeypatch, name, num_evaluations
):
    run_helpers.condense(tmp_path)
    before, card = _files(tmp_path), (tmp_path / "card.json").read_bytes()
    toy.clear()
    (tmp_path / name).unlink()
    # Stopped before anything is made again: all that there was is there.
    with monkeypatch.context() as patch:
        patch.setattr(runner, "evaluate_sets", _interrupt)
        patch.setattr(finished, "add_neighbours", _interrupt)
        patch.setattr(runner.Loop, "run", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_helpers.condense(tmp_path)
    assert (tmp_path / "card.json").read_bytes() == card
    assert all((tmp_path / other).exists() for other in before if other != name)
    assert (tmp_path / "report.html").exists()
    result = run_helpers.condense(tmp_path)
    assert len(toy) == num_evaluations
    after = _files(tmp_path)
    if num_evaluations == 0:
        assert after == before
    accuracies = json.loads(before["result.json"])["accuracies"]
    np.testing.assert_array_equal(result["accuracies"], accuracies)
    assert after["confusion.csv"] == before["confusion.csv"]


def test_a_stop_in_another_evaluation_of_a_set_leaves_the_first(
    toy, tmp_path, monkeypatch
):
    run_helpers.condense(tmp_path)
    before = run_helpers.snapshot(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "evaluate_sets", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_helpers.condense(tmp_path, num_evaluations=3)
    after = run_helpers.snapshot(tmp_path)
    for name in ("card.json", "result.json", "report.html", "synthetic_set.npz"):
        assert after[tmp_path / name] == before[tmp_path / name]
    # Other images have no result yet.
    copy = shutil.copytree(tmp_path, tmp_path / "copy")
    monkeypatch.setattr(runner, "evaluate_sets", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_helpers.condense(copy, iterations=6)
    assert not (copy / "card.json").exists()
