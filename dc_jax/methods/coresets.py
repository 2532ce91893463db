"""Coresets: which real images of a class to keep, the baselines of condensation.

Every rule chooses `num` of the n images of one class, in NumPy, and returns their
indices `[num]`, all distinct, in the order in which they were chosen. `rng` decides
what is drawn, and which of equals is chosen. Features `[n, F]` are the inputs of the
classifier of a network that was trained on the whole training set, see
`training.full_data`; events `[n]` are those of `forgetting_events`.

`random`, `herding`, `k_center` and `forgetting` are the baselines of Zhao, Mopuri and
Bilen (ICLR 2021), section 4.1, who published no code for them; herding and k-center
follow what they describe at
https://github.com/VICO-UoE/DatasetCondensation/issues/15 and /issues/21.

`random_soft` is the baseline of learned labels of Qin, Deng and Alvarez-Melis, "A Label
is Worth a Thousand Images in Dataset Distillation", NeurIPS 2024,
https://github.com/sunnytqin/no-distillation: random images, labelled by a network whose
training was stopped early.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# The score of the first image, which has none to be compared with.
_FIRST_SCORE = 0.1
# Images kept already that a gradient is compared with.
_COMPARED = 10


def random(size: int, num: int, rng: np.random.Generator) -> np.ndarray:
    """Draws uniformly. Of `size` images, `[num]`."""
    return rng.permutation(size)[:num]


def soft_labels(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Returns softmax(temperature x logits), float32. `[n, C]` -> `[n, C]`."""
    from scipy.special import softmax  # Slow to import.

    scaled = temperature * logits.astype(np.float64)
    return softmax(scaled, axis=1).astype(np.float32)


