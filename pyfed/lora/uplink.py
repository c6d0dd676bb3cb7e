"""What of an adapter a client sends under a rule."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pyfed.checks import expect_int
from pyfed.errors import ArgumentError, DtypeError
from pyfed.lora.keys import AdapterKey, parse_keys
from pyfed.lora.rules import rule_named

ROUNDS = 2**63


def expect_heads(op: str, heads: object) -> bool:
    """Whether heads are shared; raises unless ``heads`` is one of its two words."""
    if heads not in ("shared", "local"):
        raise ArgumentError(f"{op}: heads is {heads!r}; it must be 'shared' or 'local'")
    return heads == "shared"


def upload(
    state: Mapping[str, torch.Tensor],
    rule: str = "fedit",
    *,
    round: int = 0,
    heads: str = "shared",
    strip_prefix: str = "",
) -> dict[str, torch.Tensor]:
    """Choose what a client sends: A alone for fedsa, B alone for ffa, and so on.

    Args:
        state: a PEFT state dict, with saved or live keys.
        rule: as for :func:`aggregate`.
        round: its number from 0; rolora sends B in even rounds and A in odd ones.
        heads: ``"shared"`` or ``"local"``: whether parameters that are trained in full are sent.
        strip_prefix: what stands before ``base_model`` in every key.

    Returns:
        State dict with saved keys; its tensors are those of ``state``.

    Raises:
        DtypeError, ArgumentError: an argument has a wrong type or value, or a key is unknown.

    Example:
        >>> import torch
        >>> from pyfed.lora import upload
        >>> query = "base_model.model.query"
        >>> a, b = torch.zeros(4, 16), torch.zeros(16, 4)
        >>> list(upload({f"{query}.lora_A.weight": a, f"{query}.lora_B.weight": b}, "fedsa"))
        ['base_model.model.query.lora_A.weight']
    """
    chosen = rule_named("upload", rule)
    expect_int("upload", "round", round, 0, ROUNDS)
    shared_heads = expect_heads("upload", heads)
    if not isinstance(state, Mapping):
        raise DtypeError(f"upload: state is {type(state).__name__}; it must be a state dict")
    halves = chosen.halves(round)

    def is_sent(key: AdapterKey) -> bool:
        if key.role == "head":
            return shared_heads
        return key.role in halves or (chosen.extras and key.role in ("magnitude", "bias"))

    parsed = parse_keys("upload", "state", state, strip_prefix)
    return {key.name: state[name] for name, key in parsed.items() if is_sent(key)}
