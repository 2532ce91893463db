"""Any file of arrays and any folder of pictures is read, or named in one line."""

import gzip
import io
import tempfile
import zipfile
import zlib
from pathlib import Path

import bad_input
import numpy as np
import pytest
from data_helpers import idx_bytes, write_idx
from hypothesis import example, given
from hypothesis import strategies as st

from dc_jax.data.dataset import Dataset
from dc_jax.data.sources import load_dataset
from dc_jax.data.splits import hold_out

NAMES = ("images", "labels", "class_names")
DTYPES = [
    *("uint8", "bool", "int8", ">i4", "uint64", "float16", ">f4", "float64"),
    *("longdouble", "complex64", "S3", "U2", ">U2", "V4", "m8[s]", "M8[D]"),
    [("red", "u1"), ("green", "<f4")],
]
FILLS = [0, 1, -1, 0.5, 255, 256, 2**31, 1e300, np.nan, np.inf, -np.inf]


def _load(name, path, **kwargs):
    dataset = bad_input.ends_well(
        *(lambda: load_dataset(name, str(path), **kwargs), path),
        *("dataset.path", "config.dataset.image_size"),
        folder=path if path.is_dir() else path.parent,
    )
    if dataset is not None:
        assert isinstance(dataset, Dataset)
        assert len(dataset.checksum()) == 64
    return dataset


def _arrays():
    images = np.arange(200).reshape(10, 4, 5).astype(np.uint8)
    return {"images": images, "labels": np.arange(10) % 2}


@st.composite
def arrays(draw):
    """An array of any kind, rank and size, perhaps of values that make no sense."""
    num = draw(st.sampled_from([10, 10, 0, 1, 3]))
    shape = (num, *draw(st.lists(st.integers(0, 4), max_size=5)))
    shape = () if draw(st.integers(0, 9)) == 0 else shape
    array = np.zeros(shape, draw(st.sampled_from(["i8", *DTYPES])))
    if array.size and array.dtype.kind in "iufc":
        with np.errstate(all="ignore"):
            for place in draw(st.lists(st.integers(0, array.size - 1), max_size=4)):
                value = np.array(draw(st.sampled_from(FILLS)))
                array.flat[place] = value.astype(array.dtype)
    return np.asfortranarray(array) if draw(st.booleans()) else array


@st.composite
def label_arrays(draw):
    values = draw(
        st.lists(
            st.sampled_from([0, 1, 2, 9, -1, 254, 2**31 - 1, 2**31, 2**62]),
            min_size=8,
            max_size=12,
        )
    )
    return np.array(values, np.int64)


@st.composite
def name_arrays(draw):
    text = st.text(max_size=5) | st.text(st.characters(categories=["Cs"]), max_size=2)
    names = np.array(draw(st.lists(text, max_size=4)), np.str_)
    return names.astype(names.dtype.newbyteorder(draw(st.sampled_from("=>"))))


@bad_input.cases(60)
@given(
    st.dictionaries(
        st.sampled_from([*NAMES, "train_images", "x_train", "y_train", "x", "../x"]),
        st.one_of(arrays(), arrays(), label_arrays(), name_arrays(), st.none()),
        max_size=3,
    ),
    st.booleans(),
)
@example({"labels": np.array([0, 2**31 - 1] * 5)}, False)
@example({"labels": np.array([0, 1] * 5, "m8[s]")}, False)
@example({"images": np.full((10, 4, 5), 1e300)}, False)
@example({"images": np.full((10, 4, 5), np.inf)}, False)
@example({"labels": np.zeros(10, int)}, False)
def test_npz_of_any_arrays(changes, compressed):
    held = {k: v for k, v in (_arrays() | changes).items() if v is not None}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        (np.savez_compressed if compressed else np.savez)(path, **held)
        _load("npz", path)


@st.composite
def headers(draw):
    size = st.sampled_from([0, 1, 10, -1, 2**31, 2**62, 2**63, 2**70, True, 1.0, "9"])
    shape = tuple(draw(st.lists(size, max_size=3)))
    descr = draw(
        st.one_of(
            st.sampled_from(["|u1", "<f4", "|O", "<U0", "|S0", "|V0", "<U9", "", "é"]),
            st.sampled_from([(), ("|u1",), ("|u1", (2,)), [], [("a",)], [["a"]], 3]),
            st.sampled_from([[("a", "|O")], [("a", "<f4", (2**40,))], [("", "|V3")]]),
        )
    )
    other = draw(
        st.sampled_from(["[" * 3000, "1", "{}", "-" * 5000 + "1", "'\\d'", "("])
    )
    header = {"descr": descr, "fortran_order": draw(st.booleans()), "shape": shape}
    return other if draw(st.integers(0, 5)) == 0 else repr(header)


