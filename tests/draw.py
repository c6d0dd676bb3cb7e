"""A random call with its right answer."""

from __future__ import annotations

from typing import Any, NamedTuple

SIZES = (0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33)


class Draw(NamedTuple):
    """A call of a public function and its right answers, flattened row by row, or their bounds.

    ``wanted`` is a tuple where an op gives no result or several. ``written`` are the arguments
    that the op writes, as they must be afterwards.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    wanted: Any
    written: tuple[Any, ...] = ()

    @property
    def answers(self) -> tuple[Any, ...]:
        """What a call must give, and after it what it must leave in what it writes."""
        results = self.wanted if type(self.wanted) is tuple else (self.wanted,)
        return *results, *self.written
