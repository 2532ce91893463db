"""Any saved set and any file of a run is read, or named in one line."""

import dataclasses
import functools
import io
import json
import shutil
import struct
import tempfile
from pathlib import Path

import bad_input
import numpy as np
import pytest
import run_helpers
from hypothesis import example, given
from hypothesis import strategies as st

from dc_jax import report
from dc_jax.base import SyntheticSet
from dc_jax.data.sources import load_dataset
from dc_jax.evaluation.protocol import make_protocol
from dc_jax.report import kept
from dc_jax.run import saving, workdir
from dc_jax.run.finished import finished_result
from dc_jax.run.metrics import Metrics
from dc_jax.sets import authors_pt, formats, set_file
from dc_jax.sets.make import make_set

safetensors = pytest.importorskip("safetensors.numpy")

SET = SyntheticSet(
    images=np.arange(3 * 2 * 4 * 4, dtype=np.float32).reshape(3, 2, 4, 4, 1) / 50,
    labels=np.repeat(np.arange(3, dtype=np.int32)[:, None], 2, 1),
    mean=np.array([0.5], np.float32),
    std=np.array([0.25], np.float32),
    class_names=("cat", "dog", "Größe"),
    recipe='{"method": "dc"}',
)


def _load(path):
    loaded = bad_input.ends_well(
        lambda: formats.load_synthetic_set(path), path, folder=path.parent
    )
    if loaded is not None:
        assert loaded.images.dtype == np.float32
        assert loaded.images.shape[:2] == loaded.labels.shape
    return loaded


@functools.cache
def _whole(kind):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "set"
        formats.export(SET, path, kind)
        return path.read_bytes()


@bad_input.cases(50)
@given(st.data())
def test_damaged_npz_is_the_same_set_or_none(data):
    content = data.draw(bad_input.damaged(_whole("npz")))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "synthetic_set.npz"
        path.write_bytes(content)
        loaded = _load(path)
    if loaded is not None:
        for name in ("images", "labels", "mean", "std"):
            np.testing.assert_array_equal(getattr(loaded, name), getattr(SET, name))
        assert loaded.class_names == SET.class_names


@bad_input.cases(40)
@given(st.data())
def test_damaged_safetensors(data):
    content = data.draw(bad_input.damaged(_whole("safetensors")))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "set.safetensors"
        path.write_bytes(content)
        _load(path)


NUMBERS = st.sampled_from(
    [0, 1, -1, 8, 384, 2**31, 2**63, 2**64, 2**70, 1.5, "1", None]
)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(
            ["F32", "F64", "I32", "BF16", "F8_E4M3", "U8", "?", 3]
        ),
        "shape": st.lists(NUMBERS, max_size=5) | NUMBERS,
        "data_offsets": st.lists(NUMBERS, max_size=3) | NUMBERS,
    },
)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | NUMBERS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner)
    ),
    max_leaves=4,
)


