"""The server's step of federated LoRA: the clients' adapters combined by a named rule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pyfed.checks import expect_int
from pyfed.errors import ArgumentError, DtypeError
from pyfed.lora.adapters import Adapter, read_adapters
from pyfed.lora.alike import (
    expect_finite,
    expect_half,
    expect_mixed_forms,
    expect_one_base,
    expect_one_form,
    expect_one_scaling,
    expect_products,
    expect_scales,
    expect_separate,
)
from pyfed.lora.result import AggregateResult
from pyfed.lora.rules import RULES, Outcome, Round, Rule, rule_named
from pyfed.lora.servers import ServerOptimizer
from pyfed.lora.uplink import ROUNDS, expect_heads

_OP = "aggregate"


def aggregate(
    adapters: Sequence[Any],
    weights: Sequence[float] | torch.Tensor | None = None,
    rule: str = "fedit",
    configs: Any = None,
    *,
    round: int = 0,
    rank: int | None = None,
    previous: Mapping[str, torch.Tensor] | None = None,
    server: ServerOptimizer | None = None,
    scaling: Any = None,
    heads: str = "shared",
    normalized: bool = False,
    strip_prefix: str = "",
) -> AggregateResult:
    """Combine the LoRA or VeRA adapters of clients into what they take over.

    ============ ================================================== =====================
    rule         what clients take over                             Σ w_i s_i B_i A_i
    ============ ================================================== =====================
    ``fedsa``    Ā; every B stays                                   no global product
    ``fedit``    Ā and B̄                                            where all A or all B are equal
    ``ffa``      B̄; A is frozen                                     exact
    ``rolora``   B̄ in even rounds from 0 on, Ā in odd ones          exact
    ``flora``    the sum goes into the base, adapters start anew    exact
    ``fedex``    Ā, B̄, and what they miss goes into the base        exact
    ``flexlora`` the sum truncated to every client's rank           best of that rank
    ``hetlora``  means of factors padded to one rank, then cut      no
    ``fedsvd``   factors of B̄A with orthonormal rows of A           exact
    ============ ================================================== =====================

    Args:
        adapters: one for each client: a PEFT state dict (saved keys, or live ones with the
            adapter's name), a folder with ``adapter_model.safetensors``, or a file of
            safetensors. Where a rule shares one half, the other half need not be there.
        weights: numbers from 0 on, not all 0, such as counts of samples; divided by their sum.
            None: all 1. A client of weight 0 is checked, and counts for nothing else.
        rule: see above.
        configs: ``peft.LoraConfig``, ``peft.VeraConfig`` or a dict (of LoRA with ``r`` and
            ``lora_alpha`` at least), for all clients or a list of one each; None: as the folders
            say. Rules with products need it, or ``scaling``. Of heads a dict without
            ``modules_to_save`` says nothing.
        round: its number from 0, for rolora.
        rank: flexlora and hetlora: the rank that all clients get; None: each keeps its own.
        previous: what ``shared`` was before the round: for ``server``, and the A of fedsvd (None
            where all clients send it).
        server: :class:`FedAvgM`, :class:`FedAdam` or :class:`FedYogi`, under fedsa, fedit, ffa and
            rolora.
        scaling: s for all modules, {module: s}, or a list of one such for each client, in place of
            what the configurations say.
        heads: ``"shared"``: parameters of ``modules_to_save`` are averaged; ``"local"``: they stay.
        normalized: the weights are fractions already, and must sum to 1 within 1e-6.
        strip_prefix: what stands before ``base_model`` in every key, such as ``"module."``.

    Returns:
        :class:`AggregateResult`. Nothing in it shares memory with the arguments.

    Raises:
        DtypeError: an argument has a wrong type, or tensors have unlike dtypes.
        ArgumentError: an adapter is not whole, lies in the memory of another client's, is of
            another base or has other targets than the first; ranks or scalings are unequal where
            the rule needs one; a half that the rule holds frozen differs; the rule is not defined
            for DoRA, ``lora_bias``, convolutions or VeRA; a tensor is not finite; or an argument is
            out of range. The message names the client and the key, and nothing has changed.

    Example:
        >>> import torch
        >>> from pyfed.lora import aggregate
        >>> def adapter(value):
        ...     return {
        ...         "base_model.model.query.lora_A.weight": torch.full((1, 2), value),
        ...         "base_model.model.query.lora_B.weight": torch.full((2, 1), value),
        ...     }
        >>> config = {"r": 1, "lora_alpha": 2}
        >>> out = aggregate([adapter(1.0), adapter(3.0)], rule="fedex", configs=config)
        >>> out.shared["base_model.model.query.lora_A.weight"]
        tensor([[2., 2.]])
        >>> out.residual["query"].dense()  # 2 · (1·1 + 3·3) / 2 is 10, of which 2 · 2·2 are shared
        tensor([[2., 2.],
                [2., 2.]])

    Sources: with each rule, in the concepts page on LoRA.
    """
    chosen = rule_named(_OP, rule)
    _check_choices(chosen, round, rank, previous, server)
    shared_heads = expect_heads(_OP, heads)
    clients = read_adapters(_OP, adapters, configs, scaling, strip_prefix)
    shares = _shares(weights, len(clients), normalized)
    _check_clients(chosen, clients, round, shared_heads)
    present = [number for number, share in enumerate(shares) if share > 0]
    given = Round(
        op=_OP,
        rule=chosen,
        everyone=clients,
        clients=[clients[number] for number in present],
        weights=[shares[number] for number in present],
        number=round,
        rank=rank,
        previous=previous,
        heads=shared_heads,
    )
    with torch.no_grad():
        outcome = chosen.run(given)
        if server is not None:
            assert previous is not None
            outcome.shared = server.step(previous, outcome.shared)
    return _result(chosen, outcome, clients, tuple(shares))


def _check_choices(
    rule: Rule, round: object, rank: object, previous: object, server: object
) -> None:
    expect_int(_OP, "round", round, 0, ROUNDS)
    if rank is not None:
        expect_int(_OP, "rank", rank, 1, 2**31)
        if not rule.rank:
            raise ArgumentError(
                f"{_OP}: rank is {rank}; rule {rule.name!r} chooses no rank, only "
                f"{' and '.join(name for name, other in RULES.items() if other.rank)} do"
            )
    if previous is not None and not isinstance(previous, Mapping):
        kind = type(previous).__name__
        raise DtypeError(f"{_OP}: previous is {kind}; it must be a state dict or None")
    if server is None:
        return
    if not isinstance(server, ServerOptimizer):
        kind = type(server).__name__
        raise DtypeError(f"{_OP}: server is {kind}; it must be FedAvgM, FedAdam or FedYogi")
    if not rule.means:
        raise ArgumentError(
            f"{_OP}: server is {server!r}; under {rule.name!r} clients take over more than means, "
            "so it must be None"
        )
    if previous is None:
        raise ArgumentError(f"{_OP}: previous is None; {server!r} needs what was shared before")


def _check_clients(rule: Rule, clients: list[Adapter], round: int, heads: bool) -> None:
    """Raise unless the rule may combine these adapters."""
    expect_one_base(_OP, clients)
    expect_finite(_OP, clients)
    for client in clients:
        dora = client.settings is not None and client.settings.fields.get("use_dora")
        if (client.extras or dora) and not rule.extras:
            found = client.extras[0] if client.extras else "use_dora"
            raise ArgumentError(
                f"{_OP}: {client.who} has {found!r}; for DoRA and lora_bias rule {rule.name!r} is "
                "not defined, only fedit is"
            )
    if rule.products:
        expect_products(_OP, clients, rule.name)
    for half in rule.halves(round):
        expect_half(_OP, clients, half, rule.name)
    # What a rule holds frozen may be one tensor of all; what it averages may not.
    sent = [(c, key) for c in clients for half in rule.halves(round) for key in c.half(half)]
    expect_separate(_OP, ((c.who, {key: c.tensors[key]}) for c, key in sent))
    keys = [key for client in clients for key in client.heads] if heads else []
    if rule.mixed:
        expect_mixed_forms(_OP, clients)
    else:
        halves = rule.halves(round)
        keys += [key for client in clients for half in halves for key in client.half(half)]
        keys += [key for client in clients for key in client.extras]
        expect_one_scaling(_OP, clients, rule.name)
    expect_one_form(_OP, clients, list(dict.fromkeys(keys)), rule.name)
    if rule.scaled:
        expect_scales(_OP, clients, rule.name)


def _shares(weights: Any, clients: int, normalized: bool) -> list[float]:
    """The weights divided by their sum."""
    if weights is None:
        return [1.0 / clients] * clients
    if isinstance(weights, torch.Tensor):
        if weights.dim() != 1 or weights.is_complex() or weights.dtype == torch.bool:
            raise ArgumentError(
                f"{_OP}: weights is a {weights.dtype} tensor of shape {tuple(weights.shape)}; it "
                f"must be of numbers, ({clients},)"
            )
        weights = weights.tolist()
    if not isinstance(weights, Sequence) or isinstance(weights, str | bytes):
        kind = type(weights).__name__
        raise DtypeError(f"{_OP}: weights is {kind}; it must be a list of numbers")
    if len(weights) != clients:
        raise ArgumentError(f"{_OP}: weights has {len(weights)} entries; there are {clients}")
    for number, weight in enumerate(weights):
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            kind = type(weight).__name__
            raise DtypeError(f"{_OP}: weights[{number}] is {kind}; it must be a number")
        if not (weight >= 0 and math.isfinite(weight)):
            raise ArgumentError(
                f"{_OP}: weights[{number}] is {weight}; it must be finite and 0 or more"
            )
    total = math.fsum(weights)
    if not 0 < total < math.inf:
        raise ArgumentError(f"{_OP}: weights sum to {total}; one must be above 0")
    if normalized and abs(total - 1) > 1e-6:
        raise ArgumentError(f"{_OP}: weights sum to {total}; normalized ones must sum to 1")
    return [weight / total for weight in weights]


def _result(
    rule: Rule, outcome: Outcome, clients: list[Adapter], shares: tuple[float, ...]
) -> AggregateResult:
    own = [None if c.settings is None else c.settings.numbers() for c in clients]
    config, configs = outcome.config, None
    if outcome.per_client is not None:
        configs = [config or numbers for numbers in own]
        config = None
    elif config is None and not outcome.reset:
        config = next((numbers for numbers in own if numbers is not None), None)
    return AggregateResult(
        rule=rule.name,
        shared=outcome.shared,
        residual=outcome.residual,
        per_client=outcome.per_client,
        config=config,
        configs=configs,
        reset=outcome.reset,
        weights=shares,
    )
