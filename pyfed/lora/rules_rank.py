"""Rules that give clients adapters of their own rank: FlexLoRA, HetLoRA; and FedSVD."""

from __future__ import annotations

import torch

from pyfed.errors import ArgumentError
from pyfed.lora.adapters import Adapter, Pair
from pyfed.lora.alike import expect_frozen
from pyfed.lora.factor import low_rank_svd
from pyfed.lora.residual import LowRank
from pyfed.lora.rules import Outcome, Round, widened

Factors = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""Module → A (R, in) and B (out, R), s left out."""


def flexlora(given: Round) -> Outcome:
    """Σ w_i s_i B_i A_i is truncated to every client's rank: A_i = V_rᵀ, B_i = U_r S_r / s_i.

    Source: Bai et al., Federated Fine-tuning of Large Language Models under Heterogeneous Tasks and
    Client Resources (arXiv 2402.11505).
    """
    most = max(_ranks(given, client, module)[1] for client, module in _all(given))
    sums: Factors = {}
    for module in given.clients[0].pairs:
        stack = given.stack(module)
        u, s, v = low_rank_svd(stack.a, stack.b, min(most, stack.rank), stack.scale)
        sums[module] = v, u * s
    return _hand_out(given, sums)


def hetlora(given: Round) -> Outcome:
    """Factors padded with zeros to one rank are averaged, then cut to every client's rank.

    A client counts by w_i ‖s_i B_i A_i‖_F in each module, or by w_i where all products are 0.
    s_i is folded into B_i before and out of it after.

    Source: Cho et al., Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation Models
    (EMNLP 2024), the sparsity-weighted aggregation.
    """
    sums: Factors = {}
    for module, first in given.clients[0].pairs.items():
        factors = [client.pairs[module].factors() for client in given.clients]
        norms = [_product_norm(a, b, s) for a, b, s in factors]
        shares = torch.stack(norms).cpu() * torch.tensor(given.weights, dtype=torch.float64)
        if not bool(shares.sum() > 0):
            shares = torch.tensor(given.weights, dtype=torch.float64)
        shares = shares / shares.sum()
        a0, b0, _ = first.factors()
        rank = max(a.shape[0] for a, _, _ in factors)
        # Summed where each client's rows are: padding with zeros adds nothing.
        mean_a = torch.zeros(rank, a0.shape[1], dtype=torch.float64, device=a0.device)
        mean_b = torch.zeros(b0.shape[0], rank, dtype=torch.float64, device=a0.device)
        for share, (a, b, s) in zip(shares.tolist(), factors, strict=True):
            mean_a[: a.shape[0]] += share * a.to(torch.float64)
            mean_b[:, : a.shape[0]] += share * s * b.to(torch.float64)
        sums[module] = mean_a, mean_b
    return _hand_out(given, sums)


def fedsvd(given: Round) -> Outcome:
    """B̄ = Σ w_i B_i under one frozen A; B̄A = U S Vᵀ gives the next A = Vᵀ and B = U S.

    The product is as it was, exact, and the rows of the next A are orthonormal.

    Source: Lee et al., FedSVD: Adaptive Orthogonalization for Private Federated Learning with LoRA
    (arXiv 2505.12805).
    """
    expect_frozen(given.op, given.everyone, "A", "fedsvd")
    first = given.clients[0]
    means = given.mean(first.half("B"))
    shared: dict[str, torch.Tensor] = {}
    for pair in first.pairs.values():
        key_a, frozen = _frozen_a(given, pair)
        mean = means[pair.key_b]
        if mean.shape[1] != frozen.shape[0]:
            raise ArgumentError(
                f"{given.op}: previous[{key_a!r}] has shape {tuple(frozen.shape)}; B of that "
                f"module has {tuple(mean.shape)}"
            )
        a, b = _orthonormal(widened(frozen), widened(mean))
        shared[key_a], shared[pair.key_b] = a.to(frozen.dtype), b.to(mean.dtype)
    return Outcome(shared | given.mean_heads())


def _frozen_a(given: Round, pair: Pair) -> tuple[str, torch.Tensor]:
    """The A of the last round, as ``previous`` says; it must be what clients hold, if they say.

    Without ``previous`` it is what all clients sent, which is known to be one.
    """
    key = pair.key_a or pair.key_b.replace("lora_B", "lora_A").replace("embedding_B", "embedding_A")
    if given.previous is None:
        sent = [client.pairs[pair.module].a for client in given.everyone]
        if sent[0] is None or any(own is None for own in sent):
            raise ArgumentError(
                f"{given.op}: previous is None and not all clients sent {key!r}; 'fedsvd' needs the"
                " A with which clients trained: give what shared was before the round (in the "
                "first the A of the adapter that all started from) as previous, or let them send A"
            )
        return key, sent[0]
    before = given.previous.get(key)
    if before is None:
        raise ArgumentError(
            f"{given.op}: previous has no {key!r}; 'fedsvd' needs the A with which clients trained"
        )
    for client in given.everyone:
        own = client.pairs[pair.module].a
        if own is not None and (own.shape != before.shape or not torch.equal(own, before.to(own))):
            raise ArgumentError(
                f"{given.op}: {client.who}[{key!r}] differs from previous; A is frozen under "
                "'fedsvd'"
            )
    return key, before


def _orthonormal(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors of the same product, the first with orthonormal rows, also where b is 0."""
    rank = a.shape[0]
    u, s, v = low_rank_svd(a, b)
    new_a, new_b = torch.zeros_like(a), torch.zeros_like(b)
    new_a[: v.shape[0]], new_b[:, : v.shape[0]] = v, u * s
    if v.shape[0] < min(rank, a.shape[1]):
        # Fewer outputs than ranks: the other rows of A are any that are orthogonal to these.
        rest = torch.linalg.qr(torch.cat([v, a]).to(torch.float64).mT)[0].mT
        new_a[v.shape[0] :] = rest[v.shape[0] : rank].to(a.dtype)
    return new_a, new_b


