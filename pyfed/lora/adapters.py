"""The adapters of clients as a server gets them: read, paired, and checked one by one."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from pyfed.errors import ArgumentError, DtypeError
from pyfed.lora.keys import AdapterKey, Kind, parse_keys
from pyfed.lora.settings import Settings, settings_beside
from pyfed.ops.selection_arguments import FLOATS

Half = Literal["A", "B"]
WIDE_FLOATS = (*FLOATS, torch.float64)


@dataclass(frozen=True)
class Pair:
    """The adapter of one module.

    Args:
        module: dotted name in the base model.
        kind: ``"linear"``, ``"embedding"`` or ``"vera"``.
        a: A (r, in), of a convolution (r, in, …), of VeRA λ_d (r,); None where it did not travel.
        b: B (out, r), (out, r, …) or λ_b (out,); None where it did not travel.
        key_a: saved key of ``a``; empty without it.
        key_b: likewise.
        scale: s of s·B·A; None when it is not known.
    """

    module: str
    kind: Kind
    a: torch.Tensor | None = None
    b: torch.Tensor | None = None
    key_a: str = ""
    key_b: str = ""
    scale: float | None = None

    def factors(self) -> tuple[torch.Tensor, torch.Tensor, float]:
        """A, B and s of a pair that is known to be whole."""
        assert self.a is not None and self.b is not None and self.scale is not None
        return self.a, self.b, self.scale

    @property
    def rank(self) -> int | None:
        """The rank, or None where the half that travelled does not show it."""
        if self.a is not None:
            return self.a.shape[0]
        # λ_b of VeRA has no rank, and B of a grouped convolution has less than it.
        return self.b.shape[1] if self.b is not None and self.b.dim() == 2 else None


@dataclass(frozen=True)
class Adapter:
    """What one client trained.

    Args:
        who: how messages call it, such as ``adapters[3]``.
        tensors: saved key → tensor that is trained, in the client's order.
        pairs: module → its pair, in that order.
        heads: keys of parameters that are trained in full.
        extras: keys of DoRA's magnitudes and of ``lora_bias``.
        frozen: saved key → tensor that is not trained.
        settings: its configuration; None when it is not known.
    """

    who: str
    tensors: dict[str, torch.Tensor]
    pairs: dict[str, Pair]
    heads: tuple[str, ...]
    extras: tuple[str, ...]
    frozen: dict[str, torch.Tensor]
    settings: Settings | None

    def half(self, half: Half) -> list[str]:
        """The keys of all A or of all B."""
        keys = (p.key_a if half == "A" else p.key_b for p in self.pairs.values())
        return [key for key in keys if key]


def read_adapters(
    op: str,
    adapters: Sequence[Any],
    configs: object = None,
    scaling: object = None,
    prefix: str = "",
) -> list[Adapter]:
    """Read every client's adapter; raises where one is not whole in itself.

    Args:
        op: what messages name.
        adapters: PEFT state dicts, folders, or paths of safetensors files.
        configs: a configuration for all, or a list of one each; None: what the folders say.
        scaling: s for all modules, {module: s}, or a list of one such each, in place of what the
            configurations say; None: those.
        prefix: stripped from every key.
    """
    if isinstance(adapters, str | bytes | Mapping) or not isinstance(adapters, Sequence):
        raise DtypeError(
            f"{op}: adapters is {type(adapters).__name__}; it must be a list of one for each client"
        )
    if not adapters:
        raise ArgumentError(f"{op}: adapters is empty; there must be one client at least")
    if not isinstance(prefix, str):
        raise DtypeError(f"{op}: strip_prefix is {type(prefix).__name__}; it must be a str")
    each = _one_each(op, "configs", configs, len(adapters))
    scales = _one_each(op, "scaling", scaling, len(adapters))
    return [
        _read(op, f"adapters[{i}]", given, each[i], f"configs[{i}]", scales[i], prefix)
        for i, given in enumerate(adapters)
    ]


def _one_each(op: str, name: str, value: Any, clients: int) -> list[Any]:
    if not isinstance(value, list | tuple):
        return [value] * clients
    if len(value) != clients:
        raise ArgumentError(f"{op}: {name} has {len(value)} entries; there are {clients} adapters")
    return list(value)


def _read(
    op: str, who: str, given: Any, config: Any, config_name: str, scaling: Any, prefix: str | None
) -> Adapter:
    settings = None if config is None else Settings.read(op, config_name, config)
    if isinstance(given, str | os.PathLike):
        loaded, beside = _load(op, who, Path(given))
        state: Mapping[str, Any] = loaded
        settings = settings or beside
    elif isinstance(given, Mapping):
        state = given
    else:
        kind = type(given).__name__
        raise DtypeError(
            f"{op}: {who} is {kind}; it must be a state dict or a path (of a model give "
            "peft.get_peft_model_state_dict(model))"
        )
    keys = parse_keys(op, who, state, prefix)
    for key, value in state.items():
        _expect_tensor(op, f"{who}[{key!r}]", value)
    trained = {k: parsed for k, parsed in keys.items() if parsed.role != "frozen"}
    adapter = Adapter(
        who=who,
        tensors={parsed.name: state[key].detach() for key, parsed in trained.items()},
        pairs=_pair(op, who, state, trained, settings, scaling),
        heads=tuple(k.name for k in trained.values() if k.role == "head"),
        extras=tuple(k.name for k in trained.values() if k.role in ("magnitude", "bias")),
        frozen={k.name: state[key].detach() for key, k in keys.items() if k.role == "frozen"},
        settings=settings,
    )
    _check(op, adapter, trained)
    return adapter


def _load(op: str, who: str, path: Path) -> tuple[dict[str, torch.Tensor], Settings | None]:
    """The tensors of a folder or file, and the configuration beside them."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = path / "adapter_model.safetensors" if path.is_dir() else path
    if not file.is_file() or file.suffix != ".safetensors":
        raise ArgumentError(
            f"{op}: {who} is {str(path)!r}; it must be a folder with adapter_model.safetensors, or "
            "a .safetensors file"
        )
    try:
        return load_file(file), settings_beside(op, file.parent)
    except SafetensorError as error:
        raise ArgumentError(f"{op}: {who}: {str(file)!r} cannot be read: {error}") from None


