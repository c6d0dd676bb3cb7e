"""Rules whose sum is exact: FLoRA stacks the clients' factors, FedEx-LoRA sends what means miss."""

from __future__ import annotations

import torch

from pyfed.lora.residual import LowRank
from pyfed.lora.rules import Outcome, Round, widened


def flora(given: Round) -> Outcome:
    """W += Σ w_i s_i B_i A_i for every client, and adapters start anew.

    The sum is one product of stacked factors, [B_1 … B_N] · diag(w_i s_i) · [A_1; …; A_N], whatever
    the ranks and scalings are.

    Source: Wang et al., FLoRA (arXiv 2409.05976).
    """
    residual = {module: given.stack(module) for module in given.clients[0].pairs}
    return Outcome(given.mean_heads(), residual, reset=True)


def fedex(given: Round) -> Outcome:
    """Ā and B̄ are shared, and W += s (Σ w_i B_i A_i − B̄Ā), so that nothing is missing.

    With Σ w_i = 1 the difference is Σ w_i (B_i − B̄)(A_i − Ā): of rank N·r, and of small factors,
    so that nothing cancels. Of 16-bit adapters the rounding of Ā and B̄ is made good too.

    Source: Singhal et al., FedEx-LoRA (arXiv 2410.09432); the centred form follows from expanding.
    """
    first = given.clients[0]
    pairs = [key for pair in first.pairs.values() for key in (pair.key_a, pair.key_b)]
    means = given.mean(pairs)
    residual = {}
    if len(given.clients) > 1:
        residual = {
            module: _centred(given, module, means[pair.key_a], means[pair.key_b])
            for module, pair in first.pairs.items()
        }
    return Outcome(means | given.mean_heads(), residual)


def _centred(given: Round, module: str, mean_a: torch.Tensor, mean_b: torch.Tensor) -> LowRank:
    """S (Σ w_i B_i A_i − B̄Ā) with Ā and B̄ as the clients will load them."""
    pairs = [client.pairs[module] for client in given.clients]
    factors = [pair.factors() for pair in pairs]
    scale = factors[0][2]
    a0, b0 = widened(mean_a), widened(mean_b)
    lefts = [widened(b) - b0 for _, b, _ in factors]
    rights = [widened(a) - a0 for a, _, _ in factors]
    shares = [w * scale for w in given.weights]
    if a0.dtype != mean_a.dtype:
        # With α = Σ w_i A_i − Ā and β alike, left over by rounding, the sum of the centred products
        # lacks β·Ā + B̄·α.
        lefts += [_weighted(given.weights, lefts), b0]
        rights += [a0, _weighted(given.weights, rights)]
        shares += [scale, scale]
    rank = a0.shape[0]
    wide = [torch.full((rank,), share, dtype=torch.float64, device=a0.device) for share in shares]
    return LowRank(torch.cat(rights), torch.cat(lefts, dim=1), torch.cat(wide), pairs[0].kind)


def _weighted(weights: list[float], tensors: list[torch.Tensor]) -> torch.Tensor:
    total = torch.zeros_like(tensors[0])
    for weight, tensor in zip(weights, tensors, strict=True):
        total += weight * tensor
    return total
