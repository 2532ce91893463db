"""Continual learning: whole runs, their memory, how they stop, and the experiment."""

import json
import os
import signal

import numpy as np
import pytest

from configs.experiments import continual_learning as experiment_config
from configs.experiments import continual_run as run_config
from dc_jax.devices import layout
from dc_jax.run.signals import Stopped
from dc_jax.sets import set_file
from experiments.continual_learning import __main__ as figure4
from experiments.continual_learning import learner, run
from experiments.continual_learning.config import ContinualConfig
from experiments.sweep import experiment, ray_tasks, results
from experiments.sweep.mirror import Mirror

pytestmark = [pytest.mark.usefixtures("quick_compile_all"), pytest.mark.slow]
_TINY = {
    "tasks": "digits, digits:inverted, digits:rotated",
    "max_test": 60,
    "distillation": 1.0,
    "training.iterations": 60,
    "training.lr": 0.05,
    "training.fine_tuning": 3,
    "training.batch_size": 32,
    "condense.method": "random",
    "condense.network.name": "MLP",
    "condense.mesh.net": 1,
    "condense.mesh.classes": 1,
}


def _values(**changes):
    config = run_config.get_config()
    config.update_from_flattened_dict(_TINY | changes)
    return config.to_dict()


def _run(folder, sets=(), **changes):
    return run.run(_values(**changes), str(folder), *sets)


@pytest.fixture(scope="module")
def whole(quick_compile_all, tmp_path_factory):
    """The folder of an undisturbed run, and the images of each of its trainings."""
    folder, trained = tmp_path_factory.mktemp("whole") / "run", []
    train = learner.Learner._train

    def train_and_tell(self, number, phase, variables, step, parts):
        trained.append((number, phase, parts))
        return train(self, number, phase, variables, step, parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner.Learner, "_train", train_and_tell)
        _run(folder)
    return folder, trained


def test_what_is_learned(whole):
    folder, trained = whole
    assert [(number, phase) for number, phase, _ in trained] == [
        *((0, 0), (1, 0), (1, 1), (2, 0), (2, 1))
    ]
    for number, phase, parts in trained:
        assert len(parts) == 1 + number
        new, *old = [np.bincount(labels).tolist() for _, labels in parts]
        # Ten images a class are remembered of each task, and as many are new when the
        # network is fine-tuned.
        assert old == [[10] * 10] * number
        assert (new == [10] * 10) == bool(phase)
        assert all(images.shape[1:] == (8, 8, 1) for images, _ in parts)
    for number in (1, 2):
        memory = set_file.load_synthetic_set(folder / f"memory_{number}")
        images = memory.images.reshape(-1, 8, 8, 1)
        np.testing.assert_array_equal(trained[-1][2][number][0], images)
    # That of the last task is not needed.
    assert not (folder / "memory_3").exists()


def test_the_result(whole):
    folder, _ = whole
    result = json.loads((folder / "result.json").read_text())
    assert [len(line) for line in result["accuracies_tasks"]] == [1, 2, 3]
    for line, seen in zip(
        result["accuracies_tasks"], result["accuracies_seen"], strict=True
    ):
        assert np.mean(line) == pytest.approx(seen)
        np.testing.assert_allclose(np.multiply(line, 60) % 1, 0, atol=1e-4)
    assert result["accuracy_mean"] == result["accuracies_seen"][-1]
    # Better than chance on what it saw last.
    assert result["accuracies_tasks"][-1][-1] > 0.5


