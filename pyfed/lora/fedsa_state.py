"""The adapter of one party: its tensors as they live in a model or a dict, and as bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from pyfed.errors import ArgumentError, DtypeError
from pyfed.lora.adapters import WIDE_FLOATS, _read
from pyfed.lora.plan import LoraPlan

Source: TypeAlias = nn.Module | Mapping[str, torch.Tensor] | str | os.PathLike[str]
"""A PEFT model, the state dict of an adapter, or the path of a saved one."""

Dtype: TypeAlias = np.dtype[Any]
WIRES: dict[str, tuple[torch.dtype, Dtype, Dtype]] = {
    "float32": (torch.float32, np.dtype("<f4"), np.dtype(np.float32)),
    "float16": (torch.float16, np.dtype("<i2"), np.dtype(np.int16)),
    "bfloat16": (torch.bfloat16, np.dtype("<i2"), np.dtype(np.int16)),
}
"""Of each wire dtype: torch's, that of the bytes, and that of this machine of the same width."""


@dataclass(frozen=True)
class Held:
    """The trained tensors of an adapter, by the keys that PEFT saves.

    Args:
        tensors: key → tensor; it shares its memory with the model or dict that it was read from.
        roles: key → ``"a"``, ``"b"``, ``"head"``, or ``"extra"`` of DoRA's magnitudes and of
            ``lora_bias``.
        scalings: module path → s of y = Wx + s·BAx; empty for VeRA.
        projection: seed of VeRA's frozen projections; None for LoRA.
    """

    tensors: dict[str, torch.Tensor]
    roles: dict[str, str]
    scalings: dict[str, float]
    projection: int | None

    def dtype(self, key: str) -> str:
        """The dtype of a tensor by name, such as ``"float32"``."""
        return str(self.tensors[key].dtype).removeprefix("torch.")

    def digest(self, roles: Iterable[str]) -> bytes:
        """SHA-256 of the values of some roles, in the order of their keys."""
        found = hashlib.sha256()
        for key in sorted(key for key, role in self.roles.items() if role in roles):
            found.update(_raw(self.tensors[key]))
        return found.digest()

    def vector(self, plan: LoraPlan) -> torch.Tensor:
        """What the plan shares as one flat vector of the wire dtype, rounded to nearest.

        It is where the tensors are, or on the CPU when they are on several devices.
        """
        dtype, shared = WIRES[plan.wire][0], [self.tensors[t.name] for t in plan.shared]
        places = {tensor.device for tensor in shared}
        place = places.pop() if len(places) == 1 else torch.device("cpu")
        return torch.cat([tensor.reshape(-1).to(place, dtype) for tensor in shared])

    @torch.no_grad()
    def load_(self, plan: LoraPlan, vector: torch.Tensor) -> None:
        """Write such a vector into the tensors that the plan shares, and into nothing else."""
        for name, values in split(plan, vector).items():
            self.tensors[name].copy_(values)


def held(op: str, who: str, source: object, config: Any, name: str) -> Held:
    """Read the adapter of a party; raises unless it is whole, and its configuration known.

    Args:
        op: what messages name.
        who: how messages call the adapter.
        source: what holds it.
        config: of a state dict, its PEFT configuration.
        name: of the adapter in a model.
    """
    scaling = None
    if isinstance(source, nn.Module):
        if config is not None:
            raise ArgumentError(f"{op}: config is given beside a model, which has its own")
        config, source, scaling = _of_model(op, who, source, name)
    elif not isinstance(source, Mapping | str | os.PathLike):
        kind = type(source).__name__
        raise DtypeError(
            f"{op}: {who} is {kind}; it must be a PEFT model, a state dict or a path (of a "
            "ClientBank give bank.state_dict(client), and bank.config as config)"
        )
    adapter = _read(op, who, source, config, f"config of {who}", scaling, None)
    if adapter.settings is None:
        raise ArgumentError(
            f"{op}: config of {who} is None; a state dict does not say how it is scaled, so give "
            "its PEFT configuration, or a dict of its fields"
        )
    if not adapter.half("A") or not adapter.half("B"):
        lacking = "B" if adapter.half("A") else "A"
        raise ArgumentError(
            f"{op}: {who} has no {lacking} at all; it must hold both halves, of which one may stay"
        )
    halves = (("a", adapter.half("A")), ("b", adapter.half("B")))
    keys = (*halves, ("head", adapter.heads), ("extra", adapter.extras))
    roles = {key: role for role, own in keys for key in own}
    seed = adapter.settings.fields.get("projection_prng_key")
    return Held(
        tensors=adapter.tensors,
        roles=roles,
        scalings={p.module: p.scale for p in adapter.pairs.values() if p.scale is not None},
        projection=int(seed) if adapter.settings.peft_type == "VERA" and seed is not None else None,
    )


def expect_float_heads(op: str, who: str, found: Held) -> None:
    """Raise unless all heads can be averaged."""
    for key in (key for key, role in found.roles.items() if role == "head"):
        if found.tensors[key].dtype not in WIDE_FLOATS:
            raise DtypeError(
                f"{op}: {key} of {who} has dtype {found.tensors[key].dtype}, of which there is no "
                "mean; say heads='local'"
            )


def split(plan: LoraPlan, vector: torch.Tensor) -> dict[str, torch.Tensor]:
    """A flat vector as the tensors that the plan shares: views of it, in their shapes."""
    parts = vector.split([tensor.values for tensor in plan.shared])
    return {t.name: part.view(t.shape) for t, part in zip(plan.shared, parts, strict=True)}


def pack(plan: LoraPlan, vector: torch.Tensor) -> bytes:
    """A flat vector of the wire dtype as the payload of a message."""
    dtype, form, native = WIRES[plan.wire]
    assert vector.dtype == dtype
    values = vector.detach().cpu()
    bits = (values if native == np.float32 else values.view(torch.int16)).numpy()
    raw: bytes = bits.astype(form, copy=False).tobytes()
    return raw


def unpack(plan: LoraPlan, payload: bytes, device: torch.device | str = "cpu") -> torch.Tensor:
    """The payload of a message, which was checked, as a flat vector of the wire dtype."""
    dtype, form, native = WIRES[plan.wire]
    bits = torch.from_numpy(np.frombuffer(payload, form).astype(native))
    return bits.view(dtype).to(device)


def _of_model(
    op: str, who: str, model: nn.Module, name: str
) -> tuple[Any, dict[str, torch.Tensor], dict[str, float] | None]:
    """Configuration, live tensors by saved key, and scalings of an adapter in a model."""
    configs = getattr(model, "peft_config", None)
    if not isinstance(configs, Mapping):
        kind = type(model).__name__
        raise DtypeError(
            f"{op}: {who} is {kind} without a peft_config; it must be a PEFT model, unwrapped from "
            "DataParallel or torch.compile"
        )
    if name not in configs:
        raise ArgumentError(
            f"{op}: {who} has no adapter {name!r}; it must be one of {sorted(configs)}"
        )
    from peft import get_peft_model_state_dict
    from peft.tuners.lora import LoraLayer

    # Embeddings of the base model are no part of the adapter; without this PEFT may ask the hub.
    state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    scales = {
        path.removeprefix("base_model.model."): float(module.scaling[name])
        for path, module in model.named_modules()
        if isinstance(module, LoraLayer) and name in module.scaling
    }
    return configs[name], state, scales or None


def _raw(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor, for a digest; little-endian on every machine."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    width = flat.element_size()
    kinds = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    raw: bytes = flat.view(kinds[width]).numpy().astype(f"<i{width}", copy=False).tobytes()
    return raw
