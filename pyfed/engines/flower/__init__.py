"""pyfed on Flower: secure aggregation as a strategy on the server and a mod on the clients.

On the server, :class:`SecureFedAvg` takes the place of Flower's ``FedAvg``; on the clients,
``ClientApp(mods=[SecureAggMod(protocol)])`` is all there is to add. Needs the extra
``pyfed-kernels[flower]``. Names are resolved on first use.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from pyfed.lazy import lazy as _lazy

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

__getattr__, __dir__ = _lazy(__name__, _HOME, "flower", ("cryptography", "msgpack"))
