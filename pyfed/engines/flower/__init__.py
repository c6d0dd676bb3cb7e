"""pyfed on Flower: secure aggregation as a strategy on the server and a mod on the clients.

On the server, :class:`SecureFedAvg` takes the place of Flower's ``FedAvg``; on the clients,
``ClientApp(mods=[SecureAggMod(protocol)])`` is all there is to add. Needs the extra
``pyfed-kernels[flower]``. Names are resolved on first use.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if find_spec("flwr") is None:
    raise ModuleNotFoundError(
        "pyfed.engines.flower needs Flower, which is not installed; "
        "install the extra: pip install 'pyfed-kernels[flower]'",
        name="flwr",
    )

_HOME = {
    "CodedFedAvg": "pyfed.engines.flower.coded",
    "FedPrLLMStrategy": "pyfed.engines.flower.pruning",
    "FedSALoRA": "pyfed.engines.flower.lora",
    "SecureAggMod": "pyfed.engines.flower.mod",
    "SecureFedAvg": "pyfed.engines.flower.strategy",
    "SecureRounds": "pyfed.engines.flower.rounds",
    "to_arrays": "pyfed.engines.flower.arrays",
    "to_tensors": "pyfed.engines.flower.arrays",
}

__all__ = [
    "CodedFedAvg",
    "FedPrLLMStrategy",
    "FedSALoRA",
    "SecureAggMod",
    "SecureFedAvg",
    "SecureRounds",
    "to_arrays",
    "to_tensors",
]

if TYPE_CHECKING:
    from pyfed.engines.flower.arrays import to_arrays, to_tensors
    from pyfed.engines.flower.coded import CodedFedAvg
    from pyfed.engines.flower.lora import FedSALoRA
    from pyfed.engines.flower.mod import SecureAggMod
    from pyfed.engines.flower.pruning import FedPrLLMStrategy
    from pyfed.engines.flower.rounds import SecureRounds
    from pyfed.engines.flower.strategy import SecureFedAvg


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pyfed.engines.flower' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
