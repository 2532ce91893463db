"""What gradient matching needs besides arrays."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import optax

from dc_jax.base import make_labels
from dc_jax.config import Config
from dc_jax.devices.backend import Execution
from dc_jax.devices.layout import ONE_DEVICE, Layout
from dc_jax.methods.images import make_optimiser
from dc_jax.methods.pool import Pool, make_pool
from dc_jax.training.train import Recipe


@dataclasses.dataclass(frozen=True)
class Matching:
    """What one outer step needs besides arrays."""

    recipe: Recipe  # How the networks are trained between outer steps.
    distance: str  # Between gradients, see `distances`.
    batch_real: int  # N
    optimiser: optax.GradientTransformation  # Of the images.
    num_networks: int  # M
    network_loop: str  # How the axis M is run, see `batched`.
    class_loop: str = "map"  # The same for the axis C.
    layout: Layout = ONE_DEVICE  # The devices.
    augmentation: str = "none"  # See `augment_siamese`; drawn per class and network.
    ipc: tuple[int, ...] | None = None  # Images of each class where they differ.
    factor: int = 1  # Each image holds factor x factor others, see `formation`.
    pool: Pool | None = None  # Of networks; None for fresh ones.
    candidates: int = 0  # Of which k-means chooses N; 0: N are drawn.

    def labels(self, images: jax.Array) -> np.ndarray:
        """Returns the labels of the images `[C, I, H, W, D]`, see `SyntheticSet`."""
        num_classes, ipc = images.shape[:2]
        return make_labels(self.ipc or (ipc,) * num_classes)


def make_matching(config: Config, network: nn.Module, execution: Execution) -> Matching:
    """Returns what the config says of an outer step."""
    recipe = Recipe(
        network=network,
        optimiser=optax.sgd(config.lr_net, config.momentum_net or None),
        batch_size=config.batch_train,
        slice_size=execution.slice_size,
        augmentation=config.training_augmentation,
        devices=execution.layout.classes,
    )
    return Matching(
        recipe=recipe,
        distance=config.distance,
        batch_real=config.batch_real,
        optimiser=make_optimiser(config),
        num_networks=config.num_networks,
        network_loop=execution.network_loop,
        class_loop=execution.class_loop,
        layout=execution.layout,
        augmentation=config.augmentation,
        ipc=None if isinstance(config.ipc, int) else config.ipc,
        factor=config.formation.factor,
        pool=make_pool(config, recipe),
        candidates=config.candidates if config.sampler == "kmeans" else 0,
    )
