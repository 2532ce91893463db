"""The dataset card of a condensed set, a `README.md` for the Hugging Face Hub.

Its front matter is YAML, of which JSON is a part: so names are written as JSON.
https://huggingface.co/docs/hub/datasets-cards
"""

import json
import re
from typing import Any

import numpy as np

from dc_jax.base import SyntheticSet
from dc_jax.config import FACTORS, describe_ipc
from dc_jax.errors import printable
from dc_jax.report.accuracy import spread

# What is told beside pictures of a set with a whitening.
WHITENED = (
    "The condensed images are whitened (ZCA), and so were the test images for the "
    "accuracy. Pictures are not whitened; the matrices are in the formats npz and "
    "safetensors."
)
# The same of a set with soft labels.
SOFT = (
    "Labels are soft: networks learned, for each picture, the probabilities of all "
    "classes. These are `soft_labels` of the table's metadata, in the order of its "
    'rows: `json.loads(pyarrow.parquet.read_schema(FILE).metadata[b"dc_jax"])`. '
    "The column `label` has the class of each picture."
)
# The same of a set whose images were decoded from ones that hold parts.
PARTS = (
    "The set stores {stored} images that hold {factor} x {factor} smaller ones each. "
    "These are the smaller ones, enlarged as networks are trained on them."
)
# Where the table lies beside the card.
TABLE = "data/train-00000-of-00001.parquet"
# The least numbers of rows that the Hub has names for.
_SIZES = {1: "n<1K", 1_000: "1K<n<10K", 10_000: "10K<n<100K", 100_000: "100K<n<1M"}


def make(synthetic_set: SyntheticSet) -> str:
    """Returns the text of the card."""
    recipe = json.loads(synthetic_set.recipe or "{}")
    labels = np.asarray(synthetic_set.labels)
    num, ipc = int((labels >= 0).sum()), describe_ipc((labels >= 0).sum(axis=1))
    source = _line(recipe.get("dataset", "a dataset"))
    each = "image" if ipc == "1" else "images"
    whitened = "" if synthetic_set.whitening is None else f"\n\n{WHITENED}"
    soft = "" if synthetic_set.soft_labels is None else f"\n\n{SOFT}"
    parts = _parts(num, recipe.get("decoded_factor"))
    title = f"{source}, condensed to {ipc} {each} per class"
    return f"""---
{_front_matter(title, synthetic_set.class_names, num)}
---

# {_escaped(title)}

{num} images of {len(labels)} classes that stand for {_escaped(source)}: networks that
are trained on them from scratch learn much of what they would learn from the whole
dataset. Made with dc_jax{_method(recipe)}.{parts}

```python
import datasets

datasets.load_dataset("parquet", data_files="{TABLE}")
```

{_training(recipe)}{soft}{whitened}

The images are pictures of 8 bits per channel: the condensed images, de-normalised,
clipped and rounded. Normalise them, and test images, with
`(pixels / 255 - mean) / std`:

| | |
|---|---|
| mean | {_numbers(synthetic_set.mean)} |
| std | {_numbers(synthetic_set.std)} |

The licence is that of the dataset that was condensed; it is not known here.
"""


def _parts(num: int, factor: Any) -> str:
    """Returns what is told of decoded images. Files of strangers have any factor."""
    if factor not in FACTORS[1:]:
        return ""
    return f"\n\n{PARTS.format(stored=num // factor**2, factor=factor)}"


def _front_matter(title: str, class_names: tuple[str, ...], num: int) -> str:
    size = [name for least, name in _SIZES.items() if num >= least][-1]
    names = "\n".join(
        f"          '{label}': {_quoted(name)}"
        for label, name in enumerate(class_names)
    )
    return f"""pretty_name: {_quoted(title)}
task_categories:
- image-classification
size_categories:
- {size}
tags:
- dataset-condensation
- dataset-distillation
dataset_info:
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names:
{names}
  splits:
  - name: train
    num_examples: {num}
configs:
- config_name: default
  data_files:
  - split: train
    path: {TABLE}"""


def _method(recipe: dict[str, Any]) -> str:
    return f", method `{_line(recipe['method'])}`" if "method" in recipe else ""


def _training(recipe: dict[str, Any]) -> str:
    """Returns how networks are trained on the set, and how good they are."""
    words = recipe.get("training_in_words")
    text = "How to train on them is not known."
    if words:
        text = f"Training: {_escaped(_line(words))}."
    mean, std = (recipe.get(f"accuracy_{name}") for name in ("mean", "std"))
    if all(isinstance(value, int | float) for value in (mean, std)):
        num = recipe.get("num_evaluations")
        networks = "one network" if num == 1 else f"{_line(num or 'several')} networks"
        text += (
            f" On the exact images, not their pictures, {networks} reached "
            f"{mean:.1%}{spread(std, num)} on the test split."
        )
    return text


def _quoted(text: str) -> str:
    """Returns a text as JSON that YAML reads, which has fewer characters."""
    quoted = json.dumps(text, ensure_ascii=False)
    return re.sub("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", _escape, quoted)


def _escape(match: re.Match) -> str:
    return f"\\u{ord(match[0]):04x}"


def _numbers(values: Any) -> str:
    return ", ".join(f"{value:.4f}" for value in np.asarray(values))


def _line(value: Any) -> str:
    """Returns a value, which may be anybody's, as one short line."""
    return printable(" ".join(str(value).split()))[:300]


def _escaped(text: str) -> str:
    """Returns a text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~-])", r"\\\1", text)
