"""A condensed set as a dataset of PyTorch.

  from dc_jax.torch import CondensedDataset

  condensed = CondensedDataset("runs/digits")
  loader = torch.utils.data.DataLoader(condensed, batch_size=256, shuffle=True)
  tests = condensed.prepare(pixels)  # [n, D, H, W] in [0, 1]

Importing this module needs PyTorch: `pip install -e ".[torch]"`. No other module does.
`docs/formats.md` tells how to get the small one for CPUs.
"""

import json
import os
from typing import Any

import numpy as np
import torch

from dc_jax.base import flatten_set
from dc_jax.errors import UserError
from dc_jax.sets import formats
from dc_jax.sets.make import decode_set


class CondensedDataset(torch.utils.data.Dataset):
    """The images of a saved set, with their labels.

    An element is an image, `[D, H, W]` float32, and its label: an integer, or with
    `soft=True` the probabilities of all classes, `[C]` float32, which are what networks
    are to learn where a set has them; `cross_entropy` takes both. The image is
    normalised, and whitened if the set is: `prepare` does the same with test images.

    Attributes:
      images, labels: all of them, tensors `[n, D, H, W]` and `[n]`.
      soft_labels: the probabilities to learn in their place, a tensor `[n, C]`; None if
        the set has none.
      mean, std: tensors `[D]`, of pixels in [0, 1].
      whitening: `SyntheticSet.whitening`; None if the images are not whitened.
      class_names: in the order of the labels.
      recipe: how networks are to be trained on the set; empty where that is not known.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        dataset: str | None = None,
        experiment: int = 0,
        soft: bool = False,
    ):
        """Reads what `dc_jax.load_synthetic_set` does, and raises what it raises.

        Raises:
          UserError: the labels shall be soft, but the set has only hard ones.
        """
        synthetic = formats.load_synthetic_set(
            path, dataset=dataset, experiment=experiment
        )
        synthetic = decode_set(synthetic)
        images, labels = flatten_set(np.asarray(synthetic.images), synthetic.labels)
        images = np.ascontiguousarray(np.moveaxis(images, -1, 1))
        self.images = torch.from_numpy(images)
        self.labels = torch.tensor(labels, dtype=torch.int64)
        self.soft_labels = None
        if synthetic.soft_labels is not None:
            soft_labels, _ = flatten_set(synthetic.soft_labels, synthetic.labels)
            self.soft_labels = torch.from_numpy(soft_labels)
        elif soft:
            raise UserError(f"{path} has no soft labels: leave out soft=True.")
        self._targets = self.soft_labels if soft else self.labels
        self.mean, self.std = torch.tensor(synthetic.mean), torch.tensor(synthetic.std)
        self.whitening = synthetic.whitening
        self.class_names = synthetic.class_names
        self.recipe: dict[str, Any] = json.loads(synthetic.recipe or "{}")

    def __repr__(self) -> str:
        num, *shape = self.images.shape
        size, name = "x".join(map(str, shape)), type(self).__name__
        return f"{name}({num} images of {size}, {len(self.class_names)} classes)"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int | torch.Tensor]:
        target = self._targets[index]
        return self.images[index], target if target.ndim else int(target)

    def prepare(self, pixels: torch.Tensor) -> torch.Tensor:
        """Turns other images into what networks that learn this set expect.

        `[n, D, H, W]`, in [0, 1], to the same shape, normalised and maybe whitened.
        """
        images = (pixels - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1)
        if self.whitening is None:
            return images
        images = images.movedim(1, -1)  # The order of the values in the matrix.
        images = images - torch.tensor(self.whitening.center)
        whitened = images.flatten(1) @ torch.tensor(self.whitening.matrix)
        return whitened.view(images.shape).movedim(-1, 1)
