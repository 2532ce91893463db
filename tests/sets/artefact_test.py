"""Tests of the files a run leaves: the saved set, its card, its picture."""

import errno
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import types
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import dc_jax
from dc_jax.base import SyntheticSet
from dc_jax.files import write_atomically, write_json
from dc_jax.sets import formats, image_grid, set_file
from dc_jax.sets.card import make_card, make_recipe


def _make_set(num_classes=3, num_images=2, side=4, channels=1):
    rng = np.random.default_rng(0)
    shape = (num_classes, num_images, side, side, channels)
    labels = np.repeat(np.arange(num_classes, dtype=np.int32)[:, None], num_images, 1)
    return SyntheticSet(
        images=rng.normal(size=shape).astype(np.float32),
        labels=labels,
        mean=np.full(channels, 0.5, np.float32),
        std=np.full(channels, 0.25, np.float32),
        class_names=tuple(f"Größe {i}" for i in range(num_classes)),
    )


def _assert_same(actual, expected):
    for field in ("images", "labels", "mean", "std"):
        value = getattr(actual, field)
        assert isinstance(value, np.ndarray)
        assert value.dtype == getattr(expected, field).dtype
        np.testing.assert_array_equal(value, getattr(expected, field))
    assert actual.class_names == expected.class_names


def _members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _write_members(path, members):
    """Writes a zip with right checksums, whatever is in it."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def _npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "run" / "synthetic_set.npz"
    set_file.save_synthetic_set(path, _make_set())
    return path


def test_round_trip(path):
    _assert_same(set_file.load_synthetic_set(path), _make_set())
    _assert_same(set_file.load_synthetic_set(str(path.parent)), _make_set())
    assert os.listdir(path.parent) == ["synthetic_set.npz"]


def test_indices_are_optional(path):
    assert set_file.load_synthetic_set(path).indices is None
    assert "indices.npy" not in _members(path)
    indices = np.array([[5, 0], [7, 1], [2, 9]], np.int32)
    set_file.save_synthetic_set(path, _make_set().replace(indices=indices))
    loaded = set_file.load_synthetic_set(path)
    _assert_same(loaded, _make_set())
    np.testing.assert_array_equal(loaded.indices, indices)
    assert loaded.indices.dtype == np.int32


def test_learning_rates_are_optional(path):
    assert set_file.load_synthetic_set(path).learning_rates is None
    rates = np.linspace(0, 0.5, 6, dtype=np.float32).reshape(3, 2)
    with_rates = _make_set().replace(learning_rates=rates)
    set_file.save_synthetic_set(path, with_rates)
    loaded = set_file.load_synthetic_set(path)
    _assert_same(loaded, _make_set())
    np.testing.assert_array_equal(loaded.learning_rates, rates)
    assert loaded.learning_rates.dtype == np.float32
    for wrong, message in (
        (rates[:, :1], r"learning_rates has shape \(3, 1\), expected \[R, I\]"),
        (rates - 0.1, "learning_rates go from -0.1"),
        (rates * np.nan, "6 values of learning_rates are NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            set_file.save_synthetic_set(path, with_rates.replace(learning_rates=wrong))


def test_recipe_is_optional(path):
    assert set_file.load_synthetic_set(path).recipe is None
    assert "recipe.npy" not in _members(path)
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
    set_file.save_synthetic_set(path, _make_set().replace(recipe=recipe))
    loaded = set_file.load_synthetic_set(path)
    _assert_same(loaded, _make_set())
    assert loaded.recipe == recipe


def test_jax_arrays_are_saved_too(path, tmp_path):
    of_jax = _make_set()
    of_jax = of_jax.replace(
        images=jnp.asarray(of_jax.images), labels=jnp.asarray(of_jax.labels)
    )
    set_file.save_synthetic_set(tmp_path / "b.npz", of_jax)
    assert (tmp_path / "b.npz").read_bytes() == path.read_bytes()


def test_same_set_same_bytes(path, tmp_path):
    set_file.save_synthetic_set(tmp_path / "b.npz", _make_set())
    assert (tmp_path / "b.npz").read_bytes() == path.read_bytes()
    assert list(_members(path)) == [
        f"{name}.npy"
        for name in ("images", "pixels", "labels", "class_names", "mean", "std")
    ]


def test_file_needs_nothing_but_numpy(path):
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays["pixels"].dtype == np.uint8
        assert arrays["pixels"].shape == arrays["images"].shape
        assert arrays["class_names"].tolist() == ["Größe 0", "Größe 1", "Größe 2"]


def test_to_pixels_by_hand():
    # x * 0.25 + 0.5 = 0, 0.5, 1, 0.501, below 0, above 1; times 255, rounded.
    images = np.array([-2.0, 0.0, 2.0, 0.004, -9.0, 9.0], np.float32)
    pixels = set_file.to_pixels(
        images.reshape(1, 1, 2, 3, 1), np.array([0.5]), np.array([0.25])
    )
    assert pixels.shape == (1, 1, 2, 3, 1)
    assert pixels.dtype == np.uint8
    assert pixels.ravel().tolist() == [0, 128, 255, 128, 0, 255]


def test_to_pixels_per_channel():
    pixels = set_file.to_pixels(
        np.ones((1, 1, 1, 1, 3)), np.array([0.0, 0.2, 0.4]), np.array([0.2, 0.2, 0.0])
    )
    assert pixels.ravel().tolist() == [51, 102, 102]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.full((3, 2, 4, 4, 1), np.nan, np.float32)}, "96 values of imag"),
        ({"images": np.zeros((3, 2, 4, 4, 1))}, "images is float64, expected float32"),
        ({"images": np.zeros((3, 2, 4, 4), np.float32)}, r"expected \[C, I, H, W, D\]"),
        ({"images": np.zeros((3, 0, 4, 4, 1), np.float32)}, "none of them 0"),
        ({"labels": np.zeros((3, 1), np.int32)}, r"labels has shape \(3, 1\)"),
        ({"labels": np.zeros((3, 2), np.int64)}, "labels is int64"),
        (
            {"labels": np.full((3, 2), 3, np.int32)},
            "labels go from 3 to 3, exp.* 0 to 2",
        ),
        ({"labels": np.full((3, 2), -1, np.int32)}, "labels go from -1 to -1"),
        ({"mean": np.zeros(3, np.float32)}, r"mean has shape \(3,\)"),
        ({"mean": np.array([np.inf], np.float32)}, "1 values of mean"),
        ({"std": np.zeros(1, np.float32)}, r"std is \[0.0\], expected above 0"),
        ({"class_names": ("a", "b")}, r"class_names has shape \(2,\)"),
        ({"indices": np.zeros((3, 1), np.int32)}, r"indices has shape \(3, 1\)"),
        ({"indices": np.zeros((3, 2), np.int64)}, "indices is int64"),
        (
            {"indices": np.full((3, 2), -1, np.int32)},
            "indices go from -1, exp.* from 0",
        ),
        ({"recipe": "[1]"}, "recipe is not the text of a JSON object"),
        ({"recipe": "lr 0.01"}, "recipe is not the text of a JSON object"),
        ({"recipe": "[" * 99999}, "recipe is not the text of a JSON object"),
        ({"recipe": ""}, "recipe is not the text of a JSON object"),
    ],
)
def test_a_wrong_set_is_neither_saved_nor_loaded(path, tmp_path, change, message):
    wrong = _make_set().replace(**change)
    with pytest.raises(ValueError, match=message) as error:
        set_file.save_synthetic_set(tmp_path / "wrong.npz", wrong)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "wrong.npz").exists()

    members = _members(path)
    (field, value), *_ = change.items()
    _write_members(path, members | {f"{field}.npy": _npy(np.array(value))})
    with pytest.raises(ValueError, match=message) as error:
        set_file.load_synthetic_set(path)
    assert "\n" not in str(error.value)


def test_no_such_file(tmp_path):
    for missing in (tmp_path, tmp_path / "set.npz"):
        with pytest.raises(FileNotFoundError, match=r"no synthetic set at [^\n]*npz"):
            set_file.load_synthetic_set(missing)


@pytest.mark.parametrize("name", ["images", "pixels", "labels", "class_names", "std"])
def test_missing_array(path, name):
    members = _members(path)
    del members[f"{name}.npy"]
    _write_members(path, members)
    with pytest.raises(ValueError, match=f"it has no {name}.npy"):
        set_file.load_synthetic_set(path)


@pytest.mark.parametrize("data", [b"", b"PK", b"not a zip", bytes(1000)])
def test_not_a_zip(path, data):
    path.write_bytes(data)
    with pytest.raises(
        ValueError, match="synthetic_set.npz cannot be read: it is no .npz"
    ):
        set_file.load_synthetic_set(path)


def test_objects_are_never_unpickled(path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(path.parent / "exploded"),)

    bomb = np.array([Bomb(), Bomb(), Bomb()], dtype=object)
    _write_members(path, _members(path) | {"class_names.npy": _npy(bomb)})
    with pytest.raises(ValueError, match="cannot be read"):
        set_file.load_synthetic_set(path)
    assert not (path.parent / "exploded").exists()


@pytest.mark.parametrize("shape", ["(999999, 999999)", "(-3, -2)", "(2,)", "(1e9,)"])
def test_header_that_asks_for_other_bytes_than_there_are(path, shape):
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(24)
    _write_members(path, _members(path) | {"images.npy": data})
    with pytest.raises(ValueError, match=r"^[^\n]*$"):
        set_file.load_synthetic_set(path)


def test_zip_bomb(path):
    members = _members(path)
    members["images.npy"] = _npy(np.zeros((3, 2, 1000, 1000, 1), np.float32))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(ValueError, match="images.npy is compressed"):
        set_file.load_synthetic_set(path)


def test_text_beyond_unicode(path):
    # Python itself raises a SystemError on such a character.
    data = bytearray(_members(path)["class_names.npy"])
    data[-1] = 0x7F
    _write_members(path, _members(path) | {"class_names.npy": bytes(data)})
    with pytest.raises(ValueError, match="class_names is <U7, expected text"):
        set_file.load_synthetic_set(path)


def test_a_failed_write_leaves_the_old_file(path, monkeypatch):
    before = path.read_bytes()

    def fail(descriptor):
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full: .*synthetic_set.npz"):
        write_atomically(path, b"new")
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["synthetic_set.npz"]


@pytest.mark.parametrize(
    ("num_classes", "num_images", "side", "channels"),
    [(10, 10, 8, 1), (10, 1, 28, 1), (3, 50, 8, 3), (100, 1, 32, 3), (2, 3, 70, 5)],
)
def test_image_grid(tmp_path, num_classes, num_images, side, channels):
    synthetic_set = _make_set(num_classes, num_images, side, channels)
    image_grid.save_image_grid(tmp_path / "grid.png", synthetic_set)
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.format == "PNG"
        picture.load()
    # Room for every image, and no more than about as much again.
    columns = min(num_images, 25)
    scale = max(1, min(64 // side, 1600 // (columns * side)))
    drawn = num_classes * num_images * (side * scale) ** 2
    assert drawn < picture.width * picture.height < 3 * drawn


def test_image_grid_refuses_no_columns(tmp_path):
    with pytest.raises(ValueError, match="max_columns must be >= 1, got 0"):
        image_grid.save_image_grid(tmp_path / "grid.png", _make_set(), max_columns=0)


def test_write_json(tmp_path):
    value = {
        "z": np.float32(0.5),
        "a": [np.int64(3), True, None, "Größe"],
        "nested": {"tuple": (1, 2), "jax": jnp.float32(0.25)},
    }
    write_json(tmp_path / "card.json", value)
    text = (tmp_path / "card.json").read_text(encoding="utf-8")
    assert text.startswith('{\n  "z": 0.5,\n  "a": [\n    3,\n    true,\n    null,\n')
    assert text.endswith("}\n")
    assert "Größe" in text
    assert json.loads(text)["nested"] == {"tuple": [1, 2], "jax": 0.25}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"accuracy": {"mean": float("nan")}}, r"card.json/accuracy/mean is nan"),
        ({"a": [0.0, np.float32("inf")]}, r"card.json/a/1 is inf"),
        ({"a": np.zeros(2)}, r"card.json/a is a ndarray"),
        ({"a": {1}}, r"card.json/a is a set"),
    ],
)
def test_write_json_refuses(tmp_path, value, message):
    with pytest.raises(ValueError, match=message):
        write_json(tmp_path / "card.json", value)
    assert not (tmp_path / "card.json").exists()


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
        config={"ipc": 1},
        seed=3,
        dataset=dataset,
        protocol={"networks": 20},
        accuracy={"mean": np.float32(0.5)},
        created="2026-01-02T03:04:05Z",
        files=files,
    )


def test_card(path):
    card = _card([path])
    write_json(path.parent / "card.json", card)
    card = json.loads((path.parent / "card.json").read_text())
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
    assert set(card["versions"]) >= {
        "python",
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "numpy",
    }
    assert (card["method"], card["seed"], card["config"]) == ("dc", 3, {"ipc": 1})
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
        return _card([])["versions"].get("commit")

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


def test_public_names_are_imported_on_first_use():
    assert dc_jax.load_synthetic_set is formats.load_synthetic_set
    assert dc_jax.SyntheticSet is SyntheticSet
    assert set(dc_jax.__all__) <= set(dir(dc_jax))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = dc_jax.nothing
    code = "import dc_jax, sys; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
