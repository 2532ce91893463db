"""Files of datasets as people have them, with the right pixels and labels."""

import gzip
import io
import json
import pickle
import sys
import time
import types

import numpy as np
import pytest
import scipy.io
from data_helpers import NUM_TEST, NUM_TRAIN, cycling_labels, random_pixels, write_idx
from PIL import Image

from dc_jax.data import hub, internet
from dc_jax.data.plain_pickle import read_plain_pickle, to_array
from dc_jax.data.sources import load_dataset

SPLITS = {"train": NUM_TRAIN, "test": NUM_TEST}


def _check(dataset, size, channels=1, num_classes=10):
    """Whether a dataset has the pixels and labels of `data_helpers`."""
    for split, num in SPLITS.items():
        expected = random_pixels(num, num, size, size, channels)
        images, labels = (
            getattr(dataset, f"{split}_{what}") for what in ("images", "labels")
        )
        np.testing.assert_array_equal(images, expected)
        np.testing.assert_array_equal(labels, cycling_labels(num, num_classes))


def _move_to_raw(folder, files):
    (folder / "MNIST" / "raw").mkdir(parents=True)
    for file in files:
        file.rename(folder / "MNIST" / "raw" / file.name)


def _add_dots(folder, files):
    for file in files:
        file.rename(folder / file.name.replace("-idx", ".idx"))


def _put_into_folders(folder, files):
    for file in files:
        content = file.read_bytes()
        file.unlink()
        file.mkdir()
        (file / file.name).write_bytes(content)


@pytest.mark.parametrize("change", [_move_to_raw, _add_dots, _put_into_folders])
@pytest.mark.parametrize("name", ["mnist", "mine", "idx"])
def test_idx_files_as_others_keep_them(tmp_path, change, name):
    write_idx(tmp_path)
    change(tmp_path, list(tmp_path.iterdir()))
    _check(load_dataset(name, str(tmp_path)), 5)


def test_the_folder_of_torchvision_that_is_called_as_the_dataset(tmp_path):
    for name, height in (("MNIST", 5), ("FashionMNIST", 6)):
        (tmp_path / name / "raw").mkdir(parents=True)
        write_idx(tmp_path / name / "raw", height=height)
    assert load_dataset("fashion_mnist", str(tmp_path)).image_shape == (6, 6, 1)
    assert load_dataset("mnist", str(tmp_path)).image_shape == (5, 5, 1)
    with pytest.raises(ValueError, match="IDX files are in .*FashionMNIST.* and .*MN"):
        load_dataset("mine", str(tmp_path))
    with pytest.raises(ValueError, match="nothing that 'kmnist' is read from"):
        load_dataset("kmnist", str(tmp_path))


def _planes(images):
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def _write_cifar(folder, pack, suffix=""):
    """Five training files and a test file."""
    for split, num in SPLITS.items():
        planes = _planes(random_pixels(num, num, 32, 32, 3))
        labels = cycling_labels(num)
        names = ["test_batch"]
        if split == "train":
            names = [f"data_batch_{i + 1}" for i in range(5)]
        places = np.array_split(np.arange(num), len(names))
        for name, part in zip(names, places, strict=True):
            content = pack(planes[part], labels[part])
            (folder / f"{name}{suffix}").write_bytes(content)


NAMES = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("is_inside", [False, True])
def test_pickles_of_cifar10(tmp_path, protocol, is_inside):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()

    def pack(planes, labels):
        content = {b"data": planes, b"labels": labels.tolist(), b"batch_label": b"x"}
        return pickle.dumps(content, protocol)

    _write_cifar(folder, pack)
    meta = {b"label_names": [name.encode() for name in NAMES], b"num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol))
    dataset = load_dataset("cifar10", str(folder if is_inside else tmp_path))
    _check(dataset, 32, 3)
    assert dataset.class_names == tuple(NAMES)
    np.testing.assert_allclose(dataset.mean, [0.4914, 0.4822, 0.4465])


def test_a_pickle_of_python_2():
    """By hand, as in the files that are distributed: strings of bytes, old names."""
    data = bytes([0, 200, 13, 10, 255, 7])
    text = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03"
        b"cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87Rq\x05(K\x01K\x02K\x03\x86cnumpy\n"
        b"dtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xffJ"
        b"\xff\xff\xff\xffK\x00tb\x89U\x06"
        + data
        + b"tbU\x06labels]q\x08(K\x06K\x09eu."
    )
    content = read_plain_pickle(text)
    assert content["labels"] == [6, 9]
    np.testing.assert_array_equal(
        to_array(content["data"]), np.frombuffer(data, np.uint8).reshape(2, 3)
    )
    # What Python's own reader makes of it, which would run code.
    theirs = pickle.loads(text, encoding="latin1")
    np.testing.assert_array_equal(to_array(content["data"]), theirs["data"])


