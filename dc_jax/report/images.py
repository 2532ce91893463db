"""The parts of a report that show images: sets, their evolution, their neighbours."""

import collections

import numpy as np

from dc_jax.base import SyntheticSet
from dc_jax.report import kept
from dc_jax.report.files import Files
from dc_jax.report.markup import figure, image, section, text
from dc_jax.sets.image_grid import tile, to_png
from dc_jax.sets.set_file import to_pixels

_COLUMNS = 5  # Images in a line: as many as a phone has room for.
_IMAGE = 64  # Pixels of the page that an image is enlarged to, by a whole factor.
_SINGLE = 96  # The same of a class's only image.


def of_sets(run: Files) -> str:
    """Returns the images of all sets, those after the first folded away."""
    kind = "Condensed images"
    if run.sets and run.sets[0].indices is not None:
        kind = "Chosen images"
    parts = []
    for experiment, synthetic in enumerate(run.sets):
        which = (
            f", set {experiment + 1} of {len(run.sets)}" if len(run.sets) > 1 else ""
        )
        body = _of_set(synthetic)
        if experiment:
            summary = f"<summary>{kind}{which}</summary>"
            parts.append(f"<details>{summary}{body}</details>")
        else:
            parts.append(section(f"{kind}{which}", body))
    return "".join(parts)


def _of_set(synthetic: SyntheticSet) -> str:
    pixels, is_image = _shown_pixels(synthetic), synthetic.labels >= 0
    is_shown = is_image[: len(pixels), : pixels.shape[1]]
    ipc = synthetic.labels.shape[1]
    figures = [
        figure(
            _picture(of_class[keep][None], ipc, f"Images of class {name}"), text(name)
        )
        for of_class, keep, name in zip(
            pixels, is_shown, synthetic.class_names, strict=False
        )
    ]
    some, num = is_shown.sum(), is_image.sum()
    note = "" if some == num else f'<p class="soft">{some} of {num} images.</p>'
    return f'{note}<div class="classes">{"".join(figures)}</div>'


def _shown_pixels(synthetic: SyntheticSet) -> np.ndarray:
    """Returns the images of a set that are shown, `[c, i, H, W, D]` uint8."""
    return to_pixels(
        kept.shown(np.asarray(synthetic.images)), synthetic.mean, synthetic.std
    )


def _picture(pixels: np.ndarray, ipc: int, alt: str) -> str:
    """Returns images `[c, i, H, W, D]`, of a set with so many a class, as a picture."""
    scale = _scale(max(pixels.shape[2:4]), _SINGLE if ipc == 1 else _IMAGE)
    picture = tile(pixels, _COLUMNS)
    height, width = picture.shape[:2]
    return image(to_png(picture), alt, (width * scale, height * scale))


def _scale(size: int, aim: int) -> int:
    """Returns by how much an image of so many pixels is enlarged."""
    return max(aim // max(size, 1), 1)


def evolution(run: Files) -> str:
    """Returns a slider over the images of the first set after some iterations.

    The last are those of the set itself.
    """
    frames = dict(run.snapshots)
    if run.sets and "iterations" in run.accuracy:
        first = run.sets[0]
        frames[run.accuracy["iterations"]] = kept.snapshot(first)
    if len(frames) < 2:
        return ""
    last, rows, note = max(frames), "", ""
    size = (kept.size_of(frames[last])[0] + 1) // kept.ROW - 1
    if run.sets:
        shape = kept.shown(np.asarray(run.sets[0].images), kept.SNAPSHOT).shape
        names, size = run.sets[0].class_names[: shape[0]], max(shape[2:4])
        if shape[1] == 1:
            note = f'<p class="soft">Row by row: {text(", ".join(names))}.</p>'
        else:
            items = "".join(f"<li>{text(name)}</li>" for name in names)
            rows = f'<ol aria-label="Rows">{items}</ol>'
    pictures = []
    for iteration, png in sorted(frames.items()):
        width, height = (_scale(size, _IMAGE) * length for length in kept.size_of(png))
        attributes = f' data-iteration="{iteration}"'
        attributes += "" if iteration == last else " hidden"
        alt = f"The images after {iteration} iterations"
        pictures.append(image(png, alt, (width, height), attributes))
    return section(
        "How the images came about",
        f'{_slider(len(frames), last)}{note}<div class="evolution">{rows}'
        f"<div>{''.join(pictures)}</div></div>",
    )


def _slider(num: int, last: int) -> str:
    return (
        '<div class="slider"><label for="iteration">Iterations</label>'
        f'<input id="iteration" type="range" min="0" max="{num - 1}" '
        f'value="{num - 1}"><output for="iteration">after {last} iterations</output>'
        "</div>"
    )


def neighbours(run: Files) -> str:
    """Returns the images of the first set, each above the nearest training image."""
    found = run.neighbours
    if found is None or not run.sets:
        return ""
    synthetic = run.sets[0]
    names = synthetic.class_names
    pixels = _shown_pixels(synthetic)
    # Those of another set of this folder.
    if pixels.shape != found.pixels.shape or found.labels.max() >= len(names):
        return ""
    figures = []
    for label, name in enumerate(names[: len(pixels)]):
        some = slice(0, min(_COLUMNS, int(np.sum(synthetic.labels[label] >= 0))))
        both = np.stack([pixels[label, some], found.pixels[label, some]])
        alt = f"Above images of class {name}, below the nearest training images"
        tile = _picture(both, synthetic.labels.shape[1], alt)
        classes = _count([names[c] for c in found.labels[label, some]])
        distance = found.distances[label, some].mean()
        measure = "distance" if len(both[0]) == 1 else "mean distance"
        caption = f"{text(name)}; nearest: {text(classes)}"
        caption += f'<br><span class="soft">{measure} {distance:.2f}</span>'
        figures.append(figure(tile, caption))
    return section(
        "The nearest training images",
        "<p>Below each image the one of all training images whose pixels are nearest, "
        "and its class. The distance is the root of the mean squared difference, where "
        "the range of a pixel is 1.</p>"
        f'<div class="classes">{"".join(figures)}</div>',
    )


def _count(names: list[str]) -> str:
    """Returns the names, the most frequent first, with their numbers."""
    counts = collections.Counter(names).most_common()
    if len(counts) == 1:
        return names[0]
    return ", ".join(f"{name} ({number})" for name, number in counts)
