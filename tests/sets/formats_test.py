"""Tests of sets in other formats: what is written, read, refused and never replaced."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow.parquet
import pytest
import safetensors.numpy
from data_helpers import run_python
from PIL import Image
from run_helpers import ROOT, without_progress

import dc_jax
from dc_jax.base import SyntheticSet
from dc_jax.sets import formats, hub_card, pictures, set_file

RECIPE = '{"method": "dc", "training": {"network": "ConvNet", "lr": 0.01}}'


def make_set(channels=3, class_names=("cat", "dog", "Größe")) -> SyntheticSet:
    """Two images of 4x5 of each class; many pixels are outside [0, 1]."""
    num = len(class_names)
    rng = np.random.default_rng(0)
    return SyntheticSet(
        images=rng.normal(size=(num, 2, 4, 5, channels)).astype(np.float32),
        labels=np.repeat(np.arange(num, dtype=np.int32)[:, None], 2, 1),
        mean=np.linspace(0.4, 0.6, channels, dtype=np.float32),
        std=np.linspace(0.5, 0.3, channels, dtype=np.float32),
        class_names=tuple(class_names),
        recipe=RECIPE,
    )


def pixels_of(synthetic_set) -> np.ndarray:
    pixels = set_file.to_pixels(
        synthetic_set.images, synthetic_set.mean, synthetic_set.std
    )
    return pixels.reshape(-1, *pixels.shape[2:])


def assert_same(actual, expected):
    for field in ("images", "labels", "mean", "std", "indices"):
        value, other = getattr(actual, field), getattr(expected, field)
        np.testing.assert_array_equal(value, other)
        assert value is None or value.dtype == other.dtype
    assert actual.class_names == expected.class_names
    assert actual.recipe == expected.recipe


@pytest.mark.parametrize("file_format", ["npz", "safetensors"])
@pytest.mark.parametrize(
    "change",
    [
        {"recipe": None},
        {"indices": np.array([[3, 0], [7, 1], [2, 9]], np.int32)},
        {"soft_labels": np.full((3, 2, 3), 1 / 3, np.float32)},
    ],
)
def test_exact_formats_round_trip(tmp_path, file_format, change):
    synthetic = make_set().replace(**change)
    path = tmp_path / "new" / f"set.{file_format}"
    formats.export(synthetic, path, file_format)
    assert_same(dc_jax.load_synthetic_set(path), synthetic)
    assert os.listdir(path.parent) == [path.name]


def test_safetensors_hold_arrays_that_are_not_contiguous(tmp_path):
    synthetic = make_set()
    images = np.asfortranarray(synthetic.images)
    path = tmp_path / "set.safetensors"
    formats.export(synthetic.replace(images=images), path, "safetensors")
    tensors = safetensors.numpy.load_file(path)
    np.testing.assert_array_equal(tensors["images"], synthetic.images)
    assert set(tensors) == {"images", "labels", "mean", "std"}
    with safetensors.safe_open(path, "numpy") as file:
        texts = file.metadata()
    assert json.loads(texts["class_names"]) == ["cat", "dog", "Größe"]
    assert texts["recipe"] == RECIPE


def _rewrite(path, tensors=(), texts=(), without=()):
    """Writes a safetensors file again, with other tensors and texts."""
    old = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, "numpy") as file:
        old_texts = file.metadata()
    new = {k: v for k, v in (old | dict(tensors)).items() if k not in without}
    new_texts = {k: v for k, v in (old_texts | dict(texts)).items() if k not in without}
    safetensors.numpy.save_file(new, path, new_texts)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"without": ["images"]}, "images"),
        ({"without": ["class_names"]}, "class_names"),
        ({"texts": {"class_names": "[1, 2, 3]"}}, "class_names"),
        ({"texts": {"class_names": "["}}, "cannot be read"),
        ({"texts": {"class_names": '["a", "b", "\\ud800"]'}}, "class_names"),
        ({"texts": {"recipe": "[]"}}, "recipe"),
        ({"tensors": {"std": np.zeros(3, np.float32)}}, "std"),
    ],
)
def test_a_wrong_safetensors_file(tmp_path, change, name):
    path = tmp_path / "set.safetensors"
    formats.export(make_set(), path, "safetensors")
    _rewrite(path, **change)
    with pytest.raises(ValueError, match=rf"^{path}[^\n]*{name}[^\n]*$"):
        formats.load_synthetic_set(path)


@pytest.mark.parametrize("channels", [1, 3])
def test_parquet_has_pictures_and_what_hugging_face_makes_of_them(tmp_path, channels):
    synthetic = make_set(channels)
    path = tmp_path / "set.parquet"
    formats.export(synthetic, path, "parquet")
    table = pyarrow.parquet.read_table(path)
    assert table["label"].to_pylist() == [0, 0, 1, 1, 2, 2]
    for image, expected in zip(
        table["image"].to_pylist(), pixels_of(synthetic), strict=True
    ):
        picture = np.asarray(Image.open(io.BytesIO(image["bytes"])))
        np.testing.assert_array_equal(picture.reshape(expected.shape), expected)
    metadata = table.schema.metadata
    features = json.loads(metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert features["label"]["names"] == ["cat", "dog", "Größe"]
    note = json.loads(metadata[b"dc_jax"])
    assert note["recipe"] == json.loads(RECIPE)
    np.testing.assert_array_equal(np.float32(note["mean"]), synthetic.mean)
    np.testing.assert_array_equal(np.float32(note["std"]), synthetic.std)


def test_hugging_face_loads_the_parquet(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    synthetic = make_set()
    path = tmp_path / "set.parquet"
    formats.export(synthetic, path, "parquet")
    loaded = datasets.load_dataset(
        "parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "hf")
    )
    assert isinstance(loaded.features["image"], datasets.Image)
    assert loaded.features["label"].names == ["cat", "dog", "Größe"]
    images = np.stack([np.asarray(example["image"]) for example in loaded])
    np.testing.assert_array_equal(images, pixels_of(synthetic))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_of_pictures(tmp_path, channels):
    synthetic = make_set(channels, ("cat", "dog"))
    folder = tmp_path / "pictures"
    formats.export(synthetic, folder, "png")
    assert sorted(os.listdir(folder)) == ["cat", "dc_jax.json", "dog"]
    paths = sorted(folder.rglob("*.png"))
    assert [str(path.relative_to(folder)) for path in paths] == [
        *("cat/0.png", "cat/1.png", "dog/2.png", "dog/3.png"),
    ]
    for path, expected in zip(paths, pixels_of(synthetic), strict=True):
        with Image.open(path) as picture:
            assert picture.mode == ("L" if channels == 1 else "RGB")
            np.testing.assert_array_equal(
                np.asarray(picture).reshape(expected.shape), expected
            )
    note = json.loads((folder / "dc_jax.json").read_text())
    assert note["folders"] == note["class_names"] == ["cat", "dog"]
    assert note["recipe"] == json.loads(RECIPE)
    assert np.float32(note["std"]).tolist() == synthetic.std.tolist()
    assert "soft_labels" not in note


def test_soft_labels_are_in_the_note_of_pictures(tmp_path):
    soft_labels = np.float32([[[0.75, 0.25], [1, 0]], [[0, 1], [0.5, 0.5]]])
    synthetic = make_set(1, ("cat", "dog")).replace(soft_labels=soft_labels)
    formats.export(synthetic, tmp_path / "png", "png")
    note = json.loads((tmp_path / "png" / "dc_jax.json").read_text())
    assert note["soft_labels"] == [[0.75, 0.25], [1, 0], [0, 1], [0.5, 0.5]]
    assert hub_card.SOFT in hub_card.make(synthetic)
    assert hub_card.SOFT not in hub_card.make(make_set(1, ("cat", "dog")))


@pytest.mark.parametrize("recipe", [RECIPE, ""])
def test_decoded_images_tell_what_the_set_stores(tmp_path, recipe):
    synthetic = make_set(3, ("cat", "dog")).replace(factor=2, recipe=recipe)
    formats.export(synthetic, tmp_path / "hub", "huggingface")
    card = (tmp_path / "hub" / "README.md").read_text()
    # Each of the 4 images holds 4 others.
    assert hub_card.PARTS.format(stored=4, factor=2) in card
    assert "16 images of 2 classes" in card
    formats.export(synthetic, tmp_path / "png", "png")
    note = json.loads((tmp_path / "png" / "dc_jax.json").read_text())
    assert note["recipe"] == {**json.loads(recipe or "{}"), "decoded_factor": 2}


@pytest.mark.parametrize("factor", [None, 0, 1, 5, -2, "2", [2], float("nan")])
def test_a_card_tells_of_no_parts_where_there_are_none(factor):
    recipe = json.dumps({"decoded_factor": factor})
    assert "smaller ones" not in hub_card.make(make_set().replace(recipe=recipe))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["T-shirt/top", "Zebra"], ["T-shirt_top", "Zebra"]),
        # Readers would number the folders in another order.
        (["dog", "cat"], ["0_dog", "1_cat"]),
        ([str(i) for i in range(11)], [f"{i:02}_{i}" for i in range(11)]),
        (["CAT", "cat"], ["0_CAT", "1_cat"]),
        (["../../etc", "/root"], ["_.._etc", "_root"]),
        (["..", "a\0b\nc"], ["_", "a_b_c"]),
        (["é" * 300, "ü"], ["é" * 50, "ü"]),
    ],
)
def test_names_of_folders(names, expected):
    assert pictures.folder_names(names) == expected
    assert sorted(expected) == expected


@pytest.mark.parametrize("name", ["../out", "/tmp/dc_jax_out"])
def test_pictures_stay_in_their_folder(tmp_path, name):
    folder = tmp_path / "in" / "pictures"
    formats.export(make_set(1, (name, "b")), folder, "png")
    assert os.listdir(tmp_path) == ["in"]
    assert os.listdir(tmp_path / "in") == ["pictures"]
    assert len(os.listdir(folder)) == 3
    assert len(list(folder.glob("*/*.png"))) == 4
    assert not os.path.exists("/tmp/dc_jax_out")


# In a process of its own, since TensorFlow warns of much.
_TFDS = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
sys.path[:0] = [{tests!r}, {tests!r} + "/sets"]
import numpy as np
import formats_test
from dc_jax.sets import formats
synthetic = formats_test.make_set()
formats.export(synthetic, {folder!r}, "tfds")
assert os.listdir({folder!r}) == ["synthetic_set"]
import tensorflow_datasets as tfds
data, info = tfds.load("synthetic_set", data_dir={folder!r}, split="train",
                       with_info=True)
examples = list(tfds.as_numpy(data))
assert info.features["label"].names == list(synthetic.class_names)
assert [int(one["label"]) for one in examples] == [0, 0, 1, 1, 2, 2]
images = np.stack([one["image"] for one in examples])
np.testing.assert_array_equal(images, formats_test.pixels_of(synthetic))
folder = {folder!r} + "/synthetic_set/1.0.0"
assert os.path.isfile(folder + "/dc_jax.json")
builder = tfds.builder_from_directory(folder)
assert builder.info.splits["train"].num_examples == 6
"""


