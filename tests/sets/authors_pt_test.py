"""Tests of reading the sets of the authors' code, where PyTorch is installed."""

import os
import re
import zipfile

import numpy as np
import pytest

from dc_jax.sets import formats

torch = pytest.importorskip("torch")

MNIST = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")


def make_pair(ipc=2, channels=1, num_classes=10):
    """Images `[C * I, D, H, W]` and labels, as the authors' code makes them."""
    generator = torch.Generator().manual_seed(0)
    shape = (num_classes * ipc, channels, 4, 5)
    images = torch.randn(shape, generator=generator)
    return [images, torch.arange(num_classes).repeat_interleave(ipc)]


def save(path, data, **kwargs):
    # As the authors' code has them.
    accuracies = {"ConvNet": [np.float64(0.5), np.float64(0.25)]}
    content = {"data": data, "accs_all_exps": accuracies}
    torch.save(content, path, **kwargs)
    return path


@pytest.mark.parametrize("is_zip", [True, False])
def test_sets_of_all_experiments(tmp_path, is_zip):
    pairs = [make_pair(), make_pair(ipc=3)]
    path = save(tmp_path / "set.pt", pairs, _use_new_zipfile_serialization=is_zip)
    for experiment, (images, _) in enumerate(pairs):
        loaded = formats.load_synthetic_set(
            path, dataset="mnist", experiment=experiment
        )
        ipc = 2 + experiment
        assert loaded.images.shape == (10, ipc, 4, 5, 1)
        assert loaded.images.dtype == np.float32
        for label in range(10):
            for place in range(ipc):
                np.testing.assert_array_equal(
                    loaded.images[label, place, :, :, 0],
                    images[label * ipc + place, 0].numpy(),
                )
        assert loaded.labels.tolist() == [[label] * ipc for label in range(10)]
        assert loaded.class_names == MNIST
        assert loaded.mean.tolist() == [np.float32(0.1307)]
        assert loaded.std.tolist() == [np.float32(0.3081)]
        assert loaded.recipe is None
    formats.export(loaded, tmp_path / "set.npz", "npz")
    with pytest.raises(ValueError, match="has the sets 0 to 1, not 2"):
        formats.load_synthetic_set(path, dataset="mnist", experiment=2)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("module", ["numpy.core", "numpy._core"])
def test_numbers_of_either_numpy(tmp_path, is_zip, module):
    path = save(tmp_path / "a.pt", [make_pair()], _use_new_zipfile_serialization=is_zip)

    def rename(data):
        ours = re.search(rb"numpy\._?core\.multiarray\nscalar\n", data)[0]
        return data.replace(ours, f"{module}.multiarray\nscalar\n".encode())

    if is_zip:
        with (
            zipfile.ZipFile(path) as old,
            zipfile.ZipFile(tmp_path / "b.pt", "w") as new,
        ):
            for name in old.namelist():
                data = old.read(name)
                new.writestr(name, rename(data) if name.endswith(".pkl") else data)
        path = tmp_path / "b.pt"
    else:
        path.write_bytes(rename(path.read_bytes()))
    loaded = formats.load_synthetic_set(path, dataset="mnist")
    np.testing.assert_array_equal(
        loaded.images[..., 0], make_pair()[0].numpy().reshape(10, 2, 4, 5)
    )


@pytest.mark.parametrize("is_soft", [False, True])
def test_sets_of_mtt_and_datm(tmp_path, is_soft):
    """Images in a file, labels or logits in the other."""
    images, labels = make_pair(channels=3)
    torch.save(torch.nn.Parameter(images), tmp_path / "images_best.pt")
    logits = torch.eye(10)[labels] * 9 + torch.rand(20, 10)
    path = tmp_path / "labels_best.pt"
    torch.save(logits if is_soft else labels, path)
    loaded = formats.load_synthetic_set(tmp_path / "images_best.pt", dataset="cifar10")
    np.testing.assert_array_equal(
        loaded.images[3, 1], images[7].permute(1, 2, 0).numpy()
    )
    assert loaded.labels[3].tolist() == [3, 3]
    if is_soft:
        expected = torch.softmax(logits[7], 0).numpy()
        np.testing.assert_allclose(loaded.soft_labels[3, 1], expected, rtol=1e-5)
    else:
        assert loaded.soft_labels is None
    with pytest.raises(ValueError, match=r"it is a Tensor \[20.*expected a dict with"):
        formats.load_synthetic_set(path, dataset="cifar10")
    path.unlink()
    with pytest.raises(ValueError, match="its labels must be in .*/labels_best.pt"):
        formats.load_synthetic_set(tmp_path / "images_best.pt", dataset="cifar10")


