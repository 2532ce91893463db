"""Tests of damaged files, and of bugs, when a report is made."""

import json
import sys

import numpy as np
import pytest
from report_helpers import Page, make_dataset

from dc_jax import report
from dc_jax.report import __main__ as command
from dc_jax.report import kept

_SECTIONS = {
    "synthetic_set.npz": "Images",
    "metrics.jsonl": "Curves",
    "snapshots/1.png": None,
    "confusion.csv": "Confusion matrix",
    "neighbours.npz": "The nearest training images",
    "evaluations.jsonl": None,
}


def _warnings(caplog):
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("name", _SECTIONS)
@pytest.mark.parametrize("data", [b"\xff\xfe{", b"[1]\nnull\n7\n"])
def test_a_damaged_file_costs_its_section_and_is_named(copy, caplog, name, data):
    before = Page(copy).texts["h2"]
    (copy / name).write_bytes(data)
    report.write(copy)
    (warning,) = _warnings(caplog)
    assert str(copy / name) in warning
    assert "\n" not in warning
    lost = set(before) - set(Page(copy).texts["h2"])
    if name == "synthetic_set.npz":  # Other sections need its names and images.
        assert _SECTIONS[name] in lost
    else:
        assert lost == {_SECTIONS[name]} - {None}


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("metrics.jsonl", {"iteration": 9, "loss": "low"}),
        ("metrics.jsonl", {"iteration": 9, "loss": float("nan")}),
        ("metrics.jsonl", {"iteration": 9, "layers": {"a": None}}),
        ("metrics.jsonl", {"loss": 1.0}),
        ("evaluations.jsonl", {}),
    ],
)
def test_a_line_that_no_run_writes_is_left_out(copy, caplog, name, line):
    before = (copy / "report.html").read_bytes()
    with (copy / name).open("a") as file:
        file.write(json.dumps(line) + "\n")
    report.write(copy)
    (warning,) = _warnings(caplog)
    assert str(copy / name) in warning
    assert (copy / "report.html").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("card.json", "{"),
        ("card.json", "[]"),
        ("card.json", '{"config": {"a": 1}}'),
        ("config.json", "{}x"),
        ("config.json", '{"a": 1}'),
    ],
)
def test_a_damaged_card_or_config_is_named(copy, caplog, name, data):
    for path in (copy / "card.json", copy / "config.json", copy / "report.html"):
        path.unlink()
    (copy / name).write_text(data)
    with pytest.raises(ValueError, match="is damaged") as error:
        report.write(copy)
    assert str(copy / name) in str(error.value)
    report.write_if_possible(copy)
    (warning,) = _warnings(caplog)
    assert str(copy / name) in warning
    assert "\n" not in warning
    assert not (copy / "report.html").exists()


def _fail(*args):
    raise TypeError("a bug")


def test_a_bug_is_an_error_with_a_traceback(copy, caplog, monkeypatch):
    (copy / "report.html").unlink()
    monkeypatch.setattr(kept, "size_of", _fail)
    with pytest.raises(TypeError, match="a bug"):
        report.write(copy)
    monkeypatch.setattr(sys, "argv", ["report", f"--workdir={copy}"])
    with pytest.raises(TypeError, match="a bug"):
        command.main()
    # A run goes on: its result is saved.
    report.write_if_possible(copy)
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.exc_info[0] is TypeError
    assert not (copy / "report.html").exists()


def test_the_end_of_a_run_outlives_whatever_fails(copy, caplog, monkeypatch):
    dataset = make_dataset(3)
    counts = np.ones((2, 2, 3, 3))
    for name in ("report.html", "neighbours.npz", "confusion.csv"):
        (copy / name).unlink()
        (copy / name).mkdir()
    report.keep_confusion(copy, counts)
    report.keep_neighbours(copy, dataset)
    report.write_if_possible(copy)
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    for name in ("report.html", "neighbours.npz", "confusion.csv"):
        assert any(str(copy / name) in text for text in _warnings(caplog))
        (copy / name).rmdir()
    caplog.clear()
    monkeypatch.setattr(kept, "find_neighbours", _fail)
    report.keep_confusion(copy, counts)
    report.keep_neighbours(copy, dataset)
    report.write_if_possible(copy)
    (record,) = caplog.records
    assert record.exc_info[0] is TypeError
    assert "Confusion matrix" in Page(copy).texts["h2"]


def test_a_folder_without_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["report", f"--workdir={tmp_path}"])
    with pytest.raises(SystemExit, match=f"^error: {tmp_path} holds no run.*$"):
        command.main()
