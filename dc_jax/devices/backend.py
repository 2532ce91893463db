"""How the algorithm is run on a backend; nothing here changes what is computed."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dc_jax.config import ExecutionConfig
from dc_jax.devices.layout import ONE_DEVICE, Layout

# The kind of random keys of every run.
KEYS = "threefry2x32"


def batched(function: Callable[..., Any], loop: str) -> Callable[..., Any]:
    """Runs a function over the leading axis of its arguments.

    The loop is `vmap`, all at once; `map`, one after another; or `chunk:N`, N at once.
    """

    def run(*args):
        num = jax.tree.leaves(args)[0].shape[0]
        size = num if loop == "vmap" else _chunk_size(loop, num)
        # One alone is not vmapped either: convolutions would have groups.
        if size == num > 1:
            return jax.vmap(function)(*args)
        batch_size = None if size == 1 else size
        return jax.lax.map(lambda one: function(*one), args, batch_size=batch_size)

    return run


def _chunk_size(loop: str, num: int) -> int:
    """Returns how many of `num` run at once."""
    most = 1 if loop == "map" else int(loop.removeprefix("chunk:"))
    fewest = -(-num // most)
    for chunks in range(fewest, 2 * fewest):
        if num % chunks == 0:  # Otherwise the rest is a second program.
            return num // chunks
    return -(-num // fewest)


def fold_slices(
    function: Callable[[Any, Any], Any], carry: Any, xs: Any, size: int
) -> Any:
    """Folds `carry = function(carry, slice)` over consecutive slices of `xs`.

    Returns the last carry. `xs` are arrays of one length n along axis 0; the last slice
    is smaller where n is no multiple of `size`.
    """
    n = jax.tree.leaves(xs)[0].shape[0]
    full, rest = divmod(n, size)
    if full > 1:
        whole = jax.tree.map(lambda x: x[: full * size], xs)
        slices = jax.tree.map(lambda x: x.reshape(full, size, *x.shape[1:]), whole)
        carry, _ = jax.lax.scan(lambda c, x: (function(c, x), None), carry, slices)
    elif full == 1:
        carry = function(carry, jax.tree.map(lambda x: x[:size], xs))
    if rest:
        carry = function(carry, jax.tree.map(lambda x: x[full * size :], xs))
    return carry


# The largest activation of a slice of images, in bytes. On a CPU a slice should stay in
# its cache: two cores took 0.42 s for the gradient of the paper's ConvNet on 256 images
# of 28x28 in slices of 4, and 0.55 s in slices of 8. The compiler for a TPU v5e counts
# a quarter fewer cycles for slices of 64 images of 32x32 pixels than of 256. On a GPU
# the bound is memory.
_SLICE_BYTES = {"cpu": 2**21, "gpu": 2**27, "tpu": 2**25}
# The memory that the classes which run at once may need together, in bytes.
_CLASS_BYTES = 2**33
# How many largest activations a class needs, for each image of a slice and for each
# synthetic image. Compiled for an H100, a class of 10 images needs 0.3 GiB.
_PER_SLICE_IMAGE, _PER_SYNTHETIC_IMAGE = 2, 20


@dataclasses.dataclass(frozen=True)
class Execution:
    """How to run a network."""

    # How an axis of networks or of experiments is run, see `batched`.
    network_loop: str
    slice_size: int  # Images whose activations are held at once.
    layout: Layout = ONE_DEVICE
    class_loop: str = "map"  # The same for the axis of classes.
    precision: str = "default"  # Of products in float32, see `jax.lax.Precision`.


def make_execution(
    config: ExecutionConfig,
    network: nn.Module,
    image_shape: tuple[int, int, int],
    layout: Layout,
    *,
    ipc: int,
) -> Execution:
    """Returns what the config says, and the backend's better choice where it is None.

    Args:
      image_shape: (H, W, D).
      ipc: synthetic images per class.
    """
    activation = _largest_activation(network, image_shape)
    slice_size = config.slice_size or max(
        1, _SLICE_BYTES[layout.platform] // activation
    )
    class_loop = config.class_loop
    if class_loop is None:
        # On an H100 an outer step took a quarter less time with its classes at once.
        # With native convolutions it would take longer, and on a CPU it does.
        is_gpu = layout.platform == "gpu" and config.convolution in (None, "mapped")
        images = _PER_SLICE_IMAGE * slice_size + _PER_SYNTHETIC_IMAGE * ipc
        most = max(1, _CLASS_BYTES // (images * activation))
        class_loop = f"chunk:{most}" if is_gpu else "map"
    return Execution(
        # Faster on a CPU, and on an H100, where it took a third of the time of `vmap`.
        config.network_loop or "map",
        slice_size,
        layout,
        class_loop,
        config.precision,
    )


@contextlib.contextmanager
def fixed_numerics() -> Iterator[None]:
    """Fixes the float type and the kind of keys, whatever the environment says.

    `JAX_ENABLE_X64` and `JAX_DEFAULT_PRNG_IMPL` would silently give other images.
    """
    with (
        jax.enable_x64(False),
        jax.default_prng_impl(KEYS),
        jax.threefry_partitionable(True),
    ):
        yield


def compiler_options(layout: Layout) -> dict[str, Any] | None:
    """Returns what XLA is told when a program is compiled for this backend."""
    if layout.platform != "cpu":
        return None
    return {
        # Several devices leave no core for more threads.
        "xla_cpu_multi_thread_eigen": layout.mesh is None,
        # Where the processor has them: a sixth less time on AVX-512.
        "xla_cpu_prefer_vector_width": 512,
    }


def _largest_activation(network: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Returns the bytes of the largest activation of one image in float32."""

    def activations(key: jax.Array):
        image = jnp.zeros((1, *image_shape))
        capture = {"capture_intermediates": True, "mutable": ["intermediates"]}
        return network.apply(network.init(key, image), image, **capture)

    shapes = jax.eval_shape(activations, jax.random.key(0))
    return 4 * max(leaf.size for leaf in jax.tree.leaves(shapes))
