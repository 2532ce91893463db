"""PyTorch networks trained on a set by its recipe: what they reach, what is refused."""

import json

import numpy as np
import pytest

from dc_jax.base import SyntheticSet, make_labels
from dc_jax.errors import UserError
from dc_jax.sets.set_file import save_synthetic_set
from experiments.torch_check.networks import check

pytest.importorskip("torch")
from experiments.torch_check import augment as augmentation  # noqa: E402

TRAINING = {
    "network": "ConvNetW32D1",
    "epochs": 40,
    "augmentation": "none",
    "lr": 0.01,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "batch_size": 3,
}
RECIPE = {
    "training": TRAINING,
    "accuracy_mean": 0.5,
    "accuracy_std": 0.1,
    "num_evaluations": 4,
}
RNG = np.random.default_rng(0)
PATTERNS = RNG.normal(size=(2, 4, 4, 1)).astype(np.float32)


def _save(tmp_path, recipe=RECIPE, **fields):
    """A set of two classes, each a pattern with noise."""
    noise = 0.1 * RNG.normal(size=(2, 2, 4, 4, 1))
    synthetic = SyntheticSet(
        images=np.float32(PATTERNS[:, None] + noise),
        labels=make_labels((2, 2)),
        mean=np.float32([0.4]),
        std=np.float32([0.2]),
        class_names=("a", "b"),
        recipe=json.dumps(recipe),
        **fields,
    )
    save_synthetic_set(tmp_path / "set.npz", synthetic)
    return str(tmp_path / "set.npz")


def test_networks_learn_the_set_and_are_compared_with_the_recipe(tmp_path):
    path = _save(tmp_path)
    labels = np.arange(40) % 2
    noise = 0.1 * RNG.normal(size=(40, 4, 4, 1))
    tests = np.float32((PATTERNS[labels] + noise) * 0.2 + 0.4)
    line = check(path, tests, labels, 2)
    # All are right, and the recipe's error is .1 / sqrt(4 - 1).
    assert "PyTorch 100.00% ± 0.00 (2 networks)" in line
    assert "50.00% ± 10.00 (4 networks)" in line
    assert line.endswith("+50.00, 8.7 standard errors.")


@pytest.mark.parametrize("strategy", ["scale_noise", "dsa:color_flip"])
def test_the_images_of_a_set_are_augmented_in_each_epoch(
    tmp_path, strategy, monkeypatch
):
    training = TRAINING | {"augmentation": strategy, "epochs": 3, "batch_size": 5}
    path = _save(tmp_path, RECIPE | {"training": training}, factor=2)
    batches, augment = [], augmentation.augment

    def record(rng, images, strategy):
        batches.append((len(images), strategy))
        return augment(rng, images, strategy) * float("nan")

    monkeypatch.setattr(augmentation, "augment", record)
    line = check(path, np.zeros((3, 4, 4, 1), np.float32), np.arange(3) % 2, 2)
    # 2 networks and 3 + 1 epochs of the 16 images that the 4 of the set hold. What a
    # network learns from NaN, it gives to the first class, which is right twice.
    assert batches == 2 * 4 * [*3 * [(5, strategy)], (1, strategy)]
    assert "PyTorch 66.67% ± 0.00" in line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augmentation": "flip"}, "augmentation .*crop, scale.*got 'flip'"),
        ({"optimiser": "adamw"}, "optimiser 'adamw'.*'sgd'"),
        ({"network": "MLP"}, "network MLP"),
        ({"network": "ConvNetNN"}, "network ConvNetNN"),
    ],
)
def test_other_recipes_are_refused(tmp_path, changes, message):
    path = _save(tmp_path, RECIPE | {"training": TRAINING | changes})
    with pytest.raises(UserError, match=message):
        check(path, None, None, 2)


def test_a_recipe_without_an_accuracy_is_refused(tmp_path):
    path = _save(tmp_path, {"training": TRAINING})
    with pytest.raises(UserError, match="no accuracy"):
        check(path, None, None, 2)


def test_soft_labels_are_refused(tmp_path):
    # Also where the recipe, which can be mended, is refused too.
    soft_labels = np.full((2, 2, 2), 0.5, np.float32)
    path = _save(tmp_path, RECIPE | {"num_evaluations": 1}, soft_labels=soft_labels)
    with pytest.raises(UserError, match="soft labels, must have hard"):
        check(path, None, None, 2)