def _expect_tensor(op: str, name: str, value: object) -> None:
    if not isinstance(value, torch.Tensor):
        raise DtypeError(f"{op}: {name} is {type(value).__name__}; it must be a torch.Tensor")
    if value.layout != torch.strided or value.is_meta:
        raise ArgumentError(f"{op}: {name} is sparse or not loaded; it must be a dense tensor")


def _pair(
    op: str,
    who: str,
    state: Mapping[str, Any],
    keys: Mapping[str, AdapterKey],
    settings: Settings | None,
    scaling: object,
) -> dict[str, Pair]:
    """The halves of every module, brought together, and s."""
    halves: dict[str, dict[str, Any]] = {}
    for key, parsed in keys.items():
        if parsed.role in ("A", "B"):
            side = parsed.role.lower()
            own = halves.setdefault(parsed.module, {"kind": parsed.kind})
            own |= {side: state[key].detach(), f"key_{side}": parsed.name}
    scales = _scales(op, who, list(halves), settings, scaling)
    return {name: Pair(name, scale=scales[name], **own) for name, own in halves.items()}


def _check(op: str, adapter: Adapter, keys: Mapping[str, AdapterKey]) -> None:
    """Raise unless pairs are whole, shapes fit, and the configuration agrees."""
    who, settings = adapter.who, adapter.settings
    if not adapter.pairs:
        raise ArgumentError(
            f"{op}: {who} holds no tensor of a LoRA or VeRA adapter: no key has lora_ or "
            "vera_lambda_ in it"
        )
    for half in ("A", "B"):
        have = [p for p in adapter.pairs.values() if (p.key_a if half == "A" else p.key_b)]
        if 0 < len(have) < len(adapter.pairs):
            lone = next(p for p in adapter.pairs.values() if p not in have)
            raise ArgumentError(
                f"{op}: {who} has no {half} beside {lone.key_a or lone.key_b!r}; it must have the "
                f"{half} of every pair, or no {half} at all"
            )
    method = "VERA" if next(iter(adapter.pairs.values())).kind == "vera" else "LORA"
    if settings is not None and settings.peft_type != method:
        raise ArgumentError(
            f"{op}: {who} has tensors of {method} and a configuration of {settings.peft_type}"
        )
    if any((pair.kind == "vera") != (method == "VERA") for pair in adapter.pairs.values()):
        raise ArgumentError(f"{op}: {who} has tensors of LoRA and of VeRA; it must have one kind")
    for pair in adapter.pairs.values():
        _check_pair(op, who, pair, settings)
    for parsed in keys.values():
        if (
            settings is not None
            and parsed.role == "head"
            and not settings.is_trained(parsed.name, parsed.module)
        ):
            raise ArgumentError(
                f"{op}: {who} holds the unknown key {parsed.name!r}; its configuration's "
                "modules_to_save does not name it"
            )


