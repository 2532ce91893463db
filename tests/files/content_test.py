"""Tests of reading and writing files, and of errors as one line."""

import errno
import os
import subprocess
import sys
import zipfile

import bad_input
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging

from dc_jax import errors
from dc_jax.files import content as files
from dc_jax.files import drafts


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_draft_appears_when_it_is_finished(tmp_path, kind):
    path = tmp_path / "new" / "name"
    with drafts.draft(path) as temporary:
        if kind == "folder":
            os.mkdir(temporary)
        with open(f"{temporary}/a" if kind == "folder" else temporary, "w") as file:
            file.write("content")
        assert not path.exists()
    assert (path / "a" if kind == "folder" else path).read_text() == "content"
    assert os.listdir(path.parent) == ["name"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_draft_that_fails_leaves_nothing(tmp_path, kind):
    def write():
        with drafts.draft(tmp_path / "name") as temporary:
            if kind == "folder":
                os.mkdir(temporary)
            with open(f"{temporary}/a" if kind == "folder" else temporary, "w"):
                raise KeyError("stopped")

    with pytest.raises(KeyError, match="stopped"):
        write()
    assert os.listdir(tmp_path) == []


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "name"
    files.write_atomically(path, b"old")

    def fail(descriptor):
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full: .*name"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["name"]


def test_json_round_trip(tmp_path):
    value = {
        "z": np.float32(0.5),
        "a": [np.int64(3), True, None, "Größe"],
        "nested": {"tuple": (1, 2), "jax": jnp.float32(0.25)},
    }
    path = tmp_path / "card.json"
    files.write_json(path, value)
    text = path.read_text("utf-8")
    assert text.startswith('{\n  "z": 0.5,\n  "a": [\n    3,\n    true,\n    null,\n')
    assert text.endswith("}\n")
    assert "Größe" in text
    assert files.read_json(path) == {
        "z": 0.5,
        "a": [3, True, None, "Größe"],
        "nested": {"tuple": [1, 2], "jax": 0.25},
    }


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"accuracy": {"mean": float("nan")}}, "card.json/accuracy/mean"),
        ({"a": [0.0, np.float32("inf")]}, "card.json/a/1"),
        ({"a": np.zeros(2)}, "card.json/a"),
        ({"a": {1}}, "card.json/a"),
    ],
)
def test_write_json_names_what_json_cannot_hold(tmp_path, value, where):
    with pytest.raises(errors.UserError, match=where):
        files.write_json(tmp_path / "card.json", value)
    assert os.listdir(tmp_path) == []


def test_read_json_of_a_missing_file(tmp_path):
    assert files.read_json(tmp_path / "card.json") is None
    assert files.read_json_lines(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 99999])
def test_read_json_of_a_damaged_file(tmp_path, content):
    path = tmp_path / "card.json"
    path.write_bytes(content)
    with pytest.raises(errors.UserError, match=rf"^{path} is damaged [^\n]*$"):
        files.read_json(path)


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path):
    with pytest.raises(IsADirectoryError):
        files.read_json(tmp_path)
    with pytest.raises(IsADirectoryError):
        files.read_json_lines(tmp_path)


def test_damaged_lines_are_left_out(tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr(logging, "warning", lambda *args: warnings.append(args))
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"a": 1}\n5\n\xff\n' + b"[" * 99999 + b'\n{"a": 2}\n{"a": ')
    assert files.read_json_lines(path) == [{"a": 1}, {"a": 2}]
    ((_, *args),) = warnings
    assert args[:2] == [path, 4]
    read = files.read_json_lines(path, lambda line: "odd" if line["a"] == 1 else None)
    assert read == [{"a": 2}]


def _arrays():
    return {"a": np.arange(6.0).reshape(2, 3), "b": np.array(["x", "Größe"])}


def test_npz_round_trip(tmp_path):
    path = tmp_path / "a.npz"
    files.write_npz(path, _arrays())
    read = files.read_npz(path, ["b"], ["c", "a"])
    assert list(read) == ["b", "a"]
    for name, array in read.items():
        np.testing.assert_array_equal(array, _arrays()[name])
    assert files.names_of(path) == {"a", "b"}
    first = path.read_bytes()
    files.write_npz(path, _arrays())
    assert path.read_bytes() == first


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip", bytes(1000)])
def test_not_a_zip(tmp_path, content):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    for read in (files.names_of, lambda path: files.read_npz(path, ["a"])):
        with pytest.raises(errors.UserError, match=rf"^{path} cannot be read[^\n]*$"):
            read(path)


@pytest.mark.parametrize("shape", ["(999999, 999999)", "(-3, -2)", "(2,)", "(1e9,)"])
def test_a_header_that_announces_other_bytes_than_there_are(tmp_path, shape):
    path = tmp_path / "a.npz"
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", bad_input.npy(header, bytes(24)))
    with pytest.raises(errors.UserError, match=r"^[^\n]*cannot be read[^\n]*$"):
        files.read_npz(path, ["a"])


def test_code_is_not_run_and_compression_is_a_choice(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", bad_input.npy_of_code(tmp_path / "ran"))
    with pytest.raises(errors.UserError, match="cannot be read"):
        files.read_npz(path, ["a"])
    assert not (tmp_path / "ran").exists()
    np.savez_compressed(path, a=np.zeros((1000, 1000)))
    with pytest.raises(errors.UserError, match="is compressed"):
        files.read_npz(path, ["a"])
    assert files.read_npz(path, ["a"], compressed=True)["a"].shape == (1000, 1000)


def test_one_line():
    assert errors.one_line(ValueError("a\n  b")) == "a b"
    assert errors.one_line(AttributeError(KeyError("field"))) == "field"
    assert errors.one_line(MemoryError()) == "MemoryError"
    assert errors.one_line(ValueError("abcdef"), 4) == "abc…"


def test_files_need_no_jax():
    code = "import dc_jax.files.content, sys; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "Too many open files"), MemoryError()]
)
def test_what_may_pass_is_no_damage(tmp_path, monkeypatch, error):
    path = tmp_path / "arrays.npz"
    files.write_npz(path, {"a": np.zeros(2)})

    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(files.zipfile, "ZipFile", fail)
        with pytest.raises(OSError, match=r"arrays\.npz cannot be read now"):
            files.read_npz(path, ("a",))
    assert files.read_npz(path, ("a",))["a"].shape == (2,)


@pytest.mark.parametrize("torn", [b"", b'{"a": 1}\n', b'{"a": 1}\n{"a"', b'{"a"'])
def test_a_torn_last_line_loses_only_itself(tmp_path, torn):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(torn)
    files.append_json_line(path, {"b": 2})
    files.append_json_line(path, {"c": "é\n"})
    before = [{"a": 1}] if b"}" in torn else []
    assert files.read_json_lines(path) == [*before, {"b": 2}, {"c": "é\n"}]


def test_a_text_that_could_steer_a_terminal_is_escaped():
    text = "\x1b[31mred\x07\u202eright\tto left\r\n\udcff é ✓ \x9b"
    expected = "\\x1b[31mred\\x07\\u202eright\tto left\\r\n\\udcff é ✓ \\x9b"
    assert errors.printable(text) == expected
    assert errors.one_line(ValueError("a\x1b]0;b\x07\nc")) == "a\\x1b]0;b\\x07 c"