def herding(features: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    """Keeps the mean of the images chosen close to the mean of the class.

    The greedy selection of Rebuffi et al., "iCaRL", CVPR 2017, algorithm 4, on features
    that are not normalised.
    """
    features = features.astype(np.float64)
    mean = features.mean(0)
    chosen: list[int] = []
    for i in range(num):
        target = mean * (i + 1) - features[chosen].sum(0)
        chosen.append(_nearest(features, target, chosen, rng))
    return np.array(chosen)


def nearest_mean(
    features: np.ndarray, num: int, rng: np.random.Generator
) -> np.ndarray:
    """Chooses the images that are nearest to the mean of the class.

    The first is that of `herding`. Accuracies that are published for herding are of
    this rule rather, see experiments/README.md.
    """
    features = features.astype(np.float64)
    distances = _distances(features, features.mean(0))
    return np.lexsort((rng.random(len(features)), distances))[:num]


def k_center(features: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    """Chooses next what is farthest from all chosen, first what is nearest the mean.

    The greedy solution of Sener and Savarese, "Active Learning for Convolutional Neural
    Networks: A Core-Set Approach", ICLR 2018, algorithm 1, of one class.
    """
    features = features.astype(np.float64)
    chosen = [_nearest(features, features.mean(0), [], rng)]
    nearest = np.full(len(features), np.inf)
    while len(chosen) < num:
        nearest = np.minimum(nearest, _distances(features, features[chosen[-1]]))
        nearest[chosen] = -np.inf
        chosen.append(_smallest(-nearest, rng))
    return np.array(chosen)


def forgetting(events: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    """Chooses the images that were forgotten most often while a network trained.

    Toneva et al., "An Empirical Study of Example Forgetting during Deep Neural Network
    Learning", ICLR 2019.
    """
    return np.lexsort((rng.random(len(events)), -events))[:num]


def forgetting_events(
    forgotten: np.ndarray, is_learned: np.ndarray, *, never_learned: str, epochs: int
) -> np.ndarray:
    """Returns how often each image counts as forgotten, `[n]`.

    Images have `forgotten`, how often they were classified wrongly when they had been
    classified rightly the time before, and `is_learned`, whether they ever were. Those
    that were not count as `never_learned` says: `max`, the number of epochs, as in
    Toneva's code, or `zero`.
    """
    rest = epochs if never_learned == "max" else 0
    return np.where(is_learned, forgotten, rest)


def k_means(features: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    """Chooses the image nearest to each centre of a k-means clustering.

    Where it is chosen already, the next nearest.

    Args:
      features: `[n, F]`.

    Returns:
      Indices, of the largest cluster first. Shape `[num]`.
    """
    from sklearn.cluster import KMeans  # Slow to import.

    clusters = KMeans(num, n_init=1, random_state=int(rng.integers(2**32))).fit(
        features
    )
    sizes = np.bincount(clusters.labels_, minlength=num)
    chosen: list[int] = []
    for label in np.argsort(-sizes, kind="stable"):
        centre = clusters.cluster_centers_[label]
        chosen.append(_nearest(features, centre, chosen, rng))
    return np.array(chosen)


def sensitivity(features: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    """Draws images by how much they can matter to any k-means clustering.

    The importance sampling of coresets for k-means, after Feldman, Schmidt and Sohler,
    "Turning Big Data into Tiny Data", SODA 2013, with k = `num`. Their weights are
    left out, and no image is drawn twice: networks are trained on a plain set.
    """
    from sklearn.cluster import kmeans_plusplus  # Slow to import.

    features = features.astype(np.float64)
    centres, _ = kmeans_plusplus(features, num, random_state=int(rng.integers(2**32)))
    weights = sensitivities(features, centres)
    return rng.choice(len(features), num, replace=False, p=weights / weights.sum())


def sensitivities(features: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Returns an upper bound of the sensitivity of each image, `[n]`.

    Bachem, Lucic and Krause, "Practical Coreset Constructions for Machine Learning",
    2017, algorithm 2. The centres `[k, F]` are a rough clustering, as of k-means++.
    """
    from sklearn.metrics import pairwise_distances_argmin_min  # Slow to import.

    labels, distances = pairwise_distances_argmin_min(features, centres)
    costs = distances**2
    if costs.any():
        costs /= costs.mean()
    sizes = np.maximum(np.bincount(labels, minlength=len(centres)), 1)
    cluster_costs = np.bincount(labels, costs, minlength=len(centres)) / sizes
    alpha = 16 * (np.log(len(centres)) + 2)
    of_cluster = 2 * alpha * cluster_costs + 4 * len(features) / sizes
    return alpha * costs + of_cluster[labels]


def gradient_diversity(
    features: np.ndarray, residuals: np.ndarray, num: int, rng: np.random.Generator
) -> np.ndarray:
    """Keeps images whose gradients point away from one another.

    GSS-Greedy, algorithm 2 of Aljundi et al., "Gradient based sample selection for
    online continual learning", NeurIPS 2019, over the images of a class in random
    order, and with the gradients of the classifier alone. The paper lets an image in
    only where its cosine with all it is compared with is negative. Within a class none
    is: residuals have the same signs, and features are not negative. So here every
    image may take the place of another.

    Residuals are softmax output minus label, `[n, C]`: the gradient of the classifier's
    bias. That of its kernel is the outer product of features and residuals.
    """
    order = rng.permutation(len(features))
    kept, scores = [int(order[0])], [_FIRST_SCORE]
    for image in order[1:]:
        compared = rng.permutation(kept)[:_COMPARED]
        score = 1 + gradient_cosines(features, residuals, image, compared).max()
        if len(kept) < num:
            kept.append(int(image))
            scores.append(score)
            continue
        total = sum(scores)
        place = rng.choice(num, p=np.divide(scores, total)) if total > 0 else 0
        if rng.random() * (scores[place] + score) < scores[place]:
            kept[place], scores[place] = int(image), score
    return np.array(kept)


def gradient_cosines(
    features: np.ndarray, residuals: np.ndarray, image: int, others: np.ndarray
) -> np.ndarray:
    """Returns the cosines of an image's gradient of the classifier with m others'.

    `image` and `others` are indices. Gradients of length 0 have the cosine 0.
    """

    def dot(a, b):  # Of outer products it is the product of dot products.
        of_features = (features[a] * features[b]).sum(-1) + 1
        return of_features * (residuals[a] * residuals[b]).sum(-1)

    norms = np.sqrt(dot(image, image) * dot(others, others))
    return np.divide(
        dot(image, others), norms, out=np.zeros(len(others)), where=norms > 0
    )


class Selection(NamedTuple):
    """A coreset method."""

    select: Callable[..., np.ndarray]  # One of the functions above.
    needs: tuple[str, ...]  # Its first: `size`, `features`, `residuals` or `events`.
    # Whether networks learn what the network that was trained on the whole training set
    # thinks of the images, instead of their classes.
    has_soft_labels: bool = False


SELECTIONS = {
    "random": Selection(random, ("size",)),
    "random_soft": Selection(random, ("size",), has_soft_labels=True),
    "herding": Selection(herding, ("features",)),
    "nearest_mean": Selection(nearest_mean, ("features",)),
    "k_center": Selection(k_center, ("features",)),
    "forgetting": Selection(forgetting, ("events",)),
    "k_means": Selection(k_means, ("features",)),
    "sensitivity": Selection(sensitivity, ("features",)),
    "gradient_diversity": Selection(gradient_diversity, ("features", "residuals")),
}


def _distances(features: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Returns the Euclidean distances to a point. `[n, F]`, `[F]` -> `[n]`."""
    return np.linalg.norm(features - point, axis=1)


def _smallest(values: np.ndarray, rng: np.random.Generator) -> int:
    """Returns the index of the smallest value, any of them where there are several."""
    return int(rng.choice(np.flatnonzero(values == values.min())))


def _nearest(
    features: np.ndarray, point: np.ndarray, chosen: list[int], rng: np.random.Generator
) -> int:
    """Returns the index of the image nearest to a point, of those not chosen yet."""
    distances = _distances(features, point)
    distances[chosen] = np.inf
    return _smallest(distances, rng)
