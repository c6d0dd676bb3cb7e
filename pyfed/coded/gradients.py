"""Gradients that arrived, and numbers of the clients they came from, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pyfed.checks import expect_int, expect_tensor
from pyfed.coded.plain import plain, plain_list
from pyfed.errors import ArgumentError, DtypeError

_ALIKE = ("shape", "dtype", "device")


def by_client(op: str, name: str, values: object) -> dict[int, Any]:
    """Client → its number, of a dict or a sequence."""
    if isinstance(values, Mapping):
        return {plain(client): plain(value) for client, value in values.items()}
    return dict(enumerate(plain_list(op, name, values)))


def of_client(op: str, name: str, known: Mapping[int, Any], client: int) -> Any:
    """The number of a client; raises when it has none."""
    if client not in known:
        raise ArgumentError(
            f"{op}: client {client} sent a gradient and is not in {name}, which is of "
            f"{len(known)} clients"
        )
    return known[client]


def expect_gradients(op: str, gradients: object) -> None:
    """Raise unless these are finite gradients of clients, alike in shape, dtype and device."""
    if not isinstance(gradients, Mapping):
        kind = type(gradients).__name__
        raise DtypeError(f"{op}: gradients is {kind}; it must be a dict, client → gradient")
    like: torch.Tensor | None = None
    for client, gradient in gradients.items():
        expect_int(op, "a client in gradients", plain(client), 0, 2**31)
        name = f"gradients[{client}]"
        expect_tensor(op, name, gradient, (torch.float32, torch.float64))
        like = gradient if like is None else like
        if any(getattr(gradient, each) != getattr(like, each) for each in _ALIKE):
            raise ArgumentError(
                f"{op}: {name} is {gradient.dtype} of shape {tuple(gradient.shape)} on "
                f"{gradient.device}; another one is {like.dtype} of shape {tuple(like.shape)} on "
                f"{like.device}: all must be alike"
            )
        if not bool(torch.isfinite(gradient).all()):
            raise ArgumentError(f"{op}: {name} is not finite")
