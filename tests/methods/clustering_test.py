"""K-means of features, and the images that are chosen by it."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import run_helpers
from toy import Tiny, random_dataset

from dc_jax.data.store import make_store, normalise
from dc_jax.devices.backend import Execution
from dc_jax.errors import UserError
from dc_jax.methods.clustering import choose_images, k_means, nearest
from dc_jax.methods.gradient_matching import make_matching, match_class, match_network
from dc_jax.methods.images import make_init
from dc_jax.run.checks import check_names
from dc_jax.training.train import TrainState

CLASSES, SHAPE = 3, (4, 4, 1)
DATASET = random_dataset((20, 11, 5), SHAPE)
STORE = make_store(DATASET)
EXECUTION = Execution("map", 8)
PLAIN, BATCH_NORM = Tiny(CLASSES), Tiny(CLASSES, has_batch_norm=True)
# Three groups; the last of each is its mean.
POINTS = np.float32(
    [
        *([0, 0], [100, 0], [0, 50]),
        *([0, 3], [102, 2], [4, 50]),
        *([3, 0], [104, 1], [2, 53]),
        *([1, 1], [102, 1], [2, 51]),
    ]
)
MEANS = np.float32([[1, 1], [102, 1], [2, 51]])
pytestmark = pytest.mark.usefixtures("quick_compile")


def _cluster(points, num):
    points = jnp.asarray(points, jnp.float32)
    centres = jax.jit(k_means, static_argnums=1)(points, num)
    return np.asarray(centres), np.asarray(jax.jit(nearest)(points, centres)).tolist()


def test_groups_are_found_from_a_point_of_each():
    centres, chosen = _cluster(POINTS, 3)
    np.testing.assert_allclose(centres, MEANS, atol=1e-4)
    assert chosen == [9, 10, 11]


def test_centres_move_to_where_the_points_are():
    points = [[0.0], [1.0], [10.0], [12.0], [20.0], [23.0], [2.0], [1.2]]
    # From 0, 1 and 10: 0 | 1, 2, 1.2 | 10 to 23, at once.
    centres, chosen = _cluster(points, 3)
    np.testing.assert_allclose(centres, [[0], [1.4], [16.25]], atol=1e-5)
    assert chosen == [0, 4, 7]
    # From 0 and 1: first 0 | all others, whose mean is 9.9; then 0 to 2 | 10 to 23.
    centres, chosen = _cluster(points, 2)
    np.testing.assert_allclose(centres, [[1.05], [16.25]], atol=1e-5)
    assert chosen == [1, 4]


def test_one_cluster_is_the_point_nearest_to_the_mean():
    centres, chosen = _cluster(POINTS, 1)
    np.testing.assert_allclose(centres, POINTS.mean(0)[None], rtol=1e-5)
    distances = np.linalg.norm(POINTS - POINTS.mean(0), axis=1)
    assert chosen == [distances.argmin()]


def test_as_many_clusters_as_points_keep_all():
    centres, chosen = _cluster(POINTS, len(POINTS))
    np.testing.assert_allclose(centres, POINTS, atol=1e-4)
    assert chosen == list(range(len(POINTS)))


@pytest.mark.parametrize("num", [1, 2, 4, 8])
def test_clusters_without_points_are_filled_with_others(num):
    """Eight points, of which only two differ."""
    points = np.float32(
        [[5, 5], [5, 5], [1, 0], [5, 5], [1, 0], [1, 0], [1, 0], [1, 0]]
    )
    centres, chosen = _cluster(points, num)
    assert np.isfinite(centres).all()
    assert len(set(chosen)) == num
    if num > 2:
        assert {tuple(points[i]) for i in chosen} == {(5, 5), (1, 0)}


def test_a_centre_without_points_stays():
    centres, chosen = _cluster([[9.0], [9.0], [9.0]], 2)
    assert centres.tolist() == [[9], [9]]
    assert chosen == [0, 1]


def test_a_cluster_keeps_the_nearest_of_its_own():
    """The point nearest to both centres belongs to the second."""
    points = jnp.asarray([[0.0], [6.0], [9.0]])
    chosen = nearest(points, jnp.asarray([[3.5], [7.0]]))
    assert chosen.tolist() == [0, 1]


def test_rounding_does_not_choose_between_equals():
    """The mean of two points is as near to both; so are two centres at a point."""
    pair = jnp.asarray([[0.0], [1.0]])
    for centre in (0.499999, 0.500001):
        assert nearest(pair, jnp.asarray([[centre]])).tolist() == [0]
    points = jnp.asarray([[0.0], [5.0], [1.0]])
    for shift in (-1e-6, 1e-6):
        # The last belongs to the first centre, whose nearest is the first point.
        chosen = nearest(points, jnp.asarray([[0.0], [shift], [5.0]]))
        assert chosen.tolist() == [0, 1, 2]


def test_points_that_are_not_finite_still_give_distinct_ones():
    points = np.where(np.arange(12)[:, None] == 5, np.nan, POINTS)
    _, chosen = _cluster(points, 4)
    assert len(set(chosen)) == 4
    assert set(chosen) <= set(range(12))


def test_fewer_points_than_centres_are_refused():
    with pytest.raises(ValueError, match="num must be at most 12, got 13"):
        k_means(jnp.asarray(POINTS), 13)


@pytest.mark.parametrize("network", [PLAIN, BATCH_NORM], ids=["plain", "batch_norm"])
def test_images_are_chosen_by_their_features(network):
    """Whatever the slices; the features are those of evaluation."""
    images = jnp.asarray(
        np.random.default_rng(0).normal(size=(20, *SHAPE)), jnp.float32
    )
    variables = network.init(jax.random.key(0), images)
    features = network.apply(variables, images, method="embed")
    expected = images[nearest(features, k_means(features, 6))]
    choose = functools.partial(choose_images, network, num=6, slice_size=8)
    chosen = jax.jit(choose)(variables, images)
    np.testing.assert_array_equal(chosen, expected)


def _match(network, **fields):
    """Of one network with all classes: the losses, the gradients, the offsets."""
    config = run_helpers.tiny_config(batch_real=6, outer_loop=1, **fields)
    images, variables = _start(network)
    state = TrainState(variables, None, None)
    match = functools.partial(match_network, make_matching(config, network, EXECUTION))
    losses, grads, _, (_, offsets) = jax.jit(match)(
        images, state, STORE, jax.random.key(3)
    )
    return losses, grads, offsets


def _start(network):
    """Synthetic images, and the variables of a network."""
    images = jax.random.normal(jax.random.key(1), (CLASSES, 2, *SHAPE))
    return images, network.init(jax.random.key(2), images[0])


def _drawn(label, offsets):
    """The real images of a class that were drawn."""
    members = DATASET.train_images[DATASET.train_labels == label]
    return normalise(members[np.asarray(offsets[label])], DATASET.mean, DATASET.std)


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(PLAIN, id="plain"),
        pytest.param(BATCH_NORM, id="batch_norm", marks=pytest.mark.slow),
    ],
)
def test_all_candidates_match_as_a_random_batch(network):
    """The smallest class has fewer images than are drawn."""
    losses, grads, offsets = _match(network)
    assert offsets.shape == (CLASSES, 6)
    kept = _match(network, sampler="kmeans", candidates=6)
    chex.assert_trees_all_close(kept, (losses, grads, offsets), rtol=1e-4, atol=1e-6)


def test_of_more_candidates_representatives_are_matched():
    """As if these alone had been drawn."""
    _, grads, offsets = _match(PLAIN, sampler="kmeans", candidates=20)
    assert offsets.shape == (CLASSES, 20)
    images, variables = _start(PLAIN)
    drawn = _drawn(0, offsets)
    features = PLAIN.apply(variables, drawn, method="embed")
    chosen = drawn[nearest(features, k_means(features, 6))]
    matching = make_matching(run_helpers.tiny_config(), PLAIN, EXECUTION)

    @jax.jit
    def match(real):
        return match_class(matching, variables, images[0], real, 0, lambda x: x)[1]

    np.testing.assert_allclose(grads[0], match(chosen), rtol=1e-4, atol=1e-6)
    assert np.abs(grads[0] - match(drawn[:6])).max() > 1e-3


@pytest.mark.parametrize(
    ("network", "factor"), [(PLAIN, 2), (BATCH_NORM, 1)], ids=["plain", "batch_norm"]
)
def test_first_images_are_real_ones_of_their_class(network, factor):
    config = run_helpers.tiny_config(
        **{"init": "kmeans", "ipc": 2, "candidates": 9, "formation.factor": factor}
    )
    init = make_init(config, optax.sgd(0.1), network, EXECUTION)
    state, ((statistics, offsets),) = jax.jit(init)(STORE, jax.random.key(0))
    assert state.images.shape == (CLASSES, 2, *SHAPE)
    assert (statistics is None) == (network is PLAIN)
    assert offsets.shape == (CLASSES, 9)
    for label in range(CLASSES):
        # A tile has every second pixel of the second row and column.
        parts = _drawn(label, offsets)[:, ::factor, ::factor]
        tiles = _cut(state.images[label], factor)
        is_same = np.isclose(tiles[:, None], parts, atol=1e-6).all((2, 3, 4))
        places = [np.flatnonzero(of_tile) for of_tile in is_same]
        # Each is a candidate, and another one, if some are there twice.
        assert all(len(place) for place in places)
        distinct = len(np.unique(offsets[label]))
        assert len({place[0] for place in places}) == min(distinct, 2 * factor**2)


def _cut(images, factor):
    """Cuts images into tiles, which are not enlarged."""
    rows = np.split(np.asarray(images), factor, axis=1)
    return np.concatenate([t for row in rows for t in np.split(row, factor, axis=2)])


@pytest.mark.parametrize(("candidates", "drawn"), [(1, 5), (7, 7), (1000, 20)])
def test_candidates_are_no_fewer_than_images_and_no_more_than_a_class_has(
    candidates, drawn
):
    config = run_helpers.tiny_config(init="kmeans", ipc=5, candidates=candidates)
    init = make_init(config, optax.sgd(0.1), PLAIN, EXECUTION)
    _, ((_, offsets),) = jax.eval_shape(init, STORE, jax.random.key(0))
    assert offsets.shape == (CLASSES, drawn)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"batch_real": 8, "candidates": 7},
            "config.candidates must be at least config.batch_real = 8 where "
            "config.sampler is kmeans, got 7.",
        ),
        ({"method": "dm"}, "config.sampler must be random for dm, got kmeans."),
        ({"method": "dd"}, "config.sampler must be random for dd, got kmeans."),
    ],
)
def test_what_cannot_be_sampled_is_refused(fields, message):
    with pytest.raises(UserError) as error:
        check_names(run_helpers.tiny_config(sampler="kmeans", **fields))
    assert str(error.value) == message


def test_four_times_as_many_are_drawn_as_are_kept():
    assert run_helpers.tiny_config(batch_real=8).candidates == 32
    assert run_helpers.tiny_config(batch_real=8, candidates=9).candidates == 9
    # Baselines draw no batch.
    check_names(run_helpers.tiny_config(sampler="kmeans", method="k_means"))
