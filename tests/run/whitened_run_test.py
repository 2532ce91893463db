"""Runs on whitened images: the set decides how test images are whitened."""

import dataclasses
import json

import numpy as np
import pytest
import run_helpers
from toy import random_dataset, whitened

import dc_jax
from dc_jax.data.sources import load_dataset
from dc_jax.data.store import to_inputs
from dc_jax.run import full_data_trainer, kept_training, runner, setup

pytestmark = pytest.mark.slow

ZCA = {"dataset.zca": True}
# Compiled fast.
MLP = {"network.name": "MLP", "method": "dm", "augmentation": "none"}
ONE = MLP | {"num_experiments": 1, "iterations": 2}


@pytest.fixture(scope="module", name="finished")
def _finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whitened")
    changes = ONE | ZCA | {"evaluation.random_baseline": True}
    return folder, run_helpers.condense(folder, **changes)


def test_the_set_has_the_whitening_of_the_training_images(finished):
    folder, _ = finished
    found = dc_jax.load_synthetic_set(folder).whitening
    expected = whitened(load_dataset("digits")).whitening
    np.testing.assert_array_equal(found.matrix, expected.matrix)
    np.testing.assert_array_equal(found.center, expected.center)
    card = json.loads((folder / "card.json").read_text())
    assert card["config"]["dataset"]["zca"] is True


def test_the_set_decides_how_it_is_evaluated(finished, caplog):
    folder, result = finished
    caplog.set_level("INFO", logger="absl")
    for zca in (False, True):
        caplog.clear()
        config = run_helpers.tiny_config(**MLP, **{"dataset.zca": zca})
        (evaluated,) = runner.evaluate(config, str(folder))
        assert evaluated["accuracies"] == result["accuracies"]
        assert ("is of whitened images: test images" in caplog.text) == (not zca)
    # From Python, where nothing is said of it.
    dataset = load_dataset("digits")
    tests = (dataset.test_images, dataset.test_labels)
    mesh = {"mesh.net": 1, "mesh.classes": 1}
    one = dc_jax.load_synthetic_set(folder)
    found = dc_jax.evaluate(one, *tests, num_networks=2, overrides=mesh)
    np.testing.assert_array_equal(found, result["accuracies"][0])


def test_a_set_of_plain_images_is_tested_on_plain_images(tmp_path, caplog):
    caplog.set_level("INFO", logger="absl")
    result = run_helpers.condense(tmp_path, **ONE | {"method": "random"})
    config = run_helpers.tiny_config(**MLP, **ZCA)
    (evaluated,) = runner.evaluate(config, str(tmp_path))
    assert evaluated["accuracies"] == result["accuracies"]
    assert "is not of whitened images: test images are not whitened" in caplog.text


def test_test_images_are_whitened_by_the_set(finished):
    folder, _ = finished
    one = dc_jax.load_synthetic_set(folder)
    dataset = load_dataset("digits")
    made = setup.make_setup(run_helpers.tiny_config(**MLP))
    assert made.dataset.whitening is None
    evaluator = runner.make_evaluator(made)
    images, _ = evaluator._tests(one)
    expected = to_inputs(dataset.test_images, one.mean, one.std, one.whitening)
    np.testing.assert_array_equal(images, expected)
    images, _ = evaluator._tests(one.replace(whitening=None))
    assert np.abs(images - expected).max() > 0.1


def test_random_images_and_pictures(finished, tmp_path):
    folder, result = finished
    assert len(result["random"]["accuracies"]) == 2
    run_helpers.condense(tmp_path, **ONE | ZCA | {"method": "random"})
    chosen = dc_jax.load_synthetic_set(tmp_path)
    dataset = load_dataset("digits")
    real = dataset.train_images[chosen.indices]
    expected = to_inputs(real, dataset.mean, dataset.std, chosen.whitening)
    np.testing.assert_allclose(chosen.images, expected, atol=1e-5)
    with np.load(tmp_path / "synthetic_set.npz") as arrays:
        # Half of the digits' grey levels are between two of 8 bits.
        np.testing.assert_allclose(arrays["pixels"], real * 255, atol=0.5 + 1e-3)


def test_networks_are_trained_on_whitened_images(tmp_path, monkeypatch):
    """By the trainer of `whole` and of the features that coresets need."""
    seen = []
    normal = full_data_trainer.to_inputs

    def noting(*args):
        seen.append((args[-1] is not None, normal(*args)))
        return seen[-1][1]

    monkeypatch.setattr(full_data_trainer, "to_inputs", noting)
    changes = MLP | {"num_evaluations": 1, "evaluation.epochs": 0, "method": "whole"}
    run_helpers.condense(tmp_path / "whitened", **changes, **ZCA)
    assert {is_whitened for is_whitened, _ in seen} == {True}
    run_helpers.condense(tmp_path / "plain", **changes)
    folders = [
        next((tmp_path / name / "networks").iterdir()).name
        for name in ("whitened", "plain")
    ]
    assert folders[0] != folders[1]


def test_networks_of_plain_images_are_found_as_before():
    config, dataset = run_helpers.tiny_config(), random_dataset((3, 3), (4, 4, 1))
    protocol = setup.make_protocol(
        config.evaluation, dataset_name="digits", network_name="MLP"
    )
    made_with = kept_training.made_with(config, dataset, protocol, 0)
    assert "zca" not in made_with
    other = dataclasses.replace(dataset, whitening=whitened(dataset).whitening)
    assert kept_training.made_with(config, other, protocol, 0) == {
        "zca": True,
        **made_with,
    }


def test_a_call_from_python():
    dataset = load_dataset("digits")
    images, labels = dataset.train_images[:200], dataset.train_labels[:200]
    how = {"ipc": 1, "method": "random", "network": "MLP"}
    chosen = dc_jax.select(images, labels, **how, overrides=ZCA)
    back = chosen.whitening.unwhiten(chosen.images) * chosen.std + chosen.mean
    np.testing.assert_allclose(back, images[chosen.indices], atol=1e-5)


def test_it_is_not_for_images_of_parts():
    config = run_helpers.tiny_config(**ZCA, **{"formation.factor": 2})
    with pytest.raises(ValueError, match=r"formation\.factor must be 1 .*zca.*got 2"):
        setup.make_setup(config)
