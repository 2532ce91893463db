"""Tables of results in Markdown, with the paper's values beside ours."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from dc_jax.report.accuracy import num_networks, spread
from experiments.sweep.paper import Value


def markdown(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Returns a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def pivot(
    rows: list[dict[str, Any]],
    index: Sequence[str],
    column: str,
    paper: Callable[[dict[str, Any]], Value | None],
) -> str:
    """Returns a table with a line per `index` and a column per value of `column`.

    Args:
      rows: of a sweep.
      index: labels whose values make a line.
      column: label whose values make the columns.
      paper: returns the published value of a row, or None.
    """
    columns = list(dict.fromkeys(row[column] for row in rows))
    lines: dict[tuple[Any, ...], dict[Any, str]] = {}
    for row in rows:
        line = lines.setdefault(tuple(row[name] for name in index), {})
        line[row[column]] = both(row["result"], paper(row))
    return markdown(
        [*index, *map(str, columns)],
        (
            [*map(str, key), *(line.get(name, "") for name in columns)]
            for key, line in lines.items()
        ),
    )


def both(result: dict[str, Any], paper: Value | None) -> str:
    """Returns our accuracy in percent, with the paper's in brackets."""
    mean, std = result["accuracy_mean"], result["accuracy_std"]
    text = f"{100 * mean:.1f}{spread(std, num_networks(result))}"
    return f"{text} ({paper})" if paper else text


NOTE = (
    "Test accuracy in percent, mean ± standard deviation over networks; in brackets "
    "the paper's. A question mark: from memory or read off a plot, not verified."
)
