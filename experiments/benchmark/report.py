"""Makes the tables and the plot of a benchmark from the records of its JSON lines."""

from pathlib import Path
from typing import Any

from experiments.sweep.tables import markdown

Record = dict[str, Any]

_NAMES = {"dc_jax": "dc_jax", "pytorch": "PyTorch"}
_AXIS_LABELS = {
    "ipc": "images per class",
    "classes": "classes",
    "networks": "networks",
    "side": "rows and columns of an image",
}


def write(records: list[Record], folder: Path) -> str:
    """Writes the tables to `benchmark.md`, and the plot; returns the tables."""
    sections = [_machine(records)]
    pairs = _pairs(records, growth=None)
    if pairs:
        sections += [_times(pairs), _programs(pairs, _peak(records))]
    if any(record["measurement"] == "startup" for record in records):
        sections.append(_startup(records))
    if any(record.get("growth") for record in records):
        sections.append(_growth(records))
        _plot(records, folder / "growth.png")
    text = "\n\n".join(sections) + "\n"
    (folder / "benchmark.md").write_text(text, "utf-8")
    return text


def _pairs(records: list[Record], growth: str | None) -> list[dict[str, Record]]:
    """Returns the records of each case by system, with their ratio if there is one."""
    pairs: list[dict[str, Record]] = []
    for record in records:
        if record["measurement"] == "workload" and record["growth"] == growth:
            if record["system"] == "dc_jax":
                pairs.append({})
            pairs[-1][record["system"]] = record
        elif record["measurement"] == "ratio" and record["growth"] == growth:
            pairs[-1]["ratio"] = record
    return pairs


def _peak(records: list[Record]) -> float | None:
    """Returns the GFLOP/s of the matrix product on all cores."""
    for record in records:
        if record["measurement"] == "matmul" and record["cores"] is None:
            return record["gflops"]
    return None


def _machine(records: list[Record]) -> str:
    machine = next(r for r in records if r["measurement"] == "machine")
    versions = ", ".join(f"{name} {v}" for name, v in machine["versions"].items())
    torch = [r["version"] for r in records if r.get("system") == "pytorch"]
    if torch:
        versions += f", torch {torch[0]}"
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; "
        f"{versions}. Load average before: {machine['load_average']}. "
        f"{machine['time']}."
    ]
    for record in records:
        if record["measurement"] == "matmul":
            cores = "one core" if record["cores"] == 1 else "all cores"
            lines.append(
                f"Product of {record['matrix']}x{record['matrix']} float32 matrices "
                f"in JAX on {cores}: {record['gflops']:.0f} GFLOP/s, the best of "
                f"{len(record['seconds'])}."
            )
    return "\n".join(lines)


def _times(pairs: list[dict[str, Record]]) -> str:
    rows = []
    for pair in pairs:
        ours, ratio = pair["dc_jax"], pair.get("ratio", {})
        rows.append(
            [
                *_names(ours),
                _spread(ours),
                _number(ours["median"] / ours["networks"]),
                _spread(pair.get("pytorch")),
                _number(ratio.get("ratio_of_medians")),
                _number(ratio.get("median_of_ratios")),
            ]
        )
    header = [
        *("workload", "images per class", "networks", "dc_jax, s"),
        *("dc_jax, s per network", "PyTorch, s", "PyTorch / dc_jax, of medians"),
        "median of paired ratios",
    ]
    return "Seconds per run, median (minimum to maximum).\n\n" + markdown(header, rows)


def _programs(pairs: list[dict[str, Record]], peak: float | None) -> str:
    rows = []
    for pair in pairs:
        ours, torch = pair["dc_jax"], pair.get("pytorch", {})
        flops = ours["direct_flops"] / 1e9
        rate = flops / ours["median"]
        rows.append(
            [
                *_names(ours),
                *(_number(flops), _number(rate)),
                f"{100 * rate / peak:.0f} %" if peak else "–",
                _number(flops / torch["median"] if torch else None),
                _number(ours["compile_seconds"]),
                *(_mib(ours[f"{name}_bytes"]) for name in _BUFFERS),
                *(_resident(ours), _resident(torch)),
            ]
        )
    header = [
        *("workload", "images per class", "networks", "direct GFLOP"),
        *("direct GFLOP/s", "share of the matrix product's", "PyTorch, direct GFLOP/s"),
        *("compile, s", *(f"{name}, MiB" for name in _BUFFERS)),
        *("dc_jax resident, MiB", "PyTorch resident, MiB"),
    ]
    return _PROGRAMS_NOTE + "\n\n" + markdown(header, rows)


_BUFFERS = ("temporary", "argument", "output")
_PROGRAMS_NOTE = """\
GFLOP are those of the direct algorithm without its products with padding. dc_jax uses
Winograd's algorithm for 3x3 convolutions on a CPU, which multiplies 2.25 times less
often, so a share may exceed what direct convolutions can reach. Programs are compiled
without a cache. Buffers are those of the compiled program. Resident memory is the peak
of a process that runs only this workload: while running, including what compilation
left behind (and since its start)."""


def _startup(records: list[Record]) -> str:
    rows = [
        [record["what"], _spread(record)]
        for record in records
        if record["measurement"] == "startup"
    ]
    return "Start of the program.\n\n" + markdown(["to", "seconds"], rows)


def _growth(records: list[Record]) -> str:
    rows = []
    for axis in _axes(records):
        for pair in _pairs(records, axis):
            ours = pair["dc_jax"]
            rows.append(
                [
                    *(axis, ours[axis], _spread(ours), _spread(pair.get("pytorch"))),
                    _number(pair.get("ratio", {}).get("median_of_ratios")),
                    _resident(ours),
                ]
            )
    header = ["of", "value", "dc_jax, s", "PyTorch, s", "ratio", "resident, MiB"]
    return "Growth of an outer step.\n\n" + markdown(header, rows)


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
        for system, name in _NAMES.items():
            measured = [
                pair[system] for pair in _pairs(records, axis) if system in pair
            ]
            plot.plot(
                [record[axis] for record in measured],
                [record["median"] for record in measured],
                *("o-",),
                label=name if measured else None,
            )
        plot.set(xlabel=_AXIS_LABELS[axis], ylim=(0, None))
        plot.grid(alpha=0.3)
    plots[0].set_ylabel("seconds per outer step")
    plots[0].legend()
    figure.savefig(path, dpi=120)


def _names(record: Record) -> list[Any]:
    ipc = "–" if record["workload"] == "test_10k" else record["ipc"]
    return [record["workload"], ipc, record["networks"]]


def _spread(record: Record | None) -> str:
    if record is None:
        return "–"
    low, middle, high = (_number(record[name]) for name in ("min", "median", "max"))
    return f"{middle} ({low} to {high})"


def _resident(record: Record) -> str:
    if record.get("peak_mib") is None:
        return "–"
    return f"{record['peak_running_mib']:.0f} ({record['peak_mib']:.0f})"


def _mib(size: int) -> str:
    return _number(size / 2**20)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
