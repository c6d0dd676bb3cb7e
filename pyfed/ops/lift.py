"""From residues back to integers: the centred lift, by the remainder theorem where two are."""

from __future__ import annotations

from typing import Any

import torch

from pyfed import native
from pyfed.checks import expect_field, expect_residues
from pyfed.fields import WIDE, Field, plane_moduli
from pyfed.op import Op
from pyfed.ops.field import check_residues


def lift_reference(residues: torch.Tensor, modulus: int) -> torch.Tensor:
    """The integers of least magnitude, int64; residues are int32 and in [0, p)."""
    primes = plane_moduli(modulus)
    wide = residues.to(torch.int64)
    if len(primes) == 1:
        return torch.where(wide > (modulus - 1) // 2, wide - modulus, wide)
    (p, q), (low, high) = primes, wide
    # The difference is below 2^31 in magnitude, its product below 2^62, and so is the result.
    ratio = (high - low) * pow(p, -1, q) % q
    value = low + p * ratio
    return torch.where(value > (p * q - 1) // 2, value - p * q, value)


def _field_lift_reference(residues: torch.Tensor, modulus: int) -> torch.Tensor:
    check_residues("field_lift", residues, modulus)
    return lift_reference(residues, modulus).contiguous()


def lifted_shape(residues: torch.Tensor, modulus: int) -> torch.Size:
    """The shape of the integers, which have no planes."""
    return residues.shape if modulus < 2**31 else residues.shape[1:]


def _field_lift_fake(residues: torch.Tensor, modulus: int) -> torch.Tensor:
    return residues.new_empty(lifted_shape(residues, modulus), dtype=torch.int64)


def lift_reason(modulus: int) -> str | None:
    """Why no kernel lifts residues of this field's code; None when one does."""
    if modulus < 2**31 or modulus == WIDE.code:
        return None
    return f"the planes {plane_moduli(modulus)} have no kernel; those of WIDE have"


field_lift_op = Op(
    "field_lift(Tensor residues, int modulus) -> Tensor",
    fake=_field_lift_fake,
    reference=_field_lift_reference,
)


def prime_pair(modulus: int) -> tuple[int, int]:
    """The primes of a code as kernels take them: 0 for a second one that is not there."""
    primes = plane_moduli(modulus)
    return primes[0], primes[1] if len(primes) > 1 else 0


@field_lift_op.kernel("cpu", lambda residues, p: native.cpu_reason(residues) or lift_reason(p))
@field_lift_op.kernel("cuda", lambda residues, p: native.cuda_reason(residues) or lift_reason(p))
def _field_lift_native(residues: torch.Tensor, modulus: int) -> torch.Tensor:
    residues = residues.contiguous()
    shape = lifted_shape(residues, modulus)
    out = torch.empty(shape, dtype=torch.int64, device=residues.device)
    count = out.numel()
    native.run("field_lift", residues.device, residues, count, *prime_pair(modulus), out)
    return out


@field_lift_op.kernel(
    "triton", lambda residues, p: native.triton_reason(residues) or lift_reason(p)
)
def _field_lift_triton(residues: torch.Tensor, modulus: int) -> Any:
    from pyfed.triton_kernels import lift as kernels

    with native.TritonReport("field_lift", residues.device) as word:
        return kernels.field_lift(residues, plane_moduli(modulus), word)


@field_lift_op.public
def field_lift(residues: torch.Tensor, field: Field) -> tuple[Any, ...]:
    """The integers of least magnitude that residues stand for.

    The centred lift of v is v when v ≤ (m - 1) / 2, else v - m, where m is the modulus of the
    field: p, or p_0 · p_1 of a pair. There v is the number in [0, m) with both residues,
    v = r_0 + p_0 · ((r_1 - r_0) · p_0^-1 mod p_1).

    Args:
        residues: int32 of any shape, in [0, p); over ``WIDE`` with the planes as leading axis.
        field: the field.

    Returns:
        int64 tensor shaped like ``residues``, without the planes.

    Raises:
        DtypeError: an argument has a wrong type or dtype.
        ArgumentError: the planes are missing, or an element lies outside [0, p)
            (on CUDA the last is raised by :func:`pyfed.check`).

    Source: the Chinese remainder theorem in the form of H. L. Garner, The residue number system,
    IRE Transactions on Electronic Computers, 1959.

    Example:
        >>> import torch, pyfed
        >>> r = torch.tensor([2, 2**31 - 3], dtype=torch.int32)
        >>> pyfed.ops.field_lift(r, pyfed.MERSENNE31)
        tensor([ 2, -2])
    """
    expect_field("field_lift", field, wide=True)
    expect_residues("field_lift", "residues", residues, field)
    return residues, field.code
