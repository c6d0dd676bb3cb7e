"""What a user would write without pyfed to merge adapters, run many of them, and drop activations.

The numbers are small integers and scalings powers of two, so that every sum is exact in float32
and results can be compared bit for bit whatever their order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from contests import Baseline

MERGE_LOOP = "PEFT's merge, adapter by adapter"
ADDMM = "torch.addmm_ of stacked factors"
CLIENT_LOOP = "torch, client by client"
BADDBMM = "torch.bmm and baddbmm"
DROPOUT = "torch.nn.functional.dropout"

ROUNDED = "factors and what is between them rounded to bfloat16"
OTHER_MASK = "a mask that depends on the order of calls"


def named(op: str, dtype: torch.dtype) -> str:
    """The op, and the dtype where it is not float32: groups of contestants go by this name."""
    return op if dtype == torch.float32 else f"{op}, {str(dtype).removeprefix('torch.')}"


def integers(*shape: int, device: str, seed: int = 20) -> torch.Tensor:
    """Float32 integers from -2 to 2, from a fixed seed."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randint(-2, 3, shape, device=device, generator=generator).float()


def _equal(output: Any, expected: Any) -> None:
    if isinstance(expected, torch.Tensor):
        output, expected = [output], [expected]
    for own, right in zip(output, expected, strict=True):
        assert torch.equal(own.reshape(right.shape), right)


def _shaped(output: Any, expected: Any) -> None:
    for own, right in zip(output, expected, strict=True):
        assert own.numel() == right.numel()


def merge_loop(
    base: torch.Tensor, a: list[torch.Tensor], b: list[torch.Tensor], scale: list[float]
) -> Baseline:
    """A delta as large as the weight for each adapter, rounded and added."""

    def run() -> torch.Tensor:
        for right, left, factor in zip(a, b, scale, strict=True):
            base.add_((left @ right) * factor)
        return base

    exact = base.dtype == torch.float32
    lacks = "" if exact else "every adapter's delta and sum rounded"
    return Baseline(run, _equal if exact else _shaped, lacks=lacks)


def merge_addmm(
    base: torch.Tensor, a: list[torch.Tensor], b: list[torch.Tensor], scale: list[float]
) -> Baseline:
    """One product of stacked factors; the stacking is timed, as in the rival's call."""

    def run() -> torch.Tensor:
        left = torch.cat([own * factor for own, factor in zip(b, scale, strict=True)], 1)
        return base.addmm_(left, torch.cat(a))

    lacks = "" if base.dtype == torch.float32 else ROUNDED
    return Baseline(run, _equal, lacks=lacks)


@dataclass(frozen=True)
class Bank:
    """Adapters of all clients, and rows that split equally: x (clients, tokens, in)."""

    x: torch.Tensor
    base_out: torch.Tensor
    a: torch.Tensor
    b: torch.Tensor
    grad: torch.Tensor
    scale: float
    dropout: float

    @classmethod
    def sized(cls, size: tuple[int, ...], dtype: torch.dtype, dropout: float, device: str) -> Bank:
        """From (clients, tokens, in, out, rank)."""
        clients, tokens, ins, outs, rank = size
        x, base_out, grad = (
            integers(clients, tokens, features, device=device, seed=seed).to(dtype)
            for seed, features in ((1, ins), (2, outs), (3, outs))
        )
        a = integers(clients, rank, ins, device=device, seed=4)
        b = integers(clients, outs, rank, device=device, seed=5)
        return cls(
            x.requires_grad_(), base_out, a.requires_grad_(), b.requires_grad_(), grad, 2.0, dropout
        )

    def shape(self) -> str:
        """The sizes, for people."""
        clients, tokens, ins = self.x.shape
        dropped = f", dropout {self.dropout}" if self.dropout else ""
        sizes = f"{clients}×{tokens} rows, {ins} to {self.b.shape[1]}, rank {self.a.shape[1]}"
        return sizes + dropped

    def bytes(self, gradients: bool) -> int:
        """The least that must cross memory: forward, or forward and backward."""
        factors = self.a.nbytes + self.b.nbytes
        forward = self.x.nbytes + 2 * self.base_out.nbytes + factors
        if not gradients:
            return forward
        return forward + self.grad.nbytes + 2 * self.x.nbytes + 2 * factors

    def gradients(self, out: torch.Tensor) -> list[torch.Tensor]:
        """Of x and both factors, behind the output."""
        return [out.detach(), *torch.autograd.grad(out, (self.x, self.a, self.b), self.grad)]


def _inputs(bank: Bank, x: torch.Tensor) -> torch.Tensor:
    """As PEFT gives them to an adapter: in its dtype, with dropout."""
    wide = x.to(bank.a.dtype)
    return torch.nn.functional.dropout(wide, bank.dropout) if bank.dropout else wide


def _loop(bank: Bank) -> torch.Tensor:
    outs = []
    for x, base_out, a, b in zip(bank.x, bank.base_out, bank.a, bank.b, strict=True):
        hidden = torch.nn.functional.linear(_inputs(bank, x), a)
        low = torch.nn.functional.linear(hidden, b)
        outs.append((base_out + low * bank.scale).to(base_out.dtype))
    return torch.stack(outs)


def _baddbmm(bank: Bank) -> torch.Tensor:
    hidden = torch.bmm(_inputs(bank, bank.x), bank.a.transpose(1, 2))
    base_out = bank.base_out.to(hidden.dtype)
    out = torch.baddbmm(base_out, hidden, bank.b.transpose(1, 2), alpha=bank.scale)
    return out.to(bank.base_out.dtype)


WAYS: dict[str, Callable[[Bank], torch.Tensor]] = {CLIENT_LOOP: _loop, BADDBMM: _baddbmm}


def adapters(bank: Bank, name: str, gradients: bool) -> Baseline:
    """One of WAYS, forward alone or with its gradients."""
    way = WAYS[name]

    def run() -> Any:
        if gradients:
            return bank.gradients(way(bank))
        with torch.no_grad():
            return way(bank)

    lacks = OTHER_MASK if bank.dropout else ""
    return Baseline(run, _shaped if bank.dropout else _equal, lacks=lacks)


def dropout(x: torch.Tensor, rate: float) -> Baseline:
    return Baseline(lambda: torch.nn.functional.dropout(x, rate), _shaped, lacks=OTHER_MASK)
