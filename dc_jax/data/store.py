"""The training images on the devices, grouped by class, and a traceable sampler.

On a mesh each device has the images of its part of the classes, padded to the same
size; a class is then known there by its place among them. Which images are drawn
depends on a key and on the sizes of the classes alone, and is returned beside them. So
the framework can find out beforehand what an iteration will draw, and a store may hold
no more than that, see `stream`. Images keep the dtype they came in, uint8 for a quarter
of the memory; only those of a batch are normalised, and whitened where they are to be.
"""

import functools
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from dc_jax.data.dataset import Dataset
from dc_jax.data.whitening import Whitening
from dc_jax.devices.layout import CLASS_AXIS, ONE_DEVICE, WHOLE, Axis, Layout

Array = jax.Array | np.ndarray

# Bytes of images that are on their way to a device at once.
_PIECE = 32_000_000


@flax.struct.dataclass
class ClassStore:
    """A training split, or the images of it that are needed next, class after class."""

    # [n, H, W, D] uint8, or float32 in [0, 1]; by class, then as in the dataset.
    images: jax.Array
    starts: jax.Array  # [C] int32, where classes begin in the `images` of their device.
    counts: jax.Array  # [C] int32, how many images each class has.
    mean: jax.Array  # [D] float32, of pixels in [0, 1].
    std: jax.Array  # [D] float32, of pixels in [0, 1].
    num_classes: int = flax.struct.field(pytree_node=False)  # C, on all devices.
    max_count: int = flax.struct.field(pytree_node=False)  # The largest of `counts`.
    # That share the classes.
    devices: Axis = flax.struct.field(pytree_node=False, default=WHOLE)
    # [C, P] int32, the sorted offsets, within each class, of the images that are in
    # `images`, where each class has P places then; None where all are.
    resident: jax.Array | None = None
    whitening: Whitening | None = None  # None: images are not whitened.
    # [E, S, P] float32, networks trained on the whole training set, each at S points of
    # its training, see `Method.snapshots`; None where the method needs none.
    experts: jax.Array | None = None


def make_store(dataset: Dataset, layout: Layout = ONE_DEVICE) -> ClassStore:
    """Puts the training split of `dataset` on the devices, sorted by class."""
    devices = layout.classes.size
    order = np.argsort(dataset.train_labels, kind="stable")
    counts = np.bincount(dataset.train_labels, minlength=dataset.num_classes)
    blocks = class_blocks(counts, devices)
    parts = np.split(order, np.cumsum(blocks.sum(1))[:-1])
    size = int(blocks.sum(1).max())
    starts = (np.cumsum(blocks, 1) - blocks).reshape(-1)
    by_class = P(CLASS_AXIS)
    return ClassStore(
        images=_put_images(dataset.train_images, parts, size, layout),
        starts=layout.put(starts.astype(np.int32), by_class),
        counts=layout.put(blocks.reshape(-1).astype(np.int32), by_class),
        mean=layout.put(dataset.mean),
        std=layout.put(dataset.std),
        num_classes=dataset.num_classes,
        max_count=int(counts.max()),
        devices=layout.classes,
        whitening=jax.tree.map(layout.put, dataset.whitening),
    )


def _put_images(
    images: np.ndarray, parts: Sequence[np.ndarray], size: int, layout: Layout
) -> jax.Array:
    """Puts images on the devices, those of a part on each device of its classes.

    `parts` are indices, one array for each part of the classes; zeros fill them up to
    `size`. Returns `[len(parts) * size, H, W, D]`. The host has no second copy.
    """
    if layout.mesh is None:
        return _put_part(images, parts[0], size, None)
    sharding = NamedSharding(layout.mesh, P(CLASS_AXIS))
    shape = (len(parts) * size, *images.shape[1:])
    blocks = []
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        place = (index[0].start or 0) // size
        blocks.append(_put_part(images, parts[place], size, device))
    return jax.make_array_from_single_device_arrays(shape, sharding, blocks)


