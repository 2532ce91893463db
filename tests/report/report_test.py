"""The report of a run: what is on the page, odd runs, damage, and real runs."""

import base64
import dataclasses
import html.parser
import json
import re
import shutil
import sys

import numpy as np
import pytest
import run_helpers
import toy
from absl import logging

from dc_jax import report
from dc_jax.evaluation.protocol import Protocol
from dc_jax.report import kept
from dc_jax.report.published import TABLE1
from dc_jax.run import runner, workdir
from dc_jax.run.metrics import Metrics
from dc_jax.sets import set_file
from dc_jax.sets.make import make_set

PROTOCOL = Protocol("ConvNet", 300, "none", 0.01, 0.9, 5e-4, 256)
# Elements without an end.
_VOID = {"meta", "link", "img", "input", "br"}


class Page(html.parser.HTMLParser):
    """A page taken apart; elements must be closed in their order.

    Attributes:
      elements: (tag, attributes) of each.
      texts: by tag, what stands in each element of it, inner elements included.
    """

    def __init__(self, source):
        super().__init__()
        self.elements, self.texts, self._open = [], {}, []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.texts.setdefault(tag, []).append("")
        if tag not in _VOID:
            self._open.append((tag, len(self.texts[tag]) - 1))

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        for tag, place in self._open:
            self.texts[tag][place] += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def _read(folder):
    return Page((folder / "report.html").read_text("utf-8"))


def _dataset(num_classes, names=None):
    dataset = toy.random_dataset([3] * min(num_classes, 10), (8, 8, 1))
    if num_classes > 10:
        labels = np.repeat(np.arange(num_classes, dtype=np.int32), 2)
        images = np.zeros((len(labels), 8, 8, 1), np.uint8)
        changes = {"class_names": tuple(f"class {i}" for i in range(num_classes))}
        changes |= {f"{split}_labels": labels for split in ("train", "test")}
        changes |= {f"{split}_images": images for split in ("train", "test")}
        dataset = dataclasses.replace(dataset, **changes)
    return dataclasses.replace(dataset, class_names=names) if names else dataset


def _make_run(folder, *, dataset=None, ipc=2, indices=None, num_sets=2, **changes):
    """Writes what a run leaves behind, without one, and its report."""
    dataset = dataset or _dataset(3)
    config = run_helpers.tiny_config(
        **{"ipc": ipc, "num_experiments": num_sets, "network.name": "ConvNet"} | changes
    )
    rng = np.random.default_rng(0)
    shape = (num_sets, dataset.num_classes, ipc, *dataset.image_shape)
    images = rng.normal(size=shape).astype(np.float32)
    workdir.claim(config, folder)
    with Metrics(folder, first=0, total=4, tensorboard=config.tensorboard) as metrics:
        metrics.images(0, lambda: make_set(0 * images[0], dataset))
        for i in range(1, 5):
            layers = {"conv/kernel": 2.0 / i, "dense/kernel": 1.0 / i}
            metrics.loss(i, np.array([3.0 / i]), layers)
            metrics.images(i, lambda i=i: make_set(images[0] * i / 4, dataset))
            metrics.accuracy(i, np.array([[i / 10, i / 8]]))
    sets = [make_set(one, dataset) for one in images]
    if indices is not None:
        sets = [one.replace(indices=indices) for one in sets]
    num = dataset.num_classes
    counts = np.tile(9 * np.eye(num) + np.ones((num, num)), (num_sets, 2, 1, 1))
    result = workdir.summarise(np.full((num_sets, 2), 0.75))
    result |= {"iterations": 4, "seconds": 75.0, "training_images": num * ipc}
    workdir.save_run(
        *(config, folder, dataset), protocol=PROTOCOL, sets=sets, result=result
    )
    report.finish(folder, dataset, sets, counts)
    return dataset, sets, counts


@pytest.fixture
def warnings(monkeypatch):
    """The warnings that are logged."""
    seen = []
    monkeypatch.setattr(logging, "warning", lambda text, *a: seen.append(text % a))
    return seen