def _product_norm(a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    """‖s B A‖_F from Gram matrices."""
    same = torch.full((a.shape[0],), scale, dtype=torch.float64, device=a.device)
    return LowRank(widened(a), widened(b), same).norm()


def _all(given: Round) -> list[tuple[Adapter, str]]:
    return [(client, module) for client in given.everyone for module in client.pairs]


def _ranks(given: Round, client: Adapter, module: str) -> tuple[float, int]:
    """The scaling and the rank that a client has from now on."""
    a, _, scale = client.pairs[module].factors()
    return (scale, a.shape[0]) if given.rank is None else (1.0, given.rank)


def _hand_out(given: Round, sums: Factors) -> Outcome:
    """Each client's part of the factors: its rank, its s taken out of B, its dtype."""
    handed: dict[tuple[tuple[str, float, int], ...], dict[str, torch.Tensor]] = {}
    states = []
    for client in given.everyone:
        plan = tuple((module, *_ranks(given, client, module)) for module in client.pairs)
        plan = tuple(sorted(plan))
        if plan not in handed:
            state: dict[str, torch.Tensor] = {}
            for module, pair in client.pairs.items():
                like, _, _ = pair.factors()
                scale, rank = _ranks(given, client, module)
                a, b = sums[module]
                state[pair.key_a] = _cut(a, rank, 0).to(like.dtype)
                state[pair.key_b] = (_cut(b, rank, 1) / scale).to(like.dtype)
            handed[plan] = state
        states.append(handed[plan])
    config = None
    if given.rank is not None:  # what was trained with other scalings has s = 1 now
        fields = {"r": given.rank, "lora_alpha": given.rank, "use_rslora": False}
        config = {"peft_type": "LORA", **fields, "rank_pattern": {}, "alpha_pattern": {}}
    if len(handed) == 1:
        return Outcome(states[0] | given.mean_heads(), config=config)
    copies = [{key: value.clone() for key, value in state.items()} for state in states]
    return Outcome(given.mean_heads(), per_client=copies, config=config)


def _cut(factor: torch.Tensor, rank: int, dim: int) -> torch.Tensor:
    """The first ``rank`` rows or columns, zeros where there are fewer."""
    have = min(rank, factor.shape[dim])
    shape = [rank, factor.shape[1]] if dim == 0 else [factor.shape[0], rank]
    cut = factor.new_zeros(shape)
    cut.narrow(dim, 0, have).copy_(factor.narrow(dim, 0, have))
    return cut