@pytest.mark.parametrize("suffix", ["pt", "pth"])
def test_pairs_of_idc_and_ncfm(tmp_path, suffix):
    """Images in [0, 1], which are normalised when they are read."""
    labels = make_pair()[1]
    images = torch.linspace(0, 1, 20 * 3 * 20).reshape(20, 3, 4, 5)
    path = tmp_path / f"data_best.{suffix}"
    torch.save([images, labels], path)
    loaded = formats.load_synthetic_set(path, dataset="cifar10")
    pixels = loaded.images * loaded.std + loaded.mean
    np.testing.assert_allclose(
        pixels[3, 1], images[7].permute(1, 2, 0).numpy(), atol=1e-6
    )
    torch.save((images * 4 - 2, labels), path)
    with pytest.raises(ValueError, match="in .0, 1., but these go from -2 to 2; if"):
        formats.load_synthetic_set(path, dataset="cifar10")


@pytest.mark.parametrize(
    "content", [{"model": {}}, [1, 2, 3], torch.zeros(3), "text", {"data": 5}]
)
def test_other_files_of_pytorch(tmp_path, content):
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"\S, has no list data; .*torch\.save") as e:
        formats.load_synthetic_set(path, dataset="mnist")
    assert "\n" not in str(e.value)


def test_images_in_another_order(tmp_path):
    images, labels = make_pair(channels=3)
    order = torch.tensor([*range(10, 20), *range(10)])
    path = save(tmp_path / "a.pt", [[images, labels]])
    other = save(tmp_path / "b.pt", [[images[order], labels[order]]])
    first, second = (
        formats.load_synthetic_set(one, dataset="svhn") for one in (path, other)
    )
    np.testing.assert_array_equal(first.images, second.images)
    # Channels last.
    np.testing.assert_array_equal(
        first.images[1, 1], images[3].permute(1, 2, 0).numpy()
    )


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (None, "give its dataset, such as mnist"),
        ("imagenet", "dataset must be one of mnist, .* got 'imagenet'"),
        ("cifar10", r"has 1 channel\(s\) .* cifar10 has 3 and 0 to 9"),
    ],
)
def test_the_dataset_is_named(tmp_path, dataset, message):
    path = save(tmp_path / "set.pt", [make_pair()])
    with pytest.raises(ValueError, match=message) as error:
        formats.load_synthetic_set(path, dataset=dataset)
    assert "\n" not in str(error.value)


IMAGES, LABELS = make_pair()


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")  # Of PyTorch 2.14.
@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "no list data"),
        ([IMAGES], "float images"),
        ([[LABELS, IMAGES]], "float images"),
        ([[IMAGES, LABELS[1:]]], "float images"),
        ([[IMAGES.to_sparse(), LABELS]], "float images"),
        ([[IMAGES.to("meta"), LABELS]], "float images"),
        ([[IMAGES, LABELS * 10**12]], "the labels 0 to 9000000000000"),
        ([[IMAGES[:18], LABELS[:18]]], "labels 0 to 8; dataset mnist has 1 and 0 to 9"),
        ([[IMAGES[1:], LABELS[1:]]], "classes of 1 to 2 images"),
        ([[IMAGES * np.nan, LABELS]], "400 values of images are NaN"),
        # Large but for its strides.
        ([[IMAGES[:1, :, :1, :1].expand(20, 1, 9999, 9999), LABELS]], "longer than"),
    ],
)
def test_a_file_of_something_else(tmp_path, data, message):
    path = save(tmp_path / "set.pt", data)
    with pytest.raises(ValueError, match=message) as error:
        formats.load_synthetic_set(path, dataset="mnist")
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("is_zip", [True, False])
def test_code_in_a_file_is_not_run(tmp_path, is_zip):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    path = save(
        tmp_path / "set.pt",
        [[*make_pair(), Bomb()]],
        _use_new_zipfile_serialization=is_zip,
    )
    with pytest.raises(ValueError, match="plain containers, such as code") as error:
        formats.load_synthetic_set(path, dataset="mnist")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "exploded").exists()
    # The file is what it says: PyTorch runs it where it is trusted.
    torch.load(path, weights_only=False)
    assert (tmp_path / "exploded").exists()


def test_a_compressed_file(tmp_path):
    path = save(tmp_path / "set.pt", [[torch.zeros(20, 1, 400, 500), LABELS]])
    bomb = tmp_path / "bomb.pt"
    with (
        zipfile.ZipFile(path) as old,
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(ValueError, match="it is compressed"):
        formats.load_synthetic_set(bomb, dataset="mnist")