def test_cifar_of_bytes_and_of_100_classes(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    _write_cifar(
        folder, lambda p, n: np.concatenate([n[:, None], p], 1).tobytes(), ".bin"
    )
    (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    _check(load_dataset("cifar10", str(tmp_path)), 32, 3)

    for kind in ("binary", "python"):
        folder = tmp_path / kind / f"cifar-100-{kind}"
        folder.mkdir(parents=True)
        for split, num in SPLITS.items():
            planes = _planes(random_pixels(num, num, 32, 32, 3))
            fine = cycling_labels(num)
            if kind == "binary":
                parts = [fine[:, None] // 5, fine[:, None], planes]
                (folder / f"{split}.bin").write_bytes(
                    np.concatenate(parts, 1).tobytes()
                )
            else:
                content = {"data": planes, "fine_labels": fine.tolist()}
                content["coarse_labels"] = (fine // 5).tolist()
                (folder / split).write_bytes(pickle.dumps(content))
        if kind == "binary":
            (folder / "fine_label_names.txt").write_text("\n".join(NAMES))
        else:
            meta = pickle.dumps({"fine_label_names": NAMES, "coarse_label_names": []})
            (folder / "meta").write_bytes(meta)
        dataset = load_dataset("cifar100", str(tmp_path / kind))
        _check(dataset, 32, 3)
        assert dataset.class_names == tuple(NAMES)
    with pytest.raises(ValueError, match="nothing that 'cifar10' is read from|CIFAR-1"):
        load_dataset("cifar10", str(tmp_path / "python"))


class _Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("protocol", range(6))
def test_code_in_a_pickle_is_not_run(tmp_path, protocol):
    content = {b"data": _Touch(tmp_path / "ran"), b"labels": [0]}
    _write_cifar(tmp_path, lambda *_: pickle.dumps(content, protocol))
    with pytest.raises(ValueError, match="data_batch_1 is no file of CIFAR .* it has"):
        load_dataset("cifar10", str(tmp_path))
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(content, protocol))[b"data"].close()
    assert (tmp_path / "ran").exists()


def test_mat_files_of_svhn(tmp_path):
    for split, num in SPLITS.items():
        images, labels = random_pixels(num, num, 32, 32, 3), cycling_labels(num)
        scipy.io.savemat(
            tmp_path / f"{split}_32x32.mat",
            {
                "X": images.transpose(1, 2, 3, 0),
                # They call the zero 10.
                "y": np.where(labels == 0, 10, labels)[:, None],
            },
            do_compression=split == "train",
        )
    dataset = load_dataset("svhn", str(tmp_path))
    _check(dataset, 32, 3)
    assert dataset.name == "svhn_cropped"
    path = tmp_path / "test_32x32.mat"
    scipy.io.savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": labels[:, None]})
    with pytest.raises(ValueError, match=r"test_32x32.mat: the labels must be 1 to 10"):
        load_dataset("svhn", str(tmp_path))
    scipy.io.savemat(path, {"X": images * 1.0})
    with pytest.raises(ValueError, match=r"its X must be uint8 .*, got float64 \["):
        load_dataset("svhn", str(tmp_path))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"test_32x32.mat is no .mat file of SVHN"):
        load_dataset("svhn", str(tmp_path))
    path.unlink()
    with pytest.raises(ValueError, match=r"lacks test_32x32.mat"):
        load_dataset("svhn", str(tmp_path))


def _csv(num, size=5, header="", label_at=0, form="{}"):
    table = np.insert(
        random_pixels(num, num, size, size).reshape(num, -1),
        label_at,
        cycling_labels(num),
        axis=1,
    )
    lines = [",".join(form.format(value) for value in row) for row in table]
    return header + "\n".join(lines) + "\n"


PIXELS = ",".join(f"pixel{i}" for i in range(25))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"header": f"label,{PIXELS}\n"},
        {"header": f'{PIXELS},"class"\n', "label_at": 25},
        {"form": "{}.0"},
        {"form": '"{}"', "header": f"\ufefflabel,{PIXELS}\n"},
    ],
)
@pytest.mark.parametrize("name", ["mnist", "csv"])
def test_csv(tmp_path, options, name):
    for split, num in SPLITS.items():
        (tmp_path / f"mnist_{split}.csv").write_text(_csv(num, **options), "utf-8")
    _check(load_dataset(name, str(tmp_path)), 5)


