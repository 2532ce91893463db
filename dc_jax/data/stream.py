"""Training images that stay off the devices, but for those that are drawn next."""

import concurrent.futures
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from dc_jax.data.dataset import Dataset
from dc_jax.data.store import ClassStore, class_blocks
from dc_jax.devices.layout import CLASS_AXIS, ONE_DEVICE, Layout

# Sorted behind every offset.
_NONE = np.iinfo(np.int32).max


class HostStore:
    """The training split of a dataset on the host, in memory or mapped from a file."""

    def __init__(self, dataset: Dataset, layout: Layout = ONE_DEVICE):
        self._images, self._layout = dataset.train_images, layout
        counts = np.bincount(dataset.train_labels, minlength=dataset.num_classes)
        order = np.argsort(dataset.train_labels, kind="stable")
        # The images of each class, in the order of the dataset.
        self._members = np.split(order, np.cumsum(counts)[:-1])
        # On the devices once and for all.
        self._whitening = jax.tree.map(layout.put, dataset.whitening)
        # Has all that drawing needs, on one device, and a blank image.
        self.index = ClassStore(
            images=np.zeros((1, *dataset.image_shape), dataset.train_images.dtype),
            starts=np.zeros_like(counts, np.int32),
            counts=counts.astype(np.int32),
            mean=dataset.mean,
            std=dataset.std,
            num_classes=dataset.num_classes,
            max_count=int(counts.max()),
        )

    def load(self, offsets: jax.Array) -> ClassStore:
        """Puts the images that will be drawn on the devices.

        `offsets` are theirs within their classes, `[C, P]`, in any order. Sampling from
        the store finds what it would find among all images. The shapes in it depend on
        that of `offsets` alone.
        """
        offsets = np.asarray(offsets)
        size = min(offsets.shape[1], self.index.max_count)
        counts = class_blocks(self.index.counts, self._layout.classes.size)
        shape = (counts.size, size)
        images = np.zeros((*shape, *self._images.shape[1:]), self._images.dtype)
        resident = np.full(shape, _NONE, np.int32)
        for label, members in enumerate(self._members):
            distinct = np.unique(offsets[label])
            resident[label, : len(distinct)] = distinct
            images[label, : len(distinct)] = self._images[members[distinct]]
        starts = np.broadcast_to(np.arange(counts.shape[1]) * size, counts.shape)
        put, by_class = self._layout.put, P(CLASS_AXIS)
        return self.index.replace(
            devices=self._layout.classes,
            images=put(images.reshape(-1, *images.shape[2:]), by_class),
            starts=put(starts.reshape(-1).astype(np.int32), by_class),
            counts=put(counts.reshape(-1), by_class),
            mean=put(self.index.mean),
            std=put(self.index.std),
            resident=put(resident, by_class),
            whitening=self._whitening,
        )


def prefetch(
    draw: Callable[[int], jax.Array],
    load: Callable[[jax.Array], ClassStore],
    iterations: range,
) -> Iterator[ClassStore]:
    """Yields the store of each iteration; a thread loads the next one meanwhile.

    To be closed, which ends the thread. `draw` returns the offsets of the images of an
    iteration. It is called before the iteration before is yielded, so that a device
    that does one thing after another does not do that one first. `load` is called in
    the thread; what it raises is raised by the iteration that needs it.
    """
    if not iterations:
        return
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pending = pool.submit(load, draw(iterations[0]))
        for following in iterations[1:]:
            store = pending.result()
            pending = pool.submit(load, draw(following))
            yield store
        yield pending.result()