@pytest.mark.slow
def test_tfds_loads_the_folder(tmp_path):
    folder = str(tmp_path / "data")
    run_python(_TFDS.format(folder=folder, tests=str(ROOT / "tests")))
    assert os.listdir(tmp_path) == ["data"]


@pytest.mark.parametrize(
    ("file_format", "kind"), [("npz", "file"), ("png", "folder"), ("npz", "link")]
)
def test_nothing_is_replaced(tmp_path, file_format, kind):
    path = tmp_path / "there"
    if kind == "file":
        path.write_text("mine")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError, match="there exists already: choose"):
        formats.export(make_set(), path, file_format)
    assert os.listdir(tmp_path) == ["there"]
    if kind == "file":
        assert path.read_text() == "mine"
        with pytest.raises(ValueError, match="there is a file, not a folder"):
            formats.export(make_set(), path / "set", file_format)


@pytest.mark.parametrize("file_format", ["parquet", "png"])
def test_pictures_are_grey_or_rgb(tmp_path, file_format):
    with pytest.raises(ValueError, match="have 5 channels, .* 1 or 3"):
        formats.export(make_set(5), tmp_path / "out", file_format)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("file_format", ["npz", "safetensors", "parquet", "png"])
def test_a_writer_that_fails_leaves_nothing(tmp_path, file_format, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)  # In the files, and the folder's note.
    with pytest.raises(OSError, match="disk full"):
        formats.export(make_set(), tmp_path / "out", file_format)
    assert os.listdir(tmp_path) == []


