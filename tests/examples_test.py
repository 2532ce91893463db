"""Tests of the programs of `docs/examples`: run on a tiny set, where they can."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from run_helpers import ROOT
from sklearn.datasets import load_digits

from dc_jax.base import SyntheticSet
from dc_jax.sets import formats

TRAINING = {
    "network": "ConvNet",
    "epochs": 3,
    "augmentation": "none",
    "lr": 0.01,
    "momentum": 0.9,
    "weight_decay": 0.0005,
    "batch_size": 20,
}


def make_set() -> SyntheticSet:
    """The first three real digits of each class, with a recipe of four epochs."""
    images, labels = load_digits(return_X_y=True)
    chosen = np.stack([np.flatnonzero(labels == label)[:3] for label in range(10)])
    unit = images[chosen].reshape(10, 3, 8, 8, 1) / 16
    return SyntheticSet(
        images=((unit - 0.3) / 0.4).astype(np.float32),
        labels=labels[chosen].astype(np.int32),
        mean=np.array([0.3], np.float32),
        std=np.array([0.4], np.float32),
        class_names=tuple("0123456789"),
        recipe=json.dumps({"training": TRAINING}),
    )


@pytest.mark.parametrize(
    ("framework", "file_format"),
    [("flax", "npz"), ("torch", "safetensors"), ("keras", "npz")],
)
def test_example(tmp_path, framework, file_format):
    if framework != "flax":
        pytest.importorskip(framework)
    path = tmp_path / f"set.{file_format}"
    formats.export(make_set(), path, file_format)
    done = subprocess.run(
        [sys.executable, f"docs/examples/train_{framework}.py", path],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    before, _, percent = done.stdout.strip().rpartition(" ")
    assert before == "test accuracy"
    # By chance 10 %.
    assert float(percent.removesuffix("%")) > 30


@pytest.mark.parametrize("framework", ["flax", "torch", "keras"])
def test_example_is_short(framework):
    text = (ROOT / "docs" / "examples" / f"train_{framework}.py").read_text()
    assert sum(bool(line.strip()) for line in text.splitlines()) < 30