def test_csv_alone_gzipped_or_without_labels(tmp_path):
    path = tmp_path / "train.csv.gz"
    path.write_bytes(gzip.compress(_csv(NUM_TRAIN).encode()))
    for place in (path, tmp_path):
        dataset = load_dataset("csv", str(place))
        assert (len(dataset.train_labels), len(dataset.test_labels)) == (10, 10)
    # The test file of a competition.
    lines = [line.partition(",")[2] for line in _csv(NUM_TEST).splitlines()]
    (tmp_path / "test.csv").write_text("\n".join(lines))
    dataset = load_dataset("csv", str(tmp_path))
    assert (len(dataset.train_labels), len(dataset.test_labels)) == (10, 10)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_csv(20).replace(",", ",x", 1), "line 1, column 2 must be a number, got 'x"),
        (
            "1,2,3,4,5,6\n",
            "has 6 columns, must have a label and the pixels of a square",
        ),
        (_csv(20, form="{}.5"), "its labels and pixels must be whole numbers"),
        (_csv(20) + "1,2\n", "line 21 has 2 values, must have 26"),
        ("\xff\n", "it must be text in UTF-8"),
    ],
)
def test_bad_csv_is_named(tmp_path, content, message):
    path = tmp_path / "data.csv"
    path.write_text(content, "latin1")
    with pytest.raises(ValueError, match=message) as caught:
        load_dataset("csv", str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def _png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "png")
    return file.getvalue()


