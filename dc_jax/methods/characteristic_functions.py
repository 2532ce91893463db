"""Neural characteristic function matching (NCFM).

Wang et al., "Dataset Distillation with Neural Characteristic Function: A Minmax
Perspective", CVPR 2025, https://arxiv.org/abs/2502.20653, and the authors' code where
it differs (NCFM/NCFM.py, condenser/ and config/ of https://github.com/gszfwsb/NCFM):

    experts: networks trained on the whole training set    # run/experts.py
    for k in range(K):                                     # run/loop.py
        theta = (1 - l) first + l last, l ~ U(0, 1), of any expert     # `draw_network`
        t ~ N(0, I), frequencies
        for every class c:                                             # `match`
            phi = mean of exp(i t f) over N real images, augmented     # `features`
            psi = mean of exp(i t f) over the synthetic images, augmented alike
        S <- AdamW on the gradient of the sum over c of the distance   # `distance`
        S <- AdamW on the gradient of the sum over c of the cross-entropy of the
             expert's last network on the synthetic images, augmented  # `calibrate`

f are the features that theta has of an image, divided by their norm. phi and psi are
the characteristic functions of their distributions at the frequencies. The frequencies
are not learned: the authors' configs have no sampling network.

An update is of all classes at once. It is what the authors' code does with a process
for each class, and nearly what its command for CIFAR-10 does, with eight processes; in
one process each class has an update to itself, which moves the images of the others
too, by momentum. With M > 1 networks the losses are means over them, which is our
generalisation.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from dc_jax.base import CondenseState, Method, Offsets, make_labels
from dc_jax.config import Config
from dc_jax.data.formation import decode
from dc_jax.data.store import ClassStore, class_keys, normalise
from dc_jax.devices.backend import Execution, batched
from dc_jax.devices.layout import Layout
from dc_jax.methods.distribution_matching import (
    Comparison,
    match_network,
    mean_in_slices,
)
from dc_jax.methods.expert_networks import draw_network, unraveller
from dc_jax.methods.images import average, make_init, slot_weights
from dc_jax.training.augment_siamese import make_siamese

# Fields of the config that it does not use.
UNUSED = (
    *("outer_loop", "inner_loop", "distance", "sampler", "batch_train"),
    *("momentum_img", "lr_net", "momentum_net"),
)
# The authors' values.
_SCALE = 300.0  # Of the distance.
_WEIGHT_DECAY = 5e-4
_PATIENCE = 500  # Iterations without a lower loss before the learning rate is halved.
# Of norms, and of squared distances: a square root has no gradient at 0.
_LEAST = 1e-12


def make(config: Config, network: nn.Module, execution: Execution) -> Method:
    """Returns NCFM as a method, by the `embed` and the logits of the network."""
    optimiser, layout = make_optimiser(config), execution.layout
    num_networks = config.num_networks

    def step(
        state: CondenseState, store: ClassStore, key: jax.Array
    ) -> tuple[CondenseState, dict[str, Any], Offsets]:
        mine, _ = layout.networks.part(num_networks)
        draw_keys, match_keys, judge_keys = (
            jax.random.split(key, num_networks)[mine]
            for key in jax.random.split(key, 3)
        )
        betweens, lasts = jax.vmap(draw_network, (None, 0))(store.experts, draw_keys)
        to_variables = unraveller(network, state.images[0, :1])

        def run(find: Callable[..., Any], images: jax.Array):
            """Runs `match` or `calibrate` for networks and keys."""

            def one(vector: jax.Array, key: jax.Array):
                variables = to_variables(vector)
                return find(config, network, execution, variables, images, store, key)

            return batched(one, execution.network_loop)

        update = functools.partial(update_pixels, config, optimiser, layout, store)
        losses, grads, offsets = run(match, state.images)(betweens, match_keys)
        state, matching = update(state, losses, grads)
        losses, grads = run(calibrate, state.images)(lasts, judge_keys)
        state, calibration = update(state, losses, grads)
        # Reported as in the authors' code: per class.
        layers = {"calibration": calibration, "matching": matching}
        layers = {name: loss / len(state.images) for name, loss in layers.items()}
        return state, {"loss": sum(layers.values()), "layers": layers}, offsets

    init = make_init(config, optimiser, network, execution)
    return Method(init, step, snapshots=(0, config.experts.epochs))


def match(
    config: Config,
    network: nn.Module,
    execution: Execution,
    variables: dict[str, Any],
    images: jax.Array,  # [C, I, H, W, D], synthetic
    store: ClassStore,
    key: jax.Array,
) -> tuple[jax.Array, jax.Array, Offsets]:
    """Matches characteristic functions at random frequencies, the same for all classes.

    Returns what `match_network` does.
    """
    frequency_key, match_key = jax.random.split(key)
    embed = functools.partial(network.apply, method="embed")
    size = jax.eval_shape(embed, variables, images[0, :1]).shape[-1]
    # Not in `features`, which is called for each slice of the images.
    shape = (config.characteristic.frequencies, size)
    frequencies = jax.random.normal(frequency_key, shape)
    comparison = Comparison(functools.partial(features, frequencies), distance)
    arguments = (variables, images, store, match_key, comparison)
    return match_network(config, network, execution, *arguments)


def features(frequencies: jax.Array, embedded: jax.Array) -> jax.Array:
    """Returns exp(i t f) for frequencies t and embeddings f, divided by their norm.

    `[Q, F]`, `[n, F]` -> `[n, 2 Q]`, the real parts before the imaginary ones.
    """
    squares = jnp.sum(embedded**2, axis=-1, keepdims=True)
    unit = embedded / jnp.sqrt(jnp.maximum(squares, _LEAST**2))
    angles = unit @ frequencies.T
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def distance(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the distance of two characteristic functions, `[2 Q]` each.

    The mean over frequencies, times 300, of the root of

        (|a| - |b|)^2 / 2 + 2 (|a| |b| - Re a Re b - Im a Im b) / 2,

    half of the squared difference of the amplitudes and half of that of the phases, as
    in all configs of the authors. The sum is |a - b|^2 / 2, and is computed so: the
    difference of two nearly equal products would lose digits, which is why the authors
    take no less than 1e-12 of it.
    """
    squares = jnp.sum((a - b).reshape(2, -1) ** 2, axis=0)
    return _SCALE * jnp.mean(jnp.sqrt(jnp.maximum(squares, _LEAST) / 2))


