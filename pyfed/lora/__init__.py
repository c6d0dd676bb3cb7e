"""Federated LoRA: updates of adapters combined by any published rule, and many trained at once.

State dicts are PEFT's own, in and out. Names are resolved on first use; peft, transformers and
safetensors are imported where they are needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyfed.lazy import lazy as _lazy

_HOME = {
    "AggregateResult": "pyfed.lora.result",
    "BankAdamW": "pyfed.lora.optim",
    "BankSGD": "pyfed.lora.optim",
    "ClientBank": "pyfed.lora.bank",
    "CounterDropout": "pyfed.lora.dropout",
    "DropoutClock": "pyfed.lora.dropout",
    "FedAdam": "pyfed.lora.servers",
    "FedAvgM": "pyfed.lora.servers",
    "FedSALoRA": "pyfed.lora.fedsa",
    "FedYogi": "pyfed.lora.servers",
    "LoraMessage": "pyfed.lora.messages",
    "LoraPlan": "pyfed.lora.plan",
    "LoraResult": "pyfed.lora.fedsa_result",
    "LoraShared": "pyfed.lora.messages",
    "LoraTensor": "pyfed.lora.plan",
    "LoraUpdate": "pyfed.lora.messages",
    "LowRank": "pyfed.lora.residual",
    "SecureLora": "pyfed.lora.secure",
    "aggregate": "pyfed.lora.aggregation",
    "hetlora_prune": "pyfed.lora.self_pruning",
    "low_rank_svd": "pyfed.lora.factor",
    "merge_residual_": "pyfed.lora.residual",
    "residual_adapter": "pyfed.lora.residual",
    # The in-process engine stands above this package; only its name is offered here.
    "simulate_lora": "pyfed.engines.lora",
    "upload": "pyfed.lora.uplink",
}

__all__ = [
    "AggregateResult",
    "BankAdamW",
    "BankSGD",
    "ClientBank",
    "CounterDropout",
    "DropoutClock",
    "FedAdam",
    "FedAvgM",
    "FedSALoRA",
    "FedYogi",
    "LoraMessage",
    "LoraPlan",
    "LoraResult",
    "LoraShared",
    "LoraTensor",
    "LoraUpdate",
    "LowRank",
    "SecureLora",
    "aggregate",
    "hetlora_prune",
    "low_rank_svd",
    "merge_residual_",
    "residual_adapter",
    "simulate_lora",
    "upload",
]

if TYPE_CHECKING:
    from pyfed.engines.lora import simulate_lora
    from pyfed.lora.aggregation import aggregate
    from pyfed.lora.bank import ClientBank
    from pyfed.lora.dropout import CounterDropout, DropoutClock
    from pyfed.lora.factor import low_rank_svd
    from pyfed.lora.fedsa import FedSALoRA
    from pyfed.lora.fedsa_result import LoraResult
    from pyfed.lora.messages import LoraMessage, LoraShared, LoraUpdate
    from pyfed.lora.optim import BankAdamW, BankSGD
    from pyfed.lora.plan import LoraPlan, LoraTensor
    from pyfed.lora.residual import LowRank, merge_residual_, residual_adapter
    from pyfed.lora.result import AggregateResult
    from pyfed.lora.secure import SecureLora
    from pyfed.lora.self_pruning import hetlora_prune
    from pyfed.lora.servers import FedAdam, FedAvgM, FedYogi
    from pyfed.lora.uplink import upload

__getattr__, __dir__ = _lazy(__name__, _HOME)
