"""Sets whose classes have different numbers of images: what is saved and used."""

import io

import jax
import numpy as np
import pytest
from PIL import Image
from toy import as_programs, random_dataset

import dc_jax
from dc_jax.base import SyntheticSet
from dc_jax.report import kept
from dc_jax.run.set_trainer import Evaluator
from dc_jax.sets import formats, image_grid, pictures, set_file
from dc_jax.sets.make import make_set

LABELS = np.array([[0, 0, -1], [1, 1, 1], [2, -1, -1]], np.int32)
IS_IMAGE = LABELS >= 0


def _make_set(channels=1, **changes) -> SyntheticSet:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, 3, 4, 5, channels)).astype(np.float32)
    images[~IS_IMAGE] = 0
    synthetic = SyntheticSet(
        images=images,
        labels=LABELS,
        mean=np.full(channels, 0.5, np.float32),
        std=np.full(channels, 0.25, np.float32),
        class_names=("cat", "dog", "eel"),
    )
    return synthetic.replace(**changes)


@pytest.mark.parametrize("file_format", ["npz", "safetensors"])
def test_exact_formats_keep_blank_slots(tmp_path, file_format):
    indices = np.where(IS_IMAGE, np.arange(9, dtype=np.int32).reshape(3, 3), -1)
    synthetic = _make_set(indices=indices.astype(np.int32))
    path = tmp_path / f"set.{file_format}"
    formats.export(synthetic, path, file_format)
    loaded = dc_jax.load_synthetic_set(path)
    for field in ("images", "labels", "indices"):
        expected = getattr(synthetic, field)
        np.testing.assert_array_equal(getattr(loaded, field), expected)
    if file_format == "npz":
        pixels = np.load(path)["pixels"]
        assert pixels[IS_IMAGE].any(axis=(1, 2, 3)).all()
        assert not pixels[~IS_IMAGE].any()


def test_pictures_are_of_the_images_alone(tmp_path):
    synthetic = _make_set()
    pictures.write_folder(synthetic, str(tmp_path))
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.png"))
    assert list(map(str, files)) == [
        *("cat/0.png", "cat/1.png"),
        *("dog/2.png", "dog/3.png", "dog/4.png"),
        "eel/5.png",
    ]
    pixels = set_file.set_pixels(synthetic)[IS_IMAGE]
    for file, expected in zip(files, pixels, strict=True):
        np.testing.assert_array_equal(Image.open(tmp_path / file), expected[..., 0])


def test_a_blank_slot_is_an_empty_cell(tmp_path):
    synthetic = _make_set(images=np.where(IS_IMAGE, -2, 0)[..., None, None, None] * 1.0)
    synthetic = synthetic.replace(
        images=np.broadcast_to(synthetic.images, (3, 3, 8, 8, 1)).astype(np.float32),
        class_names=("", "", ""),
    )
    image_grid.save_image_grid(tmp_path / "grid.png", synthetic)
    drawn = np.asarray(Image.open(tmp_path / "grid.png"))
    # Six black images of 64 by 64, and white.
    assert (drawn == 0).all(axis=-1).sum() == 6 * 64 * 64
    assert (drawn == 255).all(axis=-1).sum() == drawn[..., 0].size - 6 * 64 * 64
    # A gap of a pixel is between two.
    png = kept.snapshot(synthetic.replace(images=synthetic.images + 9.0))
    snapshot = np.asarray(Image.open(io.BytesIO(png)))
    cells = np.pad(snapshot[..., 0], ((0, 1), (0, 1))).reshape(3, 9, 3, 9)
    np.testing.assert_array_equal(cells.any(axis=(1, 3)), IS_IMAGE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.where(IS_IMAGE, LABELS, 0)}, "labels go from 0 to 2, exp"),
        ({"labels": LABELS[:, ::-1]}, "labels go from -1 to 2, exp.*index, 0 to 2, on"),
        ({"labels": np.full((3, 3), -1)}, "labels go from -1 to -1"),
        ({"labels": np.where(IS_IMAGE, LABELS, -2)}, "labels go from -2 to 2"),
        ({"labels": LABELS[::-1]}, "labels go from -1 to 2"),
        ({"images": np.ones((3, 3, 4, 5, 1), np.float32)}, "images are not 0 where"),
        ({"indices": np.zeros((3, 3))}, "indices go from 0"),
        ({"indices": LABELS - 1}, "indices go from -2"),
        ({"learning_rates": np.ones((2, 3), np.float32)}, "learning_rates need as m.*"),
    ],
)
def test_wrong_blank_slots_are_refused(tmp_path, changes, message):
    changes = {
        name: value if value.dtype == np.float32 else value.astype(np.int32)
        for name, value in changes.items()
    }
    with pytest.raises(ValueError, match=message) as error:
        set_file.save_synthetic_set(tmp_path / "set.npz", _make_set(**changes))
    assert "\n" not in str(error.value)


def test_evaluation_trains_on_the_images_alone():
    seen = []

    def program(*args):
        seen.append(args)
        return np.ones((len(args[-1]), 3, 3))

    dataset = random_dataset((2, 2, 2), (4, 5, 1))
    images = _make_set().images
    programs = as_programs(program)
    evaluator = Evaluator(dataset.test_images, dataset.test_labels, None, programs)
    keys = jax.random.split(jax.random.key(0), 2)
    evaluator.count(make_set(images, dataset, LABELS), keys)
    (((trained, labels), *_),) = seen
    np.testing.assert_array_equal(trained, images[IS_IMAGE])
    np.testing.assert_array_equal(labels, [0, 0, 1, 1, 1, 2])

    soft_labels = np.arange(27, dtype=np.float32).reshape(3, 3, 3)
    soft = make_set(images, dataset, LABELS).replace(soft_labels=soft_labels)
    evaluator.count(soft, keys)
    _, ((_, labels), *_) = seen
    np.testing.assert_array_equal(labels, soft_labels[IS_IMAGE])
