"""Tests of the card of a run and of the recipe of a set."""

import hashlib
import json
import shutil
import subprocess
import types

import numpy as np
import pytest

import dc_jax
from dc_jax.files.content import write_json
from dc_jax.sets.card import make_card, make_recipe

CONFIG = {"ipc": 1, "execution": {"dtype": "float32", "precision": "high"}}


def test_recipe():
    recipe = make_recipe(
        method="dc",
        dataset="Ziffern – größer",
        ipc=2,
        protocol={"network": "ConvNet", "lr": np.float32(0.5)},
        in_words="ConvNet, 1 epoch",
        accuracies=[0.25, 0.75],
    )
    assert json.loads(recipe) == {
        "method": "dc",
        "dataset": "Ziffern – größer",
        "ipc": 2,
        "training": {"network": "ConvNet", "lr": 0.5},
        "training_in_words": "ConvNet, 1 epoch",
        "accuracy_mean": 0.5,
        "accuracy_std": 0.25,
        "num_evaluations": 2,
    }


def _card(files):
    dataset = types.SimpleNamespace(
        name="digits",
        source="scikit-learn digits",
        checksum=lambda: "abc",
        train_images=np.zeros((7, 8, 8, 1)),
        test_images=np.zeros((3, 8, 8, 1)),
        image_shape=(8, 8, 1),
        num_classes=10,
    )
    return make_card(
        method="dc",
        config=CONFIG,
        seed=3,
        dataset=dataset,
        protocol={"networks": 20},
        accuracy={"mean": np.float32(0.5)},
        created="2026-01-02T03:04:05Z",
        files=files,
    )


def test_card(tmp_path):
    path = tmp_path / "synthetic_set.npz"
    path.write_bytes(b"a set")
    write_json(tmp_path / "card.json", _card({path.name: path}))
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["dataset"] == {
        "name": "digits",
        "source": "scikit-learn digits",
        "checksum": "abc",
        "num_train": 7,
        "num_test": 3,
        "image_shape": [8, 8, 1],
        "num_classes": 10,
    }
    assert card["files"]["synthetic_set.npz"] == {
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    assert card["versions"]["dc_jax"] == dc_jax.__version__
    packages = {"python", "jax", "jaxlib", "flax", "optax", "numpy"}
    assert packages <= set(card["versions"])
    assert (card["method"], card["seed"], card["config"]) == ("dc", 3, CONFIG)
    assert (card["protocol"], card["accuracy"]) == ({"networks": 20}, {"mean": 0.5})
    assert card["created"] == "2026-01-02T03:04:05Z"


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_card_has_the_commit_of_the_source(tmp_path, monkeypatch):
    def git(*arguments):
        who = ("user.name=a", "user.email=a@b", "commit.gpgsign=false")
        options = [word for value in who for word in ("-c", value)]
        command = ["git", "-C", str(tmp_path), *options, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True)

    def commit():
        return _card({})["versions"].get("commit")

    source = tmp_path / "dc_jax" / "__init__.py"
    source.parent.mkdir()
    source.touch()
    monkeypatch.setattr(dc_jax, "__file__", str(source))
    assert commit() is None
    git("init")
    (tmp_path / "mine.txt").touch()
    git("add", "mine.txt")
    git("commit", "-m", "of somebody else")
    assert commit() is None
    git("add", "dc_jax")
    git("commit", "-m", "of the package")
    head = git("rev-parse", "HEAD").stdout.strip()
    assert commit() == head
    source.write_text("changed = True")
    assert commit() == f"{head}-dirty"
    monkeypatch.setenv("PATH", "")
    assert commit() is None
