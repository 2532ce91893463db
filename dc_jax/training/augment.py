"""The augmentation of images on which networks are trained.

The authors use `crop_scale_rotate` for MNIST, `crop_noise` for the ConvNet with batch
norm, and `none` otherwise; the operations are in `augment_evaluation`. A strategy that
begins with `dsa:` names operations of `augment_siamese` instead.
"""

import functools

import jax
import jax.numpy as jnp

from dc_jax.defaults import SIAMESE_PREFIX
from dc_jax.training import augment_evaluation, augment_siamese, augment_strategy
from dc_jax.training.augment_strategy import Operation


def parse_strategy(strategy: str) -> tuple[Operation, ...]:
    """Returns the operations of a strategy such as `crop_noise` or `dsa:color_crop`.

    Raises:
      UserError: the strategy names something that is not an operation.
    """
    families = {
        "": augment_evaluation.OPERATIONS,
        SIAMESE_PREFIX: augment_siamese.OPERATIONS,
    }
    return augment_strategy.parse(strategy, families)


def augment(key: jax.Array, images: jax.Array, strategy: str) -> jax.Array:
    """Applies an operation of the strategy, chosen at random, to every image.

    Images `[n, H, W, D]` are normalised, and each has an operation of its own. After
    `dsa:` all images have the same operation, each with random numbers of its own.

    Raises:
      UserError: the strategy is unknown.
    """
    operations = parse_strategy(strategy)
    if not operations:
        return images
    if strategy.startswith(SIAMESE_PREFIX):
        shape, num = images.shape[1:], len(images)
        draws = augment_siamese.draw(key, operations, shape, num)
        return augment_siamese.apply(images, draws, operations, each=True)
    mean = jnp.mean(images, axis=(0, 1, 2))  # [D]

    def apply_one(operation: Operation, key: jax.Array, image: jax.Array) -> jax.Array:
        return operation.apply(image, operation.draw(key, image.shape), mean)

    branches = [functools.partial(apply_one, operation) for operation in operations]

    def augment_one(key: jax.Array, image: jax.Array) -> jax.Array:
        choice_key, draw_key = jax.random.split(key)
        choice = jax.random.randint(choice_key, (), 0, len(branches))
        return jax.lax.switch(choice, branches, draw_key, image)

    return jax.vmap(augment_one)(jax.random.split(key, len(images)), images)
