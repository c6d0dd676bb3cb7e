"""Exact products modulo a 31-bit prime by float64 matrix products: a rival and an oracle."""

from __future__ import annotations

import torch


def lifted(x: torch.Tensor, modulus: int) -> torch.Tensor:
    """Numbers in (-p, p), int32, plus p where negative: the sign bit spread out picks p."""
    return x.add_((x >> 31).bitwise_and_(modulus))


def centred(x: torch.Tensor, modulus: int) -> torch.Tensor:
    """Residues, int32, minus p where above p / 2; faster than a comparison and a choice."""
    above = (modulus // 2 - x).bitwise_right_shift_(31).bitwise_and_(modulus)
    return above.neg_().add_(x)


def _nearly_zero(x: torch.Tensor, modulus: int) -> torch.Tensor:
    """Integers below 2^53 in float64 minus their nearest multiple of p, which is exact."""
    return x.sub_((x * (1 / modulus)).round_(), alpha=modulus)


class Limbs:
    """a @ b modulo a prime below 2^31, exactly, by float64 matrix products of the BLAS.

    a is split once into centred halves of 16 bits and b is centred, so a product is at most 2^45,
    and 256 of them at most 2^53. numpy brings the faster BLAS on CPUs, torch the one on GPUs.
    """

    def __init__(self, a: torch.Tensor, modulus: int) -> None:
        self.modulus, self.rows = modulus, a.shape[0]
        wide = centred(a, modulus)
        high = (wide + 2**15) >> 16
        halves = torch.cat([high, wide - (high << 16)]).double()  # (2 rows, inner)
        self.chunks = [chunk.contiguous() for chunk in halves.split(256, dim=1)]

    def times(self, b: torch.Tensor) -> torch.Tensor:
        """The product with b: int32 (inner, columns) → (rows, columns)."""
        right = centred(b, self.modulus).double()
        total: torch.Tensor | None = None
        for chunk, part in zip(self.chunks, right.split(256), strict=True):
            if b.device.type == "cpu":
                product = torch.from_numpy(chunk.numpy() @ part.numpy())
            else:
                product = chunk @ part
            near = _nearly_zero(product, self.modulus)
            total = near if total is None else total.add_(near)
        assert total is not None
        # Up to 64 chunks: |total| < 2^36, so high · 2^16 + low stays below 2^53.
        high, low = total.split(self.rows)
        joined = _nearly_zero(high.mul_(2**16).add_(low), self.modulus)
        return lifted(joined.int(), self.modulus)


def exact_matmul(a: torch.Tensor, b: torch.Tensor, modulus: int) -> torch.Tensor:
    """The exact product, fast and independent of pyfed: what large results are checked with."""
    return Limbs(a, modulus).times(b)
