"""The sets in docs/sets: they are whole, and as good as their page says."""

import hashlib
import json
import re

import pytest
from run_helpers import ROOT

import dc_jax
from dc_jax.data.sources import load_dataset

FOLDER = ROOT / "docs" / "sets"
SUMS = dict(
    reversed(line.split()) for line in (FOLDER / "SHA256SUMS").read_text().splitlines()
)


def _row(name):
    """Returns the cells of a set's row: images a class, method, accuracy."""
    (line,) = re.findall(
        rf"^\| \[{name}\].*$", (FOLDER / "README.md").read_text(), re.M
    )
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    return int(cells[2].split(",")[0]), cells[3].strip("`"), cells[5]


def test_every_set_has_a_checksum():
    assert sorted(SUMS) == sorted(path.name for path in FOLDER.glob("*.npz"))


@pytest.mark.parametrize("name", SUMS)
def test_a_set_is_what_the_page_says(name):
    assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == SUMS[name]
    ipc, method, accuracy = _row(name)
    synthetic = dc_jax.load_synthetic_set(FOLDER / name)
    recipe = json.loads(synthetic.recipe)
    # Those of CIFAR-10 were made of a copy.
    parts = "" if synthetic.factor == 1 else "_parts"
    datasets = (recipe["dataset"], "cifar10")
    names = {f"{one}_{ipc}_{method}{parts}.npz" for one in datasets}
    assert name in names
    assert (recipe["ipc"], recipe["method"]) == (ipc, method)
    assert synthetic.images.shape[:2] == (10, ipc)
    mean, std = 100 * recipe["accuracy_mean"], 100 * recipe["accuracy_std"]
    num = recipe["num_evaluations"]
    spread = f"± {std:.1f} ({num} networks)" if num > 1 else "(one network)"
    assert accuracy == f"{mean:.1f} {spread}"


@pytest.mark.slow
@pytest.mark.parametrize("name", SUMS)
def test_networks_learn_from_a_set(name):
    synthetic = dc_jax.load_synthetic_set(FOLDER / name)
    recipe = json.loads(synthetic.recipe)
    try:
        dataset = load_dataset(recipe["dataset"])
    except (FileNotFoundError, ValueError) as error:
        pytest.skip(str(error))
    accuracies = dc_jax.evaluate(
        synthetic, dataset.test_images, dataset.test_labels, num_networks=2
    )
    assert accuracies.mean() == pytest.approx(recipe["accuracy_mean"], abs=0.025)
