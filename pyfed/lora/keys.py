"""The keys of PEFT state dicts: which tensor of which module they name.

PEFT writes a key in two styles: *saved* ones, ``base_model.model.<module>.lora_A.weight``, and
*live* ones with the adapter's name in them, ``base_model.model.<module>.lora_A.default.weight``.
Both are read; results have saved keys.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Literal, NamedTuple

from pyfed.errors import ArgumentError

PREFIX = "base_model.model."
Role = Literal["A", "B", "magnitude", "bias", "head", "frozen"]
Kind = Literal["linear", "embedding", "vera", ""]


class AdapterKey(NamedTuple):
    """What a key of a PEFT state dict names.

    Args:
        name: the saved key.
        role: ``"A"`` or ``"B"``, the two halves of a pair (of VeRA λ_d and λ_b); ``"magnitude"`` of
            DoRA; ``"bias"`` of ``lora_bias``; ``"head"``, a parameter that is trained in full;
            ``"frozen"``, one that is not trained.
        kind: of a pair: ``"linear"``, ``"embedding"`` or ``"vera"``; otherwise empty.
        module: dotted name of the module in the base model.
        adapter: the adapter's name in a live key; None in a saved one.
    """

    name: str
    role: Role
    kind: Kind
    module: str
    adapter: str | None


_HALVES: dict[str, tuple[Role, Kind]] = {
    "lora_A": ("A", "linear"),
    "lora_B": ("B", "linear"),
    "lora_embedding_A": ("A", "embedding"),
    "lora_embedding_B": ("B", "embedding"),
    "vera_lambda_d": ("A", "vera"),
    "vera_lambda_b": ("B", "vera"),
    "lora_magnitude_vector": ("magnitude", ""),
    "vera_A": ("frozen", ""),
    "vera_B": ("frozen", ""),
}
_SAVED_NAMES: dict[tuple[Kind, Role], str] = {
    ("linear", "A"): ".lora_A.weight",
    ("linear", "B"): ".lora_B.weight",
    ("embedding", "A"): ".lora_embedding_A",
    ("embedding", "B"): ".lora_embedding_B",
}


def saved_name(module: str, kind: Kind, role: Role) -> str:
    """The saved key of one half of the pair of a module."""
    return PREFIX + module + _SAVED_NAMES[kind, role]


@functools.lru_cache(maxsize=1 << 16)  # a thousand clients have the same keys
def parse_key(key: str) -> AdapterKey | None:
    """What a key names; None where it is no key of a LoRA or VeRA adapter.

    Example:
        >>> from pyfed.lora.keys import parse_key
        >>> found = parse_key("base_model.model.encoder.query.lora_A.default.weight")
        >>> found.module, found.role, found.name
        ('encoder.query', 'A', 'base_model.model.encoder.query.lora_A.weight')
    """
    parts = key.split(".")
    if parts[0] == "base_model" and len(parts) in (2, 3) and parts[1] in ("vera_A", "vera_B"):
        name = ".".join(parts[:2])
        return AdapterKey(name, "frozen", "", "", parts[2] if len(parts) == 3 else None)
    if not key.startswith(PREFIX) or key == PREFIX:
        return None
    parts = parts[2:]
    places = [place for place, part in enumerate(parts) if part in _HALVES]
    if places:
        return _parse_half(parts[: places[-1]], parts[places[-1]], parts[places[-1] + 1 :])
    if any(part.startswith(("lora_", "vera_")) or part == "token_adapter" for part in parts):
        return None
    if "modules_to_save" in parts[:-2]:
        place = parts.index("modules_to_save")
        module, adapter = ".".join(parts[:place]), parts[place + 1]
        name = PREFIX + ".".join([*parts[:place], *parts[place + 2 :]])
        return AdapterKey(name, "head", "", module, adapter)
    frozen = "original_module" in parts or ("base_layer" in parts and parts[-1] != "bias")
    if parts[-2:-1] == ["modules_to_save"] and parts[-1] != "bias":
        return None  # with bias="all" PEFT saves the head's bias a second time, under that name
    role: Role = "frozen" if frozen else "head"
    return AdapterKey(key, role, "", ".".join(parts[:-1]), None)


def _parse_half(module: list[str], part: str, tail: list[str]) -> AdapterKey | None:
    """The key of a tensor of an adapter: ``tail`` is what stands behind the tensor's own name."""
    role, kind = _HALVES[part]
    ending: list[str] = []
    if part in ("lora_A", "lora_B"):
        if not tail or tail[-1] not in ("weight", "bias"):
            return None
        if tail[-1] == "bias":
            role = "bias"
        ending, tail = tail[-1:], tail[:-1]
    elif part == "lora_magnitude_vector" and tail[-1:] == ["weight"]:
        tail = tail[:-1]  # live keys have it, saved ones do not
    if len(tail) > 1:
        return None
    name = PREFIX + ".".join([*module, part, *ending])
    return AdapterKey(name, role, kind, ".".join(module), tail[0] if tail else None)


