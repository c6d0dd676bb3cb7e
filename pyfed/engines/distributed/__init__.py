"""torch.distributed as an engine: sums of residues, secure sums, masked gradients, shared coding.

Every function here is a collective: all ranks of the group call it, in one order. Wrong arguments
on one rank raise on every rank, so that none waits for another. Only int32 and int64 travel, as
gloo and NCCL demand.

Names are resolved on first use: sums of residues need torch alone, and what agrees on keys needs
the extra ``secagg``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyfed.lazy import lazy as _lazy

_HOME = {
    "MaskedGradients": "pyfed.engines.distributed.gradients",
    "SecureSum": "pyfed.engines.distributed.online",
    "all_gather": "pyfed.engines.distributed.collectives",
    "all_reduce": "pyfed.engines.distributed.collectives",
    "decode_shards": "pyfed.engines.distributed.sharded",
    "encode_shard": "pyfed.engines.distributed.sharded",
    "mask_gradients": "pyfed.engines.distributed.hook",
    "reduce_scatter": "pyfed.engines.distributed.collectives",
    "secure_sum": "pyfed.engines.distributed.online",
}

__all__ = [
    "MaskedGradients",
    "SecureSum",
    "all_gather",
    "all_reduce",
    "decode_shards",
    "encode_shard",
    "mask_gradients",
    "reduce_scatter",
    "secure_sum",
]

if TYPE_CHECKING:
    from pyfed.engines.distributed.collectives import all_gather, all_reduce, reduce_scatter
    from pyfed.engines.distributed.gradients import MaskedGradients
    from pyfed.engines.distributed.hook import mask_gradients
    from pyfed.engines.distributed.online import SecureSum, secure_sum
    from pyfed.engines.distributed.sharded import decode_shards, encode_shard

__getattr__, __dir__ = _lazy(__name__, _HOME, "secagg", ("cryptography", "msgpack"))
