"""Sets of whitened images: their files, damage to them, their pictures, PyTorch."""

import json

import jax
import numpy as np
import pytest
from flax.serialization import msgpack_restore, msgpack_serialize
from formats_test import RECIPE
from PIL import Image
from toy import random_dataset, whitened

from dc_jax.data.store import to_inputs
from dc_jax.files.content import read_npz, write_npz
from dc_jax.report import kept
from dc_jax.run import load_sets
from dc_jax.run.baselines import make_coreset
from dc_jax.sets import formats, hub_card, image_grid, set_file

STATISTICS = {"mean": (0.5, 0.4, 0.6), "std": (0.3, 0.2, 0.25)}
DATASET = whitened(random_dataset((9, 8, 10), (2, 4, 3), **STATISTICS))
# Real images, one of class 1, so that all that is shown of them is known.
INDICES = np.array([np.flatnonzero(DATASET.train_labels == c)[:2] for c in range(3)])
INDICES[1, 1] = -1
SET = make_coreset(INDICES.astype(np.int32), DATASET).replace(recipe=RECIPE)
PIXELS = np.where(
    (INDICES >= 0)[..., None, None, None], DATASET.train_images[INDICES], 0
)


@pytest.mark.parametrize("file_format", ["npz", "safetensors"])
def test_round_trip(tmp_path, file_format):
    path = tmp_path / f"set.{file_format}"
    formats.export(SET, path, file_format)
    loaded = formats.load_synthetic_set(path)
    np.testing.assert_array_equal(loaded.images, SET.images)
    for name in ("center", "matrix"):
        ours, theirs = (getattr(one.whitening, name) for one in (SET, loaded))
        assert theirs.dtype == np.float32
        np.testing.assert_array_equal(theirs, ours)
    formats.export(
        SET.replace(whitening=None), tmp_path / f"plain.{file_format}", file_format
    )
    plain = formats.load_synthetic_set(tmp_path / f"plain.{file_format}")
    assert plain.whitening is None


def test_the_arrays_of_the_file(tmp_path):
    set_file.save_synthetic_set(tmp_path / "set.npz", SET)
    with np.load(tmp_path / "set.npz", allow_pickle=False) as arrays:
        assert arrays["whitening_center"].shape == (2, 4, 3)
        assert arrays["whitening_matrix"].shape == (24, 24)
        np.testing.assert_array_equal(arrays["pixels"], PIXELS)


MATRIX = np.asarray(SET.whitening.matrix)
FLIPPED = -MATRIX
SKEW = MATRIX.copy()
SKEW[0, 1] += 1
INDEFINITE = MATRIX - 2 * np.diag(np.diag(MATRIX))
WRONG = {
    "it has whitening_matrix alone": {"whitening_center": None},
    "it has whitening_center alone": {"whitening_matrix": None},
    "whitening_center is float64": {"whitening_center": np.zeros((2, 4, 3))},
    "whitening_center has shape": {"whitening_center": np.zeros((4, 2, 3), np.float32)},
    "whitening_matrix has shape": {"whitening_matrix": np.eye(23, dtype=np.float32)},
    "24 values of whitening_matrix are NaN": {
        "whitening_matrix": np.diag(np.full(24, np.nan, np.float32))
    },
    "whitening_matrix is not symmetric": {"whitening_matrix": SKEW},
    "eigenvalues above 0": {"whitening_matrix": INDEFINITE},
    "above 0": {"whitening_matrix": np.zeros_like(MATRIX)},
    "factor must be 1": {"factor": np.int32(2)},
}


@pytest.mark.parametrize("message", WRONG)
def test_a_damaged_whitening_is_refused(tmp_path, message):
    path = tmp_path / "set.npz"
    set_file.save_synthetic_set(path, SET)
    names = [
        name for name in set_file.NAMES if name not in ("factor", "learning_rates")
    ]
    arrays = read_npz(path, names[:6], names[6:]) | WRONG[message]
    write_npz(path, {name: one for name, one in arrays.items() if one is not None})
    with pytest.raises(ValueError, match=rf"^{path}[^\n]*{message}[^\n]*$"):
        set_file.load_synthetic_set(path)


def test_a_wrong_whitening_is_not_saved(tmp_path):
    wrong = SET.replace(whitening=SET.whitening.replace(matrix=SKEW))
    with pytest.raises(ValueError, match="cannot save.*whitening_matrix"):
        set_file.save_synthetic_set(tmp_path / "set.npz", wrong)


def test_pictures_are_those_of_the_real_images(tmp_path):
    np.testing.assert_array_equal(set_file.set_pixels(SET), PIXELS)
    formats.export(SET, tmp_path / "png", "png")
    for place, index in enumerate(INDICES[INDICES >= 0]):
        (path,) = (tmp_path / "png").rglob(f"{place}.png")
        picture = np.asarray(Image.open(path))
        np.testing.assert_array_equal(picture, DATASET.train_images[index])
    note = json.loads((tmp_path / "png" / "dc_jax.json").read_text())
    assert note["zca"] == hub_card.WHITENED
    plain = SET.replace(whitening=None)
    assert hub_card.WHITENED in hub_card.make(SET)
    assert hub_card.WHITENED not in hub_card.make(plain)
    # What the report and a run show.
    np.testing.assert_array_equal(kept.shown_pixels(SET), PIXELS)
    image_grid.save_image_grid(tmp_path / "whitened.png", SET)
    normal = plain.replace(images=set_file.normalised_images(SET))
    image_grid.save_image_grid(tmp_path / "plain.png", normal)
    assert (tmp_path / "plain.png").read_bytes() == (
        tmp_path / "whitened.png"
    ).read_bytes()


def test_real_images_are_their_own_neighbours(tmp_path):
    kept.save_neighbours(tmp_path, SET, DATASET)
    found = kept.read_neighbours(tmp_path / kept.NEIGHBOURS)
    is_image = INDICES >= 0
    np.testing.assert_array_equal(found.indices[is_image], INDICES[is_image])
    assert found.distances[is_image].max() < 1e-4


def test_processes_tell_one_another_of_it():
    sent = msgpack_restore(msgpack_serialize({"set": load_sets._to_send(SET)}))["set"]
    received = load_sets._received(sent)
    assert received.class_names == SET.class_names
    for ours, theirs in zip(
        jax.tree.leaves(SET), jax.tree.leaves(received), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_pytorch_gets_what_whitens_test_images(tmp_path):
    torch = pytest.importorskip("torch")
    from dc_jax.torch import CondensedDataset

    formats.export(SET, tmp_path / "set.npz", "npz")
    formats.export(SET.replace(whitening=None), tmp_path / "plain.npz", "npz")
    pixels = torch.tensor(DATASET.test_images / np.float32(255)).movedim(-1, 1)
    how = (DATASET.mean, DATASET.std)
    for name, whitening in (("set", DATASET.whitening), ("plain", None)):
        condensed = CondensedDataset(tmp_path / f"{name}.npz")
        assert (condensed.whitening is None) == (whitening is None)
        expected = np.asarray(to_inputs(DATASET.test_images, *how, whitening))
        prepared = condensed.prepare(pixels)
        assert prepared.dtype == torch.float32
        np.testing.assert_allclose(prepared.movedim(1, -1), expected, atol=1e-5)
    # The images of the set are real ones, prepared.
    images = condensed.images.movedim(1, -1)
    expected = np.asarray(to_inputs(DATASET.train_images, *how, DATASET.whitening))
    np.testing.assert_allclose(images, expected[INDICES[INDICES >= 0]], atol=1e-5)