@bad_input.cases(40)
@given(headers(), st.binary(max_size=40), st.sampled_from(NAMES), st.integers(1, 2))
@example(
    "{'descr': '<U0', 'fortran_order': False, 'shape': (4000000000,)}",
    b"",
    "class_names",
    1,
)
@example("{'descr': ('|u1',), 'fortran_order': False, 'shape': ()}", b"", "images", 1)
def test_npz_of_any_header(header, data, name, version):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        np.savez(path, **{k: v for k, v in _arrays().items() if k != name})
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(f"{name}.npy", bad_input.npy(header, data, version))
        assert _load("npz", path) is None or name == "class_names"


def _npz(compressed):
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **_arrays())
    return file.getvalue()


@bad_input.cases(40)
@given(st.one_of(bad_input.damaged(_npz(False)), bad_input.damaged(_npz(True))))
def test_damaged_npz(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        path.write_bytes(data)
        dataset = _load("npz", path)
        if dataset is not None:
            images = np.concatenate([dataset.train_images, dataset.test_images])
            assert images.sum() == _arrays()["images"].sum()


@pytest.mark.parametrize("name", NAMES)
def test_npz_never_runs_code(tmp_path, name):
    path = tmp_path / "data.npz"
    np.savez(path, **{k: v for k, v in _arrays().items() if k != name})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{name}.npy", bad_input.npy_of_code(tmp_path / "ran"))
    assert _load("npz", path) is None
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(tmp_path, kind):
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name in NAMES:
            archive.writestr(f"{name}.npy", bytes(99))
    assert _load("npz", path) is None
    # Which would raise errors that only these have.
    content = path.read_bytes()
    path.write_bytes(content[:60] + b"\xff" * 9 + content[69:])
    assert _load("npz", path) is None


def test_a_zip_bomb(tmp_path):
    path = tmp_path / "data.npz"
    header = {"descr": "|u1", "fortran_order": False, "shape": (2**40, 1, 1)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", bad_input.npy(repr(header)))
        archive.getinfo("images.npy").file_size += 2**40
        archive.writestr("labels.npy", bad_input.npy(repr(header)))
    with pytest.raises(ValueError, match=r"images.npy take 1,024.0 GiB, more than the"):
        load_dataset("npz", str(path))


@bad_input.cases(30)
@given(
    st.sampled_from(["train-images-idx3", "train-labels-idx1", "t10k-images-idx3"]),
    st.booleans(),
    st.data(),
)
def test_damaged_idx(stem, gzipped, data):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write_idx(folder, gzipped=gzipped)
        path = folder / f"{stem}-ubyte{'.gz' if gzipped else ''}"
        content = path.read_bytes()
        if gzipped and data.draw(st.booleans()):
            inside = data.draw(bad_input.damaged(gzip.decompress(content)))
            path.write_bytes(gzip.compress(inside))
        else:
            path.write_bytes(data.draw(bad_input.damaged(content)))
        _load(data.draw(st.sampled_from(["mine", "mnist"])), folder)


@pytest.mark.parametrize("shape", [(0, 5, 5), (20, 0, 5)])
def test_idx_without_pixels(tmp_path, shape):
    write_idx(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(idx_bytes(np.zeros(shape)))
    labels = tmp_path / "train-labels-idx1-ubyte"
    labels.write_bytes(idx_bytes(np.zeros(shape[0])))
    assert _load("mnist", tmp_path) is None


def test_a_gzip_bomb(tmp_path):
    write_idx(tmp_path, gzipped=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    content = gzip.decompress(path.read_bytes())
    squeezed = zlib.compressobj(wbits=31)
    parts = [squeezed.compress(content)]
    parts += [squeezed.compress(bytes(2**24)) for _ in range(32)]
    path.write_bytes(b"".join([*parts, squeezed.flush()]))
    assert _load("mine", tmp_path) is None
    # And one that tells of it.
    path.write_bytes(gzip.compress(content[:4] + b"\xff" * 12))
    assert _load("mine", tmp_path) is None


@bad_input.cases(15)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=6), st.integers(-1, 200))
def test_any_split(counts, num):
    """Classes of any size are divided, or the class, file or field is named."""
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.zeros((len(labels), 2, 2), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        np.savez(path, images=images, labels=labels)
        dataset = _load("npz", path)
    if dataset is not None:
        assert set(dataset.test_labels) <= set(range(len(counts)))
    path = Path("held.npz")
    whole = Dataset(
        name="npz",
        source="held.npz",
        train_images=images[..., None],
        train_labels=labels.astype(np.int32),
        test_images=images[..., None],
        test_labels=labels.astype(np.int32),
        class_names=tuple(map(str, range(len(counts)))),
        mean=np.zeros(1, np.float32),
        std=np.ones(1, np.float32),
    )
    bad_input.ends_well(
        lambda: hold_out(whole, num), "config.dataset.validation", "held.npz"
    )
