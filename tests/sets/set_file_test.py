"""Tests of the file of a set: what is saved comes back, anything else is refused."""

import io
import os
import subprocess
import sys
import zipfile

import bad_input
import jax.numpy as jnp
import numpy as np
import pytest

import dc_jax
from dc_jax.base import SyntheticSet
from dc_jax.sets import formats, set_file

RATES = np.linspace(0, 0.5, 6, dtype=np.float32).reshape(3, 2)
# One probability is 0.
SOFT = np.tile(np.float32([0.75, 0.25, 0]), (3, 2, 1))


def _make_set(**changes):
    """Three classes of two images of 4x4."""
    images = np.random.default_rng(0).normal(size=(3, 2, 4, 4, 1))
    synthetic_set = SyntheticSet(
        images=images.astype(np.float32),
        labels=np.repeat(np.arange(3, dtype=np.int32)[:, None], 2, 1),
        mean=np.full(1, 0.5, np.float32),
        std=np.full(1, 0.25, np.float32),
        class_names=("Größe 0", "Größe 1", "Größe 2"),
    )
    return synthetic_set.replace(**changes)


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
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "run" / "synthetic_set.npz"
    set_file.save_synthetic_set(path, _make_set())
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"indices": np.array([[5, 0], [7, 1], [2, 9]], np.int32)},
        {"learning_rates": RATES},
        {"soft_labels": SOFT},
        {"factor": 2},
        {"recipe": '{"method": "größer"}'},
    ],
)
def test_round_trip(tmp_path, changes):
    expected = _make_set(**changes)
    set_file.save_synthetic_set(tmp_path / "new" / "synthetic_set.npz", expected)
    assert os.listdir(tmp_path / "new") == ["synthetic_set.npz"]
    loaded = set_file.load_synthetic_set(tmp_path / "new")
    arrays, expected_arrays = map(set_file.to_arrays, (loaded, expected))
    assert set(arrays) == set(expected_arrays)
    for name, array in arrays.items():
        assert array.dtype == expected_arrays[name].dtype
        np.testing.assert_array_equal(array, expected_arrays[name])
    assert loaded.class_names == expected.class_names
    assert loaded.recipe == expected.recipe


def test_the_same_set_gives_the_same_bytes(path, tmp_path):
    images = jnp.asarray(_make_set().images)
    set_file.save_synthetic_set(tmp_path / "b.npz", _make_set(images=images))
    assert (tmp_path / "b.npz").read_bytes() == path.read_bytes()


def test_file_needs_nothing_but_numpy(path):
    with np.load(path, allow_pickle=False) as arrays:
        assert list(arrays) == [
            *("images", "pixels", "labels", "class_names", "mean", "std"),
        ]
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
    # Each channel has its own mean and standard deviation.
    pixels = set_file.to_pixels(
        np.ones((1, 1, 1, 1, 3)), np.array([0.0, 0.2, 0.4]), np.array([0.2, 0.2, 0.0])
    )
    assert pixels.ravel().tolist() == [51, 102, 102]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("images", np.full((3, 2, 4, 4, 1), np.nan, np.float32)),
        ("images", np.zeros((3, 2, 4, 4, 1))),
        ("images", np.zeros((3, 2, 4, 4), np.float32)),
        ("images", np.zeros((3, 0, 4, 4, 1), np.float32)),
        ("labels", np.zeros((3, 1), np.int32)),
        ("labels", np.full((3, 2), 3, np.int32)),
        ("labels", np.full((3, 2), -1, np.int32)),
        ("mean", np.zeros(3, np.float32)),
        ("std", np.zeros(1, np.float32)),
        ("class_names", ("a", "b")),
        ("indices", np.full((3, 2), -1, np.int32)),
        ("learning_rates", RATES[:, :1]),
        ("learning_rates", RATES - 0.1),
        ("soft_labels", SOFT[:, :1]),
        ("soft_labels", SOFT * 1.01),
        ("soft_labels", 2 * SOFT - SOFT[..., ::-1]),
        ("soft_labels", np.full_like(SOFT, np.nan)),
        ("recipe", "[1]"),
        ("recipe", "[" * 99999),
    ],
)
def test_a_wrong_set_is_neither_saved_nor_loaded(path, tmp_path, field, value):
    with pytest.raises(ValueError, match=rf"^[^\n]*{field}[^\n]*$"):
        set_file.save_synthetic_set(tmp_path / "wrong.npz", _make_set(**{field: value}))
    assert not (tmp_path / "wrong.npz").exists()
    _write_members(path, _members(path) | {f"{field}.npy": _npy(np.array(value))})
    with pytest.raises(ValueError, match=rf"^{path}[^\n]*{field}[^\n]*$"):
        set_file.load_synthetic_set(path)


def test_no_such_file(tmp_path):
    for missing in (tmp_path, tmp_path / "set.npz"):
        with pytest.raises(FileNotFoundError, match=r"no synthetic set at [^\n]*npz"):
            set_file.load_synthetic_set(missing)


@pytest.mark.parametrize("data", [b"PAR1 and so on", b"\x89PNG\r\n\x1a\n", b"PAR1"])
def test_exports_of_8_bits_are_not_read_back(tmp_path, data):
    (tmp_path / "0").mkdir()
    with pytest.raises(FileNotFoundError, match="8 bits .* not read back"):
        set_file.load_synthetic_set(tmp_path)
    (tmp_path / "set").write_bytes(data)
    with pytest.raises(ValueError, match=r"set cannot .*\.npz.* 8 bits"):
        set_file.load_synthetic_set(tmp_path / "set")


def test_a_folder_of_several_sets(tmp_path):
    (tmp_path / "some.npz").touch()
    with pytest.raises(FileNotFoundError, match=r"one of the \.npz") as error:
        set_file.load_synthetic_set(tmp_path)
    assert "8 bits" not in str(error.value)


def test_the_folder_of_a_run_that_has_not_ended(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(FileNotFoundError, match="has not ended") as error:
        set_file.load_synthetic_set(tmp_path)
    assert "\n" not in str(error.value)
    (tmp_path / set_file.SET_NAME).touch()  # It has ended, but had one experiment.
    with pytest.raises(FileNotFoundError, match="give a .npz"):
        set_file.find_file(tmp_path, experiment=1)


@pytest.mark.parametrize("name", ["images", "pixels", "std"])
def test_missing_array(path, name):
    members = _members(path)
    del members[f"{name}.npy"]
    _write_members(path, members)
    with pytest.raises(ValueError, match=f"it has no {name}.npy"):
        set_file.load_synthetic_set(path)


@pytest.mark.parametrize("name", ["images", "class_names"])
def test_code_in_a_file_is_not_run(path, name):
    ran = path.parent / "ran"
    code = bad_input.npy_of_code(ran)
    _write_members(path, _members(path) | {f"{name}.npy": code})
    with pytest.raises(ValueError, match="cannot be read"):
        set_file.load_synthetic_set(path)
    assert not ran.exists()


def test_text_beyond_unicode(path):
    # Python itself raises a SystemError on such a character.
    data = bytearray(_members(path)["class_names.npy"])
    data[-1] = 0x7F
    _write_members(path, _members(path) | {"class_names.npy": bytes(data)})
    with pytest.raises(ValueError, match="class_names is <U7, expected text"):
        set_file.load_synthetic_set(path)


def test_public_names_are_imported_on_first_use():
    assert dc_jax.load_synthetic_set is formats.load_synthetic_set
    assert dc_jax.SyntheticSet is SyntheticSet
    assert set(dc_jax.__all__) <= set(dir(dc_jax))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = dc_jax.nothing
    code = "import dc_jax, sys; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
