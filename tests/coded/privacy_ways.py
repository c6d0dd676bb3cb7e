"""Ways to release: what the accounting of privacy is tested with."""

from __future__ import annotations

from typing import Any

PUBLIC: dict[str, Any] = {"secret": False, "kind": "rademacher"}
WAYS: list[dict[str, Any]] = [
    {},
    {"min_eigenvalue": 3.0},
    PUBLIC,
    {"secret": False, "kind": "countsketch"},
    {"secret": False, "column_norm": 33.0},
    {"columns": 20},
    {**PUBLIC, "columns": 20},
]