def _split(content):
    """The header of a safetensors file, and its data."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


@bad_input.cases(40)
@given(
    st.dictionaries(
        st.sampled_from([*set_file.NAMES, "__metadata__", "other"]),
        ENTRIES | JSON,
        max_size=3,
    ),
    st.dictionaries(st.sampled_from(["class_names", "recipe"]), st.text() | JSON),
    st.sampled_from([0, 0, 0, 1, -1, 2**32, 2**63]),
    st.sampled_from(["", "", "", "[" * 99999]),
)
@example({"other": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}, {}, 0, "")
@example({}, {"class_names": json.dumps(["x" * 10**6] + [""] * 10**6)}, 0, "")
def test_safetensors_of_any_header(entries, texts, more, other):
    header, data = _split(_whole("safetensors"))
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in texts.items()}
    header["__metadata__"] |= texts
    text = (other or json.dumps(header | entries)).encode()
    length = (len(text) + more) % 2**64
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "set.safetensors"
        path.write_bytes(struct.pack("<Q", length) + text + data)
        _load(path)


@bad_input.cases(30)
@given(st.data())
def test_damaged_sets_of_the_authors(data):
    torch = pytest.importorskip("torch")
    file = io.BytesIO()
    images = torch.arange(10 * 9.0).reshape(10, 1, 3, 3)
    torch.save({"data": [[images, torch.arange(10)]]}, file)
    content = data.draw(bad_input.damaged(file.getvalue()))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "set.pt"
        path.write_bytes(content)
        bad_input.ends_well(lambda: authors_pt.read(path, "mnist", 0), path)


CONFIG = run_helpers.tiny_config()
RESULT = {
    "accuracy_mean": 0.5,
    "accuracy_std": 0.25,
    "num_experiments": 1,
    "num_evaluations": 2,
    "accuracies": [[0.25, 0.75]],
    "own_protocol": {
        "accuracy_mean": 0.5,
        "accuracy_std": 0.25,
        "num_experiments": 1,
        "num_evaluations": 2,
    },
}
LINES = [
    {"iteration": 1, "seconds": 0.1, "loss": 2.0, "losses": [2.0], "layers": {"a": 1}},
    {"iteration": 1, "seconds": 0.1, "accuracy_mean": 0.5, "accuracy_std": 0.1},
    {"iteration": 2, "seconds": 0.2, "loss": 1.5, "losses": [1.5], "layers": {"a": 1}},
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run, with all that its report is made of."""
    folder = tmp_path_factory.mktemp("finished")
    dataset = load_dataset("digits")
    images = np.random.default_rng(0).normal(size=(10, 1, 8, 8, 1))
    synthetic = make_set(images, dataset)
    protocol = make_protocol(
        CONFIG.evaluation, dataset_name="digits", network_name="ConvNet"
    )
    workdir.claim(CONFIG, folder)
    saving.save_run(
        *(CONFIG, folder, dataset),
        protocol=protocol,
        sets=[synthetic],
        result=RESULT | {"protocol": dataclasses.asdict(protocol), "seconds": 3.0},
    )
    png = kept.snapshot(synthetic)
    for iteration in (0, 1):
        kept.save_snapshot(folder, iteration, png)
    kept.save_confusion(folder, np.eye(10, dtype=int))
    kept.save_neighbours(folder, synthetic, dataset)
    text = "".join(json.dumps(line) + "\n" for line in LINES)
    (folder / "metrics.jsonl").write_text(text)
    saving.add_evaluation(folder, RESULT | {"set": "x"})
    report.write(folder)
    return folder


FILES = [
    *("card.json", "config.json", "metrics.jsonl", "evaluations.jsonl"),
    *("confusion.csv", "neighbours.npz", "synthetic_set.npz", "snapshots/1.png"),
]


@st.composite
def contents(draw, name, whole):
    """Of a file: damaged, or of JSON other JSON, some of it or all."""
    kind = draw(st.integers(0, 2))
    if "json" not in name or kind == 0:
        return draw(bad_input.damaged(whole))
    if kind == 1:
        return json.dumps(draw(JSON)).encode()
    lines = whole.splitlines() if name.endswith("l") else [whole]
    values = [json.loads(line) for line in lines]
    place = draw(st.sampled_from(values))
    while True:
        key = draw(st.sampled_from(sorted(place)))
        if not (isinstance(place[key], dict) and place[key] and draw(st.booleans())):
            break
        place = place[key]
    if draw(st.booleans()):
        place[key] = draw(JSON)
    else:
        del place[key]
    return "\n".join(map(json.dumps, values)).encode()


def _resume(folder):
    """What a run does with its files before it computes anything, and with metrics."""
    if finished_result(CONFIG, folder) is None:
        workdir.claim(CONFIG, folder)
    elif (result := finished_result(CONFIG, folder)) is not None:
        saving.log_result(result)


def _go_on(folder):
    metrics = Metrics(folder, first=1, total=4)
    with metrics:
        metrics.loss(2, np.ones(1))


@pytest.mark.parametrize("value", [None, {"accuracy_mean": "x"}])
@pytest.mark.parametrize("name", ["accuracy", "files", "dataset", "config"])
def test_a_damaged_card(finished, tmp_path, name, value):
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | {name: value}))
    bad_input.ends_well(lambda: _resume(folder), "card.json", folder=folder)
    bad_input.ends_well(lambda: report.write(folder), "card.json", folder=folder)


@bad_input.cases(50)
@given(st.sampled_from(FILES), st.data())
@example("config.json", None)
def test_damaged_files_of_a_run(finished, name, data):
    whole = (finished / name).read_bytes()
    content = data.draw(contents(name, whole)) if data else b"[" * 99999
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(finished, Path(place) / "run"))
        (folder / name).write_bytes(content)
        names = (name.split("/")[0], f"--workdir={folder}")
        bad_input.ends_well(lambda: report.write(folder), *names, folder=folder)
        bad_input.ends_well(lambda: _resume(folder), *names, folder=folder)
        bad_input.ends_well(lambda: _go_on(folder), *names, folder=folder)
        assert not list(folder.rglob("*.tmp"))
        for line in (folder / "metrics.jsonl").read_bytes().splitlines():
            assert json.loads(line)["iteration"] <= 2
