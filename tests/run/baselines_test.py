"""Tests of whole runs of the baselines, on the smallest problem."""

import dataclasses
import json
import os
import shutil
import signal
import threading

import chex
import numpy as np
import pytest
import run_helpers

import dc_jax
from dc_jax.data.sources import load_dataset
from dc_jax.errors import UserError
from dc_jax.methods import check_method
from dc_jax.methods.coresets import SELECTIONS
from dc_jax.run import checkpoint, runner, workdir
from dc_jax.run.full_data_trainer import WholeTrainer
from dc_jax.run.signals import Stopped

_METHODS = tuple(SELECTIONS)
_LONGER = {"method": "forgetting", "coreset.epochs": 4}


def _config(networks=None, **changes):
    return run_helpers.tiny_config(
        **{
            "num_experiments": 1,
            "num_evaluations": 1,
            "ipc": 2,
            "coreset.epochs": 2,
            "coreset.networks": networks and str(networks),
            **changes,
        }
    )


def _condense(folder, *args, **changes):
    return runner.condense(_config(*args, **changes), str(folder))


def _indices(folder):
    return dc_jax.load_synthetic_set(folder).indices


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """A folder with the network of the runs of this module."""
    folder = tmp_path_factory.mktemp("networks")
    _condense(tmp_path_factory.mktemp("first"), folder, method="herding")
    return folder


@pytest.fixture
def no_training(monkeypatch):
    """Makes an error of any training."""

    def refuse(*_):
        raise AssertionError("a network is trained")

    monkeypatch.setattr(WholeTrainer, "_update", refuse)


@pytest.mark.parametrize("method", _METHODS)
def test_a_run(method, networks, tmp_path):
    result = _condense(tmp_path, networks, method=method)
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert np.shape(result["accuracies"]) == (1, 1)
    assert result["protocol"]["network"] == "ConvNetD1W8"
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["method"] == method
    assert (tmp_path / "images.png").exists()

    coreset = dc_jax.load_synthetic_set(tmp_path)
    dataset = load_dataset("digits")
    assert coreset.indices.shape == coreset.labels.shape == (10, 2)
    np.testing.assert_array_equal(dataset.train_labels[coreset.indices], coreset.labels)
    pixels = coreset.images * coreset.std + coreset.mean
    expected = dataset.train_images[coreset.indices] / np.float32(255)
    if dataset.train_images.dtype == np.float32:
        expected = dataset.train_images[coreset.indices]
    np.testing.assert_allclose(pixels, expected, atol=1e-6)

    (evaluation,) = runner.evaluate(_config(method=method), str(tmp_path))
    assert evaluation["accuracies"] == result["accuracies"]


def test_soft_labels_are_those_of_the_network(networks, tmp_path, no_training):
    changes = {
        "method": "random_soft",
        "coreset.temperature": 3.0,
        "ipc": [1] * 9 + [2],
    }
    _condense(tmp_path, networks, **changes)
    soft = dc_jax.load_synthetic_set(tmp_path)
    is_image = soft.labels >= 0
    np.testing.assert_allclose(soft.soft_labels.sum(2), is_image, atol=1e-5)
    # The network that is trained on digits for two epochs is right more than by chance.
    right = soft.soft_labels.argmax(2)[is_image] == soft.labels[is_image]
    assert right.mean() > 0.3
    assert soft.soft_labels[is_image].min() > 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["soft_labels"] == 10


