"""Rules that average tensors: FedSA-LoRA, FedIT, FFA-LoRA and RoLoRA."""

from __future__ import annotations

from pyfed.lora.adapters import Half
from pyfed.lora.alike import expect_frozen
from pyfed.lora.rules import Outcome, Round


def fedsa(given: Round) -> Outcome:
    """Ā = Σ w_i A_i is shared, every B_i stays with its client; of VeRA λ_d and λ_b.

    Source: Guo et al., Selective Aggregation for Low-Rank Adaptation (arXiv 2410.01463).
    """
    return Outcome(given.mean(given.clients[0].half("A")) | given.mean_heads())


def fedit(given: Round) -> Outcome:
    """Ā and B̄ are shared; B̄Ā is the mean of the products only where all A or all B are equal.

    Source: Zhang et al., Towards Building the Federated GPT (arXiv 2305.05644).
    """
    first = given.clients[0]
    keys = [key for pair in first.pairs.values() for key in (pair.key_a, pair.key_b)]
    return Outcome(given.mean([*keys, *first.extras]) | given.mean_heads())


def ffa(given: Round) -> Outcome:
    """B̄ is shared; all A are one frozen matrix, so B̄A is exact.

    Source: Sun et al., Improving LoRA in Privacy-Preserving Federated Learning (arXiv 2403.12313).
    """
    return _one_half(given, "B", "A")


def rolora(given: Round) -> Outcome:
    """Rounds 0, 2, … share B̄ under one frozen A, rounds 1, 3, … Ā under one frozen B.

    B begins: while it is 0, as adapters start, A has no gradient.

    Source: Chen et al., Robust Federated Finetuning of LLMs via Alternating Optimization of LoRA
    (arXiv 2502.01755).
    """
    return _one_half(given, "A", "B") if given.number % 2 else _one_half(given, "B", "A")


def _one_half(given: Round, averaged: Half, frozen: Half) -> Outcome:
    expect_frozen(given.op, given.everyone, frozen, given.rule.name)
    return Outcome(given.mean(given.clients[0].half(averaged)) | given.mean_heads())
