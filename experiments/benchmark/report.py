"""Makes the tables and the plot of a benchmark from the records of its JSON lines."""

from pathlib import Path
from typing import Any

from experiments.benchmark.cases import Case
from experiments.sweep.tables import markdown

Record = dict[str, Any]

_AXIS_LABELS = {
    "ipc": "images per class",
    "classes": "classes",
    "networks": "networks",
    "side": "rows and columns of an image",
}
_SIZES = ("dataset", "ipc", "networks", "experiments")
_SIZE_LABELS = ("dataset", "images per class", "networks", "experiments")


def write(records: list[Record], folder: Path) -> str:
    """Writes the tables to `benchmark.md`, and the plot; returns the tables."""
    sections = [_machine(records)]
    if rows := _of(records, growth=None):
        sections += [_times(rows, records), _programs(rows)]
    if rows := [r for r in records if r["measurement"] in ("failed", "left_out")]:
        sections.append("Not measured.\n\n" + _reasons(rows))
    if any(record["measurement"] == "startup" for record in records):
        sections.append(_startup(records))
    if any(record.get("growth") for record in records):
        sections.append(_growth(records))
        _plot(records, folder / "growth.png")
    text = "\n\n".join(sections) + "\n"
    (folder / "benchmark.md").write_text(text, "utf-8")
    return text


def _of(records: list[Record], growth: str | None) -> list[Record]:
    """Returns the records of workloads, each with its ratio and its case's work."""
    found = []
    for record in records:
        if record["measurement"] == "workload" and record["growth"] == growth:
            same = [
                other
                for other in records
                if other.get("growth") == growth and _case(other) == _case(record)
            ]
            found.append(record | _ratio(same, record["system"]) | _work(same))
    return found


def _case(record: Record) -> tuple[Any, ...]:
    names = Case.__dataclass_fields__
    return tuple(record.get(name) for name in names)


def _ratio(same: list[Record], system: str) -> Record:
    for record in same:
        if record["measurement"] == "ratio" and record["system"] == system:
            return {"ratio": record["median_of_ratios"]}
    return {"ratio": None}


def _work(same: list[Record]) -> Record:
    """Returns the work of the direct algorithm in float32, which dc_jax counts."""
    for record in same:
        if record.get("direct_flops") and record["products"] != "bfloat16":
            return {name: record[name] for name in ("direct_flops", "direct_bytes")}
    return {"direct_flops": None, "direct_bytes": None}


def _peaks(records: list[Record]) -> dict[str, float]:
    """Returns what the whole device did per second, by the name of a peak."""
    return {
        record["workload"]: record["per_second"]
        for record in records
        if record["measurement"] == "peak" and record["cores"] is None
    }


def _machine(records: list[Record]) -> str:
    machine = next(r for r in records if r["measurement"] == "machine")
    versions = dict(machine["versions"])
    for record in records:
        if record.get("system", "").startswith("pytorch") and "version" in record:
            versions["torch"] = record["version"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; "
        + (f"{machine['gpu']}; " if machine.get("gpu") else "")
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f". Load average before: {machine['load_average']}. {machine['time']}."
    ]
    lines += [_peak(r) for r in records if r["measurement"] == "peak"]
    return "\n".join(lines)


def _peak(record: Record) -> str:
    rate = _number(record["per_second"] / 1e9)
    best = f"the best of {len(record['seconds'])}"
    if record["workload"] == "copy":
        return f"Copy of {record['copy_mib']} MiB in JAX: {rate} GB/s, {best}."
    kind = record["workload"].removeprefix("matmul_")
    where = " on one core" if record["cores"] == 1 else ""
    size = f"{record['matrix']}x{record['matrix']}"
    return f"Product of {size} {kind} matrices in JAX{where}: {rate} GFLOP/s, {best}."


def _times(rows: list[Record], records: list[Record]) -> str:
    peaks = _peaks(records)
    copy = peaks.get("copy")
    lines = []
    for row in rows:
        flops, moved = (_rate(row, name) for name in ("direct_flops", "direct_bytes"))
        products = peaks.get(f"matmul_{row['products']}")
        # What moves has half the size in bfloat16.
        if moved and row["products"] == "bfloat16":
            moved /= 2
        lines.append(
            [
                *_names(row),
                *(row["system"], _spread(row), _number(row["ratio"])),
                *(_number(flops and flops / 1e9), _share(flops, products)),
                *(_number(moved and moved / 1e9), _share(moved, copy)),
            ]
        )
    header = [
        *("workload", *_SIZE_LABELS, "system", "ms", "times dc_jax's"),
        *("direct GFLOP/s", "of the product's", "direct GB/s", "of the copy's"),
    ]
    return _TIMES_NOTE + "\n\n" + markdown(header, lines)


