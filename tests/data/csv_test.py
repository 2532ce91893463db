"""CSV of strangers: which column has the labels, words for labels, what is wrong."""

import numpy as np
import pytest
from data_helpers import cycling_labels, random_pixels

from dc_jax.data.csv_columns import find_label
from dc_jax.data.sources import load_dataset
from dc_jax.errors import UserError

NUM = 30
PIXELS = random_pixels(0, NUM, 16)
LABELS = cycling_labels(NUM, 3)


def _rows(labels=LABELS, pixels=PIXELS, label_at=0):
    rows = [[str(value) for value in row] for row in pixels]
    for row, label in zip(rows, labels, strict=True):
        row.insert(label_at, str(label))
    return rows


def _write(path, rows, separator=",", header=""):
    path.write_text(header + "\n".join(map(separator.join, rows)) + "\n")
    return path


def _check(path, labels=LABELS, class_names=("0", "1", "2")):
    dataset = load_dataset("csv", str(path))
    assert dataset.class_names == class_names
    images = np.concatenate([dataset.train_images, dataset.test_images])
    found = np.concatenate([dataset.train_labels, dataset.test_labels])
    for image, label in zip(PIXELS, labels, strict=True):
        same = (images.reshape(NUM, -1) == image).all(axis=1)
        assert found[same].tolist() == [label]


NUMBERS = ",".join(map(str, range(16)))
NAMES = ",".join(f"p{i}" for i in range(16))


@pytest.mark.parametrize(
    ("name", "label_at", "separator", "header"),
    [
        ("a.csv", 16, ",", ""),
        ("a.csv", 0, ";", ""),
        ("a.tsv", 16, "\t", ""),
        ("a.csv", 16, ",", f"{NAMES},digit\n"),
        ("a.csv", 0, ",", f"y,{NUMBERS}\n"),
        ("a.csv", 7, ",", f"{NAMES.replace('p7', 'Label,p7')}\n"),
    ],
)
def test_the_column_of_the_labels(tmp_path, name, label_at, separator, header):
    rows = _rows(label_at=label_at)
    _check(_write(tmp_path / name, rows, separator, header))


@pytest.mark.parametrize("label_at", [0, 16])
@pytest.mark.parametrize("header", ["", f"what,{NUMBERS}\n"])
def test_words_for_labels(tmp_path, label_at, header):
    words = np.array(["eel", "cat", '"a, b"'])
    if header and label_at:
        header = f"{NUMBERS},what\n"
    rows = _rows(words[LABELS], label_at=label_at)
    path = _write(tmp_path / "train.csv", rows, header=header)
    _check(path, 2 - LABELS, ("a, b", "cat", "eel"))
    test = tmp_path / "test.csv"
    _write(test, rows[:2], header=header)
    dataset = load_dataset("csv", str(tmp_path))
    assert dataset.test_labels.tolist() == [2, 1]
    _write(test, _rows(["ant"], PIXELS[:1], label_at), header=header)
    with pytest.raises(UserError, match=r"test\.csv .* 'ant', which is none of the"):
        load_dataset("csv", str(tmp_path))
    _write(test, _rows([2], PIXELS[:1], label_at), header=header)
    with pytest.raises(UserError, match=r"test\.csv .*its labels are numbers, those"):
        load_dataset("csv", str(tmp_path))


def _table(first, last, inner=255):
    table = np.zeros((60, 17), np.uint8)
    table[:, 1] = inner
    table[:, 0], table[:, -1] = (np.resize(end, 60) for end in (first, last))
    return table


RARE = [0] * 59 + [1]  # As JPEG leaves it in a corner.
GAPS = [0, 2, 3]


@pytest.mark.parametrize(
    ("table", "label"),
    [
        (_table(range(10), 0), 0),  # MNIST.
        (_table(0, range(10), 16), -1),  # The digits of UCI.
        (_table(range(1, 11), [0, 1], 1), 0),  # Binary.
        (_table([0, 1], range(10), 1), -1),
        (_table(RARE, range(3)), -1),
        (_table(RARE, 255), 0),  # Classes of different sizes.
        (_table(GAPS, 255), 0),
        (_table(range(3), [7, 99, 200]), 0),
        (_table([0, 1], [0, 1], 1), None),
        (_table([0, 1], [2, 5], 1), None),
        (_table(RARE, GAPS), None),
        (_table(0, 0), None),
    ],
)
def test_either_end_can_have_the_labels(table, label):
    if label is not None:
        assert find_label(table) == label
        return
    with pytest.raises(UserError, match="add a header .* which calls that one label"):
        find_label(table)


TORN = _rows()
TORN[4] = TORN[4][:9]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"is no CSV .*: it is empty\.$"),
        (f"label,{NAMES}\n", r"it has a header and no images\.$"),
        ("filename,label\na.png,3\n", "lists files of pictures, such as a.png; .*=fol"),
        ("1 2 3 4 5 6\n" * 3, "separated by commas, semicolons or tabs"),
        (TORN, r"line 5 has 9 values, must have 17 as the first line has\.$"),
        (_rows([*LABELS[:-1], "x"]), r"line 30, column 1 must be a number, got 'x'\.$"),
        (
            _rows(["a", *LABELS[1:]])[:1] + [["b", *"x" * 16]],
            "line 2, column 2 must be",
        ),
    ],
)
def test_what_is_wrong_is_told(tmp_path, content, message):
    path = tmp_path / "a.csv"
    path.write_text(content) if isinstance(content, str) else _write(path, content)
    for place in (path, tmp_path):
        with pytest.raises(UserError, match=message) as caught:
            load_dataset("csv", str(place))
        assert "\n" not in str(caught.value)