def _put_part(
    images: np.ndarray, part: np.ndarray, size: int, device: jax.Device | None
) -> jax.Array:
    """Puts the images of indices on a device, in pieces; zeros follow up to `size`."""
    rows = min(max(_PIECE // images[0].nbytes, 1), size)
    piece = np.zeros((rows, *images.shape[1:]), images.dtype)
    some = part[:rows]
    piece[: len(some)] = images[some]
    if rows == size:
        return jax.device_put(piece, device)
    blank = functools.partial(jnp.zeros, (size, *images.shape[1:]), images.dtype)
    if device is not None:
        # JAX would otherwise make it on the first device and copy it.
        blank = jax.jit(blank, out_shardings=SingleDeviceSharding(device))
    block = _write(blank(), piece, np.int32(0))
    for start in range(rows, len(part), rows):
        # The last piece reaches back, so that all have one shape.
        start = min(start, len(part) - rows)
        block = _write(block, images[part[start : start + rows]], np.int32(start))
        # Pieces shall not wait in memory for the device.
        block.block_until_ready()
    return block


@functools.partial(jax.jit, donate_argnums=0)
def _write(block: jax.Array, piece: jax.Array, start: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(block, piece, start, 0)


def class_blocks(counts: np.ndarray, devices: int) -> np.ndarray:
    """Returns the sizes of the classes of each device. `[C]` -> `[devices, share]`.

    What pads the last ones is a class of one image, to be drawn from like any.
    """
    share = -(-len(counts) // devices)
    padding = (0, devices * share - len(counts))
    return np.pad(counts, padding, constant_values=1).reshape(devices, share)


def store_specs(store: ClassStore) -> ClassStore:
    """Returns how the leaves of a store are split over a mesh."""
    specs = jax.tree.map(lambda leaf: P(CLASS_AXIS), store)
    whole = ("mean", "std", "whitening", "experts")
    return specs.replace(
        **{n: jax.tree.map(lambda leaf: P(), getattr(store, n)) for n in whole}
    )


def class_keys(store: ClassStore, key: jax.Array) -> jax.Array:
    """Returns the key that each class is drawn with, `[C]`."""
    return jax.random.split(key, store.num_classes)


def sample_classes(
    store: ClassStore, key: jax.Array, num: int
) -> tuple[jax.Array, jax.Array]:
    """Draws `num` images of every class; every device gets all of them.

    Returns:
      Images as networks see them, `[C, num, H, W, D]`, and which they are: offsets
      within the classes of this device, `[c, num]`, of all classes where there is one
      device.
    """
    offsets = draw_offsets(store, key, num)
    places = jnp.arange(len(offsets))
    images = jax.vmap(functools.partial(take_images, store))(places, offsets)
    return store.devices.gather(images, store.num_classes), offsets


def draw_offsets(store: ClassStore, key: jax.Array, num: int) -> jax.Array:
    """Draws `num` images of every class of this device uniformly, in random order.

    Images are drawn without replacement, or with replacement if the class has fewer
    than `num`. Classes of different sizes share one program.

    Returns:
      Their offsets within the classes, `[c, num]` int32; c is C where there is one
      device.

    Raises:
      ValueError: `num` is below 1.
    """
    labels, _ = store.devices.part(store.num_classes)
    keys = class_keys(store, key)[labels]
    draw = functools.partial(_draw, max_count=store.max_count, num=num)
    return jax.vmap(draw)(keys, store.counts)


def take_images(
    store: ClassStore, place: jax.Array | int, offsets: jax.Array
) -> jax.Array:
    """Returns images of one class, as `to_inputs` makes them.

    `[num]` -> `[num, H, W, D]` float32. `place` is that of the class among those of
    this device, without a mesh its index in [0, C).
    """
    places = offsets
    if store.resident is not None:
        places = jnp.searchsorted(store.resident[place], offsets)
    images = jnp.take(store.images, store.starts[place] + places, axis=0, mode="clip")
    return to_inputs(images, store.mean, store.std, store.whitening)


def _draw(key: jax.Array, count: jax.Array, *, max_count: int, num: int) -> jax.Array:
    """Returns the offsets of `num` images of a class of `count` images, `[num]`."""
    if num < 1:
        raise ValueError(f"num must be at least 1, got {num}.")
    distinct_key, repeated_key = jax.random.split(key)
    del key
    offsets = jax.random.randint(repeated_key, (num,), 0, count)
    if num <= max_count:
        distinct = _distinct_offsets(distinct_key, count, max_count, num)
        offsets = jnp.where(count >= num, distinct, offsets)
    return offsets


def _distinct_offsets(
    key: jax.Array, count: jax.Array, max_count: int, num: int
) -> jax.Array:
    """Returns `num` distinct integers below `count`, shape `[num]`, if there are any.

    Every offset gets a random score and the highest win, so the shapes depend on the
    largest class only. Scores have 23 random bits and a tie goes to the lower offset:
    no image is drawn twice, and at 6,000 images fewer than one draw in a thousand is
    decided by a tie. (Integer scores would have more bits; sorting those is six times
    slower on the CPU.)
    """
    scores = jax.random.uniform(key, (max_count,), jnp.float32)
    scores = jnp.where(jnp.arange(max_count) < count, scores, -1.0)
    return jax.lax.top_k(scores, num)[1]


def to_inputs(
    images: Array, mean: Array, std: Array, whitening: Whitening | None
) -> jax.Array:
    """Turns pixels into network inputs: normalised, and whitened if they are to be.

    `images` are `[..., H, W, D]`; see `normalise`.
    """
    images = normalise(images, mean, std)
    return images if whitening is None else whitening.whiten(images)


def normalise(images: Array, mean: Array, std: Array) -> jax.Array:
    """Returns `(x - mean) / std` with x in [0, 1].

    `images` are `[..., D]` uint8, or float in [0, 1]. The result is float32, or float64
    as they are.

    Raises:
      ValueError: `images` are integers other than uint8.
    """
    if images.dtype != np.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images must be uint8 or float, got {images.dtype}.")
    pixels = jnp.asarray(images)
    dtype = jnp.float64 if pixels.dtype == jnp.float64 else jnp.float32
    shape = (1,) * (images.ndim - 1) + (-1,)
    mean, std = (jnp.asarray(array, dtype).reshape(shape) for array in (mean, std))
    pixels = pixels.astype(dtype)
    if images.dtype == np.uint8:
        pixels = pixels / 255
    return (pixels - mean) / std
