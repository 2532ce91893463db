"""Images that represent their class: k-means of the features of a network.

Liu et al., "DREAM: Efficient Dataset Distillation by Representative Matching", ICCV
2023, https://arxiv.org/abs/2302.14416, and the authors' code (new_strategy.py and
condense.py of https://github.com/lyq312318224/DREAM): the features of a class are
clustered, and the image nearest to each centre is kept. The kept images are the real
images whose gradients are matched (`config.sampler`), or the first synthetic images
(`config.init`). Features are the inputs of the classifier, of images that are not
augmented. Every cluster counts the same, however many images it has.

These differ from the authors' code:

  - It clusters all images of a class, every ten updates of the synthetic images. Here
    every update draws `config.candidates` images of each class and clusters these, with
    the network as it is then. What is drawn must not depend on the state, so that it
    can be loaded while another iteration is computed. And by default a network is used
    for only one update at 1 image per class, and for ten at 10.
  - It may keep an image twice, for two centres. Here the image of a centre is chosen
    from the centre's own cluster, so all are distinct.
  - It runs at most 100 iterations of k-means, here there are 5.
  - Its features are of images that are not normalised.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dc_jax.base import Offsets
from dc_jax.config import Config
from dc_jax.data.store import ClassStore, draw_offsets, sample_classes, take_images
from dc_jax.devices.backend import Execution, batched
from dc_jax.methods.batch_norm import freeze_batch_norm
from dc_jax.training.full_data import read_images

# As `sample_classes`.
Sample = Callable[[ClassStore, jax.Array, int], tuple[jax.Array, Offsets]]

# On features of FashionMNIST, 256 images in 64 clusters settle after four.
_ITERATIONS = 5
# Distances that differ by less are equal, in units of the mean square of the points.
_TIE = 1e-5


def k_means(features: jax.Array, num: int) -> jax.Array:
    """Returns the centres that Lloyd's algorithm finds. `[n, F]` -> `[num, F]`.

    It begins with the first points, so these should be in random order. A centre to
    which no point is nearest stays where it is.

    Raises:
      ValueError: there are fewer points than centres.
    """
    if len(features) < num:
        raise ValueError(f"num must be at most {len(features)}, got {num}.")

    def improve(_, centres: jax.Array) -> jax.Array:
        is_member = _is_member(_distances(features, centres))
        sizes = jnp.sum(is_member, axis=0)[:, None]
        means = _dot(is_member.T, features) / jnp.maximum(sizes, 1)
        return jnp.where(sizes > 0, means, centres)

    return jax.lax.fori_loop(0, _ITERATIONS, improve, features[:num])


def nearest(features: jax.Array, centres: jax.Array) -> jax.Array:
    """Returns which point of each cluster is nearest to its centre, in rising order.

    A point belongs to the cluster of the centre nearest to it. The first of the other
    points stand in for clusters without points, so that all are distinct.

    `[n, F]`, `[num, F]` -> `[num]` int32.
    """
    distances = _distances(features, centres)
    own = jnp.where(_is_member(distances) == 1, distances, jnp.inf)
    is_chosen = jnp.zeros(len(features)).at[_smallest(own, axis=0)].set(1)
    # Of equals the first come first.
    return jax.lax.top_k(is_chosen, len(centres))[1]


def draw_candidates(
    store: ClassStore, key: jax.Array, num: int, candidates: int
) -> jax.Array:
    """Draws the images of every class of which `num` are to be chosen.

    These are `candidates`, but at most as many as the largest class has and at least
    `num`. Returns their offsets as `draw_offsets` does.
    """
    return draw_offsets(store, key, max(num, min(candidates, store.max_count)))


def choose_images(
    network: nn.Module,
    variables: dict[str, Any],
    images: jax.Array,  # [n, H, W, D], of one class, in random order
    num: int,
    *,
    slice_size: int,  # images at once; changes memory and speed only
) -> jax.Array:
    """Returns those that represent the images of a class best, `[num, H, W, D]`.

    Batch norm, if there is any, uses its running statistics.
    """
    features, _ = read_images(network, variables, images, slice_size=slice_size)
    features -= jnp.mean(features, axis=0, keepdims=True)  # For less rounding.
    return images[nearest(features, k_means(features, num))]


def make_sample(config: Config, network: nn.Module, execution: Execution) -> Sample:
    """Returns what draws the real images that the synthetic ones begin with."""
    if config.init != "kmeans":
        return sample_classes
    return functools.partial(
        sample_representatives,
        network=network,
        execution=execution,
        candidates=config.candidates,
    )


def sample_representatives(
    store: ClassStore,
    key: jax.Array,
    num: int,
    *,
    network: nn.Module,
    execution: Execution,
    candidates: int,
) -> tuple[jax.Array, Offsets]:
    """Chooses `num` images of every class; like `sample_classes`, but by k-means.

    They are chosen by the features of a network with fresh random weights, from what
    `draw_candidates` draws.

    Returns:
      Normalised images, `[C, num, H, W, D]`, and the offsets of all that were drawn.
    """
    network_key, statistics_key, draw_key = jax.random.split(key, 3)
    blank = jnp.zeros((1, *store.images.shape[1:]))
    variables, statistics_offsets = freeze_batch_norm(
        network, network.init(network_key, blank), store, statistics_key
    )

    def choose(place: jax.Array, offsets: jax.Array) -> jax.Array:
        drawn = take_images(store, place, offsets)
        size = execution.slice_size
        return choose_images(network, variables, drawn, num, slice_size=size)

    offsets = draw_candidates(store, draw_key, num, candidates)
    images = batched(choose, execution.class_loop)(jnp.arange(len(offsets)), offsets)
    images = store.devices.gather(images, store.num_classes)
    return images, (statistics_offsets, offsets)


def _distances(features: jax.Array, centres: jax.Array) -> jax.Array:
    """Returns squared Euclidean distances. `[n, F]`, `[num, F]` -> `[n, num]`.

    They are in units of the mean square of the points.
    """
    of_points, of_centres = (jnp.sum(x**2, axis=1) for x in (features, centres))
    squares = of_points[:, None] + of_centres[None] - 2 * _dot(features, centres.T)
    return squares / jnp.maximum(jnp.mean(of_points), jnp.finfo(squares.dtype).tiny)


def _is_member(distances: jax.Array) -> jax.Array:
    """Returns 1 for the nearest centre of each point, else 0. `[n, num]`, as given."""
    return jax.nn.one_hot(_smallest(distances, axis=1), distances.shape[1])


def _smallest(distances: jax.Array, axis: int) -> jax.Array:
    """Returns the first index along an axis of the smallest, but for rounding.

    The two points of a pair are equally near to its centre, and images that were drawn
    twice to every centre. If rounding chose, another device would go another way.
    """
    smallest = jnp.min(distances, axis=axis, keepdims=True)
    return jnp.argmax(distances <= smallest + _TIE, axis=axis)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """Multiplies in float32: distances are small differences of large numbers."""
    return jnp.dot(a, b, precision=jax.lax.Precision.HIGHEST)
