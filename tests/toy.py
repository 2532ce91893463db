"""What the tests of methods and stores share: datasets and a network, all tiny."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np

from dc_jax.data.dataset import Dataset
from dc_jax.data.whitening import fit_whitening
from dc_jax.evaluation.evaluator import Programs
from dc_jax.networks import layers


def make_dataset(images, labels, mean=(0.5,), std=(0.3,)) -> Dataset:
    """A dataset of these training images, which are also the test images."""
    labels = np.asarray(labels, np.int32)
    return Dataset(
        name="toy",
        source="test",
        train_images=images,
        train_labels=labels,
        test_images=images,
        test_labels=labels,
        class_names=tuple("abcdefghij"[: labels.max() + 1]),
        mean=np.array(mean, np.float32),
        std=np.array(std, np.float32),
    )


def random_dataset(counts, shape, **statistics) -> Dataset:
    """Random uint8 images of a shape, `counts` of each class, in mixed order."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    return make_dataset(
        rng.integers(0, 256, (len(labels), *shape), dtype=np.uint8),
        labels,
        **statistics,
    )


def whitened(dataset: Dataset) -> Dataset:
    """The dataset with the whitening of its training images."""
    how = (dataset.train_images, dataset.mean, dataset.std)
    return dataclasses.replace(dataset, whitening=fit_whitening(*how))


def in_one_call(programs: Programs):
    """What trains networks for all epochs, and tests them, as one function."""

    def evaluate(data, test_images, test_labels, keys):
        states = programs.init(data, keys)
        for phase in programs.phases:
            states = phase.train(phase.start(states), data, keys, 0, phase.epochs)
        num = len(jax.tree.leaves(keys)[0])
        return programs.test(states, test_images, test_labels)[:num]

    return evaluate


def as_programs(evaluate) -> Programs:
    """A function of `in_one_call` as programs, which train for no epoch."""

    def test(states, test_images, test_labels):
        data, keys = states
        return evaluate(data, test_images, test_labels, keys)

    return Programs(lambda *states: states, [], test)


class Tiny(nn.Module):
    """One hidden layer."""

    num_classes: int
    has_batch_norm: bool = False
    units: int = 4

    def setup(self):
        self.hidden = nn.Dense(self.units)
        self.norm = layers.BatchNorm()
        self.classifier = nn.Dense(self.num_classes)

    def embed(self, x, train=False):
        x = self.hidden(x.reshape(x.shape[0], -1))
        return nn.sigmoid(self.norm(x, train) if self.has_batch_norm else x)

    def __call__(self, x, train=False):
        return self.classifier(self.embed(x, train))
