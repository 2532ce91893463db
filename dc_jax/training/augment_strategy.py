"""What a strategy of augmentation is: the names of operations, joined by `_`."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from dc_jax.errors import UserError


class Operation(NamedTuple):
    """One kind of change to an image.

    Drawing is separate from applying: the same draws can change several images, and
    gradients flow through `apply`, a pure function of the image.
    """

    draw: Callable[[jax.Array, tuple[int, ...]], Any]  # (key, image_shape) -> drawn
    # (image, drawn, mean) -> image, where the mean `[D]` is that of the batch; Siamese
    # augmentation needs none and passes None.
    apply: Callable[[jax.Array, Any, jax.Array | None], jax.Array]


def parse(
    strategy: str, families: Mapping[str, Mapping[str, Operation]]
) -> tuple[Operation, ...]:
    """Returns the operations that a strategy names; none for `none`.

    The strategy is the prefix of a family, then `none` or names joined by `_`. The
    families are operations by name, by prefix; the one with an empty prefix is first.

    Raises:
      UserError: the strategy names something that is not an operation of its family.
    """
    prefix = max((p for p in families if strategy.startswith(p)), key=len)
    operations = families[prefix]
    text = strategy.removeprefix(prefix)
    names = () if text == "none" else text.split("_")
    if not set(names) <= set(operations):
        first, *others = families.items()
        allowed = f"some of {', '.join(first[1])} joined by '_'"
        for other, known in others:
            allowed += f", or '{other}' and some of {', '.join(known)}"
        raise UserError(
            f"augmentation strategy must be 'none' or {allowed}, got {strategy!r}."
        )
    return tuple(operations[name] for name in names)
