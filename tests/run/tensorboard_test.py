"""Tests of what a run writes for TensorBoard, read back record by record."""

import struct
import sys

import numpy as np
import pytest
import run_helpers
import toy
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from dc_jax.report import kept
from dc_jax.run import runner
from dc_jax.run.metrics import Metrics
from dc_jax.sets.make import make_set

DATASET = toy.random_dataset((2, 2), (8, 8, 1))
IMAGES = np.random.default_rng(0).normal(size=(2, 2, 3, 8, 8, 1))


def _read(folder):
    """Returns the events in the only file; checks their checksums."""
    (path,) = (folder / "tensorboard").iterdir()
    assert "tfevents" in path.name
    data, events = path.read_bytes(), []
    while data:
        head, (length, check) = data[:8], struct.unpack("<QI", data[:12])
        body, (body_check,) = (
            data[12 : 12 + length],
            struct.unpack_from("<I", data, 12 + length),
        )
        assert (check, body_check) == (masked_crc32c(head), masked_crc32c(body))
        events.append(Event.FromString(body))
        data = data[16 + length :]
    assert events[0].file_version == "brain.Event:2"
    return events[1:]


def _scalars(folder, tag):
    return [
        (event.step, pytest.approx(value.simple_value))
        for event in _read(folder)
        for value in event.summary.value
        if value.tag == tag
    ]


def _pictures(folder):
    return {
        event.step: value.image
        for event in _read(folder)
        for value in event.summary.value
        if value.tag == "images"
    }


def _run(folder, *iterations, first=0, seconds=0.0):
    with Metrics(
        folder, first=first, total=9, seconds=seconds, tensorboard=True
    ) as metrics:
        if first == 0:
            metrics.images(0, lambda: make_set(0 * IMAGES[0], DATASET))
        for i in iterations:
            metrics.loss(
                i, np.array([i, i + 1.0]), {"layers": {"a": i / 2, "b": i / 4}}
            )
            metrics.images(i, lambda i=i: make_set(i * IMAGES[0], DATASET))
            metrics.accuracy(i, np.array([[0.25, 0.5 + 0.25 * (i % 2)]]))


def test_scalars_and_pictures_are_those_of_the_run(tmp_path):
    _run(tmp_path, 1, 2, 3)
    assert _scalars(tmp_path, "loss") == [(1, 1.5), (2, 2.5), (3, 3.5)]
    assert _scalars(tmp_path, "layers/a") == [(1, 0.5), (2, 1.0), (3, 1.5)]
    assert _scalars(tmp_path, "layers/b") == [(1, 0.25), (2, 0.5), (3, 0.75)]
    means = [(1, 0.5), (2, 0.375), (3, 0.5)]
    assert _scalars(tmp_path, "accuracy_mean") == means
    assert _scalars(tmp_path, "accuracy_std")[:2] == [(1, 0.25), (2, 0.125)]
    pictures = _pictures(tmp_path)
    assert {
        step: picture.encoded_image_string for step, picture in pictures.items()
    } == kept.read_snapshots(tmp_path)
    assert list(pictures) == [0, 1, 2]
    assert (pictures[2].width, pictures[2].height) == (26, 17)


def test_an_iteration_that_is_done_again_is_there_once(tmp_path):
    _run(tmp_path, 1, 2, 3, 4, 5)
    before = _pictures(tmp_path)
    _run(tmp_path, 3, 4, first=2, seconds=100.0)
    losses = [line for line in run_helpers.read_metrics(tmp_path) if "loss" in line]
    assert _scalars(tmp_path, "loss") == [(1, 1.5), (2, 2.5), (3, 3.5), (4, 4.5)]
    assert [step for step, _ in _scalars(tmp_path, "accuracy_mean")] == [1, 3, 4]
    assert list(_pictures(tmp_path)) == [0, 1, 2]
    assert _pictures(tmp_path)[2] == before[2]
    # Times continue as those of the run, without the time between its two parts.
    times = [
        event.wall_time
        for event in _read(tmp_path)
        if event.summary.value[0].tag == "loss"
    ]
    seconds = [line["seconds"] for line in losses]
    np.testing.assert_allclose(np.diff(times), np.diff(seconds), atol=0.02)
    assert seconds[2] - seconds[1] > 99


def test_it_can_be_switched_on_when_a_run_continues(tmp_path):
    with Metrics(tmp_path, first=0, total=9) as metrics:
        metrics.loss(1, np.array([1.0]))
    assert not (tmp_path / "tensorboard").exists()
    _run(tmp_path, 2, first=1)
    assert [step for step, _ in _scalars(tmp_path, "loss")] == [1, 2]


def test_what_is_written_can_be_read_while_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("dc_jax.run.tensorboard._FLUSH", 0)
    with Metrics(tmp_path, first=0, total=9, tensorboard=True) as metrics:
        metrics.loss(1, np.array([1.0]))
        assert _scalars(tmp_path, "loss") == [(1, 1.0)]


@pytest.mark.slow
def test_a_run_writes_what_is_in_its_metrics(tmp_path):
    fields = {"network.name": "MLP", "tensorboard": True, "iterations": 2}
    runner.make_first_set(run_helpers.tiny_config(**fields), tmp_path, DATASET)
    lines = run_helpers.read_metrics(tmp_path)
    assert _scalars(tmp_path, "loss") == [(i + 1, lines[i]["loss"]) for i in range(2)]
    name, value = next(iter(lines[0]["layers"].items()))
    assert _scalars(tmp_path, f"layers/{name}")[0] == (1, value)
    assert list(_pictures(tmp_path)) == [0, 1, 2]


def test_a_missing_package_is_an_error_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    config = run_helpers.tiny_config(**{"tensorboard": True, "dataset.name": "none"})
    with pytest.raises(ValueError, match="tensorboardX") as error:
        runner.condense(config, tmp_path / "run")
    assert 'pip install -e ".[tensorboard]"' in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_the_events_of_others_stay(tmp_path):
    theirs = tmp_path / "tensorboard" / "events.out.tfevents.1.host"
    theirs.parent.mkdir()
    theirs.write_text("mine")
    for first in (0, 1):
        with Metrics(tmp_path, first=first, total=3, tensorboard=True) as metrics:
            metrics.loss(first + 1, np.array([1.0]))
    assert theirs.read_text() == "mine"
    (ours,) = (path for path in theirs.parent.iterdir() if path != theirs)
    assert ours.name.endswith(".dc_jax")