def test_an_unknown_format(tmp_path):
    with pytest.raises(ValueError, match="must be one of npz, .* tfds, got 'zip'"):
        formats.export(make_set(), tmp_path / "out", "zip")


@pytest.mark.parametrize(
    ("file_format", "module"), [("safetensors", "safetensors"), ("parquet", "pyarrow")]
)
def test_a_missing_package(tmp_path, monkeypatch, file_format, module):
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=f'^{module} .*install -e "..formats."'):
        formats.export(make_set(), tmp_path / "out", file_format)
    assert os.listdir(tmp_path) == []


def test_which_set_is_loaded(tmp_path):
    first, second = make_set(), make_set(1)
    set_file.save_synthetic_set(tmp_path / "synthetic_set.npz", first)
    set_file.save_synthetic_set(tmp_path / "synthetic_set_1.npz", second)
    assert_same(formats.load_synthetic_set(tmp_path), first)
    assert_same(formats.load_synthetic_set(tmp_path, experiment=1), second)
    with pytest.raises(FileNotFoundError, match="synthetic_set_2.npz: give a .npz"):
        formats.load_synthetic_set(tmp_path, experiment=2)
    path = tmp_path / "synthetic_set.npz"
    with pytest.raises(ValueError, match="experiment 1"):
        formats.load_synthetic_set(path, experiment=1)
    with pytest.raises(ValueError, match="only for .pt files, got 'mnist'"):
        formats.load_synthetic_set(path, dataset="mnist")


