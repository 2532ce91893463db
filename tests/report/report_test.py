"""Tests of the report: what is on the page, and unusual runs."""

import base64
import dataclasses
import json
import re
import shutil
import sys

import numpy as np
import pytest
import run_helpers
from report_helpers import PROTOCOL, Page, make_dataset, make_run

from dc_jax import report
from dc_jax.report import kept
from dc_jax.report.accuracy import in_percent
from dc_jax.report.published import TABLE1
from dc_jax.run import own_files, saving
from dc_jax.run.metrics import Metrics
from dc_jax.sets import set_file


def test_every_section_is_there(tmp_path, caplog):
    make_run(tmp_path, num_sets=2)
    page = Page(tmp_path)
    assert not caplog.records
    assert page.texts["h1"] == ["digits, 2 images per class"]
    assert page.texts["h2"] == [
        "Images",
        "How the images came about",
        "Curves",
        "Confusion matrix",
        "The nearest training images",
        "How the run was made",
    ]
    assert "Set 2 of 2" in page.texts["summary"]
    assert page.texts["dd"] == ["75.0 ± 0.0 %", "4", "6", "75 s"]
    assert len(page.all("svg")) == 3
    # Two sets and the neighbours; after 0, 1 and 2 iterations and at the end.
    assert len(page.all("img")) == 3 * 3 + 4
    card = json.loads((tmp_path / "card.json").read_text())
    assert page.texts["pre"] == [card["command"]]
    (text,) = page.texts["body"]
    for package in ("jax", "flax", "numpy"):
        assert re.search(rf"\b{package} \d", text)


def test_the_page_loads_nothing(finished):
    # Not even in a comment or a namespace.
    source = (finished / "report.html").read_text("utf-8")
    assert not re.search(r"https?:|@import|url\(|=\s*[\"']?//", source)
    for tag, attributes in Page(finished).elements:
        assert tag not in {"iframe", "object", "embed", "base", "form"}
        assert "srcset" not in attributes
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith("data:")
        assert tag != "script" or "src" not in attributes


def test_every_image_has_a_text_and_a_size(finished):
    page = Page(finished)
    for attributes in page.all("img"):
        assert attributes["alt"]
        # Two images of 8 pixels and a gap of 1, enlarged by 8.
        assert attributes["width"] == "136"
    assert all(attributes["aria-label"] for attributes in page.all("svg"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_slider_has_a_step_for_each_frame_and_shows_the_last(finished):
    page = Page(finished)
    assert [frame["data-iteration"] for frame in page.frames()] == ["0", "1", "2", "4"]
    assert ["hidden" in frame for frame in page.frames()] == [True, True, True, False]
    (slider,) = page.all("input")
    assert (slider["min"], slider["max"], slider["value"]) == ("0", "3", "3")
    assert page.texts["output"] == ["after 4 iterations"]
    assert page.texts["ol"][0] == "abc"  # The names of the rows.
    last = kept.snapshot(set_file.load_synthetic_set(finished))
    assert page.frames()[-1]["src"].endswith(base64.b64encode(last).decode())


def test_confusion_is_in_percent_of_a_row(finished):
    page = Page(finished)
    # 10 of 12 on the diagonal, 1 of 12 elsewhere.
    cells = [text for text in page.texts["td"] if re.fullmatch(r"\d+\.\d", text)]
    expected = np.where(np.eye(3, dtype=bool), "83.3", "8.3")
    assert cells[:9] == expected.ravel().tolist()
    assert "a taken for b: 8.3 %" in page.texts["li"]
    assert not any("a taken for a" in text for text in page.texts["li"])


def test_neighbours_are_named_with_their_distance(finished):
    found = kept.read_neighbours(finished / "neighbours.npz")
    captions = Page(finished).texts["figcaption"]
    captions = [text for text in captions if "nearest" in text]
    assert len(captions) == 3
    for label, caption in enumerate(captions):
        assert caption.startswith(f"{'abc'[label]}; nearest: ")
        assert f"distance {found.distances[label].mean():.2f}" in caption


NAMES = ("<script>alert(1)</script>", "a&amp;b", "\"'><img src=x onerror=y>")


def test_names_that_look_like_html_are_text(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "<b>$x</b>", "--a='&lt;'"])
    make_run(tmp_path, dataset=make_dataset(3, NAMES), **{"dataset.path": "<i>$y"})
    page = Page(tmp_path)
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


def test_names_that_are_not_utf8(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "--workdir=\udcff"])
    folder = tmp_path / "\udcff é $x <&>"
    make_run(folder)
    assert Page(folder).texts["pre"] == [r"python '--workdir=\udcff'"]


