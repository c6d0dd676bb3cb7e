"""What a bank takes from a PEFT model, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from pyfed.errors import ArgumentError, DtypeError
from pyfed.keys import Key
from pyfed.lora.arena import GROUPS
from pyfed.lora.bank_layers import BankedHead, BankedLayer, BankedLora, BankedVera, Frame
from pyfed.lora.dropout import dropout_key

_OP = "ClientBank"
_QUANTISED = ("bnb", "gptq", "awq", "aqlm", "hqq", "eetq", "torchao", "inc")
"""Modules of PEFT whose linear layers add LoRA to what the base layer gives, as plain ones do."""


@dataclass(frozen=True)
class Parts:
    """What a bank runs and keeps of a PEFT model.

    Args:
        adapter: its name.
        layers: adapted layers and heads, in the order of the model.
        constants: what an adapter's file holds beside the parameters: frozen projections, buffers.
        dtype: of the arena.
        device: of everything.
        trainable: groups that are not frozen.
    """

    adapter: str
    layers: list[BankedLayer]
    constants: dict[str, torch.Tensor]
    dtype: torch.dtype
    device: torch.device
    trainable: frozenset[str]


def read_model(model: Any, adapter: str | None, clients: int, key: Key, frame: Frame) -> Parts:
    """Find what clients train in a PEFT model; raises where a bank cannot be right.

    Args:
        model: a PeftModel.
        adapter: the name of one of its adapters; None: the active one.
        clients: of the bank.
        key: of the bank's dropout.
        frame: of the bank.
    """
    adapter = _adapter_of(model, adapter)
    _expect_no_batch_norm(model)
    device, dtype = _place(model)
    layers = []
    for path, module in model.named_modules():
        layer = _banked(path, module, adapter, (clients, dtype, device), key, frame)
        if layer is not None:
            layers.append(layer)
    if not any(isinstance(layer, BankedLora | BankedVera) for layer in layers):
        raise ArgumentError(f"{_OP}: adapter {adapter!r} adapts no layer of the model")
    _expect_own_memory(model, layers)
    trainable = _trainable(model, layers)
    return Parts(adapter, layers, _constants(model, adapter, layers), dtype, device, trainable)


def _adapter_of(model: Any, adapter: str | None) -> str:
    from peft import PeftModel, PeftType

    if not isinstance(model, PeftModel):
        raise DtypeError(
            f"{_OP}: model is {type(model).__name__}; it must be a peft.PeftModel, as "
            "peft.get_peft_model gives it"
        )
    active = list(model.active_adapters)
    if len(active) > 1:
        raise ArgumentError(
            f"{_OP}: the active adapters are {active}; a bank trains one: model.set_adapter(name)"
        )
    name = active[0] if adapter is None else adapter
    if name not in model.peft_config:
        known = sorted(model.peft_config)
        raise ArgumentError(f"{_OP}: adapter is {name!r}; the model has {known}")
    kind = model.peft_config[name].peft_type
    if kind not in (PeftType.LORA, PeftType.VERA):
        raise ArgumentError(
            f"{_OP}: adapter {name!r} is of type {getattr(kind, 'value', kind)}; it must be LORA "
            "or VERA"
        )
    return str(name)


def _expect_no_batch_norm(model: nn.Module) -> None:
    for path, module in model.named_modules():
        if isinstance(module, _NormBase) and (
            "BatchNorm" in type(module).__name__ or module.track_running_stats
        ):
            raise ArgumentError(
                f"{_OP}: layer {path} is {type(module).__name__}; statistics of a batch mix "
                "clients: use a model with layer or group norm"
            )


def _place(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """The device of the model, and the dtype in which adapters are kept."""
    devices = {str(parameter.device) for parameter in model.parameters()}
    if len(devices) != 1 or "meta" in devices:
        raise ArgumentError(
            f"{_OP}: the model is on {', '.join(sorted(devices))}; it must be on one device"
        )
    double = any(parameter.dtype == torch.float64 for parameter in model.parameters())
    return torch.device(devices.pop()), torch.float64 if double else torch.float32


def _banked(
    path: str,
    module: nn.Module,
    adapter: str,
    size: tuple[int, torch.dtype, torch.device],
    key: Key,
    frame: Frame,
) -> BankedLayer | None:
    """The banked form of a module; None when it is the same for all clients."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper

    clients, dtype, device = size
    if isinstance(module, ModulesToSaveWrapper) and adapter in module.modules_to_save:
        if module.disable_adapters:
            raise ArgumentError(f"{_OP}: head {path} is disabled; enable the adapters first")
        return BankedHead(frame, path, module, adapter)
    if isinstance(module, AuxiliaryTrainingWrapper) and adapter in module._adapters:
        raise ArgumentError(
            f"{_OP}: {path} is {type(module).__name__}; a bank trains LoRA, VeRA and "
            "modules_to_save"
        )
    if not isinstance(module, BaseTunerLayer):
        return None
    tuned: Any = module
    if not any(adapter in getattr(tuned, name, {}) for name in tuned.adapter_layer_names):
        return None
    if tuned.merged:
        raise ArgumentError(
            f"{_OP}: layer {path} has merged adapters {tuned.merged_adapters}; unmerge first"
        )
    if tuned.disable_adapters:
        raise ArgumentError(f"{_OP}: layer {path} is disabled; enable the adapters first")
    own = dropout_key(key, path)
    if _is_vera(tuned):
        return BankedVera(frame, path, tuned, adapter, own, device)
    _expect_plain_lora(path, tuned, adapter)
    scale = torch.full((clients,), float(tuned.scaling[adapter]), dtype=dtype, device=device)
    return BankedLora(frame, path, tuned, adapter, own, scale)


