"""How the algorithm is run on a backend; nothing here changes what is computed."""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dc_jax.config import ExecutionConfig
from dc_jax.devices.layout import ONE_DEVICE, Layout
from dc_jax.errors import UserError

# The kind of random keys of every run.
KEYS = "threefry2x32"
# Networks, or classes, whose activations are held at once by `vmap`.
_MAX_AT_ONCE = 10


def batched(function: Callable[..., Any], loop: str) -> Callable[..., Any]:
    """Runs a function over the leading axis of its arguments.

    The loop is `vmap`, a few at once, or `map`, one after another. The latter is faster
    where vmapped networks make grouped convolutions, as on a CPU.
    """

    def run(*args):
        num = jax.tree.leaves(args)[0].shape[0]
        if loop == "vmap" and num <= _MAX_AT_ONCE:
            return jax.vmap(function)(*args)
        batch_size = _MAX_AT_ONCE if loop == "vmap" else None
        return jax.lax.map(lambda one: function(*one), args, batch_size=batch_size)

    return run


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
# of 28x28 in slices of 4, and 0.55 s in slices of 8. Elsewhere the bound is memory.
_CPU_SLICE_BYTES, _SLICE_BYTES = 2**21, 2**27


@dataclasses.dataclass(frozen=True)
class Execution:
    """How to run a network."""

    network_loop: str  # `vmap` or `map`, how an axis of networks is run.
    slice_size: int  # Images whose activations are held at once.
    layout: Layout = ONE_DEVICE
    class_loop: str = "map"  # The same for the axis of classes.


def make_execution(
    config: ExecutionConfig,
    network: nn.Module,
    image_shape: tuple[int, int, int],
    layout: Layout,
) -> Execution:
    """Returns what the config says, and the backend's better choice where it is None.

    `image_shape` is (H, W, D).
    """
    backend = layout.platform
    # Measured: on an H100 `map` takes a third of the time of `vmap`, see
    # docs/performance.md. TPUs are not measured.
    loop = config.network_loop or ("vmap" if backend == "tpu" else "map")
    # On an H100 an outer step took a quarter less time with its classes at once. With
    # native convolutions it would take longer, and on a CPU it does.
    is_gpu = backend == "gpu" and config.convolution in (None, "mapped")
    class_loop = config.class_loop or ("vmap" if is_gpu else "map")
    slice_size = config.slice_size
    if slice_size is None:
        budget = _CPU_SLICE_BYTES if backend == "cpu" else _SLICE_BYTES
        slice_size = max(1, budget // _largest_activation(network, image_shape))
    return Execution(loop, slice_size, layout, class_loop)


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


def use_compilation_cache(config: ExecutionConfig) -> None:
    """Lets JAX keep compiled programs in the config's folder, if it has one.

    To be called before anything is compiled. JAX looks programs up by all that goes
    into them, also its version and the instructions that a CPU has.

    Raises:
      UserError: the folder cannot be made or written.
    """
    if config.compilation_cache is None:
        return
    folder = os.path.abspath(os.path.expanduser(config.compilation_cache))
    try:
        os.makedirs(folder, exist_ok=True)
        # JAX would only warn, once for each program.
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(
            "config.execution.compilation_cache must be a folder that can be written, "
            f"got '{config.compilation_cache}' ({error.strerror})."
        ) from error
    jax.config.update("jax_compilation_cache_dir", folder)
    # By default JAX keeps only what takes a second or more to compile.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def _largest_activation(network: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Returns the bytes of the largest activation of one image in float32."""

    def activations(key: jax.Array):
        image = jnp.zeros((1, *image_shape))
        capture = {"capture_intermediates": True, "mutable": ["intermediates"]}
        return network.apply(network.init(key, image), image, **capture)

    shapes = jax.eval_shape(activations, jax.random.key(0))
    return 4 * max(leaf.size for leaf in jax.tree.leaves(shapes))