def test_a_stopped_run_goes_on_and_ends_as_if_it_had_not_been(
    whole, tmp_path, monkeypatch
):
    draw_batches = learner.draw_batches
    begun = []

    def stop_in_the_second(num, *args):
        begun.append(num)
        for batch in draw_batches(num, *args):
            yield batch
            if len(begun) == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(learner, "draw_batches", stop_in_the_second)
        with pytest.raises(Stopped, match="SIGTERM; task 1 is saved") as stopped:
            _run(tmp_path)
    assert stopped.value.exit_code == 143
    assert not (tmp_path / "result.json").exists()

    begun = []
    monkeypatch.setattr(
        learner, "draw_batches", lambda *args: begun.append(1) or draw_batches(*args)
    )
    result = _run(tmp_path)
    assert len(begun) == 4
    expected = json.loads((whole[0] / "result.json").read_text())
    assert result["accuracies_tasks"] == expected["accuracies_tasks"]
    for number in (1, 2):
        mine, theirs = (
            set_file.load_synthetic_set(folder / f"memory_{number}").images
            for folder in (tmp_path, whole[0])
        )
        np.testing.assert_array_equal(mine, theirs)
    assert _run(tmp_path) == result
    assert len(begun) == 4


def test_the_memory_of_another_run_is_used(whole, tmp_path):
    changes = {"distillation": 0.0}
    _run(tmp_path / "own", **changes)
    result = _run(tmp_path / "used", sets=[str(tmp_path / "own")], **changes)
    expected = json.loads((tmp_path / "own" / "result.json").read_text())
    assert result["accuracies_tasks"] == expected["accuracies_tasks"]
    assert not (tmp_path / "used" / "memory_1").exists()
    # Distillation is what made the difference to the others.
    with_it = json.loads((whole[0] / "result.json").read_text())
    assert with_it["accuracies_tasks"][0] == result["accuracies_tasks"][0]
    assert with_it["accuracies_tasks"] != result["accuracies_tasks"]
    with pytest.raises(FileNotFoundError, match="memory_1"):
        _run(tmp_path / "other", sets=[str(tmp_path / "nothing")], **changes)


@pytest.mark.slow
def test_classes_are_learned_in_steps(tmp_path):
    result = _run(tmp_path, **{"tasks": "digits", "class_steps": 4, "condense.ipc": 2})
    assert [len(line) for line in result["accuracies_tasks"]] == [1, 2, 3, 4]
    shapes = [
        set_file.load_synthetic_set(tmp_path / f"memory_{number}").images.shape
        for number in (1, 2, 3)
    ]
    assert shapes == [(3, 2, 8, 8, 1), (3, 2, 8, 8, 1), (2, 2, 8, 8, 1)]
    learned = [task["classes"] for task in result["tasks"]]
    assert sorted(sum(map(list, learned), [])) == list("0123456789")


def test_a_folder_has_one_run(whole, tmp_path):
    with pytest.raises(ValueError, match="--set must be one folder, got a, b"):
        _run(tmp_path, sets=("a", "b"))
    with pytest.raises(ValueError, match=r"config\.seed = 0, not 1"):
        _run(whole[0], seed=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": "svhn, mnist:blue"}, "config.tasks: after a colon .*'mnist:blue'"),
        ({"class_steps": 2}, "config.tasks must be one dataset if"),
        ({"image_shape": "16x16"}, "must be HEIGHTxWIDTHxCHANNELS, got '16x16'"),
        ({"training.iterations": 0}, "config.training.iterations must be at least 1"),
        ({"condense.method": "whole"}, "config.condense must make one set"),
        ({"condense.network.name": "Conv"}, "Conv"),
    ],
)
def test_impossible_runs_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ContinualConfig.create(_values(**changes))


def test_all_tasks_are_whitened_alike():
    changes = {"tasks": "digits, digits:inverted", "condense.dataset.zca": True}
    _, (first, second) = run.make_tasks(ContinualConfig.create(_values(**changes)))
    white = first.dataset.whitening
    assert white is second.dataset.whitening is not None
    images, _ = learner._images(second)
    normal = (second.dataset.train_images / np.float32(255) - first.dataset.mean) / (
        first.dataset.std
    )
    np.testing.assert_allclose(images, white.whiten(normal), atol=1e-4)
    _, split = run.make_tasks(
        ContinualConfig.create(
            _values(tasks="digits", class_steps=2, **{"condense.dataset.zca": True})
        )
    )
    np.testing.assert_array_equal(split[1].dataset.whitening.matrix, white.matrix)