def parse_keys(op: str, who: str, keys: Iterable[str], prefix: str | None) -> dict[str, AdapterKey]:
    """Every key of a state dict and what it names.

    Args:
        op: what messages name.
        who: the argument that holds the keys.
        keys: saved keys, or live ones of one adapter.
        prefix: what stands before ``base_model`` and is stripped; often empty. None: empty, and the
            caller has no argument strip_prefix.

    Raises:
        ArgumentError: a key is unknown or has another prefix, two keys name one tensor, keys are
            of several adapters, or a weight of the base model is among live keys.
    """
    found: dict[str, AdapterKey] = {}
    names: dict[str, str] = {}
    keys = list(keys)
    _expect_halves(op, who, keys)
    for key in keys:
        parsed = _parse_or_raise(op, who, key, prefix)
        twin = names.setdefault(parsed.name, key)
        if twin != key and parsed.role != "frozen":
            raise ArgumentError(
                f"{op}: {who} holds {twin!r} and {key!r}, which name one tensor; give the state of "
                "one adapter, in one style of keys"
            )
        found[key] = parsed
    adapters = {k.adapter for k in found.values() if k.role != "frozen" and k.adapter is not None}
    if len(adapters) > 1:
        raise ArgumentError(
            f"{op}: {who} holds the adapters {', '.join(sorted(adapters))}; it must hold one"
        )
    for key, parsed in found.items():
        if adapters and parsed.role == "head" and parsed.adapter is None and key[-5:] != ".bias":
            raise ArgumentError(
                f"{op}: {who} holds {key!r}, a weight of the base model; it must be the state of "
                "an adapter, as peft.get_peft_model_state_dict gives it"
            )
    return found


def remedy_of_frozen(half: str) -> str:
    """What to do where a half that must be frozen differs."""
    other = "B" if half == "A" else "A"
    return (
        f"start all clients from one {half}, train {other} alone "
        f'(of a bank: ClientBank.train_only("{other.lower()}"))'
    )


def _expect_halves(op: str, who: str, keys: list[str]) -> None:
    """Raise for the state of a model without an adapter, whose keys all are unknown."""
    texts = [key for key in keys if isinstance(key, str)]
    if texts and not any(mark in key for key in texts for mark in ("lora_", "vera_", PREFIX)):
        raise ArgumentError(
            f"{op}: {who} has no key with lora_ or vera_ in it, so the unknown key {texts[0]!r} is "
            "of a model whose adapter was merged and unloaded, or that never had one; it must be "
            "the state of an adapter, as peft.get_peft_model_state_dict gives it"
        )


def _parse_or_raise(op: str, who: str, key: object, prefix: str | None) -> AdapterKey:
    told, prefix = prefix is not None, prefix or ""
    if not isinstance(key, str):
        raise ArgumentError(f"{op}: {who} has a key of type {type(key).__name__}; it must be a str")
    if not key.startswith(prefix):
        raise ArgumentError(
            f"{op}: {who} holds {key!r}, which does not begin with strip_prefix={prefix!r}"
        )
    place = key.find("base_model.")
    parsed = parse_key(key[len(prefix) :])
    if parsed is None and place > len(prefix):
        remedy = f"strip it, or give strip_prefix={key[:place]!r}" if told else "strip it"
        raise ArgumentError(f"{op}: {who} holds {key!r} with the prefix {key[:place]!r}; {remedy}")
    if parsed is None:
        raise ArgumentError(
            f"{op}: {who} holds the unknown key {key!r}; keys must be of a LoRA or VeRA adapter, "
            f"such as '{PREFIX}<module>.lora_A.weight'"
        )
    return parsed