_TIMES_NOTE = """\
Milliseconds per run: median (minimum to maximum); and the median of the ratios of turns
to dc_jax's. GFLOP are those of the direct algorithm without its products with padding,
and GB what these products read and write; all between them counts as fused into them.
dc_jax uses Winograd's algorithm for 3x3 convolutions on a CPU, which multiplies 2.25
times less often, so a share may exceed what direct convolutions can reach."""


def _programs(rows: list[Record]) -> str:
    lines = [
        [
            *_names(row),
            *(row["system"], row["products"], _number(row["compile_seconds"])),
            *(_mib(row.get(f"{name}_bytes")) for name in (*_BUFFERS, "device_peak")),
            _resident(row),
        ]
        for row in rows
    ]
    header = [
        *("workload", *_SIZE_LABELS, "system", "products", "compile, s"),
        *(f"{name}, MiB" for name in (*_BUFFERS, "GPU")),
        "resident, MiB",
    ]
    return _PROGRAMS_NOTE + "\n\n" + markdown(header, lines)


_BUFFERS = ("temporary", "argument", "output")
_PROGRAMS_NOTE = """\
Programs are compiled without a cache; for torch.compile these are the first two runs.
Buffers are those of the compiled program. GPU is the peak of what the process has
allocated there, and resident its memory on the host: the peak while running, including
what compilation left behind (and since its start)."""


def _reasons(rows: list[Record]) -> str:
    lines = [[*_names(row), row.get("system", "all"), row["error"]] for row in rows]
    return markdown(["workload", *_SIZE_LABELS, "system", "why"], lines)


def _startup(records: list[Record]) -> str:
    rows = [
        [record["what"], _spread(record)]
        for record in records
        if record["measurement"] == "startup"
    ]
    return "Start of the program.\n\n" + markdown(["to", "ms"], rows)


def _growth(records: list[Record]) -> str:
    lines = [
        [
            *(axis, row[axis], row["system"], _spread(row)),
            *(_number(row["ratio"]), _resident(row)),
        ]
        for axis in _axes(records)
        for row in _of(records, axis)
    ]
    header = ["of", "value", "system", "ms", "times dc_jax's", "resident, MiB"]
    return "Growth of an outer step.\n\n" + markdown(header, lines)


def _axes(records: list[Record]) -> list[str]:
    return list(dict.fromkeys(r["growth"] for r in records if r.get("growth")))


def _plot(records: list[Record], path: Path) -> None:
    """Draws the seconds of an outer step against each axis."""
    # Imported here because only a benchmark of growth needs it.
    from matplotlib.figure import Figure

    axes = _axes(records)
    figure = Figure(figsize=(3 * len(axes), 2.8), layout="constrained")
    plots = figure.subplots(1, len(axes), squeeze=False)[0]
    for axis, plot in zip(axes, plots, strict=True):
        rows = _of(records, axis)
        for system in dict.fromkeys(row["system"] for row in rows):
            measured = [row for row in rows if row["system"] == system]
            plot.plot(
                [row[axis] for row in measured],
                [row["median"] for row in measured],
                *("o-",),
                label=system,
            )
        plot.set(xlabel=_AXIS_LABELS[axis], ylim=(0, None))
        plot.grid(alpha=0.3)
    plots[0].set_ylabel("seconds per outer step")
    plots[0].legend()
    figure.savefig(path, dpi=120)


def _names(record: Record) -> list[Any]:
    values = [record[name] for name in _SIZES]
    if record["workload"] == "test_10k":
        values[1] = "–"  # It does not depend on the synthetic images.
    return [record["workload"], *values]


def _rate(row: Record, name: str) -> float | None:
    return row[name] / row["median"] if row[name] else None


def _share(rate: float | None, peak: float | None) -> str:
    return f"{100 * rate / peak:.0f} %" if rate and peak else "–"


def _spread(record: Record) -> str:
    low, middle, high = (
        _number(1000 * record[name]) for name in ("min", "median", "max")
    )
    return f"{middle} ({low} to {high})"


def _resident(record: Record) -> str:
    if record.get("peak_mib") is None:
        return "–"
    return f"{record['peak_running_mib']:.0f} ({record['peak_mib']:.0f})"


def _mib(size: int | None) -> str:
    return _number(size and size / 2**20)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