def test_every_part_is_there(tmp_path, warnings):
    _make_run(tmp_path)
    page = _read(tmp_path)
    assert warnings == []
    assert page.texts["h1"] == ["digits, 2 images a class"]
    assert page.texts["h2"] == [
        "Condensed images, set 1 of 2",
        "How the images came about",
        "Curves",
        "Confusion matrix",
        "The nearest training images",
        "How it was made",
    ]
    assert "Condensed images, set 2 of 2" in page.texts["summary"]
    assert page.texts["dd"] == ["75.0 ± 0.0 %", "4", "6", "75 s"]
    assert len(page.all("svg")) == 3
    # Two sets and the neighbours; after 0, 1 and 2 iterations and at the end.
    assert len(page.all("img")) == 3 * 3 + 4
    (command,) = page.texts["pre"]
    assert command == json.loads((tmp_path / "card.json").read_text())["command"]
    (text,) = page.texts["body"]
    for package in ("jax", "flax", "numpy"):
        assert re.search(rf"\b{package} \d", text)


def test_the_page_loads_nothing(tmp_path):
    _make_run(tmp_path)
    source = (tmp_path / "report.html").read_text("utf-8")
    # Not even in a comment or a namespace.
    assert not re.search(r"https?:|@import|url\(|=\s*[\"']?//", source)
    for tag, attributes in Page(source).elements:
        assert tag not in {"iframe", "object", "embed", "base", "form"}
        assert "srcset" not in attributes
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith("data:")
    assert all("src" not in attributes for attributes in Page(source).all("script"))


def test_what_is_hidden_stays_so_whatever_an_image_is_displayed_as(tmp_path):
    _make_run(tmp_path)
    (style,) = _read(tmp_path).texts["style"]
    assert "[hidden] { display: none !important; }" in style


def test_every_image_has_a_text_and_its_size(tmp_path):
    _make_run(tmp_path)
    page = _read(tmp_path)
    for attributes in page.all("img"):
        assert attributes["alt"]
        # Eight pixels are enlarged to 64 on the page: two images in a row, and between
        # them a pixel.
        assert attributes["width"] == "136"
    assert all(attributes["aria-label"] for attributes in page.all("svg"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_slider_has_a_step_for_each_picture_and_shows_the_last(tmp_path):
    _make_run(tmp_path)
    page = _read(tmp_path)
    pictures = [a for a in page.all("img") if "data-iteration" in a]
    assert [a["data-iteration"] for a in pictures] == ["0", "1", "2", "4"]
    assert ["hidden" in a for a in pictures] == [True, True, True, False]
    (slider,) = page.all("input")
    assert (slider["min"], slider["max"], slider["value"]) == ("0", "3", "3")
    assert page.texts["output"] == ["after 4 iterations"]
    assert page.texts["ol"][0] == "abc"  # The rows.


def test_confusion_is_in_percent_of_a_row(tmp_path):
    _make_run(tmp_path)
    page = _read(tmp_path)
    # 10 of 12 on the diagonal, 1 of 12 elsewhere.
    cells = [text for text in page.texts["td"] if re.fullmatch(r"\d+\.\d", text)]
    assert cells[:9] == [
        *("83.3", "8.3", "8.3"),
        *("8.3", "83.3", "8.3"),
        *("8.3", "8.3", "83.3"),
    ]
    assert "a taken for b: 8.3 %" in page.texts["li"]
    assert not any("a taken for a" in text for text in page.texts["li"])


def test_neighbours_are_named_with_their_distance(tmp_path):
    dataset, sets, _ = _make_run(tmp_path)
    found = kept.read_neighbours(tmp_path)
    captions = _read(tmp_path).texts["figcaption"]
    captions = [text for text in captions if "nearest" in text]
    assert len(captions) == 3
    for label, caption in enumerate(captions):
        assert caption.startswith(f"{dataset.class_names[label]}; nearest: ")
        assert f"distance {found.distances[label].mean():.2f}" in caption


NAMES = ("<script>alert(1)</script>", "a&amp;b", "\"'><img src=x onerror=y>")


def test_names_that_look_like_html_are_text(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "<b>$x</b>", "--a='&lt;'"])
    _make_run(tmp_path, dataset=_dataset(3, NAMES), **{"dataset.path": "<i>$y"})
    page = _read(tmp_path)
    assert len(page.all("script")) == 1
    assert not page.all("i")
    assert not page.all("b")
    assert all("onerror" not in attributes for _, attributes in page.elements)
    for name in NAMES:
        assert name in page.texts["figcaption"]
        assert name in page.texts["th"]
        assert f"Images of class {name}" in [a["alt"] for a in page.all("img")]
    assert page.texts["pre"] == ["python '<b>$x</b>' '--a='\"'\"'&lt;'\"'\"''"]
    assert "<i>$y" in page.texts["td"]


def test_a_command_that_is_not_utf8(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "--workdir=\udcff"])
    folder = tmp_path / "\udcff é $x <&>"
    _make_run(folder)
    (command,) = _read(folder).texts["pre"]
    assert command == r"python '--workdir=\udcff'"