def test_one_image_of_each_of_100_classes(tmp_path):
    make_run(tmp_path, dataset=make_dataset(100), ipc=1)
    page = Page(tmp_path)
    assert page.texts["h1"] == ["digits, 1 image per class"]
    images = [a for a in page.all("img") if a["alt"].startswith("Images of class ")]
    assert len(images) == 100
    assert {a["width"] for a in images} == {"96"}
    # The matrix is a picture, and a line names the classes of the frames.
    assert any(a["alt"].startswith("Confusion matrix") for a in page.all("img"))
    assert any(text.endswith("class 98, class 99.") for text in page.texts["p"])


def test_a_single_class(tmp_path, caplog):
    make_run(tmp_path, dataset=make_dataset(1), ipc=1)
    page = Page(tmp_path)
    assert not caplog.records
    assert "Confusion matrix" in page.texts["h2"]
    assert not any("taken for" in text for text in page.texts.get("li", ()))


def test_images_that_are_left_out_are_counted(tmp_path, monkeypatch):
    for function in (kept.shown, kept.shown_pixels):
        monkeypatch.setattr(function, "__defaults__", (64 * 3,))
    make_run(tmp_path, ipc=4)
    assert "3 of 12 images." in Page(tmp_path).texts["p"]


def test_chosen_images_have_no_neighbours(tmp_path):
    indices = np.arange(6, dtype=np.int32).reshape(3, 2)
    make_run(tmp_path, indices=indices, method="herding")
    page = Page(tmp_path)
    assert "Images" in page.texts["h2"]
    assert "The nearest training images" not in page.texts["h2"]
    assert "Real images chosen by herding." in page.texts["p"]


def test_a_single_network_has_no_standard_deviation(tmp_path, caplog):
    caplog.set_level("INFO", logger="absl")
    result = saving.summarise(np.array([[0.5]]))
    assert in_percent(result) == "50.0 %"
    assert in_percent(saving.summarise(np.array([[0.5], [0.5]]))) == "50.0 ± 0.0 %"
    saving.log_result(result)
    with Metrics(tmp_path, first=0, total=2) as metrics:
        metrics.accuracy(1, np.array([[0.5]]))
    texts = ["Test accuracy 50.00% (one network).", "Iteration 1: accuracy 50.00%."]
    assert caplog.messages == texts


def test_names_from_anybody_are_short_and_steer_no_terminal(tmp_path):
    names = ("x" * 20_000, "\x1b[31mred", "x" * 19_999)
    make_run(tmp_path, dataset=make_dataset(3, names), ipc=1)
    source = (tmp_path / "report.html").read_text("utf-8")
    assert "x" * 39 + "…" in source
    assert "x" * 40 not in source
    assert "\x1b" not in source
    assert "\\x1b[31mred" in source
    assert "From left to right: x" in source
    assert "Row by row" not in source


def test_networks_trained_on_all_images(tmp_path, caplog):
    config = run_helpers.tiny_config(method="whole", eval_every=5)
    result = saving.summarise(np.array([[0.5, 0.75]]))
    result |= {"accuracies_on_the_way": [[0.25, 0.5], [0.75, 1.0]]}
    dataset = make_dataset(3)
    saving.save_run(
        config, tmp_path, dataset, protocol=PROTOCOL, sets=[], result=result
    )
    report.write(tmp_path)
    page = Page(tmp_path)
    assert not caplog.records
    assert page.texts["h1"] == ["digits, all training images"]
    assert page.texts["h2"] == ["Curves", "How the run was made"]
    # The means of both networks after 5 and 10 epochs.
    (chart,) = page.all("svg")
    assert re.search("epoch.* 50.0 %.* 75.0 %", chart["aria-label"])


def test_published_accuracies_are_beside_those_of_a_comparable_run(tmp_path):
    make_run(tmp_path, **{"dataset.name": "fashion_mnist", "ipc": 1})
    cells = Page(tmp_path).texts["td"]
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
    make_run(tmp_path, **{"dataset.name": "fashion_mnist", "ipc": 1} | changes)
    assert "this run: dc" not in Page(tmp_path).texts["td"]


def test_a_run_that_has_not_finished(copy):
    for path in (*copy.glob("synthetic_set*"), copy / "card.json"):
        path.unlink()
    report.write(copy)
    page = Page(copy)
    assert "The run has not finished." in page.texts["p"]
    assert page.texts["h2"] == [
        "How the images came about",
        "Curves",
        "How the run was made",
    ]