@pytest.mark.slow
def test_a_network_labels_what_was_condensed(networks, tmp_path):
    """The images are those without labels; the labels those that the network gives."""
    changes = {"method": "dm", "init": "real", "iterations": 1, "batch_real": 8}
    _condense(tmp_path / "hard", networks, **changes)
    _condense(tmp_path / "soft", networks, labels="soft", **changes)
    hard, soft = (dc_jax.load_synthetic_set(tmp_path / n) for n in ("hard", "soft"))
    np.testing.assert_array_equal(hard.images, soft.images)
    assert hard.soft_labels is None
    np.testing.assert_allclose(soft.soft_labels.sum(2), 1, atol=1e-5)
    # Of images that are nearly real, the network knows some.
    assert (soft.soft_labels.argmax(2) == soft.labels).mean() > 0.2
    result = json.loads((tmp_path / "soft" / "result.json").read_text())
    assert result["soft_labels"] == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "dd", "labels": "soft"}, "labels must be hard for dd"),
        ({"method": "dm", "labels": "learned"}, "labels must be hard or soft for dm"),
        (
            {"method": "dc", "labels": "soft", "formation.factor": 2},
            "factor must be 1 where config.labels is soft",
        ),
        ({"method": "dm", "pool.size": 3}, "pool.size must be None for dm"),
        ({"method": "mtt", "pool.size": 3}, "pool.size must be None for mtt"),
        ({"method": "mtt", "sampler": "kmeans"}, "sampler must be random for mtt"),
        (
            {"method": "dd", "network.begin": "experts"},
            "network.begin must be random for dd",
        ),
        (
            {"method": "dc", "network.begin": "experts", "pool.size": 3},
            "network.begin must be random where there is a pool",
        ),
        (
            {"method": "dc", "pool.size": 2, "num_networks": 3},
            "num_networks must be at most config.pool.size = 2",
        ),
    ],
)
def test_labels_and_pools_that_a_method_cannot_have(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        _condense(tmp_path, **changes)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_the_whole_set_by_a_training_of_one_phase(tmp_path):
    changes = {"evaluation.protocol": "strong", "evaluation.batch_size": 1024}
    result = _condense(tmp_path, method="whole", **changes)
    assert result["protocol"]["schedule"] == "cosine"
    assert result["accuracy_mean"] > 0.05


def test_experiments_differ(networks, tmp_path):
    changes = {"num_experiments": 2, "method": "herding"}
    _condense(tmp_path, networks, **changes)
    first, second = map(
        _indices, (tmp_path / "synthetic_set.npz", tmp_path / "synthetic_set_1.npz")
    )
    assert (first != second).any()


def test_networks_are_trained_once(networks, tmp_path, no_training):
    result = _condense(tmp_path / "1", networks, method="k_center", ipc=1)
    assert result["seconds_condense"] > 0
    _condense(tmp_path / "2", networks, method="herding", ipc=1)
    np.testing.assert_array_equal(_indices(tmp_path / "1"), _indices(tmp_path / "2"))
    _condense(tmp_path / "3", networks, method="forgetting", ipc=1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("evaluation.lr", 0.02),
        ("seed", 1),
        ("coreset.epochs", 3),
        ("execution.dtype", "bfloat16"),
    ],
)
def test_networks_of_another_config_are_not_used(
    networks, tmp_path, no_training, field, value
):
    with pytest.raises(AssertionError, match="a network is trained"):
        _condense(tmp_path, networks, method="herding", **{field: value})


@pytest.mark.parametrize("field", ["mean", "std", "train_images"])
def test_networks_of_another_dataset_are_not_used(
    networks, tmp_path, no_training, field
):
    dataset = load_dataset("digits")
    value = getattr(dataset, field)
    other = dataclasses.replace(dataset, **{field: (value * 0.5).astype(value.dtype)})
    config = _config(networks, method="herding")
    with pytest.raises(AssertionError, match="a network is trained"):
        runner.condense(config, str(tmp_path), dataset=other)


@pytest.mark.slow
def test_features_are_kept_and_damaged_ones_made_again(
    networks, tmp_path, no_training, monkeypatch
):
    read = WholeTrainer._read_images

    def refuse(*_):
        raise AssertionError("images are read")

    monkeypatch.setattr(WholeTrainer, "_read_images", refuse)
    _condense(tmp_path / "1", networks, method="herding", ipc=2)
    _condense(tmp_path / "2", networks, method="k_center", ipc=2)
    (path,) = networks.rglob("0/features_3.npz")
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(AssertionError, match="images are read"):
        _condense(tmp_path / "3", networks, method="herding", ipc=3)
    monkeypatch.setattr(WholeTrainer, "_read_images", read)
    _condense(tmp_path / "3", networks, method="herding", ipc=3)
    assert path.read_bytes() == whole


def test_a_random_coreset_needs_no_network(tmp_path, no_training):
    _condense(tmp_path, method="random")
    assert not (tmp_path / "networks").exists()


def _stop_after(monkeypatch, step):
    """Sends a signal in a step of training."""
    update = WholeTrainer._update

    def update_and_signal(self, progress, *args):
        update(self, progress, *args)
        if progress.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(WholeTrainer, "_update", update_and_signal)


