"""Tests of TFDS: the real builders over tiny raw files, and what can go wrong."""

import io
import shutil
import sys
import tarfile
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds
from data_helpers import (
    NUM_TEST,
    NUM_TRAIN,
    cycling_labels,
    random_pixels,
    run_python,
    write_idx,
)

from dc_jax.data import sources, tfds_source
from dc_jax.data.dataset import channel_statistics
from dc_jax.data.facts import Facts
from dc_jax.data.sources import load_dataset


def _raw_mnist(folder: Path) -> dict:
    write_idx(folder, height=28, gzipped=True)
    return {
        split: (random_pixels(num, num, 28, 28)[..., None], cycling_labels(num))
        for split, num in (("train", NUM_TRAIN), ("test", NUM_TEST))
    }


def _raw_svhn(folder: Path) -> dict:
    import scipy.io

    written = {}
    for split, num in (("train", NUM_TRAIN), ("test", NUM_TEST), ("extra", 2)):
        images, labels = random_pixels(num, num, 32, 32, 3), cycling_labels(num)
        # The files count from 1 and call the zero 10.
        ones_based = np.where(labels == 0, 10, labels)[:, None]
        scipy.io.savemat(
            folder / f"{split}_32x32.mat",
            {"X": images.transpose(1, 2, 3, 0), "y": ones_based},
        )
        written[split] = images, labels
    return written


def _raw_cifar10(folder: Path) -> dict:
    images, labels = random_pixels(3, NUM_TRAIN, 32, 32, 3), cycling_labels(NUM_TRAIN)
    test_images = random_pixels(4, NUM_TEST, 32, 32, 3)
    test_labels = cycling_labels(NUM_TEST)

    def encode(images, labels):
        planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        return np.concatenate([labels[:, None], planes], axis=1).tobytes()

    # Five files of four images each.
    files = {
        f"data_batch_{i + 1}.bin": encode(images[i::5], labels[i::5]) for i in range(5)
    }
    files["test_batch.bin"] = encode(test_images, test_labels)
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    files["batches.meta.txt"] = names.replace(" ", "\n").encode()
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return {"train": (images, labels), "test": (test_images, test_labels)}


RAW = {"mnist": _raw_mnist, "svhn_cropped": _raw_svhn, "cifar10": _raw_cifar10}


def _as_pairs(images: np.ndarray, labels: np.ndarray) -> list[tuple[bytes, int]]:
    """TFDS shuffles, so that only the sets of pairs can be compared."""
    pairs = zip(images, labels, strict=True)
    return sorted((image.tobytes(), int(label)) for image, label in pairs)


@pytest.fixture(scope="module")
def prepare(tmp_path_factory):
    """Returns a function of a name that prepares that dataset, and loads it.

    The builders are the real ones. Only the download is replaced, by tiny raw files in
    the formats of the real ones.

    Returns:
      A function that returns the folder of TFDS, what was written by split, and what
      `load_dataset` returned.
    """
    from tensorflow_datasets.image_classification import mnist

    def prepare_one(name):
        data_dir, raw = tmp_path_factory.mktemp("tfds"), tmp_path_factory.mktemp("raw")
        written = RAW[name](raw)
        config = tfds.download.DownloadConfig(manual_dir=raw, try_download_gcs=False)
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            # Those of TensorFlow, which we cannot mend.
            warnings.simplefilter("ignore")
            patch.setattr(mnist, "_TRAIN_EXAMPLES", NUM_TRAIN)
            patch.setattr(mnist, "_TEST_EXAMPLES", NUM_TEST)
            patch.setattr(
                tfds.download.DownloadManager,
                "_register_or_validate_checksums",
                lambda self, url, url_info, path: None,
            )
            patch.setattr(tfds_source, "_download_config", lambda: config)
            patch.setattr(tfds_source, "is_reachable", lambda addresses: True)
            tfds_source.prepare(tfds_source.open_builder(name, str(data_dir)))
            return data_dir, written, load_dataset(name, str(data_dir))

    return prepare_one


@pytest.fixture(scope="module")
def prepared(prepare):
    """What `prepare` returns of MNIST."""
    return prepare("mnist")


def _check_images(data_dir, written, loaded):
    again = load_dataset(loaded.name, str(data_dir))
    assert again.checksum() == loaded.checksum()
    for split in ("train", "test"):
        images = getattr(again, f"{split}_images")
        labels = getattr(again, f"{split}_labels")
        assert images.dtype == np.uint8
        assert _as_pairs(images, labels) == _as_pairs(*written[split])


def test_tfds_images_come_back_exactly(prepared):
    _check_images(*prepared)
    mnist = prepared[2]
    assert mnist.source == "TFDS mnist:3.0.1"
    assert mnist.class_names == tuple("0123456789")
    np.testing.assert_array_equal(mnist.mean, np.array([0.1307], np.float32))


