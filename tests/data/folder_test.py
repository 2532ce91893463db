"""Folders of pictures: their splits, litter, what is skipped or broken."""

import os

import numpy as np
import pytest
from absl import logging
from PIL import Image

from dc_jax.data.sources import load_dataset

GREY = np.arange(20, dtype=np.uint8).reshape(4, 5) * 10


def _folder(folder, num=3, classes=("cat", "dog"), add=0):
    """Classes of pictures; their first pixels count up from `add`."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(num):
            pixels = GREY + np.uint8(add + num * label + i)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def logged(monkeypatch):
    """The lines that are logged."""
    lines = []
    for level in ("info", "warning"):
        monkeypatch.setattr(
            logging, level, lambda text, *values: lines.append(text % values)
        )
    return lines


def _load(folder, **kwargs):
    return load_dataset("folder", str(folder), **kwargs)


TESTS = ["test", "testing", "val", "valid", "validation"]


@pytest.mark.parametrize("train", ["train", "TRAIN", "Training"])
@pytest.mark.parametrize("test", [*TESTS, *(name.title() for name in TESTS), "VAL"])
def test_names_of_splits(tmp_path, train, test):
    _folder(tmp_path / train)
    _folder(tmp_path / test, 2, add=50)
    dataset = _load(tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.test_labels.tolist() == [0, 0, 1, 1]
    assert dataset.train_images[:, 0, 0, 0].tolist() == [*range(6)]
    assert dataset.test_images[:, 0, 0, 0].tolist() == [50, 51, 52, 53]


def test_of_three_splits_the_test_split_is_tested_on(tmp_path, logged):
    for add, name in enumerate(("train", "val", "test")):
        _folder(tmp_path / name, 2, add=50 * add)
    assert _load(tmp_path).test_images[:, 0, 0, 0].tolist() == [100, 101, 102, 103]
    assert f"{tmp_path}: trained on train, tested on test; not used: val." in logged


def test_a_training_split_alone(tmp_path):
    _folder(tmp_path / "train", 5)
    dataset = _load(tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert (len(dataset.train_labels), len(dataset.test_labels)) == (8, 2)


def test_a_class_called_train(tmp_path):
    _folder(tmp_path, 5, ("car", "train"))
    assert _load(tmp_path).class_names == ("car", "train")


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (
            ["part1", "part2"],
            "part1 and part2 hold no pictures but the same sub-folders",
        ),
        (
            ["val", "test"],
            "test and val hold no pictures .* cat and dog, so they are no",
        ),
        (["train", "eval"], "eval and train hold no pictures but the same"),
        (["archive"], r"one sub-folder, archive.*did you mean .*path=.*/archive\?"),
        (["train", "Train", "test"], "has Train and train: keep one of them"),
    ],
)
def test_levels_that_are_no_classes(tmp_path, folders, message):
    for folder in folders:
        _folder(tmp_path / folder)
    with pytest.raises(ValueError, match=message) as caught:
        _load(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_of_images_in_each_class(tmp_path):
    """As in Tiny ImageNet."""
    for name in ("n01", "n02"):
        _folder(tmp_path / name, 5, ("images",))
    dataset = _load(tmp_path)
    assert dataset.class_names == ("n01", "n02")
    assert len(dataset.train_labels) == 8


def test_classes_and_what_is_skipped_are_logged(tmp_path, logged):
    folder = _folder(tmp_path / "pets", 5)
    for place in (folder, folder / "cat"):
        (place / "__MACOSX").mkdir()
        (place / "__MACOSX" / "0.png").write_bytes(b"no picture")
        (place / "._0.png").write_bytes(b"no picture")
        (place / ".DS_Store").write_bytes(b"no picture")
    assert len(_load(folder).train_labels) == 8
    assert "Training + test images: cat 4 + 1, dog 4 + 1." in logged
    assert not any("skipped" in line for line in logged)
    (folder / "dog" / "notes.txt").write_text("x")
    (folder / "dog" / "phone.heic").write_bytes(b"x")
    (folder / "dog" / ".hidden.png").write_bytes(b"x")
    (folder / "dog" / "gone.png").symlink_to("nowhere")
    (folder / "dog" / "other").symlink_to(folder / "cat")
    (folder / "lost.png").write_bytes(b"x")
    assert len(_load(folder).train_labels) == 8
    (line,) = (line for line in logged if "skipped" in line)
    assert line.startswith(f"{folder}: 6 file(s) or folder(s) are skipped: ")
    for told in (
        "dog/notes.txt (not the suffix of a picture)",
        "dog/phone.heic (not the suffix of a picture)",
        "dog/.hidden.png (hidden)",
        "dog/gone.png (no file)",
        "dog/other (a link to a folder)",
        "pets/lost.png (in no class)",
    ):
        assert told in line


def test_a_sub_folder_that_cannot_be_read(tmp_path, monkeypatch):
    folder = _folder(tmp_path)
    _folder(tmp_path / "dog", classes=("more",))
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("more"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match="dog/more cannot be read: Permission denied"):
        _load(folder)


def test_all_broken_pictures_are_told_at_once(tmp_path, logged):
    folder = _folder(tmp_path, 5)
    whole = (folder / "cat" / "0.png").read_bytes()
    (folder / "cat" / "1.png").write_bytes(b"")
    (folder / "cat" / "2.png").write_bytes(whole[:45])
    (folder / "dog" / "3.jpg").write_bytes(b"hello")
    with pytest.raises(ValueError, match="3 pictures of .* cannot be read") as caught:
        _load(folder)
    for name in ("cat/1.png (cannot", "cat/2.png (", "dog/3.jpg (cannot identify"):
        assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    for i in range(30):
        (folder / "dog" / f"bad{i}.png").write_bytes(b"")
    with pytest.raises(ValueError, match="33 pictures of .* and 13 more, which the lo"):
        _load(folder)
    assert sum("is no picture that can be read" in line for line in logged) == 3 + 33


def test_programs_are_not_started(tmp_path, monkeypatch):
    """Pillow gives PostScript to Ghostscript, whatever the file is called."""
    from PIL import EpsImagePlugin

    def fail(*args, **kwargs):
        pytest.fail("Ghostscript is started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", fail)
    folder = _folder(tmp_path)
    text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 4\n%%EndComments\nshowpage\n"
    (folder / "dog" / "x.png").write_bytes(text)
    with Image.open(folder / "dog" / "x.png") as picture:
        assert picture.format == "EPS"
    with pytest.raises(ValueError, match="dog/x.png is no picture .* cannot identify"):
        _load(folder)


def test_no_name_of_a_class_forges_a_line_of_the_log(tmp_path, logged):
    path = tmp_path / "data.npz"
    names = np.array(["a\nI1126 forged\x1b[2J", "long" * 5_000])
    images = np.zeros((10, 4, 5), np.uint8)
    np.savez(path, images=images, labels=np.arange(10) % 2, class_names=names)
    assert load_dataset("npz", str(path)).class_names == tuple(names)
    (line,) = (line for line in logged if line.startswith("Training + test"))
    assert line.startswith("Training + test images: a I1126 forged\\x1b[2J 4 + 1, long")
    assert "\n" not in line
    assert len(line) < 200