def _leaves(folder):
    """The arrays of the only checkpoint below a folder."""
    (path,) = folder.rglob("*.ckpt")
    return checkpoint._unpack(path.read_bytes())["arrays"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The folder of an undisturbed run."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    _condense(folder, **_LONGER)
    return folder


# An epoch is of 6 batches. In the fourth the optimiser is made anew.
@pytest.mark.parametrize(
    "step",
    [
        pytest.param(3, marks=pytest.mark.slow),
        18,
        pytest.param(24, marks=pytest.mark.slow),
    ],
)
def test_stopped_and_continued_is_uninterrupted(
    step, uninterrupted, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        _stop_after(patch, step)
        with pytest.raises(Stopped, match="The same command"):
            _condense(tmp_path, **_LONGER)
    assert not (tmp_path / "result.json").exists()
    _condense(tmp_path, **_LONGER)
    chex.assert_trees_all_equal(
        _leaves(tmp_path / "networks"), _leaves(uninterrupted / "networks")
    )
    np.testing.assert_array_equal(_indices(tmp_path), _indices(uninterrupted))


def test_the_whole_training_set(tmp_path, monkeypatch):
    changes = {"method": "whole", "num_evaluations": 2, "evaluation.epochs": 20}
    result = _condense(tmp_path, **changes)
    assert np.shape(result["accuracies"]) == (1, 2)
    assert min(result["accuracies"][0]) > 0.8
    assert result["accuracies"][0][0] != result["accuracies"][0][1]
    assert json.loads((tmp_path / "card.json").read_text())["files"].keys() == {
        "result.json"
    }
    assert not list(tmp_path.glob("*.npz"))

    # One network more is one training more.
    trained = []
    update = WholeTrainer._update

    def update_and_count(self, *args):
        update(self, *args)
        trained.append(1)

    monkeypatch.setattr(WholeTrainer, "_update", update_and_count)
    more = _condense(tmp_path, **{**changes, "num_evaluations": 3})
    assert more["accuracies"][0][:2] == result["accuracies"][0]
    assert len(trained) == 21 * 6


def test_a_class_with_too_few_images(tmp_path):
    with pytest.raises(ValueError, match="ipc must be at most 139") as error:
        _condense(tmp_path, method="random", ipc=140)
    assert "class 8, got 140" in str(error.value)
    assert not (tmp_path / "config.json").exists()


def test_an_unknown_method_is_told_of_all():
    with pytest.raises(ValueError, match="config.method must be one of") as error:
        check_method("kcenter")
    for name in ("dc", *_METHODS, "whole"):
        assert name in str(error.value)


def test_a_network_is_trained_by_one_process_at_a_time(tmp_path, monkeypatch):
    networks = tmp_path / "networks"
    _condense(tmp_path / "first", networks, method="herding")
    (folder,) = (path.parent for path in networks.rglob(".lock"))
    other, ended = workdir.locked(folder), []

    def end():
        ended.append(True)
        other.__exit__(None, None, None)

    def begin(text, *args):
        if "Waiting" in text:
            threading.Timer(0.5, end).start()

    monkeypatch.setattr(workdir.logging, "info", begin)
    other.__enter__()
    _condense(tmp_path / "second", networks, method="herding")
    assert ended
    np.testing.assert_array_equal(
        _indices(tmp_path / "second"), _indices(tmp_path / "first")
    )


def test_the_folder_of_networks_may_change(networks, tmp_path):
    _condense(tmp_path / "run", networks, method="herding")
    shutil.move(tmp_path / "run", tmp_path / "moved")
    (tmp_path / "moved" / "result.json").unlink()
    (tmp_path / "moved" / "card.json").unlink()
    _condense(tmp_path / "moved", tmp_path / "others", method="herding")


def test_a_network_that_is_not_finite(tmp_path):
    with pytest.raises(FloatingPointError, match=r"evaluation.lr than 1e\+38"):
        _condense(tmp_path, method="herding", **{"evaluation.lr": 1e38})


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(5, marks=pytest.mark.slow),
        6,
        pytest.param(12, marks=pytest.mark.slow),
    ],
)
def test_the_whole_training_set_on_the_way(step, tmp_path, monkeypatch):
    changes = {"method": "whole", "evaluation.epochs": 3, "eval_every": 2}
    result = _condense(tmp_path / "whole", **changes)
    ((second, last),) = result["accuracies_on_the_way"]
    assert [[last]] == result["accuracies"]
    assert second != last
    with monkeypatch.context() as patch:
        _stop_after(patch, step)
        with pytest.raises(Stopped):
            _condense(tmp_path / "stopped", **changes)
    continued = _condense(tmp_path / "stopped", **changes)
    assert continued["accuracies_on_the_way"] == [[second, last]]