def test_a_folder_with_evaluations_only(tmp_path):
    line = saving.summarise(np.array([[0.5]])) | {"set": "<runs>"}
    line |= {"protocol": dataclasses.asdict(PROTOCOL)}
    saving.add_evaluation(tmp_path, line)
    report.write_if_possible(tmp_path)
    assert Page(tmp_path).texts["td"] == ["<runs>", "ConvNet", "50.0 %"]


def test_the_same_files_make_the_same_report(copy, tmp_path):
    made = (copy / "report.html").read_bytes()
    assert report.write(copy).read_bytes() == made
    other = shutil.copytree(copy, tmp_path / "other")
    assert report.write(other).read_bytes() == made


def test_a_report_that_is_missing_or_edited_is_made_again(copy):
    path = copy / "report.html"
    whole, time = path.read_bytes(), path.stat().st_mtime_ns
    report.refresh(copy)
    assert path.stat().st_mtime_ns == time
    path.write_bytes(whole.replace(b"75.0", b"99.9"))
    report.refresh(copy)
    assert path.read_bytes() == whole
    path.unlink()
    report.refresh(copy)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("has_run", [False, True])
def test_a_page_of_somebody_else_stays(finished, tmp_path, caplog, has_run):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder) if has_run else folder.mkdir()
    (folder / "report.html").write_text("mine")
    with pytest.raises(ValueError, match=r"report\.html is no report|holds no run"):
        report.write(folder)
    report.write_if_possible(folder)
    assert caplog.records[-1].levelname == "WARNING"
    assert (folder / "report.html").read_text() == "mine"


def test_a_report_of_an_earlier_version_is_replaced(copy):
    path = copy / "report.html"
    mark = b'<meta name="generator" content="dc_jax">\n'
    whole = path.read_bytes()
    assert mark in whole
    path.write_bytes(whole.replace(mark, b""))
    report.refresh(copy)
    assert path.read_bytes() == whole


def test_a_page_of_somebody_else_gets_no_evaluation(tmp_path):
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(ValueError, match=r"report\.html, which is no run's"):
        own_files.check_evaluations(tmp_path)


def test_a_continued_run_has_the_report_of_one_that_never_stopped(tmp_path):
    for name, parts in (("whole", (4,)), ("parts", (2, 4))):
        make_run(tmp_path / name, parts=parts)
    whole, parts = (
        re.sub("Finished</th><td>[^<]*", "", path.read_text("utf-8"))
        for path in (tmp_path / n / "report.html" for n in ("whole", "parts"))
    )
    assert whole == parts


@pytest.mark.parametrize(("num_classes", "groups"), [(10, [5, 5]), (7, [5, 2])])
def test_single_images_stand_in_groups_of_five(tmp_path, num_classes, groups):
    make_run(tmp_path, ipc=1, dataset=make_dataset(num_classes))
    source = (tmp_path / "report.html").read_text("utf-8")
    parts = [x.split("</div>")[0] for x in source.split('<div class="five">')[1:]]
    # The images, then the neighbours.
    assert [part.count("<figure>") for part in parts[: len(groups)]] == groups
    assert len(parts) == 2 * len(groups)


@pytest.mark.parametrize(("num_classes", "is_paired"), [(10, 2), (9, 0), (100, 0)])
def test_ten_classes_are_not_nine_and_one(tmp_path, num_classes, is_paired):
    make_run(tmp_path, ipc=2, dataset=make_dataset(num_classes))
    source = (tmp_path / "report.html").read_text("utf-8")
    # The images, and the neighbours.
    assert source.count('<div class="classes pairs">') == is_paired


def test_iterations_and_first_images_are_told(finished, tmp_path):
    source = (finished / "report.html").read_text("utf-8")
    assert '<th scope="row">Iterations</th><td>4</td>' in source
    assert '<th scope="row">First images</th><td>real images</td>' in source
    going_on = shutil.copytree(finished, tmp_path / "run")
    (going_on / "card.json").unlink()
    report.write(going_on)
    source = (going_on / "report.html").read_text("utf-8")
    assert '<th scope="row">Iterations</th><td>4 so far, of 4</td>' in source


def test_chosen_images_have_no_iterations(tmp_path):
    result = saving.summarise(np.array([[0.5, 0.75]]))
    config = run_helpers.tiny_config(method="herding")
    saving.save_run(
        *(config, tmp_path, make_dataset(3)),
        protocol=PROTOCOL,
        sets=[],
        result=result,
    )
    report.write(tmp_path)
    assert "First images" not in (tmp_path / "report.html").read_text("utf-8")
