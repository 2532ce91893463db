"""Runs of methods that need experts: trained once, kept, continued, or damaged."""

import os
import shutil
import signal

import numpy as np
import pytest
import run_helpers

from dc_jax.errors import UserError
from dc_jax.run import runner
from dc_jax.run.full_data_trainer import WholeTrainer
from dc_jax.run.signals import Stopped

# Compiled fast. Two experts of two epochs, which are six batches each.
pytestmark = pytest.mark.slow

TINY = {
    "method": "mtt",
    "network.name": "MLP",
    "augmentation": "none",
    "num_experiments": 1,
    "num_evaluations": 1,
    "iterations": 3,
    "experts.number": 2,
    "trajectories.steps": 2,
    "trajectories.max_start": 1,
}


def _condense(folder, networks=None, **changes):
    kept = {"coreset.networks": networks and str(networks)}
    config = run_helpers.tiny_config(**TINY | kept | changes)
    return runner.condense(config, str(folder))


@pytest.fixture(scope="module", name="whole")
def _whole(tmp_path_factory):
    """The folder of the undisturbed run, and that of its experts."""
    folder, networks = map(tmp_path_factory.mktemp, ("whole", "networks"))
    _condense(folder, networks)
    return folder, networks


def _files(networks):
    return sorted(networks.glob("*/*/epoch_*.npz"))


def test_experts_are_kept_at_each_age(whole):
    _, networks = whole
    names = [(path.parent.name, path.name) for path in _files(networks)]
    ages = ("epoch_0.npz", "epoch_1.npz", "epoch_2.npz")
    assert names == [(number, age) for number in ("0", "1") for age in ages]
    vectors = np.stack([np.load(path)["variables"] for path in _files(networks)])
    assert vectors.dtype == np.float32
    # All differ, and a network moves on.
    first, second = np.split(vectors, 2)
    assert np.abs(first[0] - second[0]).max() > 0.01
    for ages in (first, second):
        steps = np.linalg.norm(np.diff(ages, axis=0), axis=1)
        assert (steps > 0).all()
        assert np.linalg.norm(ages[2] - ages[0]) > steps.max()


def test_other_runs_find_them(whole, tmp_path, monkeypatch):
    folder, networks = whole

    def refuse(*_):
        raise AssertionError("a network is trained")

    monkeypatch.setattr(WholeTrainer, "_update", refuse)
    _condense(tmp_path, networks)
    run_helpers.assert_same_images(tmp_path, folder)


def test_streamed_is_in_memory(whole, tmp_path):
    folder, networks = whole
    _condense(tmp_path, networks, **{"dataset.stream": True})
    run_helpers.assert_same_images(tmp_path, folder)


def test_stopped_training_goes_on(whole, tmp_path, monkeypatch):
    """After a signal in the first epoch of the second network."""
    update, steps = WholeTrainer._update, []

    def update_and_signal(self, *args):
        update(self, *args)
        steps.append(0)
        if len(steps) == 15:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(WholeTrainer, "_update", update_and_signal)
        with pytest.raises(Stopped):
            _condense(tmp_path)
    result = _condense(tmp_path)
    run_helpers.assert_same_images(tmp_path, whole[0])
    assert result["seconds_condense"] > 0


@pytest.mark.parametrize("damage", ["gone", "cut", "short", "nan"])
def test_a_damaged_expert_is_named(whole, tmp_path, damage):
    networks = tmp_path / "networks"
    shutil.copytree(whole[1], networks)
    path = _files(networks)[-1]
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    else:
        size = 7 if damage == "short" else len(np.load(path)["variables"])
        np.savez(path, variables=np.full(size, np.nan, np.float32))
    with pytest.raises(UserError, match=rf"{path.name} .* the folder {path.parent} "):
        _condense(tmp_path / "run", networks)


def test_the_learning_rate_of_experts_is_named(tmp_path):
    with pytest.raises(FloatingPointError, match=r"config\.experts\.lr than 1e\+10"):
        _condense(tmp_path, **{"experts.lr": 1e10})


def test_the_field_of_their_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"config\.coreset\.networks=.*cannot be made"):
        _condense(tmp_path / "run", tmp_path / "file")
