"""Ops that take many keys at once: their words, stacked, are forgotten after each use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

import torch

from pyfed import native
from pyfed.checks import expect_int, expect_key
from pyfed.errors import ArgumentError, DtypeError
from pyfed.fields import plane_moduli
from pyfed.keys import Key
from pyfed.op import Op, PublicOp

P = ParamSpec("P")


class StackedKeysOp(PublicOp[P]):
    """Overwrites the stacked key words, which are pyfed's own copy, after each use.

    Args:
        op: the operation, which has an argument of the name ``keys``.
        prepare: as :class:`pyfed.op.PublicOp` says.
    """

    def __init__(self, op: Op, prepare: Callable[P, tuple[Any, ...]]) -> None:
        super().__init__(op, prepare)
        names = [argument.name for argument in op.torch_op._schema.arguments]
        self._place = names.index("keys")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> torch.Tensor:
        """Check the arguments, run the op, forget the words."""
        given = self.prepare(*args, **kwargs)
        try:
            result = self.op.torch_op(*given)
        finally:
            given[self._place].zero_()
        found: torch.Tensor = given[0] if result is None else result
        return found

    def explain(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Which kernel would run on these arguments, and why the others would not."""
        given = self.prepare(*args, **kwargs)
        given[self._place].zero_()
        return self.op.explain(*given)


def takes_keys(op: Op) -> Callable[[Callable[P, tuple[Any, ...]]], StackedKeysOp[P]]:
    """Make the public function of an op of many keys, as :meth:`pyfed.op.Op.public` does."""

    def made(prepare: Callable[P, tuple[Any, ...]]) -> StackedKeysOp[P]:
        return StackedKeysOp(op, prepare)

    return made


def expect_masks(op: str, keys: object, signs: object) -> None:
    """Raise unless ``keys`` is a list of Keys, and ``signs`` one of 1 or -1 for each."""
    for name, value in (("keys", keys), ("signs", signs)):
        if not isinstance(value, list | tuple):
            raise DtypeError(f"{op}: {name} is {type(value).__name__}; it must be a list")
    assert isinstance(keys, list | tuple)
    assert isinstance(signs, list | tuple)
    if len(signs) != len(keys):
        raise ArgumentError(f"{op}: signs has {len(signs)} elements; there are {len(keys)} keys")
    for key in keys:
        expect_key(op, key)
    for number, sign in enumerate(signs):
        expect_int(op, f"signs[{number}]", sign, -(2**63), 2**63)
        if sign not in (1, -1):
            raise ArgumentError(f"{op}: signs[{number}] is {sign}; it must be 1 or -1")


def stacked(keys: Sequence[Key], device: torch.device) -> torch.Tensor:
    """The words of the keys, int32 (masks, 8), in memory that nothing else has."""
    if not keys:
        return torch.empty(0, 8, dtype=torch.int32, device=device)
    words = torch.stack([key.words() for key in keys])
    if device.type == "cpu":
        return words
    moved = words.to(device)
    words.zero_()
    return moved


def may_run_dry(modulus: int) -> bool:
    """Whether 16 candidates in a row may well be rejected, which is noticed when much is written.

    One is with probability 1 - p/2^b, b the bits of p: 2^-12 at most for the primes with fast
    kernels, and nearly 1/2 for a prime just above a power of two.
    """
    return any(prime not in native.FAST_MODULI for prime in plane_moduli(modulus))