def test_one_image_of_each_of_100_classes(tmp_path):
    _make_run(tmp_path, dataset=_dataset(100), ipc=1, num_sets=1)
    page = _read(tmp_path)
    assert page.texts["h1"] == ["digits, 1 image a class"]
    assert "Condensed images" in page.texts["h2"]
    images = [a for a in page.all("img") if a["alt"].startswith("Images of class ")]
    assert len(images) == 100
    assert {a["width"] for a in images} == {"96"}
    # The matrix is a picture, and the classes of the evolution are named in a line.
    assert any(a["alt"].startswith("Confusion matrix") for a in page.all("img"))
    (note,) = [text for text in page.texts["p"] if text.startswith("Row by row")]
    assert note.endswith("class 98, class 99.")


def test_a_single_class(tmp_path, warnings):
    _make_run(tmp_path, dataset=_dataset(1), ipc=1, num_sets=1)
    page = _read(tmp_path)
    assert warnings == []
    assert "Confusion matrix" in page.texts["h2"]
    assert not any("taken for" in text for text in page.texts.get("li", ()))


def test_images_that_are_not_shown_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(kept.shown, "__defaults__", (64 * 3,))
    _make_run(tmp_path, ipc=4, num_sets=1)
    assert "3 of 12 images." in _read(tmp_path).texts["p"]


def test_chosen_images_have_no_neighbours(tmp_path):
    indices = np.arange(6, dtype=np.int32).reshape(3, 2)
    _make_run(tmp_path, indices=indices, num_sets=1, method="herding")
    page = _read(tmp_path)
    assert "Chosen images" in page.texts["h2"]
    assert "The nearest training images" not in page.texts["h2"]
    assert "Real images chosen by herding." in page.texts["p"]


def _whole(folder, **changes):
    config = run_helpers.tiny_config(method="whole", eval_every=5, **changes)
    result = workdir.summarise(np.array([[0.5, 0.75]]))
    result |= {"accuracies_on_the_way": [[0.25, 0.5], [0.75, 1.0]]}
    dataset = _dataset(3)
    workdir.save_run(
        *(config, folder, dataset), protocol=PROTOCOL, sets=[], result=result
    )
    report.finish(folder, dataset, [], None)


def test_networks_trained_on_everything(tmp_path, warnings):
    _whole(tmp_path)
    page = _read(tmp_path)
    assert warnings == []
    assert page.texts["h1"] == ["digits, all training images"]
    assert page.texts["h2"] == ["Curves", "How it was made"]
    (chart,) = page.all("svg")
    # The means of both networks after 5 and 10 epochs.
    assert chart["aria-label"] == (
        "Test accuracy by epoch, 50.0 % at first and 75.0 % at last"
    )


