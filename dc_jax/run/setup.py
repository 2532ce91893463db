"""Setup: what a run has decided, made once from its config."""

import dataclasses

import flax.linen as nn
import numpy as np
from absl import logging

from dc_jax.config import Config, describe_ipc
from dc_jax.data.dataset import Dataset
from dc_jax.data.sources import load_dataset
from dc_jax.data.splits import hold_out
from dc_jax.data.whitening import Whitening, fit_whitening
from dc_jax.defaults import SIAMESE_PREFIX
from dc_jax.devices import processes
from dc_jax.devices.backend import Execution, make_execution
from dc_jax.devices.compilation_cache import use_compilation_cache
from dc_jax.devices.layout import Layout, make_layout
from dc_jax.errors import one_line
from dc_jax.evaluation.protocol import Protocol, make_protocol
from dc_jax.methods import (
    characteristic_functions,
    dataset_distillation,
    feature_regression,
    trajectory_matching,
)
from dc_jax.networks import default_depth, make_network, without_batch_norm
from dc_jax.networks.convolution import default_implementation, make_conv_fn
from dc_jax.progress import Progress
from dc_jax.run.checks import check_memory, check_names, naming
from dc_jax.run.signals import is_guest

# Fields of the config that a method does not use.
_UNUSED = {
    "dd": dataset_distillation.UNUSED,
    "frepo": feature_regression.UNUSED,
    "mtt": trajectory_matching.UNUSED,
    "ncfm": characteristic_functions.UNUSED,
}
# Groups of fields, and the methods that use them whatever the config says.
GROUPS = {
    "distillation": ("dd",),
    "characteristic": ("ncfm",),
    "trajectories": ("mtt",),
    "experts": ("ncfm", "mtt"),
    "pool": ("frepo",),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Setup:
    """What a run has decided: everything below takes what it needs from here."""

    config: Config
    dataset: Dataset  # It is condensed, and tested on.
    layout: Layout  # The devices.
    network: nn.Module  # It condenses.
    execution: Execution  # How to run it on these devices.
    protocol: Protocol  # How networks are trained on a set to evaluate it.
    evaluation_network: nn.Module  # Of the protocol.
    evaluation_execution: Execution  # How to run that.


def make_setup(config: Config, dataset: Dataset | None = None) -> Setup:
    """Checks a run, loads its dataset, and decides what the config leaves open.

    With a `dataset`, `config.dataset` only gives its name.

    Raises:
      UserError: the config or the dataset cannot be used.
    """
    check_names(config)
    # A guest's other programs are none of our business, unless it says so.
    if config.execution.compilation_cache or not is_guest():
        use_compilation_cache(config.execution)
    dataset = load(config) if dataset is None else with_whitening(config, dataset)
    log_dataset(dataset)
    check_memory(config, dataset)
    processes.check_same("the dataset", dataset.checksum())
    layout = make_layout(config, dataset.num_classes)
    network, execution = make_parts(config, dataset, "network", layout)
    evaluation = make_evaluation(
        config, dataset.name, dataset.num_classes, dataset.image_shape, layout
    )
    return Setup(config, dataset, layout, network, execution, *evaluation)


def load(config: Config) -> Dataset:
    """Loads the dataset of a run, with the whitening that it asks for."""
    name, path = config.dataset.name, config.dataset.path
    stream, image_size = config.dataset.stream, config.dataset.image_size
    num = config.dataset.validation
    with Progress("Loading the dataset"):
        dataset = load_dataset(name, path, stream=stream, image_size=image_size)
        dataset = hold_out(dataset, num, in_place=True) if num else dataset
        dataset = with_whitening(config, dataset)
        dataset.checksum()  # It is kept.
    return dataset


def with_whitening(config: Config, dataset: Dataset) -> Dataset:
    """Returns a dataset with the whitening of its training images if the config asks.

    The first process finds it for all: the others might round otherwise.

    Raises:
      UserError: there is none, see `fit_whitening`.
    """
    if not config.dataset.zca or dataset.whitening is not None:
        return dataset
    how = (dataset.train_images, dataset.mean, dataset.std)
    with Progress("Finding the whitening"):
        arrays = processes.on_first(lambda: vars(fit_whitening(*how)))
    return dataclasses.replace(dataset, whitening=Whitening(**arrays))


def log_dataset(dataset: Dataset) -> None:
    """Logs what a dataset is."""
    has_tests = dataset.test_images is not dataset.train_images
    logging.info(
        "Dataset %s from %s: %d training%s images of %dx%dx%d, %d classes.",
        dataset.name,
        dataset.source,
        len(dataset.train_labels),
        f" and {len(dataset.test_labels)} test" if has_tests else "",
        *dataset.image_shape,
        dataset.num_classes,
    )
    if dataset.whitening is not None:
        text = "Images are whitened; the matrix takes %.3g MB in the file of each set."
        logging.info(text, dataset.whitening.matrix.nbytes / 1e6)


def log_choices(setup: Setup) -> None:
    """Logs what a rule or a necessity has chosen, and why.

    Raises:
      UserError: `config.ipc` has not as many numbers as there are classes.
    """
    config, dataset = setup.config, setup.dataset
    class_ipc = np.array(config.class_ipc(dataset.num_classes))
    _log_execution(setup)
    name = config.network.name
    depth = default_depth(name, dataset.image_shape)
    if depth is not None:
        height, width, _ = dataset.image_shape
        logging.info("%s has depth %d for images of %dx%d.", name, depth, height, width)
    logging.info(
        "Condensing to %s image(s) per class with method %s: %d iterations from %s "
        "images, learning rate %g, augmentation %s, %d network(s) at once, %d "
        "experiment(s).",
        describe_ipc(config.ipc),
        config.method,
        config.iterations,
        config.init,
        config.lr_img,
        config.augmentation,
        config.num_networks,
        config.num_experiments,
    )
    if config.minutes is not None:
        text = "Condensing ends after %g minutes, if it is not done before."
        logging.info(text, config.minutes)
    if setup.protocol.augmentation.startswith(SIAMESE_PREFIX):
        text = "Networks are trained on the set with augmentation %s: `python -m "
        text += "dc_jax.compare` trains alike on sets of all methods."
        logging.info(text, setup.protocol.augmentation)
    if config.method in ("dc", "dsa"):
        outer_loop, inner_loop = config.loops()
        between = f", with {inner_loop} inner epoch(s) between them"
        text = f"{outer_loop} outer step(s){between if outer_loop > 1 else ''}"
        logging.info("An iteration has %s.", text)
    if unused := _find_unused(config):
        logging.info("Not used by %s: config.%s.", config.method, ", ".join(unused))
    if len(set(class_ipc)) > 1:
        text = "What depends on the images per class is chosen for their mean, %d."
        logging.info(text, config.mean_ipc)
    _log_small_classes(config, dataset, class_ipc)


def _find_unused(config: Config) -> list[str]:
    """Returns the fields and groups that a method of the package does not use."""
    if config.method not in ("dc", "dsa", "dm", *_UNUSED):
        return []
    asked = {"experts": config.network.begin == "experts", "pool": config.pool.size}
    groups = [
        group
        for group, methods in GROUPS.items()
        if config.method not in methods and not asked.get(group)
    ]
    return [*_UNUSED.get(config.method, ()), *groups]


def _log_execution(setup: Setup) -> None:
    """Logs the devices, and what was chosen for them."""
    logging.info("Running on %s.", setup.layout)
    platform = setup.layout.platform
    choices = {
        "convolution": default_implementation(platform),
        "network_loop": setup.execution.network_loop,
        "class_loop": setup.execution.class_loop,
        "slice_size": setup.execution.slice_size,
    }
    given = vars(setup.config.execution)
    chosen = [f"{name} {choices[name]}" for name in choices if given[name] is None]
    if chosen:
        logging.info("Chosen for %s: config.execution.%s.", platform, ", ".join(chosen))
    asked = [f"{name} {given[name]}" for name in choices if given[name] is not None]
    if asked:
        logging.info("As asked: config.execution.%s.", ", ".join(asked))
    precision, arithmetic = given["precision"], "float32"
    if platform != "cpu" and precision != "highest":
        arithmetic = f"{precision} precision, which is less than float32"
    logging.info("Products and convolutions in %s.", arithmetic)


def _log_small_classes(config: Config, dataset: Dataset, class_ipc: np.ndarray) -> None:
    """Logs which classes have fewer images than are drawn."""
    needed = {"batch_real": np.full(dataset.num_classes, config.batch_real)}
    if config.init != "noise":
        needed["ipc"] = class_ipc
    counts = np.bincount(dataset.train_labels, minlength=dataset.num_classes)
    for field, numbers in needed.items():
        small = [dataset.class_names[i] for i in np.flatnonzero(counts < numbers)]
        if small:
            logging.log(
                # A real batch may well be larger than a class; the set should not be.
                logging.WARNING if field == "ipc" else logging.INFO,
                "%d of %d classes have fewer training images than config.%s = %s; they "
                "are drawn with replacement: %s.",
                len(small),
                dataset.num_classes,
                field,
                describe_ipc(numbers),
                one_line(", ".join(small), 1000),
            )


def make_parts(
    config: Config, dataset: Dataset, field: str, layout: Layout
) -> tuple[nn.Module, Execution]:
    """Returns the network of `network` or `evaluation`, and how to run it here."""
    name, path = config.network.name, "config.network.name"
    if field == "evaluation":
        name, path = config.evaluation.network, "config.evaluation.network"
    return _build(config, path, name, dataset.num_classes, dataset.image_shape, layout)


def make_evaluation(
    config: Config,
    dataset_name: str,
    num_classes: int,
    image_shape: tuple[int, int, int],
    layout: Layout,
) -> tuple[Protocol, nn.Module, Execution]:
    """Returns the protocol of a run, its network, and how to run that here."""
    name, path = choose_evaluation_network(config), "config.evaluation.network"
    if config.evaluation.network is None:
        path = "config.network.name"
    protocol = make_protocol(
        dataclasses.replace(config.evaluation, network=name),
        dataset_name=dataset_name,
        network_name=config.network.name,
    )
    return protocol, *_build(config, path, name, num_classes, image_shape, layout)


def choose_evaluation_network(config: Config) -> str:
    """Returns the name of the network that sets are evaluated with.

    Where `config.evaluation.network` is None, it is `config.network.name`, without
    batch norm if it has any: the images of a set are too few for it. The whole training
    set has enough.
    """
    condensed, named = config.network.name, config.evaluation.network
    if named or config.method == "whole":
        return named or condensed
    name = without_batch_norm(condensed)
    if name != condensed:
        text = "Evaluating with %s in place of %s, whose batch norm needs more images. "
        text += "config.evaluation.network names another."
        logging.info(text, name, condensed)
    return name


def _build(
    config: Config,
    field: str,
    name: str,
    num_classes: int,
    image_shape: tuple[int, int, int],
    layout: Layout,
) -> tuple[nn.Module, Execution]:
    """Returns a network that a field of the config names, and how to run it here."""
    how = config.execution
    conv_fn = make_conv_fn(how.convolution, layout.platform)
    with naming(field):
        network = make_network(name, num_classes, image_shape, conv_fn, dtype=how.dtype)
    return network, make_execution(
        how, network, image_shape, layout, ipc=config.mean_ipc
    )
