"""A random call with its right answer."""

from __future__ import annotations

from typing import Any, NamedTuple

SIZES = (0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33)


class Draw(NamedTuple):
    """A call of a public function and its right answer, flattened row by row.

    ``written`` are the arguments that the op writes, as they must be afterwards; the public
    function takes them first.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    wanted: Any
    written: tuple[Any, ...] = ()
