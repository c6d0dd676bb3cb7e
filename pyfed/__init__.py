"""pyfed: the kernels under federated learning, as PyTorch operations, and systems built on them.

Names are resolved on first use, so that ``import pyfed`` touches neither CUDA nor Triton.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pyfed.lazy import lazy as _lazy

__version__ = "0.1.0"

logging.getLogger("pyfed").addHandler(logging.NullHandler())  # silent until a program listens

_HOME = {
    "Key": "pyfed.keys",
    "Field": "pyfed.fields",
    "SOLINAS31": "pyfed.fields",
    "MERSENNE31": "pyfed.fields",
    "WIDE": "pyfed.fields",
    "WideField": "pyfed.fields",
    "FixedPoint": "pyfed.fixed",
    "flatten": "pyfed.fixed",
    "LagrangeCode": "pyfed.codes",
    "use_backend": "pyfed.op",
    "check": "pyfed.checks",
}
_MODULES = ("ops", "errors", "lanes", "lora", "pruning", "secagg", "streaming")

__all__ = [
    "MERSENNE31",
    "SOLINAS31",
    "WIDE",
    "Field",
    "FixedPoint",
    "Key",
    "LagrangeCode",
    "WideField",
    "check",
    "errors",
    "flatten",
    "lanes",
    "lora",
    "ops",
    "pruning",
    "secagg",
    "streaming",
    "use_backend",
]

if TYPE_CHECKING:
    from pyfed import errors, lanes, lora, ops, pruning, secagg, streaming
    from pyfed.checks import check
    from pyfed.codes import LagrangeCode
    from pyfed.fields import MERSENNE31, SOLINAS31, WIDE, Field, WideField
    from pyfed.fixed import FixedPoint, flatten
    from pyfed.keys import Key
    from pyfed.op import use_backend

_MODULE_HOMES = {name: f"pyfed.{name}" for name in _MODULES}
__getattr__, __dir__ = _lazy(__name__, _HOME | _MODULE_HOMES)
