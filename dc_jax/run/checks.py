"""Checks of a run before anything is compiled, and of a set before it is evaluated."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from dc_jax.base import SyntheticSet
from dc_jax.config import Config
from dc_jax.data.dataset import Dataset
from dc_jax.data.facts import number_names
from dc_jax.errors import UserError, check_fits, load_package, one_line
from dc_jax.files.paths import user_path
from dc_jax.methods import BASELINES, check_method
from dc_jax.networks import has_batch_norm
from dc_jax.training import augment_siamese
from dc_jax.training.augment import parse_strategy

# What labels the methods of the package may have.
_LABELS = {
    **dict.fromkeys(("dd", *BASELINES), ("hard",)),
    "dc": ("hard", "soft", "learned"),
    "dsa": ("hard", "soft", "learned"),
    "dm": ("hard", "soft"),
    "frepo": ("hard", "learned"),
    "mtt": ("hard", "learned"),
    "ncfm": ("hard", "soft"),
}
# Of a set that may come from anybody: training on it shall end.
_EPOCHS = 100_000
_STEPS = 100_000
# How far mean and std of one dataset may be apart, whose images are in [0, 1].
_APART = 0.01


def check_names(config: Config) -> None:
    """Checks what does not need the dataset, before it is downloaded and prepared.

    Raises:
      UserError: a method, network or augmentation is unknown, fields exclude one
        another, or a package is missing.
    """
    if config.dataset.validation and config.dataset.stream:
        raise UserError(
            "config.dataset.validation must be None where config.dataset.stream is "
            f"True, got {config.dataset.validation}."
        )
    for group, field in (("coreset", "networks"), ("execution", "compilation_cache")):
        folder = getattr(getattr(config, group), field)
        if folder is not None:
            user_path(folder, f"config.{group}.{field}")
    if config.tensorboard:
        load_package("tensorboardX", "tensorboard")
    check_method(config.method)
    factor = config.formation.factor
    if factor > 1 and config.method in ("dd", *BASELINES):
        raise UserError(
            f"config.formation.factor must be 1 for {config.method}, got {factor}."
        )
    if factor > 1 and config.dataset.zca:
        # What is enlarged would not be as white as the test images.
        raise UserError(
            "config.formation.factor must be 1 where config.dataset.zca is True, got "
            f"{factor}."
        )
    if config.dataset.zca and config.method == "ncfm":
        raise UserError(
            "config.dataset.zca must be False for ncfm, which keeps pixels in [0, 1], "
            "got True."
        )
    _check_labels(config)
    _check_pool(config)
    _check_sampler(config)
    _check_begin(config)
    with naming("config.network.name"):
        has_batch_norm(config.network.name)
    if config.evaluation.network is not None:
        with naming("config.evaluation.network"):
            has_batch_norm(config.evaluation.network)
    with naming("config.augmentation"):
        augment_siamese.parse_strategy(config.augmentation)
    with naming("config.evaluation.augmentation"):
        parse_strategy(config.evaluation.augmentation or "none")


def _check_labels(config: Config) -> None:
    """Checks that a method can have the labels of the config."""
    allowed = _LABELS.get(config.method)
    if allowed and config.labels not in allowed:
        raise UserError(
            f"config.labels must be {' or '.join(allowed)} for {config.method}, got "
            f"{config.labels!r}."
        )
    if config.formation.factor > 1 and config.labels == "soft":
        raise UserError(
            "config.formation.factor must be 1 where config.labels is soft, got "
            f"{config.formation.factor}."
        )


def _check_pool(config: Config) -> None:
    """Checks that a method can have the pool of the config."""
    size = config.pool.size
    if size and config.method in ("dm", "dd", "mtt", "ncfm", *BASELINES):
        raise UserError(
            f"config.pool.size must be None for {config.method}, got {size}."
        )
    if size and config.num_networks > size:
        raise UserError(
            f"config.num_networks must be at most config.pool.size = {size}, got "
            f"{config.num_networks}."
        )


def _check_sampler(config: Config) -> None:
    """Checks that the method samples so, and from enough images.

    Raises:
      UserError: it does not.
    """
    if config.sampler == "random" or config.method in BASELINES:
        return
    if config.method in ("dm", "dd", "frepo", "mtt", "ncfm"):
        raise UserError(
            f"config.sampler must be random for {config.method}, got {config.sampler}."
        )
    if config.candidates < config.batch_real:
        raise UserError(
            f"config.candidates must be at least config.batch_real = "
            f"{config.batch_real} where config.sampler is {config.sampler}, got "
            f"{config.candidates}."
        )


def _check_begin(config: Config) -> None:
    """Checks that the networks of a method can begin as experts.

    Raises:
      UserError: they cannot.
    """
    if config.network.begin == "random":
        return
    if config.method in ("dd", "frepo", "mtt", "ncfm", *BASELINES):
        raise UserError(
            f"config.network.begin must be random for {config.method}, got "
            f"{config.network.begin}."
        )
    if config.pool.size:
        raise UserError(
            "config.network.begin must be random where there is a pool, "
            f"config.pool.size = {config.pool.size}, got {config.network.begin}."
        )


def check_memory(config: Config, dataset: Dataset) -> None:
    """Checks that a run can fit into memory, by the least that it takes.

    Raises:
      UserError: some fields are too large.
    """
    num_classes = dataset.num_classes
    image = 4 * math.prod(dataset.image_shape)
    images = num_classes * int(np.max(config.ipc)) * image
    is_clustered = "kmeans" in (config.init, config.sampler)
    num_sets, counts = config.num_experiments, 4 * num_classes**2
    least = {
        "images of config.num_experiments x config.ipc": num_sets * images,
        "gradients of config.num_networks x config.ipc": config.num_networks * images,
        "images of config.batch_real": config.batch_real * image,
        "images of config.candidates": config.candidates * image * is_clustered,
        "results of config.num_evaluations": config.num_evaluations * counts,
    }
    for what, num_bytes in least.items():
        check_fits(num_bytes, f"the {what}")


def check_recipe(training: Mapping[str, Any]) -> None:
    """Checks the training of a recipe, which may come from anybody.

    Raises:
      UserError: it would not end.
    """
    epochs = training.get("epochs", 0)
    if isinstance(epochs, int) and epochs > _EPOCHS:
        raise UserError(
            f"the set's recipe has {epochs:,} epochs, more than {_EPOCHS:,}: give "
            "epochs, as in epochs=1000."
        )


def check_fit(synthetic: SyntheticSet, dataset: Dataset, path: str) -> None:
    """Checks that a set loaded from `path` can be evaluated on a dataset.

    Warns where the set seems to be made of other images of the same shape.

    Raises:
      UserError: the images or the classes differ, or its own training would not end.
    """
    shape = synthetic.images.shape[2:]
    if shape != dataset.image_shape:
        raise UserError(
            f"{path} has images of shape {shape}, but those of "
            f"{dataset.name} are {dataset.image_shape}; config.dataset must be those "
            "images that it was made of."
        )
    rates = synthetic.learning_rates
    if rates is not None and rates.size > _STEPS:
        raise UserError(
            f"{path} has {rates.size:,} learned steps of training, must have at most "
            f"{_STEPS:,}."
        )
    # The sets of other programs have numbers in place of names.
    allowed = (dataset.class_names, number_names(dataset.num_classes))
    if synthetic.class_names not in allowed:
        raise UserError(
            f"{path} has the classes {_short(synthetic.class_names)}, but "
            f"{dataset.name} has {_short(dataset.class_names)}."
        )
    facts = [np.round([*one.mean, *one.std], 3) for one in (synthetic, dataset)]
    if np.abs(facts[0] - facts[1]).max() > _APART:
        text = "%s was made of images with mean and std %s, but %s has %s: is it a set "
        logging.warning(
            text + "of another dataset?", path, facts[0], dataset.name, facts[1]
        )


def _short(names: Sequence[str]) -> str:
    """Returns names, which may be anybody's, as a line that is not too long."""
    return one_line(", ".join(names), 300)


@contextlib.contextmanager
def naming(field: str) -> Iterator[None]:
    """Names the field of the config in what is wrong with it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{field}: {error}") from error
