"""Cases of sketches: every kind, public and secret, odd sizes, clients without samples, noise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from case import KEY, Case

SEED = 2**64 - 3
KINDS = ("rademacher", "gaussian", "countsketch")
# Samples, features, rows and the other arguments.
SHAPES: tuple[tuple[int, int, int, dict[str, Any]], ...] = (
    (5, 3, 4, {"stream": 2**32 - 1}),
    (0, 3, 2, {}),
    (4, 0, 3, {"noise_std": 1.0}),
    (1, 1, 1, {"noise_std": 0.5, "stream": 7}),
    (33, 2, 17, {"noise_std": 2.0, "public": False}),
    (67, 17, 9, {"noise_std": 3.0}),
    (40, 5, 65, {"public": False, "stream": 3}),
    (9, 33, 2, {"starts": torch.tensor([0, 3, 3, 9]), "stream": 2**32 - 3, "noise_std": 1.5}),
    (50, 4, 7, {"starts": torch.tensor([0, 33, 50]), "public": False}),
    (0, 2, 3, {"starts": torch.tensor([0, 0, 0]), "noise_std": 0.25}),
)
LARGE: tuple[tuple[int, int, int, dict[str, Any]], ...] = (
    (301, 130, 70, {"noise_std": 1.0}),
    (530, 17, 131, {"starts": torch.tensor([0, 1, 400, 400, 530]), "public": False}),
)


def sketch() -> Iterator[Case]:
    """Cases of ``sketch``, and of its transpose where there is no noise."""
    for kind in KINDS:
        for number, (samples, features, rows, how) in enumerate((*SHAPES, *LARGE)):
            large = number >= len(SHAPES)
            x = torch.randn(samples, features)
            if number % 3 == 2:  # nothing cancels, so an error shows
                x = x.abs()
            name = f"{'large, ' if large else ''}{kind}, {samples} to {rows}, {', '.join(how)}"
            yield Case(name, (x, rows, KEY, kind), how, large=large)
            plain = {part: value for part, value in how.items() if part != "noise_std"}
            clients = (len(how["starts"]) - 1,) if "starts" in how else ()
            y = torch.randn(*clients, rows, features)
            args = y, samples, KEY, kind
            yield Case(f"{name}, transposed", args, {**plain, "transpose": True}, large=large)
        yield Case(f"{kind}, from a seed", (torch.randn(12, 5), 6, SEED, kind), {"stream": 5})
    tiny = torch.tensor([[1.4e-45, -1.4e-45, -0.0, 1e38, 1.1e-38, -1e38]]).repeat(3, 1)
    for kind in KINDS:  # the entries are such that no sum is infinite
        yield Case(f"{kind}, extremes", (tiny, 1, KEY, kind), {"stream": 1})
