"""Tests of names and recipes that may come from anybody."""

import time

import numpy as np
import pytest
import yaml
from formats_test import make_set, pixels_of

import dc_jax
from dc_jax.data.sources import load_dataset
from dc_jax.run.checks import check_fit
from dc_jax.sets import formats, hub_card, image_grid, pictures
from dc_jax.sets.make import make_set as make_digits


@pytest.mark.parametrize("letter", ["x", "\u0300", " x"])
def test_a_name_of_20_kilobytes_is_drawn_at_once(letter):
    began = time.process_time()
    image_grid.draw_grid(np.zeros((2, 1, 8, 8, 1), np.uint8), [letter * 20_000, "cat"])
    # It took a minute.
    assert time.process_time() - began < 5


def test_the_folder_of_a_class_is_not_our_own_file(tmp_path):
    names = ("Dc_Jax.json", "dc_jax.json.", "dog")
    assert pictures.folder_names(["dc_jax.json", "zebra"]) == [
        *("0_dc_jax.json", "1_zebra")
    ]
    formats.export(make_set(class_names=names), tmp_path / "out", "png")
    assert (tmp_path / "out" / "dc_jax.json").is_file()
    assert len(list((tmp_path / "out").glob("*/*.png"))) == 6


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a\nb", "c\r\n", "\td\x85e"], ["a b", "c", "d e"]),
        (["a b", "a\nb", "c"], ["0 a b", "1 a b", "2 c"]),
        ([" ", "x"], ["_", "x"]),
        (["", "_"], ["0 _", "1 _"]),
        (["a\x1b[1m"], ["a\\x1b[1m"]),
        (["Größe", "✓"], ["Größe", "✓"]),
    ],
)
def test_names_of_one_line(names, expected):
    assert pictures.line_names(names) == expected


_NAMES = ("yes", "a: 'b'\n\x1b\x7f\x85\u2028 \"#{", "\U0001f600 ~ --- é")


def test_the_card_for_the_hub(tmp_path):
    synthetic = make_set(class_names=_NAMES)
    folder = tmp_path / "out"
    formats.export(synthetic, folder, "huggingface")
    text = (folder / "README.md").read_text("utf-8")
    _, front, body = text.split("---\n", 2)
    front = yaml.safe_load(front)
    features = front["dataset_info"]["features"]
    assert [one["name"] for one in features] == ["image", "label"]
    names = features[1]["dtype"]["class_label"]["names"]
    assert names == {str(label): name for label, name in enumerate(_NAMES)}
    assert front["dataset_info"]["splits"] == [{"name": "train", "num_examples": 6}]
    (split,) = front["configs"][0]["data_files"]
    table = pytest.importorskip("pyarrow.parquet").read_table(folder / split["path"])
    assert table["label"].to_pylist() == [0, 0, 1, 1, 2, 2]
    assert front["size_categories"] == ["n<1K"]
    assert "# a dataset, condensed to 2 images per class" in body
    assert "How to train on them is not known." in body


def test_a_recipe_cannot_change_the_card():
    recipe = (
        '{"dataset": "x\\n---\\n# <b>", "method": 3, "accuracy_mean": 0.5,'
        ' "accuracy_std": 0.25, "training_in_words": ["a|b"], "num_evaluations": "`"}'
    )
    text = hub_card.make(make_set().replace(recipe=recipe))
    front, title = (
        text.split("---\n")[1],
        "x --- # <b>, condensed to 2 images per class",
    )
    assert yaml.safe_load(front)["pretty_name"] == title
    assert text.count("\n---\n") == 1
    assert r"\<b\>" in text
    assert "50.0% ± 25.0" in text


def test_a_set_is_one_line():
    assert repr(make_set()) == "SyntheticSet(3 classes of 2 images, 4x5x3 pixels)"
    assert "\n" not in repr(make_set().replace(images=None))


def test_epochs_of_a_stranger_are_bounded():
    digits = load_dataset("digits")
    images = np.zeros((10, 1, 8, 8, 1), np.float32)
    synthetic = make_digits(images, digits).replace(
        recipe='{"training": {"network": "MLP", "epochs": 2147483647}}'
    )
    with pytest.raises(ValueError, match="2,147,483,647 epochs, more than") as error:
        dc_jax.evaluate(synthetic, digits.test_images, digits.test_labels)
    assert "\n" not in str(error.value)


def test_learned_steps_of_a_stranger_are_bounded():
    digits = load_dataset("digits")
    images = np.zeros((10, 1, 8, 8, 1), np.float32)
    synthetic = make_digits(images, digits)
    for steps in (100_000, 2_000_000):
        rates = np.ones((steps, 1), np.float32)
        one = synthetic.replace(learning_rates=rates)
        if steps == 100_000:
            check_fit(one, digits, "set.npz")
            continue
        with pytest.raises(ValueError, match=r"set\.npz has 2,000,000 learned steps"):
            check_fit(one, digits, "set.npz")


def test_a_dataset_of_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    from dc_jax.torch import CondensedDataset

    synthetic = make_set().replace(labels=np.array([[0, 0], [1, -1], [2, 2]], np.int32))
    images = synthetic.images.copy()
    images[1, 1] = 0
    synthetic = synthetic.replace(images=images)
    formats.export(synthetic, tmp_path / "set.npz", "npz")
    condensed = CondensedDataset(tmp_path / "set.npz")
    assert isinstance(condensed, torch.utils.data.Dataset)
    assert len(condensed) == 5
    size = "x".join(map(str, condensed.images.shape[1:]))
    assert repr(condensed) == f"CondensedDataset(5 images of {size}, 3 classes)"
    image, label = condensed[2]
    assert (image.dtype, label) == (torch.float32, 1)
    np.testing.assert_array_equal(image.numpy(), np.moveaxis(images[1, 0], -1, 0))
    pixels = condensed.images * condensed.std[:, None, None]
    pixels = (pixels + condensed.mean[:, None, None]).clip(0, 1) * 255
    expected = pixels_of(synthetic)[[0, 1, 2, 4, 5]]
    np.testing.assert_array_equal(
        pixels.round().numpy().transpose(0, 2, 3, 1), expected
    )
    assert condensed.class_names == ("cat", "dog", "Größe")
    assert condensed.recipe["training"]["lr"] == 0.01
    batches = list(torch.utils.data.DataLoader(condensed, batch_size=2))
    assert [batch[1].tolist() for batch in batches] == [[0, 0], [1, 2], [2]]
    with pytest.raises(ValueError, match=r"set\.npz has no soft labels"):
        CondensedDataset(tmp_path / "set.npz", soft=True)


def test_a_dataset_of_pytorch_with_soft_labels(tmp_path):
    torch = pytest.importorskip("torch")
    from dc_jax.torch import CondensedDataset

    soft_labels = np.float32([[[1, 0], [0.75, 0.25]], [[0.5, 0.5], [0, 1]]])
    synthetic = make_set(3, ("cat", "dog")).replace(soft_labels=soft_labels, factor=2)
    formats.export(synthetic, tmp_path / "set.npz", "npz")
    hard = CondensedDataset(tmp_path / "set.npz")
    soft = CondensedDataset(tmp_path / "set.npz", soft=True)
    assert [label for _, label in hard] == [0] * 8 + [1] * 8
    ((images, labels),) = torch.utils.data.DataLoader(soft, batch_size=16)
    assert labels.dtype == torch.float32
    # Each of the four parts of an image has its labels.
    expected = soft_labels.reshape(4, 2).repeat(4, axis=0)
    np.testing.assert_array_equal(labels.numpy(), expected)
    np.testing.assert_array_equal(images.numpy(), hard.images.numpy())
