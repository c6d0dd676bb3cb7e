"""Aligned text of a table: the first column to the left, the others to the right."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The lines of a table under its header, two spaces between columns.

    Args:
        header: a title for each column.
        rows: as many cells each.

    Example:
        >>> from pyfed.secagg.table import aligned
        >>> print(aligned(["name", "n"], [["a", "12"], ["longer", "3"]]))
        name     n
        a       12
        longer   3
    """
    lines = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