def test_colour_images_come_back_exactly(prepare):
    svhn, cifar10 = prepare("svhn_cropped"), prepare("cifar10")
    for found in (svhn, cifar10):
        _check_images(*found)
    assert load_dataset("svhn", str(svhn[0])).name == "svhn_cropped"
    expected = np.array([0.4377, 0.4438, 0.4728], np.float32)
    np.testing.assert_array_equal(svhn[2].mean, expected)
    assert cifar10[2].class_names[:2] == ("airplane", "automobile")


def test_images_are_mapped_from_a_file_written_once(prepared, tmp_path, monkeypatch):
    data_dir, _, loaded = prepared
    shutil.copytree(data_dir / "mnist", tmp_path / "mnist")
    monkeypatch.setattr(tfds_source, "_CHUNK", 6)
    first = load_dataset("mnist", str(tmp_path), stream=True)
    assert isinstance(first.train_images, np.memmap)
    assert first.checksum() == loaded.checksum()
    files = sorted(tmp_path.rglob("*dc_jax-*"))
    assert [f.suffix for f in files] == [".npy", ".npy"]
    times = [f.stat().st_mtime_ns for f in files]

    load_dataset("mnist", str(tmp_path), stream=True)
    load_dataset("mnist", str(tmp_path))
    assert [f.stat().st_mtime_ns for f in files] == times
    # A full disk or another program may truncate them.
    for damaged in files:
        damaged.write_bytes(damaged.read_bytes()[:-1])
        again = load_dataset("mnist", str(tmp_path), stream=True)
        assert again.checksum() == loaded.checksum()


def test_a_file_that_breaks_off_leaves_nothing(prepared, tmp_path, monkeypatch):
    shutil.copytree(prepared[0] / "mnist", tmp_path / "mnist")
    monkeypatch.setattr(tfds_source, "_CHUNK", 6)
    chunks = tfds_source._read_chunks

    def break_off(builder, split):
        yield next(chunks(builder, split))
        raise OSError("the disk is full")

    monkeypatch.setattr(tfds_source, "_read_chunks", break_off)
    match = r"config\.dataset\.stream .* cannot be written to: the disk is full\.$"
    with pytest.raises(ValueError, match=match):
        load_dataset("mnist", str(tmp_path), stream=True)
    assert not list(tmp_path.rglob("*dc_jax-*"))


def _store_own_dataset(
    data_dir: Path,
    file_format: str,
    shape: tuple = (4, 6, 3),
    more: dict | None = None,
    splits: tuple = ("train", "validation"),
) -> dict:
    """Prepares a dataset that TFDS has no code for, with `validation` but no `test`."""
    written = {
        split: (random_pixels(num, num, 4, 6, 3), cycling_labels(num, 3))
        for split, num in (("train", NUM_TRAIN), ("validation", NUM_TEST))
        if split in splits
    }
    tfds.dataset_builders.store_as_tfds_dataset(
        name="own",
        version="1.0.0",
        data_dir=data_dir,
        file_format=file_format,
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=shape),
                "label": tfds.features.ClassLabel(names=["ant", "bee", "cat"]),
            }
        ),
        split_datasets={
            split: [
                (i, {"image": image, "label": int(label)})
                for i, (image, label) in enumerate(
                    [
                        *zip(images, labels, strict=True),
                        *zip(*(more or {}).get(split, ((), ())), strict=True),
                    ]
                )
            ]
            for split, (images, labels) in written.items()
        },
    )
    return written


@pytest.mark.filterwarnings("ignore")
def test_own_dataset_is_read_in_chunks_and_tested_on_validation(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_source, "_CHUNK", 6)
    written = _store_own_dataset(tmp_path, "array_record")
    own = load_dataset("own", str(tmp_path))
    assert own.source == "TFDS own:1.0.0"
    assert own.class_names == ("ant", "bee", "cat")
    assert own.image_shape == (4, 6, 3)
    train = _as_pairs(own.train_images, own.train_labels)
    assert train == _as_pairs(*written["train"])
    test = _as_pairs(own.test_images, own.test_labels)
    assert test == _as_pairs(*written["validation"])
    assert own.mean.tolist() == channel_statistics(own.train_images)[0].tolist()


@pytest.mark.filterwarnings("ignore")
def test_without_a_test_split_a_fifth_is_tested_on(tmp_path):
    _store_own_dataset(tmp_path, "array_record", splits=("train",))
    own = load_dataset("own", str(tmp_path))
    assert (len(own.train_labels), len(own.test_labels)) == (16, 4)
    with pytest.raises(ValueError, match="stream must be False where there is no test"):
        load_dataset("own", str(tmp_path), stream=True)
    _store_own_dataset(tmp_path / "more", "array_record", splits=("validation",))
    with pytest.raises(
        ValueError, match=r"the splits \['validation'\], must have 'tra"
    ):
        load_dataset("own", str(tmp_path / "more"))


@pytest.mark.filterwarnings("ignore")
def test_other_tfds_formats_are_refused(tmp_path):
    _store_own_dataset(tmp_path, "tfrecord")
    with pytest.raises(ValueError, match="cannot open 'own' .*tfrecord.*array_record"):
        load_dataset("own", str(tmp_path))