# The command.


def export(*arguments: str) -> tuple[int, str]:
    """Runs the command; returns its exit code and all that it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "dc_jax.export", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    return done.returncode, without_progress(done.stdout)


def test_command(tmp_path):
    set_file.save_synthetic_set(tmp_path / "synthetic_set.npz", make_set())
    output = tmp_path / "set.safetensors"
    command = [f"--set={tmp_path}", "--format=safetensors", f"--output={output}"]
    expected = f"{output}: 3 classes of 2 images of 4x5x3.\n"
    assert export(*command) == (0, expected)
    assert_same(formats.load_synthetic_set(output), make_set())
    set_file.save_synthetic_set(tmp_path / "parts.npz", make_set().replace(factor=2))
    parts = tmp_path / "parts.safetensors"
    command_of_parts = [f"--set={tmp_path / 'parts.npz'}", f"--output={parts}"]
    expected = f"{parts}: 3 classes of 2 images of 4x5x3, each of 4 parts.\n"
    assert export(*command_of_parts, "--format=safetensors") == (0, expected)
    expected = f"error: {output} exists already: choose another, or delete it.\n"
    assert export(*command) == (1, expected)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--format=npz", "--output=x"], "--set"),
        (
            ["--set=x", "--format=zip", "--output=x"],
            "npz|safetensors|parquet|huggingface|png|tfds",
        ),
        (["--set=none", "--format=npz", "--output=x"], "no synthetic set at none"),
    ],
)
def test_a_wrong_command_is_an_error_of_one_line(arguments, expected):
    code, output = export(*arguments)
    (line,) = output.splitlines()
    assert code == 1
    assert line.startswith("error: ")
    assert expected in line


def test_command_line_is_read_without_jax():
    run_python(
        "import sys\n"
        "import dc_jax.export\n"
        "heavy = {'jax', 'numpy', 'tensorflow', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from dc_jax.sets import formats\n"
        "assert dc_jax.export._FORMATS == list(formats.FORMATS)\n"
        "heavy = {'torch', 'tensorflow', 'pyarrow', 'safetensors'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