def _check_pair(op: str, who: str, pair: Pair, settings: Settings | None) -> None:
    for key, tensor in ((pair.key_a, pair.a), (pair.key_b, pair.b)):
        if tensor is None:
            continue
        if tensor.dtype not in WIDE_FLOATS:
            raise DtypeError(
                f"{op}: {who}[{key!r}] has dtype {tensor.dtype}; it must be a floating dtype of 16 "
                "bits or more"
            )
        dims_fit = tensor.dim() == 1 if pair.kind == "vera" else tensor.dim() >= 2
        if tensor.numel() == 0 or not dims_fit:
            raise ArgumentError(
                f"{op}: {who}[{key!r}] has shape {tuple(tensor.shape)}; an adapter that was saved "
                "before its shards were gathered looks like that"
            )
    if pair.a is not None and pair.b is not None:
        if pair.kind != "vera" and pair.b.dim() == 2 and pair.a.shape[0] != pair.b.shape[1]:
            raise ArgumentError(
                f"{op}: {who}[{pair.key_a!r}] has shape {tuple(pair.a.shape)} and its B "
                f"{tuple(pair.b.shape)}; they must be (r, in) and (out, r)"
            )
        if pair.a.dtype != pair.b.dtype:
            raise DtypeError(
                f"{op}: {who}[{pair.key_a!r}] has dtype {pair.a.dtype} and its B {pair.b.dtype}; "
                "both must have one dtype"
            )
    found = pair.rank
    if settings is None or found is None or settings.fields.get("target_parameters"):
        return
    if settings.rank(pair.module) != found:
        raise ArgumentError(
            f"{op}: {who}[{pair.key_a or pair.key_b!r}] has rank {found}; its configuration says "
            f"{settings.rank(pair.module)}"
        )


def _scales(
    op: str, who: str, modules: list[str], settings: Settings | None, scaling: object
) -> Mapping[str, float | None]:
    """The s of every module: as given, else as configured, else None."""
    if scaling is None:
        if settings is None or settings.peft_type != "LORA":
            return dict.fromkeys(modules)
        return {name: settings.scale(name) for name in modules}
    given: Mapping[str, Any] = (
        scaling if isinstance(scaling, Mapping) else dict.fromkeys(modules, scaling)
    )
    if set(given) != set(modules):
        odd = sorted(set(given) ^ set(modules))[0]
        raise ArgumentError(f"{op}: scaling does not fit {who}: {odd!r} is in one only")
    for name, value in given.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            raise ArgumentError(
                f"{op}: scaling of {name!r} is {value!r}; it must be a finite number"
            )
    return {name: float(value) for name, value in given.items()}