def calibrate(
    config: Config,
    network: nn.Module,
    execution: Execution,
    variables: dict[str, Any],
    images: jax.Array,  # [C, I, H, W, D], synthetic
    store: ClassStore,
    key: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Asks a trained network for the classes of the synthetic images.

    Batch norm uses its running statistics. Returns the mean cross-entropy of each
    class, summed over this device's classes, and its gradient with respect to the
    images of each of them, `[c, I, H, W, D]`.
    """
    num_classes, factor = len(images), config.formation.factor
    labels, is_class = execution.layout.classes.part(num_classes)
    weights = slot_weights(make_labels(config.class_ipc(num_classes)), factor)

    def judge_class(images, label, siamese_key, weights):
        augment = make_siamese(siamese_key, config.augmentation, images.shape[1:])

        def entropies(images: jax.Array) -> jax.Array:
            logits = network.apply(variables, images).astype(float)
            return -jax.nn.log_softmax(logits)[:, label, None]

        def loss(images: jax.Array) -> jax.Array:
            formed, size = augment(decode(images, factor)), execution.slice_size
            return mean_in_slices(entropies, formed, weights, size)[0]

        return jax.value_and_grad(loss)(images)

    losses, grads = batched(judge_class, execution.class_loop)(
        images[labels],
        labels,
        class_keys(store, key)[labels],
        None if weights is None else jnp.asarray(weights)[labels],
    )
    return jnp.sum(jnp.where(is_class, losses, 0)), grads


def make_optimiser(config: Config) -> optax.GradientTransformationExtraArgs:
    """Returns AdamW on pixels, whose learning rate is halved where the loss is level.

    Each iteration has two updates, the losses of which count together.
    """
    return optax.chain(
        optax.adamw(config.lr_img, weight_decay=_WEIGHT_DECAY),
        # Optax halves at once, PyTorch one iteration later.
        optax.contrib.reduce_on_plateau(0.5, _PATIENCE + 1, accumulation_size=2),
    )


def update_pixels(
    config: Config,
    optimiser: optax.GradientTransformationExtraArgs,
    layout: Layout,
    store: ClassStore,
    state: CondenseState,
    losses: jax.Array,  # [m]
    grads: jax.Array,  # [m, c, I, H, W, D], with respect to the images
) -> tuple[CondenseState, jax.Array]:
    """Updates the pixels of the images once, and keeps them in [0, 1].

    Returns the new state, and the loss; see `average` for the arguments.
    """
    num_classes = len(state.images)
    loss, grads = average(losses, grads, layout, config.num_networks, num_classes)
    mean, std = (array.reshape(1, 1, 1, 1, -1) for array in (store.mean, store.std))
    pixels = state.images * std + mean
    updates, opt_state = optimiser.update(
        grads / std, state.opt_state, pixels, value=loss
    )
    pixels = jnp.clip(optax.apply_updates(pixels, updates), 0, 1)
    is_image = make_labels(config.class_ipc(num_classes)) >= 0
    images = normalise(pixels, store.mean, store.std)
    images = jnp.where(is_image[..., None, None, None], images, 0)
    return state.replace(images=images, opt_state=opt_state), loss
