"""What the tests of methods and stores share: datasets and a network, all tiny."""

import flax.linen as nn
import numpy as np

from dc_jax.data.dataset import Dataset
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


class Tiny(nn.Module):
    """Four hidden units."""

    num_classes: int
    has_batch_norm: bool = False

    def setup(self):
        self.hidden = nn.Dense(4)
        self.norm = layers.BatchNorm()
        self.classifier = nn.Dense(self.num_classes)

    def embed(self, x, train=False):
        x = self.hidden(x.reshape(x.shape[0], -1))
        return nn.sigmoid(self.norm(x, train) if self.has_batch_norm else x)

    def __call__(self, x, train=False):
        return self.classifier(self.embed(x, train))
