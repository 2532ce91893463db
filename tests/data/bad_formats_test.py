"""Any file of CIFAR, SVHN, CSV or Parquet is read, or named in one line."""

import io
import pickle
import struct
import tempfile
import zipfile
from pathlib import Path

import bad_input
import numpy as np
import pytest
import scipy.io
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from dc_jax.data.sources import load_dataset

LABELS = np.arange(8, dtype=np.uint8) % 2
PLANES = np.zeros((8, 3072), np.uint8)


def _csv():
    table = np.column_stack([LABELS, PLANES[:, :16]])
    return "\n".join(",".join(map(str, row)) for row in table).encode()


def _mat(is_compressed):
    file = io.BytesIO()
    content = {"X": PLANES.reshape(32, 32, 3, 8), "y": LABELS[:, None] + 1}
    scipy.io.savemat(file, content, do_compression=is_compressed)
    return file.getvalue()


def _parquet():
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    file = io.BytesIO()
    Image.fromarray(PLANES[0, :20].reshape(4, 5)).save(file, "png")
    pictures = [{"bytes": file.getvalue()}] * 8
    table = pa.table({"image": pictures, "label": LABELS.tolist()})
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


def _batch(protocol):
    return pickle.dumps({b"data": PLANES, b"labels": LABELS.tolist()}, protocol)


def _load(folder, names, content, *, name="mine"):
    for file in names:
        (folder / file).write_bytes(content)
    bad_input.ends_well(
        lambda: load_dataset(name, str(folder)),
        *(folder, "config.dataset.image_size"),
        folder=folder,
    )


BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
KINDS = {
    "csv": (["train.csv"], _csv),
    "mat": (["train_32x32.mat", "test_32x32.mat"], lambda: _mat(False)),
    "zlib": (["train_32x32.mat", "test_32x32.mat"], lambda: _mat(True)),
    "parquet": (["train.parquet"], _parquet),
    "pickle 2": (BATCHES, lambda: _batch(2)),
    "pickle 5": (BATCHES, lambda: _batch(5)),
    "records": ([f"{name}.bin" for name in BATCHES], lambda: bytes(2 * 3073)),
}


@bad_input.cases(20)
@given(st.sampled_from(sorted(KINDS)), st.data())
def test_damaged_files(kind, data):
    names, make = KINDS[kind]
    with tempfile.TemporaryDirectory() as folder:
        _load(Path(folder), names, data.draw(bad_input.damaged(make())))


# Instructions of a pickle, each with an argument.
PARTS = st.sampled_from(
    [b"(", b"]", b"}", b")", b"l", b"d", b"t", b"\x85", b"\x86", b"\x87", b"N", b"\x88"]
    + [b"0", b"2", b"1", b"a", b"e", b"s", b"u", b"b", b"R", b"o", b"\x81", b"\x92"]
    + [b"q\x00", b"h\x00", b"\x94", b"r\xff\xff\xff\x7f", b"j\xff\xff\xff\x7f"]
    + [b"K\x07", b"U\x04data", b"U\x06labels", b"cnumpy\ndtype\n", b"cos\nsystem\n"]
    + [b"cnumpy.core.multiarray\n_reconstruct\n", b"\x93", b"\x8c\x02os", b"Q", b"P1\n"]
    + [b"\x8e\xff\xff\xff\xff\xff\xff\xff\x00", b"I99999999\n", b"i\nos\nsystem\n"]
)


@bad_input.cases(60)
@given(st.lists(PARTS, max_size=12))
@example([b"(", b"i\nos\nsystem\n"])
@example([b"]", b"q\x00", b"h\x00", b"a"] * 3)
def test_any_pickle(parts):
    with tempfile.TemporaryDirectory() as folder:
        _load(Path(folder), BATCHES, b"\x80\x02" + b"".join(parts) + b".")


def test_a_pickle_that_announces_much(tmp_path):
    """A place in the memo, for which Python's own reader would take 34 GB."""
    _load(tmp_path, BATCHES, b"\x80\x02]r\xff\xff\xff\x7f.")


def test_a_mat_file_that_announces_much(tmp_path):
    content = _mat(False)
    shape = struct.pack("<4i", 32, 32, 3, 8)
    assert content.count(shape) == 1
    huge = struct.pack("<4i", 2**20, 2**20, 3, 8)
    _load(tmp_path, KINDS["mat"][0], content.replace(shape, huge))


def test_a_dataset_of_hugging_face_that_repeats_a_picture(tmp_path):
    """A dictionary of one value, which all rows repeat, is small in a file."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    num = 2**14
    values = pa.array([bytes(2**14)])
    rows = pa.DictionaryArray.from_arrays(np.zeros(num, np.int32), values)
    table = pa.table({"image": rows, "label": np.zeros(num, np.int64)})
    pq.write_table(table, tmp_path / "train.parquet")
    assert (tmp_path / "train.parquet").stat().st_size < 2**20
    with pytest.raises(ValueError, match="its pictures are many times larger"):
        load_dataset("parquet", str(tmp_path))


def test_a_zip_is_no_mat_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "train_32x32.mat", "w") as archive:
        archive.writestr("x", b"")
    content = (tmp_path / "train_32x32.mat").read_bytes()
    _load(tmp_path, KINDS["mat"][0], content)
