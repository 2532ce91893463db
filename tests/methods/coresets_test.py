"""Tests of the selections of one class, by hand and by definition."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dc_jax.methods import coresets
from dc_jax.methods.coresets import SELECTIONS


def _rng(seed=0):
    return np.random.default_rng(seed)


def _line(*places):
    """Features of one dimension."""
    return np.array(places, np.float32)[:, None]


def _arguments(method, n=12, duplicates=1):
    """Random first arguments of a method, for n images."""
    rng = _rng(1)
    known = {
        "size": n,
        "features": np.repeat(rng.normal(size=(n // duplicates, 5)), duplicates, 0),
        "residuals": np.repeat(rng.normal(size=(n // duplicates, 3)), duplicates, 0),
        "events": rng.integers(0, 3, n),
    }
    return [known[name] for name in SELECTIONS[method].needs]


@pytest.mark.parametrize("method", SELECTIONS)
@pytest.mark.parametrize("num", [1, 5, 12])
def test_chooses_distinct_images_by_the_seed(method, num):
    select = SELECTIONS[method].select
    chosen = select(*_arguments(method), num, _rng())
    assert chosen.shape == (num,)
    assert len(set(chosen.tolist())) == num
    assert set(chosen.tolist()) <= set(range(12))
    again = select(*_arguments(method), num, _rng())
    np.testing.assert_array_equal(chosen, again)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("method", SELECTIONS)
def test_no_image_is_chosen_twice_where_images_are_equal(method):
    select = SELECTIONS[method].select
    chosen = select(*_arguments(method, duplicates=6), 12, _rng())
    assert sorted(chosen.tolist()) == list(range(12))


@pytest.mark.parametrize(
    "method", ["random", "herding", "nearest_mean", "k_center", "forgetting"]
)
def test_the_seed_decides_between_equals(method):
    known = {"size": 6, "features": np.ones((6, 2)), "events": np.ones(6, int)}
    arguments = [known[name] for name in SELECTIONS[method].needs]
    select = SELECTIONS[method].select
    firsts = {int(select(*arguments, 1, _rng(seed))[0]) for seed in range(60)}
    assert firsts == set(range(6))


def test_herding_by_hand():
    # The mean is 3. Nearest: 4. Then to 6 - 4 = 2: 1. Then to 9 - 5 = 4: 7.
    chosen = coresets.herding(_line(0, 1, 4, 7), 4, _rng())
    assert chosen.tolist() == [2, 1, 3, 0]


def test_herding_is_the_order_of_icarl():
    features = _rng().normal(size=(30, 4)) ** 2
    mean = features.mean(0)
    expected = []
    for k in range(1, 11):
        errors = {
            i: np.linalg.norm(mean - (features[i] + features[expected].sum(0)) / k)
            for i in range(30)
            if i not in expected
        }
        expected.append(min(errors, key=errors.get))
    assert coresets.herding(features, 10, _rng()).tolist() == expected


def test_nearest_mean_by_hand():
    # The mean is 4.8. Distances are 4.8, 3.8, 0.8, 2.2 and 7.2.
    chosen = coresets.nearest_mean(_line(0, 1, 4, 7, 12), 4, _rng())
    assert chosen.tolist() == [2, 3, 1, 0]


def test_k_center_by_hand():
    # The mean is 4.8. Nearest: 4. Then distances to what is chosen are
    # 4 3 0 3 8; 4 3 0 3 0; 0 1 0 3 0; 0 1 0 0 0.
    chosen = coresets.k_center(_line(0, 1, 4, 7, 12), 5, _rng())
    assert chosen.tolist() == [2, 4, 0, 3, 1]


@pytest.mark.parametrize("other", [coresets.k_center, coresets.nearest_mean])
def test_at_one_image_it_is_herding(other):
    for seed in range(20):
        features = _rng(seed).normal(size=(20, 3))
        herding = coresets.herding(features, 1, _rng())
        np.testing.assert_array_equal(other(features, 1, _rng()), herding)


def test_forgetting_takes_the_most_forgotten():
    chosen = coresets.forgetting(np.array([0, 3, 1, 7, 3, 0]), 4, _rng())
    assert chosen[0] == 3
    assert set(chosen[1:3].tolist()) == {1, 4}
    assert chosen[3] == 2


@pytest.mark.parametrize(("rule", "expected"), [("max", 9), ("zero", 0)])
def test_images_that_were_never_learned(rule, expected):
    events = coresets.forgetting_events(
        np.array([2, 0, 0]),
        np.array([True, True, False]),
        never_learned=rule,
        epochs=9,
    )
    assert events.tolist() == [2, 0, expected]


def test_k_means_by_hand():
    # The centres are 2 and 23, the first of the larger cluster.
    features = _line(25, 0, 1, 24, 2, 20, 5)
    for seed in range(5):
        assert coresets.k_means(features, 2, _rng(seed)).tolist() == [4, 3]


def test_sensitivities_by_hand():
    # Squared distances 1, 1, 0; over their mean 1.5, 1.5, 0. Clusters of 2 and 1.
    alpha = 16 * (np.log(2) + 2)
    expected = [alpha * 1.5 + 2 * alpha * 1.5 + 4 * 3 / 2] * 2 + [4 * 3 / 1]
    weights = coresets.sensitivities(_line(0, 2, 10), _line(1, 10))
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_sensitivity_draws_outliers():
    # The outlier is a cluster of its own: it has half of all sensitivity, and is drawn
    # at first with 1 / 2, else at second with a little more.
    features = _line(*[0] * 99, 100)
    hits = [99 in coresets.sensitivity(features, 2, _rng(seed)) for seed in range(100)]
    assert 0.6 < np.mean(hits) < 0.9


def test_cosines_of_gradients_are_those_of_autodiff():
    features = _rng().normal(size=(4, 5)).astype(np.float32)
    kernel = _rng(1).normal(size=(5, 3)).astype(np.float32)
    labels = np.array([0, 2, 1, 1])

    def gradient(i):
        def loss(kernel, bias):
            logits = features[i] @ kernel + bias
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels[i])

        grads = jax.grad(loss, argnums=(0, 1))(kernel, jnp.zeros(3))
        return np.concatenate([np.ravel(grad) for grad in grads])

    grads = np.stack([gradient(i) for i in range(4)])
    grads /= np.linalg.norm(grads, axis=1, keepdims=True)
    residuals = np.array(jax.nn.softmax(features @ kernel)) - np.eye(3)[labels]
    others = np.array([3, 0, 2])
    cosines = coresets.gradient_cosines(features, residuals, 1, others)
    np.testing.assert_allclose(cosines, grads[others] @ grads[1], rtol=1e-5)


def test_gradient_diversity_keeps_the_gradient_that_is_opposite():
    features = np.ones((40, 3))
    residuals = np.tile([-0.5, 0.5], (40, 1))
    residuals[17] *= -1
    kept = [
        17 in coresets.gradient_diversity(features, residuals, 2, _rng(seed))
        for seed in range(40)
    ]
    # Its score is 0, so it comes in whenever it is seen, and is hardly ever replaced.
    assert np.mean(kept) > 0.9


def test_gradients_of_length_zero_are_no_error():
    kept = coresets.gradient_diversity(np.ones((6, 2)), np.zeros((6, 3)), 2, _rng())
    assert len(set(kept.tolist())) == 2


def test_soft_labels_by_hand():
    """Odds of 4 to 1 are 16 to 1 at the temperature 2."""
    logits = np.log(np.float32([[4, 1], [1, 1]]))
    result = coresets.soft_labels(logits, 2.0)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, [[16 / 17, 1 / 17], [0.5, 0.5]], rtol=1e-5)