def test_packages_are_imported_only_where_they_are_needed(prepared):
    # Without a path, the dataset is in the default folder of TFDS.
    run_python(
        "import os, sys\n"
        f"os.environ['TFDS_DATA_DIR'] = {str(prepared[0])!r}\n"
        "from dc_jax.data.sources import load_dataset\n"
        "load_dataset('digits')\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
        f"assert len(load_dataset('mnist').train_images) == {NUM_TRAIN}\n"
        "assert 'tensorflow' not in sys.modules\n"
    )


def test_debian_files_stand_in_where_tfds_has_no_fashion_mnist(tmp_path, monkeypatch):
    write_idx(tmp_path)
    builder = types.SimpleNamespace(is_prepared=lambda: False)
    monkeypatch.setattr(tfds_source, "open_builder", lambda name, data_dir: builder)
    found = Facts("fashion_mnist", idx_folder=tmp_path)
    monkeypatch.setattr(sources, "find_facts", lambda name: found)
    assert load_dataset("fashion_mnist").source == f"IDX files in {tmp_path}"


def test_damaged_tfds_file_is_named(prepared, tmp_path):
    shutil.copytree(prepared[0] / "mnist", tmp_path / "mnist")
    (file,) = tmp_path.glob("mnist/*/mnist-train.array_record*")
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="'train' of TFDS mnist:3.0.1 in .* cannot be"):
        load_dataset("mnist", str(tmp_path))


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (requests.ConnectionError("no\nroute"), ConnectionError, "failed: .*no route"),
        (tfds.download.DownloadError("404"), ConnectionError, "mnist:3.0.1 failed"),
        (OSError("disk full"), ValueError, "could not be prepared in .*disk full"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_failed_preparation_says_what_to_do(
    tmp_path, monkeypatch, error, expected, message
):
    def fail(*args, **kwargs):
        raise error

    logged = []
    monkeypatch.setattr(tfds_source.logging, "info", lambda *args: logged.append(args))
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    monkeypatch.setattr(tfds_source, "is_reachable", lambda addresses: True)
    builder = tfds_source.open_builder("mnist", str(tmp_path))
    with pytest.raises(expected, match=message) as caught:
        tfds_source.prepare(builder)
    assert "--config.dataset.path=DIR" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [args[1] for args in logged] == ["mnist:3.0.1"]


@pytest.mark.filterwarnings("ignore")
def test_missing_tensorflow_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    builder = tfds_source.open_builder("mnist", str(tmp_path))
    with pytest.raises(ValueError, match="needs TensorFlow, once: pip install"):
        tfds_source.prepare(builder)


def test_without_a_network_one_line_within_seconds(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(tfds_source, "is_reachable", asked.extend)
    builder = tfds_source.open_builder("mnist", str(tmp_path))
    with pytest.raises(ConnectionError, match="cannot be reached: .*dataset.path=DIR"):
        tfds_source.prepare(builder)
    assert asked[0].startswith("https://storage.googleapis.com/")


@pytest.mark.filterwarnings("ignore")
def test_pictures_of_several_sizes_are_resized_as_those_of_folders(tmp_path):
    written = _store_own_dataset(tmp_path, "array_record", (None, None, 3))
    same = load_dataset("own", str(tmp_path))
    assert same.image_shape == (4, 6, 3)
    train = _as_pairs(same.train_images, same.train_labels)
    assert train == _as_pairs(*written["train"])
    wide = np.zeros((2, 10, 30, 3), np.uint8)
    wide[:, :, 10:20] = 255
    more = {"train": (wide, np.array([0, 2]))}
    _store_own_dataset(tmp_path / "wide", "array_record", (None, None, 3), more)
    own = load_dataset("own", str(tmp_path / "wide"))
    assert own.image_shape == (32, 32, 3)
    # The middle of the wide ones, but for its edges.
    is_wide = (own.train_images[:, :, 4:-4] > 240).all(axis=(1, 2, 3))
    assert sorted(own.train_labels[is_wide]) == [0, 2]
    assert load_dataset("own", str(tmp_path), image_size=8).image_shape == (8, 8, 3)
    with pytest.raises(ValueError, match=r"config\.dataset\.stream must be False"):
        load_dataset("own", str(tmp_path), stream=True)


def test_nothing_is_downloaded_to_a_path(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_source, "prepare", lambda builder: pytest.fail("prepared"))
    with pytest.raises(ValueError, match="nothing that 'mnist' is read from; the fold"):
        load_dataset("mnist", str(tmp_path))
    (tmp_path / "mnist" / "1.0.0").mkdir(parents=True)
    (tmp_path / "mnist" / "1.0.0" / "dataset_info.json").write_text("{}")
    with pytest.raises(ValueError, match="mnist"):
        load_dataset("mnist", str(tmp_path))
    with pytest.raises(ValueError, match=r"it holds the TFDS dataset\(s\) mnist"):
        load_dataset("cifar10", str(tmp_path))
    with pytest.raises(ValueError, match=f"did you mean {tmp_path}"):
        load_dataset("mnist", str(tmp_path / "mnist" / "1.0.0"))