def test_a_task_is_condensed_by_its_name():
    config = ContinualConfig.create(
        _values(seed=3, **{"condense.method": "dsa", "condense.augmentation": None})
    )
    assert config.condensing("mnist:rotated").dataset.name == "mnist"
    assert "flip" not in config.condensing("mnist:rotated").augmentation
    assert "flip" in config.condensing("fashion_mnist").augmentation
    assert config.condensing("mnist").seed == 3


def test_cells_with_and_without_distillation_share_a_memory(tmp_path):
    config = experiment_config.get_config()
    cells = figure4.make_cells(config)
    experiment.check_cells(cells, tmp_path)
    assert len(cells) == 5 * 2 * 2
    first, second = cells[:2]
    assert (first.evaluates, second.evaluates) == ((), (first,))
    assert first.labels["memory"] == second.labels["memory"] == "herding"
    command = second.command(tmp_path)
    assert command[1:3] == ["-m", "experiments.continual_learning.run"]
    assert f"--set={tmp_path / first.name}" in command
    assert not any("--mode" in part for part in command)
    for size in experiment_config._SIZES:
        for cell in figure4.make_cells(experiment_config.get_config(size)):
            ContinualConfig.create(cell.values())
    config.run.usps = "somewhere"
    assert figure4.make_cells(config)[0].values()["usps"] == "somewhere"
    with pytest.raises(ValueError, match="has the sizes paper, .*got .cifar100_x."):
        experiment_config.get_config("cifar100_x")


@pytest.mark.slow
def test_cells_are_run_in_this_process_as_by_ray(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "use_cpu_cores", lambda most: None)
    config = experiment_config.get_config("smoke")
    config.run.condense.mesh = {"net": 1, "classes": 1}
    cells = figure4.make_cells(config)
    for cell in cells:
        ray_tasks.run_cell(cell, Mirror(tmp_path), 1, None)
    rows = results.write_rows(cells, tmp_path)
    assert [row["distillation"] for row in rows] == [0.0, 1.0]
    assert all(len(row["result"]["accuracies_seen"]) == 2 for row in rows)
    assert (tmp_path / cells[0].name / "memory_1").exists()
    assert not (tmp_path / cells[1].name / "memory_1").exists()


def test_the_report_has_the_papers_figure_beside_ours(tmp_path):
    config = experiment_config.get_config()

    def row(method, weight, seed, *seen):
        labels = {"memory": method, "distillation": weight, "seed": seed}
        return labels | {"result": {"accuracies_seen": list(seen)}}

    rows = [
        row("dc", 0.0, 0, 0.95, 0.92, 0.93),
        row("dc", 0.0, 1, 0.93, 0.92, 0.91),
        row("random", 0.0, 0, 0.9, 0.8, 0.7),
    ]
    text = figure4.report(config, rows, tmp_path)
    assert text.splitlines()[:4] == [
        "| memory | distillation | seeds | 1 seen | 2 seen | 3 seen |",
        "| --- | --- | --- | --- | --- | --- |",
        "| dc | 0.0 | 2 | 94.0 ± 1.0 (94.3?) | 92.0 ± 0.0 (92.4) | 92.0 ± 1.0 (93.0) |",
        "| random | 0.0 | 1 | 90.0 ± 0.0 | 80.0 ± 0.0 | 70.0 ± 0.0 |",
    ]
    assert (tmp_path / "figure4.md").read_text() == text
    assert (tmp_path / "figure4.png").read_bytes().startswith(b"\x89PNG")
    config.is_published = False
    assert "(" not in figure4.report(config, rows, tmp_path).split("\n")[2]
    figure4.report(config, [], tmp_path)
