"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_RULES = {"l": "---", "r": "---:"}


def markdown_table(rows: Iterable[Sequence[object]], align: str = "lr") -> str:
    """Format rows of cells as a Markdown table.

    Args:
        rows: the cells, row by row, each written with ``str()``. The first row is the head.
        align: ``l`` (left) or ``r`` (right) for each column. The last letter holds for all columns that follow, so
            the default aligns the first column left and all others right.

    Returns:
        The lines of the table, without a newline at the end.
    """
    head, *body = (list(row) for row in rows)
    rules = [_RULES[letter] for letter in align.ljust(len(head), align[-1])[: len(head)]]
    lines = [f"| {' | '.join(map(str, row))} |" for row in (head, *body)]
    return "\n".join([lines[0], f"|{'|'.join(rules)}|", *lines[1:]])
