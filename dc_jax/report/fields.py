"""The fields of JSON files that the report reads, and the kind of each value.

A kind is one of these:
  `object`: any value;
  another type: a value of this type; numbers are finite;
  `[kind]`: a list of one or more values; lists in it have the same length;
  `(kind, kind)`: a value of either kind;
  a dict of kinds: a dict with these fields and any others. A field "name?" may be
    missing, and "*" is the kind of all fields that are not named.
"""

from typing import Any

_NUMBER = int | float

_ACCURACY = {"accuracy_mean": _NUMBER, "accuracy_std": _NUMBER}
_SUMMARY = _ACCURACY | {"num_experiments": int, "num_evaluations": int}
CONFIG = {
    "method": str,
    "seed": object,
    "ipc": (int, [int]),
    "eval_every?": int | None,
    "dataset": {"name": str, "path?": str | None},
    "network": {"name": object},
    "evaluation": {},
}
CARD = {
    "config": CONFIG,
    "accuracy": _SUMMARY
    | {
        "own_protocol?": _SUMMARY,
        "training_images?": int,
        "iterations?": int,
        "seconds?": _NUMBER,
        "accuracies_on_the_way?": [[_NUMBER]],
    },
    "dataset": {
        "source": object,
        "checksum": object,
        "num_train": int,
        "num_test": int,
        "num_classes": int,
        "image_shape": [int],
    },
    "created": object,
    "protocol": {},
    "versions": {},
    "command": str,
}
# Of each line.
METRICS = {
    "iteration": int,
    "loss?": _NUMBER,
    "layers?": {"*": _NUMBER},
    "accuracy_mean?": _NUMBER,
    "accuracy_std?": _NUMBER,
}
EVALUATION = _ACCURACY | {"set": object, "protocol": {"network": object}}


def find_fault(value: Any, kind: Any, name: str = "the value") -> str | None:
    """Returns why a value is not of a kind, None if it is.

    Args:
      value: read from JSON.
      kind: see above.
      name: of the value, for the text that is returned.
    """
    if kind is object:
        return None
    if isinstance(kind, tuple):
        faults = [find_fault(value, one, name) for one in kind]
        return None if None in faults else faults[0]
    if isinstance(kind, dict) and isinstance(value, dict):
        return _find_fault_in_dict(value, kind, name)
    if isinstance(kind, list) and isinstance(value, list):
        lengths = {len(one) for one in value if isinstance(one, list)}
        if not value or len(lengths) > 1:
            return f"{name} is empty or ragged"
        return next(filter(None, (find_fault(v, kind[0], name) for v in value)), None)
    if isinstance(kind, dict | list) or not isinstance(value, kind):
        return f"{name} is a {type(value).__name__}"
    # This leaves out NaN and infinity, and keeps sums and multiples finite.
    if isinstance(value, int | float) and not abs(value) < 1e300:
        return f"{name} is not finite"
    return None


def _find_fault_in_dict(value: dict, kind: dict, name: str) -> str | None:
    for key in kind:
        if not key.endswith(("?", "*")) and key not in value:
            return f"{name} has no {key}"
    for key, one in value.items():
        expected = kind.get(key, kind.get(f"{key}?", kind.get("*", object)))
        if fault := find_fault(one, expected, key):
            return fault
    return None
