"""A condensed set as pictures for other programs: parquet, folders of several kinds.

Pictures are de-normalised, clipped to [0, 1] and rounded to 8 bits per channel.
Networks trained on them do not see exactly the condensed images.

Every writer raises a `UserError` if the images are neither grey nor RGB, or a package
is missing.
"""

import contextlib
import io
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dc_jax.base import SyntheticSet, flatten_set
from dc_jax.errors import UserError, load_package, printable
from dc_jax.files.content import write_atomically, write_json
from dc_jax.sets import hub_card
from dc_jax.sets.image_grid import to_png
from dc_jax.sets.set_file import set_pixels

# The file in a folder with the facts that a picture cannot hold.
_NOTE = "dc_jax.json"
# Longer names are cut: 50 characters of UTF-8 are below the 255 bytes of a file name.
_MAX_NAME = 50


def _describe(synthetic_set: SyntheticSet) -> dict[str, Any]:
    """Returns all but images and classes of a set, as types of JSON."""
    soft_labels = synthetic_set.soft_labels
    if soft_labels is not None:  # In the order of the pictures.
        flat, _ = flatten_set(np.asarray(soft_labels), np.asarray(synthetic_set.labels))
        soft_labels = np.round(flat.astype(np.float64), 6).tolist()
    zca = {} if synthetic_set.whitening is None else {"zca": hub_card.WHITENED}
    return {
        "class_names": list(synthetic_set.class_names),
        "mean": np.asarray(synthetic_set.mean).tolist(),
        "std": np.asarray(synthetic_set.std).tolist(),
        "normalise": "(pixels / 255 - mean) / std",
        "recipe": json.loads(synthetic_set.recipe or "null"),
        **zca,
        **({} if soft_labels is None else {"soft_labels": soft_labels}),
    }


def folder_names(class_names: Sequence[str]) -> list[str]:
    """Returns a name for the folder of each class, in the order of the labels.

    Every character but letters, digits, spaces and `-_.` becomes `_`. Readers number
    the classes in alphabetical order of their folders. Where that would change the
    order, or two names would be the same, or one is that of our own file in the same
    folder, each begins with the number of its class.
    """
    names = [
        re.sub(r"[^\w .-]", "_", name)[:_MAX_NAME].strip(" .") or "_"
        for name in class_names
    ]
    are_different = len({_NOTE, *(name.casefold() for name in names)}) > len(names)
    if are_different and names == sorted(names):
        return names
    width = len(str(len(names) - 1))
    return [f"{number:0{width}}_{name}" for number, name in enumerate(names)]


def write_folder(synthetic_set: SyntheticSet, path: str) -> None:
    """Writes `CLASS/NUMBER.png`, and a file with what a picture cannot hold."""
    names = folder_names(synthetic_set.class_names)
    for name in names:
        os.makedirs(os.path.join(path, name))
    pngs, labels = _pngs(synthetic_set)
    width = len(str(len(pngs) - 1))
    for number, (png, label) in enumerate(zip(pngs, labels, strict=True)):
        Path(path, names[label], f"{number:0{width}}.png").write_bytes(png)
    note = {"folders": names, **_describe(synthetic_set)}
    write_json(os.path.join(path, _NOTE), note)


def write_parquet(synthetic_set: SyntheticSet, path: str) -> None:
    """Writes one table with the columns `image`, a PNG, and `label`.

    Its metadata tell Hugging Face `datasets` that they are `Image` and `ClassLabel`.
    """
    write_atomically(path, _to_parquet(synthetic_set))


def write_huggingface(synthetic_set: SyntheticSet, path: str) -> None:
    """Writes a folder for the Hugging Face Hub: the table and a dataset card."""
    os.makedirs(os.path.join(path, "data"))
    write_atomically(os.path.join(path, hub_card.TABLE), _to_parquet(synthetic_set))
    card = hub_card.make(synthetic_set)
    write_atomically(os.path.join(path, "README.md"), card.encode("utf-8"))


def _to_parquet(synthetic_set: SyntheticSet) -> bytes:
    """Returns the file of `write_parquet`."""
    pa = load_package("pyarrow", "formats")
    parquet = load_package("pyarrow.parquet", "formats")
    pngs, labels = _pngs(synthetic_set)
    images = [{"bytes": png, "path": None} for png in pngs]
    features = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": list(synthetic_set.class_names)},
    }
    metadata = {
        "huggingface": json.dumps({"info": {"features": features}}),
        "dc_jax": json.dumps(_describe(synthetic_set)),
    }
    picture = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema({"image": picture, "label": pa.int64()}, metadata=metadata)
    buffer = io.BytesIO()
    parquet.write_table(pa.table({"image": images, "label": labels}, schema), buffer)
    return buffer.getvalue()


def line_names(class_names: Sequence[str]) -> list[str]:
    """Returns a name of one line for each class, in the order of the labels.

    TFDS keeps a name a line, without spaces around it. If two names would be the same,
    each begins with the number of its class.
    """
    names = [printable(" ".join(name.split())) or "_" for name in class_names]
    if len(set(names)) == len(names):
        return names
    return [f"{number} {name}" for number, name in enumerate(names)]


def write_tfds(synthetic_set: SyntheticSet, path: str) -> None:
    """Writes a data folder of TFDS with the dataset `synthetic_set`, split `train`."""
    # Set before TensorFlow is imported, which otherwise prints a page of warnings.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    load_package("tensorflow", "prepare")
    import tensorflow_datasets as tfds

    pngs, labels = _pngs(synthetic_set)
    examples = [
        {"image": io.BytesIO(png), "label": label}
        for png, label in zip(pngs, labels, strict=True)
    ]
    shape = synthetic_set.images.shape[2:]
    features = {
        "image": tfds.features.Image(shape=shape, encoding_format="png"),
        "label": tfds.features.ClassLabel(names=line_names(synthetic_set.class_names)),
    }
    tfds.disable_progress_bar()
    # TFDS prints the path it writes to, which is not the final one.
    with contextlib.redirect_stdout(io.StringIO()):
        builder = tfds.dataset_builders.store_as_tfds_dataset(
            name="synthetic_set",
            version="1.0.0",
            features=tfds.features.FeaturesDict(features),
            split_datasets={"train": list(enumerate(examples))},
            data_dir=path,
            description="A condensed dataset: a few synthetic images per class.",
            disable_shuffling=True,
        )
    shutil.rmtree(os.path.join(path, "downloads"), ignore_errors=True)
    write_json(builder.data_path / _NOTE, _describe(synthetic_set))


def _pngs(synthetic_set: SyntheticSet) -> tuple[list[bytes], list[int]]:
    """Returns the images as PNGs, and their labels."""
    channels = synthetic_set.images.shape[-1]
    if channels not in (1, 3):
        raise UserError(
            f"images have {channels} channels, pictures must have 1 or 3: choose the "
            "format npz or safetensors."
        )
    labels = np.asarray(synthetic_set.labels)
    pixels, labels = flatten_set(set_pixels(synthetic_set), labels)
    return [to_png(image) for image in pixels], labels.tolist()