def _write_parquet(path, num, columns=("image", "label"), note=True, strings=None):
    """As `datasets` writes it: encoded pictures, and what the columns are in a note."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    images = random_pixels(num, num, 5, 5, 3)
    pictures = [{"bytes": _png(image), "path": None} for image in images]
    labels = cycling_labels(num).tolist()
    if strings:
        labels = [strings[label] for label in labels]
    table = pa.table(dict(zip(columns, (pictures, labels), strict=True)))
    if note:
        features = {
            columns[0]: {"_type": "Image"},
            columns[1]: {"_type": "ClassLabel", "names": NAMES},
        }
        text = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": text})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


@pytest.mark.parametrize("folder", ["", "data/", "mnist/"])
def test_parquet_of_hugging_face(tmp_path, folder):
    for split, num in SPLITS.items():
        name = f"{folder}{split}-00000-of-00001.parquet"
        _write_parquet(tmp_path / name, num, columns=("picture", "kind"))
    dataset = load_dataset("parquet", str(tmp_path))
    _check(dataset, 5, 3)
    assert dataset.class_names == tuple(NAMES)
    assert load_dataset("mine", str(tmp_path), image_size=8).image_shape == (8, 8, 3)
    assert dataset.checksum() == load_dataset("mine", str(tmp_path)).checksum()


def test_parquet_of_others(tmp_path):
    """One file, no note, labels that are strings; or a folder for each split."""
    path = tmp_path / "some.parquet"
    letters = "jihgfedcba"
    _write_parquet(path, NUM_TRAIN, ("img", "labels"), note=False, strings=letters)
    dataset = load_dataset("parquet", str(path))
    assert dataset.class_names == tuple(sorted(letters))
    assert (len(dataset.train_labels), len(dataset.test_labels)) == (10, 10)
    first = random_pixels(NUM_TRAIN, NUM_TRAIN, 5, 5, 3)[0]
    images = np.concatenate([dataset.train_images, dataset.test_images])
    labels = np.concatenate([dataset.train_labels, dataset.test_labels])
    assert labels[(images == first).all(axis=(1, 2, 3))].tolist() == [9]
    for split, num in (("train", NUM_TRAIN), ("validation", NUM_TEST)):
        _write_parquet(tmp_path / "own" / split / "0.parquet", num, note=False)
    _check(load_dataset("mine", str(tmp_path / "own")), 5, 3)


def test_bad_parquet_is_named(tmp_path):
    path = tmp_path / "train.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="train.parquet cannot be read"):
        load_dataset("parquet", str(tmp_path))
    _write_parquet(path, NUM_TRAIN, ("x", "y"), note=False)
    with pytest.raises(
        ValueError, match="has the columns x, y, must have one of image"
    ):
        load_dataset("parquet", str(tmp_path))
    _write_parquet(path, NUM_TRAIN, ("label", "image"), note=False)
    with pytest.raises(
        ValueError, match="image must hold the bytes of pictures, got i"
    ):
        load_dataset("parquet", str(tmp_path))
    path.rename(tmp_path / "test.parquet")
    _write_parquet(tmp_path / "other.parquet", 2)
    with pytest.raises(ValueError, match="one file must be called train"):
        load_dataset("parquet", str(tmp_path))


def test_missing_parts_of_parquet_are_named(tmp_path):
    for i in (0, 2):
        _write_parquet(tmp_path / f"train-0000{i}-of-00003.parquet", NUM_TRAIN)
    with pytest.raises(
        ValueError, match=r"has 2 of the 3 .* of train; missing: train-00001-of-00003\."
    ):
        load_dataset("parquet", str(tmp_path))
    part = tmp_path / "train-00000-of-00003.parquet"
    assert len(load_dataset("parquet", str(part)).test_labels) == 10
    part.rename(tmp_path / "train-00000-of-77777.parquet")
    with pytest.raises(ValueError, match=r"has 1 of the 7.* train-00003-of.* and oth"):
        load_dataset("parquet", str(tmp_path))


def test_labels_of_minus_one_are_none(tmp_path):
    none = dict.fromkeys(range(10), -1)
    _write_parquet(tmp_path / "train.parquet", NUM_TRAIN)
    _write_parquet(tmp_path / "test.parquet", NUM_TEST, strings=none)
    dataset = load_dataset("parquet", str(tmp_path))
    assert (len(dataset.train_labels), len(dataset.test_labels)) == (10, 10)
    _write_parquet(tmp_path / "validation.parquet", NUM_TEST)
    _check(load_dataset("parquet", str(tmp_path)), 5, 3)
    _write_parquet(tmp_path / "validation.parquet", NUM_TRAIN)
    _write_parquet(tmp_path / "test.parquet", NUM_TEST)
    _check(load_dataset("parquet", str(tmp_path)), 5, 3)


class _FakeSplit:
    """What is used of a split of `datasets`."""

    def __init__(self, table):
        self.table = table
        self.features = _FakeFeatures(image=_FakeImage(), label=None)
        self.features.arrow_schema = table.schema

    def cast_column(self, column, feature):
        assert (column, feature.decode) == ("image", False)
        return self

    def select_columns(self, columns):
        return _FakeSplit(self.table.select(columns))

    def with_format(self, name):
        assert name == "arrow"
        return self

    def iter(self, batch_size):
        yield from (self.table[i : i + 3] for i in range(0, len(self.table), 3))


class _FakeFeatures(dict):
    arrow_schema = None


class _FakeImage:
    def __init__(self, decode=True):
        self.decode = decode


def test_a_dataset_of_the_hub(tmp_path, monkeypatch):
    pq = pytest.importorskip("pyarrow.parquet")
    splits = {}
    for split, num in (("train", NUM_TRAIN), ("validation", NUM_TEST)):
        _write_parquet(tmp_path / f"{split}.parquet", num)
        splits[split] = _FakeSplit(pq.read_table(tmp_path / f"{split}.parquet"))
    asked = []

    def load(*names):
        asked.append(names)
        return splits

    library = types.SimpleNamespace(
        Image=_FakeImage, load_dataset=load, disable_progress_bars=lambda: None
    )
    monkeypatch.setitem(sys.modules, "datasets", library)
    monkeypatch.setattr(hub, "is_reachable", lambda addresses: True)
    dataset = load_dataset("hf:ylecun/mnist")
    _check(dataset, 5, 3)
    assert (dataset.name, dataset.class_names) == ("mnist", tuple(NAMES))
    assert dataset.source == "Hugging Face ylecun/mnist"
    assert load_dataset("hf:me/my-set:part 1").name == "hf:me/my-set:part 1"
    assert asked == [("ylecun/mnist", None), ("me/my-set", "part 1")]
    for name in ("hf:", "hf:a/b/c", "hf:../x:y:z"):
        with pytest.raises(ValueError, match="dataset.name must be hf:OWNER/NAME"):
            load_dataset(name)
    with pytest.raises(ValueError, match="dataset.name=parquet"):
        load_dataset("hf:ylecun/mnist", str(tmp_path))


def test_the_hub_without_a_network_or_the_package(monkeypatch):
    def fail(*names):
        raise OSError("several\nlines")

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    library = types.SimpleNamespace(
        load_dataset=fail, disable_progress_bars=lambda: None
    )
    monkeypatch.setitem(sys.modules, "datasets", library)
    monkeypatch.setattr(hub, "is_reachable", lambda addresses: False)
    with pytest.raises(ConnectionError, match="cannot be reached: .*dataset.path=FOLD"):
        load_dataset("hf:ylecun/mnist")
    monkeypatch.setattr(hub, "is_reachable", lambda addresses: True)
    with pytest.raises(ValueError, match=r"cannot be loaded \(several lines\)"):
        load_dataset("hf:ylecun/mnist")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r'pip install -e "\.\[huggingface\]"'):
        load_dataset("hf:ylecun/mnist")


def test_whether_a_network_is_there(monkeypatch):
    import requests

    def ask(host, timeout):
        if "slow" in host:
            time.sleep(30)
        if "none" in host:
            raise requests.ConnectionError("no route")

    monkeypatch.setattr(requests, "head", ask)
    assert internet.is_reachable(["https://none.x/a", "https://there.x/b"])
    assert not internet.is_reachable(["https://none.x/a", "http://none.y/b"])
    assert not internet.is_reachable([])
    began = time.monotonic()
    assert not internet.is_reachable(["https://slow.x/a"], seconds=0.2)
    assert internet.is_reachable(["https://slow.x/a", "https://there.x"], seconds=5)
    assert time.monotonic() - began < 4


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        (
            "mnist",
            {"cat/0.png": 1, "dog/0.png": 1},
            "holds class sub-folders of pictur",
        ),
        ("cifar10", {"train/cat/0.png": 1}, "did you mean config.dataset.name=folder"),
        ("mnist", {"mnist.tar.gz": 0}, "it holds mnist.tar.gz, to be unpacked"),
        ("mnist", {"a.txt": 0, "b": 0}, "it holds a.txt, b"),
        ("svhn", {}, "the folder is empty. Nothing is downloaded"),
        ("folder", {"train_32x32.mat": 0}, r"holds .mat files of SVHN: did you mean"),
        ("csv", {"train.parquet": 0}, "holds Parquet files: did you mean .*=parquet"),
        ("npz", {"a.npz": 0}, r"must have an .npz file of arrays; it holds a.npz"),
    ],
)
def test_a_path_with_something_else(tmp_path, name, files, message):
    for file, is_picture in files.items():
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_png(np.zeros((4, 4), np.uint8)) if is_picture else b"")
    with pytest.raises(ValueError, match=message) as caught:
        load_dataset(name, str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(list(tmp_path.rglob("*"))) >= len(files)