def test_published_accuracies_are_beside_those_of_a_comparable_run(tmp_path):
    fashion = {"dataset.name": "fashion_mnist", "ipc": 1}
    _make_run(tmp_path, **fashion)
    cells = _read(tmp_path).texts["td"]
    assert cells[:2] == ["this run: dc", "75.0 ± 0.0 %"]
    rows = dict(zip(cells[:18:2], cells[1:18:2], strict=True))
    assert rows["dc"] == f"{TABLE1['fashion_mnist', 1, 'dc']} %" == "70.5 ± 0.6 %"
    assert rows["random"] == "51.4 ± 3.8 %"
    assert rows["dsa"] == "70.6 ± 0.6 %"
    assert rows["whole"] == "93.5 ± 0.1 %"


@pytest.mark.parametrize(
    "changes",
    [
        {"network.name": "MLP"},
        {"evaluation.network": "LeNet"},
        {"dataset.validation": 5000},
        {"dataset.name": "digits"},
    ],
)
def test_runs_that_are_not_comparable_have_no_published_accuracies(tmp_path, changes):
    _make_run(tmp_path, **{"dataset.name": "fashion_mnist", "ipc": 1} | changes)
    assert "Beside published accuracies" not in _read(tmp_path).texts["h2"]


def test_a_run_that_has_not_finished(tmp_path):
    _make_run(tmp_path)
    for path in (*tmp_path.glob("synthetic_set*"), tmp_path / "card.json"):
        path.unlink()
    report.write(tmp_path)
    page = _read(tmp_path)
    assert "The run has not finished." in page.texts["p"]
    assert page.texts["h2"] == [
        "How the images came about",
        "Curves",
        "How it was made",
    ]


def test_a_folder_of_evaluations_alone(tmp_path):
    line = workdir.summarise(np.array([[0.5]])) | {"set": "<runs>"}
    line |= {"protocol": dataclasses.asdict(PROTOCOL)}
    workdir.add_evaluation(tmp_path, line)
    report.write_if_possible(tmp_path)
    page = _read(tmp_path)
    assert page.texts["td"] == ["<runs>", "ConvNet", "50.0 ± 0.0 %"]


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(ValueError, match="holds no run"):
        report.write(tmp_path)


_PARTS = {
    "synthetic_set.npz": "Condensed images, set 1 of 2",
    "metrics.jsonl": "Curves",
    "snapshots/1.png": None,
    "confusion.csv": "Confusion matrix",
    "neighbours.npz": "The nearest training images",
    "evaluations.jsonl": None,
}


@pytest.mark.parametrize("name", _PARTS)
@pytest.mark.parametrize("data", [b"", b"\xff\xfe{", b"[1]\nnull\n7\n"])
def test_a_damaged_file_costs_its_part_alone(tmp_path, warnings, name, data):
    _make_run(tmp_path)
    before = _read(tmp_path).texts["h2"]
    (tmp_path / name).write_bytes(data)
    report.write_if_possible(tmp_path)
    if data or not name.endswith("jsonl"):
        assert len(warnings) == 1
        assert str(tmp_path / name) in warnings[0]
        assert "\n" not in warnings[0]
    lost = set(before) - set(_read(tmp_path).texts["h2"])
    if name == "synthetic_set.npz":  # Names and images of other parts are there.
        assert _PARTS[name] in lost
    else:
        assert lost == {_PARTS[name]} - {None}


@pytest.mark.parametrize(
    ("file", "line", "part"),
    [
        ("metrics.jsonl", b'{"iteration": 1, "loss": "low"}', "curves"),
        ("metrics.jsonl", b'{"loss": 1.0}', "curves"),
        ("evaluations.jsonl", b"{}", "evaluations"),
    ],
)
def test_values_that_no_run_writes_cost_their_part_alone(
    tmp_path, warnings, file, line, part
):
    _make_run(tmp_path)
    (tmp_path / file).write_bytes(line)
    report.write(tmp_path)
    (warning,) = warnings
    assert warning.startswith(f"Not in the report: {part} (")
    assert "How it was made" in _read(tmp_path).texts["h2"]