def _is_vera(layer: Any) -> bool:
    from peft.tuners.vera.layer import VeraLayer

    return isinstance(layer, VeraLayer)


def _expect_plain_lora(path: str, layer: Any, adapter: str) -> None:
    """Raise unless the layer adds s · B A drop(x) to what its base layer gives, and no more."""
    from peft.tuners.lora.layer import Linear

    kind = type(layer).__name__
    if adapter in layer.lora_variant:
        variant = type(layer.lora_variant[adapter]).__name__
        raise ArgumentError(
            f"{_OP}: layer {path} uses {variant} (DoRA or another variant); a bank trains plain "
            "LoRA, rsLoRA and VeRA"
        )
    home = type(layer).__module__
    quantised = home.startswith("peft.tuners.lora.") and home.rsplit(".", 1)[1] in _QUANTISED
    if not isinstance(layer, Linear) and not quantised:
        raise ArgumentError(
            f"{_OP}: layer {path} is an adapted {kind}; a bank trains adapters of linear layers "
            "(Linear and Conv1D) alone"
        )
    if layer.lora_bias[adapter]:
        raise ArgumentError(f"{_OP}: layer {path} has lora_bias; a bank trains A and B alone")


def _expect_own_memory(model: nn.Module, layers: Iterable[BankedLayer]) -> None:
    """Raise when two names show one banked parameter, as those of tied heads do."""
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(parameter.data_ptr(), []).append(name)
    for layer in layers:
        for key, (_, parameter) in layer.parameters.items():
            names = owners[parameter.data_ptr()]
            if parameter.numel() and len(names) > 1:
                raise ArgumentError(
                    f"{_OP}: {key} is tied: {names} share one parameter, which cannot be each "
                    "client's own in one place and the base's in another"
                )
    tuned = [id(layer.module) for layer in layers]
    for layer in layers:
        if isinstance(layer, BankedHead) and any(id(m) in tuned for m in layer.head.modules()):
            raise ArgumentError(
                f"{_OP}: head {layer.path} holds adapted layers; take them out of target_modules"
            )


def _trainable(model: nn.Module, layers: list[BankedLayer]) -> frozenset[str]:
    """The groups that train: those whose parameters require grad, or all when none does."""
    banked = {id(p): key for layer in layers for key, (_, p) in layer.parameters.items()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in banked:
            raise ArgumentError(
                f"{_OP}: {name} is trainable, but belongs to no adapter or head; clients share "
                "the base, so it must be frozen (requires_grad False; bias='none')"
            )
    wanted: dict[str, set[bool]] = {}
    for layer in layers:
        for group, parameter in layer.parameters.values():
            wanted.setdefault(group, set()).add(parameter.requires_grad)
    mixed = [group for group, found in wanted.items() if len(found) > 1]
    if mixed:
        raise ArgumentError(
            f"{_OP}: some parameters of group {mixed[0]!r} are frozen and some are not; a bank "
            f"freezes whole groups of {', '.join(GROUPS)}"
        )
    chosen = frozenset(group for group, found in wanted.items() if found == {True})
    return chosen or frozenset(wanted)


def _constants(model: Any, adapter: str, layers: list[BankedLayer]) -> dict[str, torch.Tensor]:
    """What PEFT would save beside the banked parameters; raises when that is trained."""
    from peft import get_peft_model_state_dict

    saved = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    banked = {key for layer in layers for key in layer.parameters}
    allowed = {
        f"{layer.path}.{name}"
        for layer in layers
        if isinstance(layer, BankedHead)
        for name, _ in layer.head.named_buffers()
    } | {"base_model.vera_A", "base_model.vera_B"}
    for key in saved:
        if key not in banked and key not in allowed:
            raise ArgumentError(
                f"{_OP}: the adapter's file would hold {key}, which a bank does not train"
            )
    if not banked <= set(saved):
        raise ArgumentError(f"{_OP}: PEFT would not save {sorted(banked - set(saved))[0]}")
    return {key: value.detach() for key, value in saved.items() if key not in banked}
