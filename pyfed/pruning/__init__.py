"""Federated pruning: clients vote on what to prune, the server counts and selects.

Clients and servers are state machines: ``client.start()`` gives the first messages,
``handle(message, source)`` takes one and gives the answers, ``server.close_phase()`` ends a phase.
What is refused raises ProtocolError and changes nothing. In votes and decisions True, or a set bit,
means *prune*.

Names are resolved on first use, so that ``pyfed.pruning.messages`` imports without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyfed.lazy import lazy as _lazy

_HOME = {
    "FedPrLLM": "pyfed.pruning.fedprllm",
    "LayerCounts": "pyfed.pruning.secure",
    "MaskVotes": "pyfed.pruning.votes",
    "Plan": "pyfed.pruning.plan",
    "PrunableLayer": "pyfed.pruning.plan",
    "PruneDecision": "pyfed.pruning.messages",
    "PruneMessage": "pyfed.pruning.messages",
    "PruneResult": "pyfed.pruning.result",
    "PruneVote": "pyfed.pruning.messages",
    "SecureVotes": "pyfed.pruning.secure",
    "Verdict": "pyfed.pruning.local",
    "decode_mask": "pyfed.pruning.codec",
    "encode_mask": "pyfed.pruning.codec",
    "load_compact": "pyfed.pruning.export",
    "local_mask": "pyfed.pruning.local",
    "local_votes": "pyfed.pruning.local",
    "magnitude_scores": "pyfed.pruning.scores",
    "pack_2_4": "pyfed.pruning.patterns",
    "prunable_layers": "pyfed.pruning.layers",
    "ria_scores": "pyfed.pruning.scores",
    "save_compact": "pyfed.pruning.export",
    "save_pruned": "pyfed.pruning.export",
    # The in-process engine stands above this package; only its name is offered here.
    "simulate_pruning": "pyfed.engines.pruning",
    "sparsegpt_scores": "pyfed.pruning.scores",
    "unpack_2_4": "pyfed.pruning.patterns",
    "wanda_scores": "pyfed.pruning.scores",
}

__all__ = [
    "FedPrLLM",
    "LayerCounts",
    "MaskVotes",
    "Plan",
    "PrunableLayer",
    "PruneDecision",
    "PruneMessage",
    "PruneResult",
    "PruneVote",
    "SecureVotes",
    "Verdict",
    "decode_mask",
    "encode_mask",
    "load_compact",
    "local_mask",
    "local_votes",
    "magnitude_scores",
    "pack_2_4",
    "prunable_layers",
    "ria_scores",
    "save_compact",
    "save_pruned",
    "simulate_pruning",
    "sparsegpt_scores",
    "unpack_2_4",
    "wanda_scores",
]

if TYPE_CHECKING:
    from pyfed.engines.pruning import simulate_pruning
    from pyfed.pruning.codec import decode_mask, encode_mask
    from pyfed.pruning.export import load_compact, save_compact, save_pruned
    from pyfed.pruning.fedprllm import FedPrLLM
    from pyfed.pruning.layers import prunable_layers
    from pyfed.pruning.local import Verdict, local_mask, local_votes
    from pyfed.pruning.messages import PruneDecision, PruneMessage, PruneVote
    from pyfed.pruning.patterns import pack_2_4, unpack_2_4
    from pyfed.pruning.plan import Plan, PrunableLayer
    from pyfed.pruning.result import PruneResult
    from pyfed.pruning.scores import (
        magnitude_scores,
        ria_scores,
        sparsegpt_scores,
        wanda_scores,
    )
    from pyfed.pruning.secure import LayerCounts, SecureVotes
    from pyfed.pruning.votes import MaskVotes

__getattr__, __dir__ = _lazy(__name__, _HOME)
