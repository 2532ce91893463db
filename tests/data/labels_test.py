"""Labels as people have them."""

import numpy as np
import pytest

import dc_jax
from dc_jax.data.labels import read_labels
from dc_jax.data.sources import load_dataset
from dc_jax.errors import UserError

WORDS = ["dog", "cat", "eel", "cat"]


@pytest.mark.parametrize(
    ("labels", "expected", "names"),
    [
        ([2.0, 0.0, 1.0], [2, 0, 1], None),
        (np.array([[1], [0]], np.float16), [1, 0], None),
        ([True, False], [1, 0], None),
        (np.array([7, 300], np.uint64), [7, 300], None),
        (WORDS, [1, 0, 2, 0], ("cat", "dog", "eel")),
        (np.array(WORDS, object)[:, None], [1, 0, 2, 0], ("cat", "dog", "eel")),
        (np.array(WORDS, "S"), [1, 0, 2, 0], ("cat", "dog", "eel")),
        (np.array([3, 1], object), [3, 1], None),
        (np.eye(3)[[2, 0]], [2, 0], ("0", "1", "2")),
        (np.eye(2, dtype=bool)[[1, 0]], [1, 0], ("0", "1")),
    ],
)
def test_labels(labels, expected, names):
    found, found_names = read_labels(np.asarray(labels), "labels")
    assert found.dtype == np.int32
    assert found.tolist() == expected
    assert found_names == names


def test_with_known_classes():
    found, names = read_labels(np.array(WORDS), "labels", ("eel", "dog", "cat"))
    assert (found.tolist(), names) == ([1, 2, 0, 2], ("eel", "dog", "cat"))
    found, names = read_labels(np.eye(2), "labels", ("a", "b"))
    assert (found.tolist(), names) == ([0, 1], ("a", "b"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.5, 1], "must be whole numbers where they are float, got 0.5"),
        ([np.nan, 1], "must be whole numbers where they are float, got nan"),
        ([-1.0, 0], "must count from 0, got -1.0 to 0.0"),
        ([[0.3, 0.7]], "must be one-hot, a single 1 in each row"),
        ([[1, 1], [0, 1]], "must be one-hot"),
        ([[0, 2], [1, 0]], "must be one-hot"),
        (np.eye(3), "must have one column per class, 2, got 3"),
        (["dog", "ant"], "has 'ant', which is none of the classes cat, dog"),
        ([1 + 2j], "must be integers or strings"),
        (np.array([{}, 1], object), "must be integers or strings"),
        (np.array([b"\xff"]), "must be UTF-8"),
        (np.zeros((2, 2, 2)), "must be integers or strings"),
    ],
)
def test_others_are_refused(labels, message):
    with pytest.raises(UserError, match=message):
        read_labels(np.asarray(labels), "labels", ("cat", "dog"))


def test_strings_and_one_hot_in_npz(tmp_path):
    images = np.arange(8, dtype=np.uint8).reshape(-1, 1, 1) + np.zeros((4, 5), "u1")
    path = tmp_path / "a.npz"
    test = {"x_test": images[:2], "y_test": np.array(["eel", "cat"])}
    np.savez(path, x_train=images, y_train=np.array(WORDS * 2), **test)
    dataset = load_dataset("npz", str(path))
    assert dataset.class_names == ("cat", "dog", "eel")
    assert dataset.train_labels.tolist() == [1, 0, 2, 0] * 2
    assert dataset.test_labels.tolist() == [2, 0]
    np.savez(path, x_train=images, y_train=np.eye(3)[[0, 1, 2, 0] * 2])
    assert load_dataset("npz", str(path)).class_names == ("0", "1", "2")
    np.savez(path, x_train=images, y_train=np.eye(4)[[0, 1, 2, 0] * 2])
    with pytest.raises(ValueError, match=r"class 3 has 0 image"):
        load_dataset("npz", str(path))


def test_strings_from_python():
    images = np.arange(8, dtype=np.uint8).reshape(-1, 1, 1) * np.ones((8, 8), "u1")
    labels = np.array(WORDS * 2)
    chosen = dc_jax.select(images, labels, ipc=1, method="random")
    assert chosen.class_names == ("cat", "dog", "eel")
    assert [labels[i] for i in chosen.indices[:, 0]] == ["cat", "dog", "eel"]
    again = dc_jax.select(
        images, labels, class_names=["eel", "dog", "cat"], ipc=1, method="random"
    )
    assert [labels[i] for i in again.indices[:, 0]] == ["eel", "dog", "cat"]
    with pytest.raises(UserError, match="test_labels has 'ant', which is none of"):
        dc_jax.evaluate(chosen, images[:1], ["ant"])