@pytest.mark.parametrize("name", ["card.json", "config.json"])
@pytest.mark.parametrize("data", [b"{", b"{}x", b"[]", b'{"a": 1}'])
def test_a_damaged_card_is_a_warning(tmp_path, warnings, name, data):
    _make_run(tmp_path)
    for other in ("card.json", "config.json"):
        (tmp_path / other).unlink()
    if name == "card.json" and data == b'{"a": 1}':
        data = b'{"config": {"a": 1}}'
    (tmp_path / name).write_bytes(data)
    report.write_if_possible(tmp_path)
    (warning,) = warnings
    assert warning.startswith(f"No report.html of {tmp_path}: ")
    assert str(tmp_path / name) in warning.replace(f"of {tmp_path}: ", "")
    assert "\n" not in warning


def test_what_goes_wrong_in_the_end_is_a_warning(tmp_path, warnings, monkeypatch):
    dataset, sets, counts = _make_run(tmp_path)
    for name in ("report.html", "neighbours.npz", "confusion.csv"):
        (tmp_path / name).unlink()
        (tmp_path / name).mkdir()
    report.finish(tmp_path, dataset, sets, counts)
    assert [text.split(" of ")[0] for text in warnings[:2]] == [
        "No confusion matrix",
        "No nearest training images",
    ]
    assert warnings[-1].startswith(f"No report.html of {tmp_path}: IsADirectoryError")

    def fail(*args):
        raise RuntimeError("of\nany kind")

    warnings.clear()
    monkeypatch.setattr(kept, "find_neighbours", fail)
    report.finish(tmp_path, dataset, sets, None)
    assert f"of {tmp_path}: RuntimeError: of any kind" in warnings[0]


def test_the_same_files_make_the_same_report(tmp_path):
    _make_run(tmp_path)
    made = (tmp_path / "report.html").read_bytes()
    assert report.write(tmp_path).read_bytes() == made
    shutil.copytree(tmp_path, tmp_path / "other")
    assert report.write(tmp_path / "other").read_bytes() == made


def test_a_missing_report_alone_is_made_again(tmp_path):
    _make_run(tmp_path)
    path = tmp_path / "report.html"
    path.write_text("mine")
    report.write_if_missing(tmp_path)
    assert path.read_text() == "mine"
    path.unlink()
    report.write_if_missing(tmp_path)
    assert _read(tmp_path).texts["h1"]


# Real runs.

_REAL = {"network.name": "MLP", "eval_every": 2}


def _without_times(folder):
    source = (folder / "report.html").read_text("utf-8")
    source = re.sub(r"(<dt>Time in all</dt><dd>)[^<]*", r"\1", source)
    return re.sub(r"(Finished</th><td>)[^<]*", r"\1", source)


def test_a_continued_run_has_the_report_of_one_that_never_stopped(tmp_path):
    runner.condense(run_helpers.tiny_config(**_REAL), tmp_path / "whole")
    runner.condense(run_helpers.tiny_config(iterations=3, **_REAL), tmp_path / "parts")
    between = _without_times(tmp_path / "parts")
    runner.condense(run_helpers.tiny_config(**_REAL), tmp_path / "parts")
    assert _without_times(tmp_path / "parts") == _without_times(tmp_path / "whole")
    assert between != _without_times(tmp_path / "whole")

    # The confusion matrix is of the networks whose accuracy is in the result.
    counts = kept.read_confusion(tmp_path / "whole")
    result = json.loads((tmp_path / "whole" / "result.json").read_text())
    assert counts.sum() == 360 * 4
    assert np.trace(counts) / counts.sum() == pytest.approx(result["accuracy_mean"])
    # And the last picture of the slider is that of the set.
    first = set_file.load_synthetic_set(tmp_path / "whole")
    last = kept.to_png(kept.snapshot(first))
    pictures = [
        a for a in _read(tmp_path / "whole").all("img") if "data-iteration" in a
    ]
    assert kept.read_snapshots(tmp_path / "whole")[2] != last
    assert pictures[-1]["src"].endswith(base64.b64encode(last).decode())
