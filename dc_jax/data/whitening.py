"""ZCA whitening: images whose values are uncorrelated over the training split.

Zhou et al., "Dataset Distillation using Neural Feature Regression" (FRePo), NeurIPS
2022, and its authors' code (lib/dataset/ops.py of
https://github.com/yongchaoz/FRePo):

  X = normalised training images [n, V] - their mean [V]
  C = X^T X / n + 0.1 tr(X^T X / n) / V I = U diag(s) U^T
  W = U diag(s^-1/2) U^T

An image x becomes (x - mean) W. Of all matrices that whiten, the symmetric one changes
the images least.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from dc_jax.errors import UserError, check_fits

Array = jax.Array | np.ndarray

# What is added to the eigenvalues, as a part of their mean: the authors' value.
_RIDGE = 0.1
# Rounding leaves the spread of images that are all the same just above zero.
_LEAST = 1e-12
# How many images are held as float64 at once.
_CHUNK = 1024


@flax.struct.dataclass
class Whitening:
    """What whitens normalised images of one shape."""

    center: Array  # [H, W, D] float32, the mean of normalised training images.
    matrix: Array  # [V, V] float32, W; symmetric, with positive eigenvalues.

    def whiten(self, images: Array) -> jax.Array:
        """Whitens normalised images, `[..., H, W, D]`."""
        flat = jnp.asarray(images).reshape(-1, len(self.matrix))
        flat = flat - jnp.asarray(self.center).reshape(1, -1)
        # By default accelerators would multiply with three digits.
        whitened = jnp.matmul(flat, self.matrix, precision="highest")
        return whitened.reshape(images.shape)

    def unwhiten(self, images: Array) -> np.ndarray:
        """Returns the normalised images of which these are the whitened ones.

        `[..., H, W, D]` float32; computed in float64.
        """
        flat = np.asarray(images, np.float64).reshape(-1, len(self.matrix))
        matrix = np.asarray(self.matrix, np.float64)
        flat = np.linalg.solve(matrix, flat.T).T
        flat = flat + np.asarray(self.center).reshape(1, -1)
        return flat.reshape(images.shape).astype(np.float32)


def fit_whitening(images: np.ndarray, mean: np.ndarray, std: np.ndarray) -> Whitening:
    """Returns the whitening of training images, which need not be in memory.

    They are `[n, H, W, D]` as a `Dataset` has them; mean and standard deviation, `[D]`,
    are those that they are normalised with. All is computed in float64.

    Raises:
      UserError: all images are the same, or the matrices do not fit into memory.
    """
    size, scale = images[0].size, 255 if images.dtype == np.uint8 else 1
    # The covariance, its eigenvectors, and what finding them takes.
    check_fits(4 * 8 * size**2, "the matrices of config.dataset.zca")
    pixel_mean = images.mean(0, dtype=np.float64) / scale
    covariance = np.zeros((size, size))
    for start in range(0, len(images), _CHUNK):
        x = images[start : start + _CHUNK].astype(np.float64) / scale
        x = ((x - pixel_mean) / std).reshape(-1, size)
        covariance += x.T @ x / len(images)
    ridge = _RIDGE * np.trace(covariance) / size
    if ridge < _LEAST:
        raise UserError("config.dataset.zca must be False: all images are the same.")
    values, vectors = np.linalg.eigh(covariance + ridge * np.eye(size))
    matrix = (vectors * values**-0.5) @ vectors.T
    center = (pixel_mean - mean) / std
    return Whitening(center.astype(np.float32), matrix.astype(np.float32))
