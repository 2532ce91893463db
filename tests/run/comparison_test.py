"""Comparing methods: under one evaluation, continued, and nothing of others touched."""

import json
import signal

import numpy as np
import pytest
import run_helpers
import toy

import dc_jax
from dc_jax.methods import METHODS
from dc_jax.report.comparison import cells
from dc_jax.run import comparison, finished, workdir

OVERRIDES = {
    "evaluation.epochs": 1,
    "batch_real": 8,
    "coreset.epochs": 1,
    "mesh.net": 1,
    "mesh.classes": 1,
}


def _compare(folder, methods, **changes):
    dataset = toy.random_dataset((30, 20, 10), (4, 4, 1))
    arguments = {"ipc": 2, "network": "MLP", "iterations": 2, "num_networks": 2}
    return dc_jax.compare(
        dataset.train_images,
        dataset.train_labels,
        dataset.train_images[::2],
        dataset.train_labels[::2],
        methods=methods,
        workdir=folder,
        overrides=OVERRIDES,
        **arguments | changes,
    )


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared") / "all"
    return folder, _compare(folder, ("dm",))


def test_every_method_has_a_row_and_random_images_are_the_first(compared):
    folder, rows = compared
    assert [row["method"] for row in rows] == ["random", "dm"]
    assert [row["images"] for row in rows] == [6, 6]
    assert [row["bytes"] for row in rows] == [6 * 16, 6 * 16]
    for row in rows:
        accuracies = np.array(row["accuracies"])
        assert accuracies.size == 2
        assert row["accuracy_mean"] == pytest.approx(accuracies.mean())
        result = json.loads((folder / row["method"] / "result.json").read_text())
        assert result["accuracies"] == row["accuracies"]
    content = json.loads((folder / "comparison.json").read_text())
    assert content["methods"] == rows
    page = (folder / "comparison.html").read_text()
    assert all(f"{100 * row['accuracy_mean']:.1f} ±" in page for row in rows)
    assert "<h1>arrays, 2 images per class: methods</h1>" in page


def test_a_row_tells_that_its_run_was_stopped():
    result = {"training_images": 1, "accuracy_mean": 1, "accuracy_std": 0}
    result |= {"accuracies": [[1]]}
    assert "stopped" not in comparison.make_row("dc", result, (4, 4, 1))
    row = comparison.make_row("dc", result | {"stopped": "why"}, (4, 4, 1))
    assert row["stopped"] == "why"
    row["seconds"] = 60.0
    assert cells(row)[-1] == "60 s, ended early"


def test_soft_labels_are_counted():
    result = {"training_images": 6, "accuracy_mean": 0.5, "accuracy_std": 0.0}
    result |= {"accuracies": [[0.5]], "seconds_condense": 1.0}
    assert comparison.make_row("random", result, (4, 4, 1))["bytes"] == 6 * 16
    result["soft_labels"] = 3
    row = comparison.make_row("random_soft", result, (4, 4, 1))
    assert row["bytes"] == 6 * (16 + 3 * 4)


def test_all_are_evaluated_alike(compared):
    folder, rows = compared
    protocols = [
        json.loads((folder / row["method"] / "result.json").read_text())["protocol"]
        for row in rows
    ]
    assert protocols[0] == protocols[1]
    # Alone, dm would train networks with its own augmentation.
    values = run_helpers.tiny_config(ipc=2).to_dict()
    values["evaluation"] |= {"augmentation": None, "epochs": None, "network": None}
    values["augmentation"] = None
    configs = comparison.make_configs(values, ["dc", "dsa", "dm", "random"])
    evaluations = {config.evaluation for config in configs.values()}
    assert len(evaluations) == 1
    assert configs["dsa"].augmentation != "none" == configs["dc"].augmentation
    assert evaluations.pop().augmentation == "none"


def test_what_is_finished_is_not_made_again(compared, monkeypatch):
    folder, rows = compared
    monkeypatch.setitem(METHODS, "dm", None)
    assert _compare(folder, ("dm",)) == rows


@pytest.mark.slow
def test_the_whole_training_set_is_a_method(compared):
    folder, rows = compared
    *before, whole = _compare(folder, ("dm", "whole"))
    assert before == rows
    assert (whole["images"], whole["bytes"]) == (60, 60 * 16)


def test_signals_are_handled_while_the_dataset_is_loaded(tmp_path, monkeypatch):
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]

    def load(config):
        for number, handler in zip(numbers, before, strict=True):
            assert signal.getsignal(number) != handler
        raise FileNotFoundError

    monkeypatch.setattr(comparison, "load", load)
    values = run_helpers.tiny_config().to_dict()
    with pytest.raises(FileNotFoundError):
        comparison.compare(values, ["random"], tmp_path)


def test_a_shorter_list_of_methods_keeps_the_rows_of_the_others(compared):
    folder, rows = compared
    before = (folder / "comparison.json").read_bytes()
    assert _compare(folder, ()) == rows[:1]
    assert (folder / "comparison.json").read_bytes() == before
    # Of another evaluation they are no rows of this table.
    config = run_helpers.tiny_config()
    dataset = toy.random_dataset((30, 20, 10), (4, 4, 1))
    assert finished.read_result(config, folder / "dm", dataset) is None


def _refused(folder, match, monkeypatch, methods=("random", "dm"), **changes):
    """Checks that the dataset is not loaded, and no file changed."""
    monkeypatch.setattr(comparison, "load", None)
    values = run_helpers.tiny_config(**changes).to_dict()
    before = run_helpers.snapshot(folder)
    with pytest.raises(ValueError, match=match) as error:
        comparison.compare(values, methods, folder)
    assert "\n" not in str(error.value)
    assert run_helpers.snapshot(folder) == before


def test_conflicts_are_found_before_the_dataset_is_loaded(tmp_path, monkeypatch):
    values = run_helpers.tiny_config().to_dict()
    config = comparison.make_configs(values, ["dm"])["dm"]
    workdir.claim(config, tmp_path / "one" / "dm")
    (tmp_path / "one" / "dm" / "metrics.jsonl").touch()
    _refused(tmp_path / "one", "one/dm .* config.ipc = 1, not 2", monkeypatch, ipc=2)
    path = tmp_path / "two" / "dm" / "images.png"
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    _refused(tmp_path / "two", "two/dm holds images.png", monkeypatch)
    workdir.claim(config, tmp_path / "three")
    _refused(tmp_path / "three", "holds config.json, as a single run", monkeypatch)
    path = tmp_path / "four" / "comparison.json"
    path.parent.mkdir()
    path.write_text('{"methods": [{"name": "mine"}]}')
    _refused(tmp_path / "four", "of another program", monkeypatch)
    path.write_text("[1]")
    _refused(tmp_path / "four", "choose another folder", monkeypatch)


def test_bad_comparisons_are_refused(tmp_path):
    with pytest.raises(ValueError, match="--methods must be among dc, .*got 'dq'"):
        _compare(tmp_path, ("random", "dq"))
    path = tmp_path / "comparison.json"
    path.write_text('{"mine": 1}')
    with pytest.raises(ValueError, match="of another program"):
        _compare(tmp_path, ("random",))
    assert path.read_text() == '{"mine": 1}'
    path.rename(tmp_path / "comparison.html")
    with pytest.raises(ValueError, match="of another program"):
        _compare(tmp_path, ("random",))
    assert [one.name for one in tmp_path.iterdir()] == ["comparison.html"]
