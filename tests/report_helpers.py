"""What the tests of the report share: the files of a run, and a parsed page."""

import dataclasses
import html.parser

import numpy as np
import run_helpers
import toy

from dc_jax import report
from dc_jax.evaluation.protocol import Protocol
from dc_jax.run import finished, saving, workdir
from dc_jax.run.metrics import Metrics
from dc_jax.sets.make import make_set

PROTOCOL = Protocol("ConvNet", 300, "none", 0.01, 0.9, 5e-4, 256)
# Elements without an end tag.
_VOID = {"meta", "link", "img", "input", "br"}


class Page(html.parser.HTMLParser):
    """A parsed page; checks that elements are closed in the right order.

    Attributes:
      elements: (tag, attributes) of each element.
      texts: by tag, the text of each element, that of inner elements included.
    """

    def __init__(self, folder):
        super().__init__()
        self.elements, self.texts, self._open = [], {}, []
        self.feed((folder / "report.html").read_text("utf-8"))
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

    def frames(self):
        return [image for image in self.all("img") if "data-iteration" in image]


def make_dataset(num_classes, names=None):
    """A dataset of 8x8 pixels with three images per class."""
    if names is None:
        names = (
            "abc" if num_classes == 3 else map("class {}".format, range(num_classes))
        )
    labels = np.repeat(np.arange(num_classes, dtype=np.int32), 3)
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 8, 8, 1), np.uint8)
    changes = {f"{split}_labels": labels for split in ("train", "test")}
    changes |= {f"{split}_images": images for split in ("train", "test")}
    dataset = toy.random_dataset((3, 3), (8, 8, 1))
    return dataclasses.replace(dataset, class_names=tuple(names), **changes)


def _iterate(folder, images, dataset, begin, end):
    """Keeps what the iterations after `begin` up to `end` of a run keep."""
    with Metrics(folder, first=begin, total=4) as metrics:
        if begin == 0:
            metrics.images(0, lambda: make_set(0 * images, dataset))
        else:  # A run that continues tests its last state again.
            metrics.accuracy(begin, np.array([[begin / 10, begin / 8]]))
        for i in range(begin + 1, end + 1):
            layers = {"conv/kernel": 2.0 / i, "dense/kernel": 1.0 / i}
            metrics.loss(i, np.array([3.0 / i]), {"layers": layers})
            metrics.images(i, lambda i=i: make_set(images * i / 4, dataset))
            metrics.accuracy(i, np.array([[i / 10, i / 8]]))


def make_run(
    folder, *, dataset=None, ipc=2, indices=None, num_sets=1, parts=(4,), **changes
):
    """Writes what a run leaves behind, and its report; computes nothing."""
    dataset = dataset or make_dataset(3)
    fields = {"ipc": ipc, "num_experiments": num_sets, "network.name": "ConvNet"}
    config = run_helpers.tiny_config(**fields | changes)
    rng = np.random.default_rng(0)
    shape = (num_sets, dataset.num_classes, ipc, *dataset.image_shape)
    images = rng.normal(size=shape).astype(np.float32)
    workdir.claim(config, folder)
    for begin, end in zip((0, *parts), parts, strict=False):
        _iterate(folder, images[0], dataset, begin, end)
    sets = [make_set(one, dataset) for one in images]
    if indices is not None:
        sets = [one.replace(indices=indices) for one in sets]
    num = dataset.num_classes
    counts = np.tile(9 * np.eye(num) + np.ones((num, num)), (num_sets, 2, 1, 1))
    result = saving.summarise(np.full((num_sets, 2), 0.75))
    result |= {"iterations": 4, "seconds": 75.0, "training_images": num * ipc}
    saving.save_run(
        config,
        folder,
        dataset,
        protocol=PROTOCOL,
        sets=sets,
        result=result,
        counts=counts,
    )
    if finished.lacks_neighbours(config, folder):
        finished.add_neighbours(folder, dataset)
    report.write_if_possible(folder)
    return dataset, sets, counts
