"""Settings that are one number for all clients of a bank, or one for each."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pyfed.errors import DtypeError

PerClient = float | Sequence[float] | torch.Tensor
"""A number, or a list or tensor (clients,) of such."""


def per_client(
    kind: str, name: str, value: PerClient, device: torch.device
) -> float | torch.Tensor:
    """A setting as a number, or as a tensor on a device.

    Args:
        kind: of the optimiser, for errors.
        name: of the setting.
        value: what was given.
        device: of the bank.

    Raises:
        DtypeError: a list holds something else than numbers.
    """
    if isinstance(value, list | tuple):
        for client, number in enumerate(value):
            if isinstance(number, bool) or not isinstance(number, int | float):
                got = type(number).__name__
                raise DtypeError(f"{kind}: {name}[{client}] is {got}; it must be a number")
        value = torch.tensor(value, dtype=torch.float64)
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    return value  # type: ignore[return-value]
