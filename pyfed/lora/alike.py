"""What clients' adapters must have in common before a rule may combine them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from pyfed.checks import expect_one_device
from pyfed.errors import ArgumentError, DtypeError
from pyfed.lora.adapters import Adapter, Half
from pyfed.lora.keys import remedy_of_frozen


def expect_one_base(op: str, clients: Sequence[Adapter]) -> None:
    """Raise unless targets, base models, methods, devices and frozen tensors agree."""
    first = clients[0]
    for other in clients[1:]:
        odd = set(first.pairs) ^ set(other.pairs)
        if odd:
            name = sorted(odd)[0]
            holder, rest = (first, other) if name in first.pairs else (other, first)
            raise ArgumentError(
                f"{op}: {holder.who} has an adapter of {name!r} and {rest.who} has none; all must "
                "have the same target modules"
            )
        for module, pair in first.pairs.items():
            if pair.kind != other.pairs[module].kind:
                raise ArgumentError(
                    f"{op}: {other.who} has {other.pairs[module].kind} tensors for {module!r} and "
                    f"{first.who} has {pair.kind} ones; they must be of one kind"
                )
    known = [client for client in clients if client.settings is not None]
    _expect_equal(op, known, "base_model_name_or_path", lambda c: c.settings.base, skip="")
    _expect_equal(
        op,
        [client for client in known if client.settings and client.settings.peft_type == "VERA"],
        "projection_prng_key",
        lambda c: c.settings.fields.get("projection_prng_key"),
    )
    tensors = [t for c in clients for t in (*c.tensors.values(), *c.frozen.values())]
    expect_one_device(op, tensors)
    expect_same_values(op, clients, [key for c in clients for key in c.frozen], "frozen")


def _expect_equal(
    op: str,
    clients: Sequence[Adapter],
    what: str,
    value: Callable[[Any], Any],
    skip: object = None,
) -> None:
    """Raise unless clients that say something say the same."""
    said = [client for client in clients if value(client) != skip]
    for other in said[1:]:
        if value(other) != value(said[0]):
            raise ArgumentError(
                f"{op}: {what} is {value(other)!r} for {other.who} and {value(said[0])!r} for "
                f"{said[0].who}; it must be one"
            )


def expect_frozen(op: str, clients: Sequence[Adapter], half: Half, rule: str) -> None:
    """Raise unless the half that a rule holds frozen is the same, where clients sent it."""
    keys = [key for client in clients for key in client.half(half)]
    remedy = f": {remedy_of_frozen(half)}"
    expect_same_values(op, clients, keys, f"frozen under {rule!r}", remedy)


def expect_same_values(
    op: str, clients: Sequence[Adapter], keys: Iterable[str], what: str, remedy: str = ""
) -> None:
    """Raise unless those clients that hold a tensor hold the same numbers."""
    for key in dict.fromkeys(keys):
        held = [(c.who, c.tensors.get(key, c.frozen.get(key))) for c in clients]
        have = [(who, tensor) for who, tensor in held if tensor is not None]
        for who, tensor in have[1:]:
            if not torch.equal(tensor, have[0][1]):
                raise ArgumentError(
                    f"{op}: {who}[{key!r}] is {what} and differs from that of {have[0][0]}; it "
                    f"must be equal in all{remedy}"
                )


def expect_one_form(op: str, clients: Sequence[Adapter], keys: Sequence[str], rule: str) -> None:
    """Raise unless every client holds what any holds of these, in one shape and dtype."""
    for client, key in itertools.product(clients, keys):
        first = next(c for c in clients if key in c.tensors)
        tensor, wanted = client.tensors.get(key), first.tensors[key]
        if tensor is None:
            raise ArgumentError(f"{op}: {client.who} has no {key!r}; {first.who} has it")
        if tensor.dtype != wanted.dtype:
            raise DtypeError(
                f"{op}: {client.who}[{key!r}] has dtype {tensor.dtype} and that of {first.who} "
                f"{wanted.dtype}; all must have one dtype"
            )
        if tensor.shape != wanted.shape:
            raise ArgumentError(
                f"{op}: {client.who}[{key!r}] has shape {tuple(tensor.shape)} and that of "
                f"{first.who} {tuple(wanted.shape)}; {rule!r} needs one rank and base (of mixed "
                "ranks take 'flora', 'flexlora' or 'hetlora')"
            )


def expect_mixed_forms(op: str, clients: Sequence[Adapter]) -> None:
    """Raise unless whole pairs differ in their ranks at most."""
    first = clients[0]
    for client in clients:
        for module, pair in client.pairs.items():
            like = first.pairs[module]
            if pair.a is None or pair.b is None or like.a is None or like.b is None:
                raise ArgumentError(f"{op}: {client.who} has no whole pair of {module!r}")
            found = (pair.a.shape[1:], pair.b.shape[:1])
            wanted = (like.a.shape[1:], like.b.shape[:1])
            if found != wanted:
                raise ArgumentError(
                    f"{op}: {client.who} adapts {module!r} with A {tuple(pair.a.shape)} and B "
                    f"{tuple(pair.b.shape)}, {first.who} with {tuple(like.a.shape)} and "
                    f"{tuple(like.b.shape)}; only the ranks may differ"
                )
            if pair.a.dtype != like.a.dtype:
                raise DtypeError(
                    f"{op}: {client.who}[{pair.key_a!r}] has dtype {pair.a.dtype} and that of "
                    f"{first.who} {like.a.dtype}; all must have one dtype"
                )


def expect_one_scaling(op: str, clients: Sequence[Adapter], rule: str) -> None:
    """Raise unless s of every module is one number, where it is known."""
    for module in clients[0].pairs:
        said = [c for c in clients if c.pairs[module].scale is not None]
        for other in said[1:]:
            mine, theirs = said[0].pairs[module].scale, other.pairs[module].scale
            if mine != theirs:
                raise ArgumentError(
                    f"{op}: the scaling of {module!r} (of lora_alpha, r and use_rslora) is {theirs}"
                    f" for {other.who} and {mine} for {said[0].who}; {rule!r} needs one (of mixed "
                    "ones take 'flora', 'flexlora' or 'hetlora')"
                )


def expect_products(op: str, clients: Sequence[Adapter], rule: str) -> None:
    """Raise unless every pair is of two matrices whose scaled product is the change of a weight."""
    for client in clients:
        settings = client.settings
        if settings is not None and settings.fields.get("target_parameters"):
            raise ArgumentError(
                f"{op}: {client.who} adapts target_parameters, whose products are not of two "
                f"matrices; {rule!r} is not defined for them"
            )
        for pair in client.pairs.values():
            key = pair.key_a or pair.key_b
            if pair.kind == "vera":
                raise ArgumentError(
                    f"{op}: {client.who}[{key!r}] is of VeRA; {rule!r} is defined for LoRA alone"
                )
            if any(t is not None and t.dim() != 2 for t in (pair.a, pair.b)):
                raise ArgumentError(
                    f"{op}: {client.who}[{key!r}] is of a convolution, whose product is no product "
                    f"of matrices; {rule!r} is not defined for it"
                )


def expect_scales(op: str, clients: Sequence[Adapter], rule: str) -> None:
    """Raise unless s of every module is known and not 0."""
    for client in clients:
        for module, pair in client.pairs.items():
            if not pair.scale:
                told = "0" if pair.scale == 0 else "unknown"
                raise ArgumentError(
                    f"{op}: the scaling of {module!r} of {client.who} is {told}; {rule!r} needs it:"
                    " give configs or scaling"
                )


def expect_separate(op: str, states: Iterable[tuple[str, Mapping[str, torch.Tensor]]]) -> None:
    """Raise where two parties' adapters lie in the same memory, so that one would overwrite both.

    Args:
        op: what messages name.
        states: (party, its tensors by key).
    """
    owners: dict[tuple[torch.device, int], tuple[str, str]] = {}
    for who, tensors in states:
        for key, tensor in tensors.items():
            place = (tensor.device, tensor.data_ptr())
            other, twin = owners.setdefault(place, (who, key))
            if other != who:
                raise ArgumentError(
                    f"{op}: {key} of {who} is in the memory of {twin} of {other}; every client "
                    "needs an adapter of its own, or one's B would become another's"
                )


def expect_finite(op: str, clients: Sequence[Adapter]) -> None:
    """Raise where a trained tensor holds NaN or infinity."""
    named = [
        (client.who, key, tensor)
        for client in clients
        for key, tensor in client.tensors.items()
        if tensor.is_floating_point() and tensor.numel()
    ]
    # A norm is NaN or infinite where an element is, and where squares overflow: then one looks.
    norms = torch._foreach_norm([tensor for _, _, tensor in named])
    good = torch.stack([norm.to(torch.float64) for norm in norms]).isfinite().tolist()
    for who, key, tensor in itertools.compress(named, (not one for one in good)):
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise ArgumentError(
                f"{op}: {who}[{key!r}] has {bad} of {tensor.numel()} elements that are NaN or "
                "infinite; they must be finite"
            )


def expect_half(op: str, clients: Sequence[Adapter], half: Half, rule: str) -> None:
    """Raise unless every client sent this half of its pairs."""
    for client in clients:
        if not client.half(half):
            raise ArgumentError(
                f"{op}: {client.who} has no {half} of its pairs; {rule!r} averages them"
            )
