"""Numbers and sequences as NumPy gives them, made Python's own before they are checked."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from typing import Any

import numpy as np

from pyfed.errors import DtypeError


def plain(value: object) -> Any:
    """A NumPy scalar as a Python number; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def plain_list(op: str, name: str, values: object) -> list[Any]:
    """The entries as a list of Python numbers where they are NumPy's; raises unless sized.

    Args:
        op: what the message names.
        name: of the argument.
        values: a list, a tuple, an array or anything else with a length and an order.
    """
    several = isinstance(values, Sized) and isinstance(values, Iterable)
    if not several or isinstance(values, str | bytes) or np.ndim(values) == 0:  # type: ignore[arg-type]
        kind = type(values).__name__
        raise DtypeError(f"{op}: {name} is {kind}; it must be a sequence, one entry for a client")
    assert isinstance(values, Iterable)
    return [plain(value) for value in values]
