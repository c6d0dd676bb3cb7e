"""FedPrLLM: clients vote with bits on what to prune in a language model, the server selects.

Source: Guo et al., FedPrLLM, arXiv 2505.13547. Every client scores its copy of the model on its own
calibration samples and sends one bit a weight; the server counts, and prunes what has the most
votes in each comparison group. Neither samples nor activations nor weights leave a client; its
votes do, in the clear; :class:`pyfed.pruning.SecureVotes` counts them in secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from torch import nn

from pyfed.checks import expect_int, expect_key
from pyfed.errors import ArgumentError, DtypeError
from pyfed.keys import Key
from pyfed.ops.tiles import tiles
from pyfed.pruning.layers import expect_patterns, prunable_layers
from pyfed.pruning.local import expect_score
from pyfed.pruning.plan import Plan, PrunableLayer

if TYPE_CHECKING:
    from pyfed.pruning.fedprllm_client import FedPrLLMClient
    from pyfed.pruning.fedprllm_server import FedPrLLMServer

NAME = "FedPrLLM"
TIES = ("index", "random", "magnitude")


@dataclass(frozen=True)
class FedPrLLM:
    """The settings of federated pruning; makes clients and servers, one for a round.

    Args:
        sparsity: the part of every group that is pruned, 0 to 1; a float means its shortest
            decimal. None only when both groups are N:M, which fix it.
        score: of a client: ``"wanda"``, ``"ria"``, ``"magnitude"`` or ``"sparsegpt"`` (masks
            alone: surviving weights are not updated).
        local_group: what a client compares scores in: ``"layer"``, ``"row"``, ``"column"``,
            ``"RxC"`` or ``"N:M"``.
        group: what the server compares votes in.
        ties: how the server decides between equal votes: ``"index"``, ``"random"`` (a stream of
            ``key`` for each layer) or ``"magnitude"`` (it needs the weights); None: random where a
            key is given, else magnitude in columns, else index. The rule must be that of the
            clients: where only the server has the key, they say ``"random"``.
        scaling: multiply survivors by (m - votes)/m, which makes them the mean of the clients'
            pruned weights.
        iterative: decide block by block, each client going on with what was decided.
        rounding: of the number pruned in a group: ``"floor"``, ``"nearest"`` or ``"ceil"``.
        key: for random ties; only the server uses it, and other rules for ties do not.
        max_length: the most tokens of a calibration sample.
        truncate: cut longer samples off; otherwise they are refused.
        power: for ``"ria"``.
        damping: for ``"sparsegpt"``.
        blocks: dotted name of the model's list of blocks; None finds it.
        skip: shell patterns of names of layers that are not pruned, such as ``"*.k_proj"``; each
            must match a whole name.

    Raises:
        DtypeError, ArgumentError: a setting has a wrong type or value.

    Example:
        >>> import torch
        >>> from pyfed.pruning import FedPrLLM
        >>> model = torch.nn.Module()
        >>> model.blocks = torch.nn.ModuleList([torch.nn.Linear(4, 4)])
        >>> rule = FedPrLLM(sparsity=0.5, score="magnitude")
        >>> client, server = rule.client(0, model), rule.server(model, clients=1)
        >>> for vote in client.start():
        ...     _ = server.handle(vote, 0)
        >>> for decision in server.close_phase():
        ...     _ = client.handle(decision, -1)
        >>> server.result.sparsity, int((model.blocks[0].weight == 0).sum())
        (0.5, 8)
    """

    sparsity: float | Fraction | None = 0.5
    score: str = "wanda"
    local_group: str = "row"
    group: str = "layer"
    ties: str | None = None
    scaling: bool = False
    iterative: bool = False
    rounding: str = "floor"
    key: Key | None = field(default=None, repr=False)
    max_length: int = 2048
    truncate: bool = False
    power: float = 0.5
    damping: float = 0.01
    blocks: str | None = None
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("local_group", "group"):
            _expect_group(name, getattr(self, name), self.sparsity, self.rounding)
        expect_score(NAME, self.score, self.power, self.damping)
        if self.ties is not None and self.ties not in TIES:
            raise ArgumentError(
                f"{NAME}: ties is {self.ties!r}; it must be one of {', '.join(TIES)}, or None"
            )
        for name in ("scaling", "iterative", "truncate"):
            if not isinstance(getattr(self, name), bool):
                kind = type(getattr(self, name)).__name__
                raise DtypeError(f"{NAME}: {name} is {kind}; it must be a bool")
        if self.key is not None:
            expect_key(NAME, self.key)
        expect_int(NAME, "max_length", self.max_length, 1, 2**31)
        if self.blocks is not None and not isinstance(self.blocks, str):
            kind = type(self.blocks).__name__
            raise DtypeError(f"{NAME}: blocks is {kind}; it must be a str or None")
        expect_patterns(NAME, self.skip)
        object.__setattr__(self, "skip", tuple(self.skip))

    @property
    def tie_rule(self) -> str:
        """The rule for ties that holds, found as :func:`pyfed.ops.mask_select` finds it."""
        if self.ties is not None:
            return self.ties
        if self.key is not None:
            return "random"
        return "magnitude" if self.group == "column" else "index"

    def plan(self, layers: nn.Module | Sequence[PrunableLayer]) -> Plan:
        """What clients and server must agree on.

        Args:
            layers: a model, or what :func:`prunable_layers` gives for it.

        Raises:
            DtypeError, ArgumentError: the layers are not well-formed, or a group does not divide
                one of them.
        """
        if isinstance(layers, nn.Module):
            layers = prunable_layers(layers, self.blocks, self.skip)
        if not isinstance(layers, Sequence):
            kind = type(layers).__name__
            raise DtypeError(f"{NAME}: layers is {kind}; it must be a model, or its layers")
        plan = Plan(self._settings(), tuple(layers))
        for layer in plan.layers:
            for group in (self.local_group, self.group):
                tiles(f"{NAME}: {layer.name}", layer.shape, group, self.sparsity, self.rounding)
        return plan

    def client(
        self,
        index: int,
        model: nn.Module,
        samples: torch.Tensor | Mapping[str, torch.Tensor] | None = None,
        round: int = 0,
        batch_size: int = 8,
    ) -> FedPrLLMClient:
        """Client number ``index`` in one round.

        Args:
            index: from 0 on.
            model: its own copy of the model, shared with no other client: it is pruned, and with
                ``scaling`` shrunk, when the last decision has come.
            samples: its calibration samples, as for :func:`local_votes`; not needed for the
                magnitude score.
            round: number of the round.
            batch_size: how many samples are run at once.
        """
        from pyfed.pruning.fedprllm_client import FedPrLLMClient

        return FedPrLLMClient(self, index, model, samples, round, batch_size)

    def server(
        self,
        layers: nn.Module | Sequence[PrunableLayer],
        clients: int,
        round: int = 0,
        weights: Mapping[str, torch.Tensor] | None = None,
        device: torch.device | str = "cpu",
    ) -> FedPrLLMServer:
        """The server in one round.

        Args:
            layers: the model, or what :func:`prunable_layers` gives for it.
            clients: N, how many there are, from 1 to 65,535.
            round: number of the round.
            weights: layer → matrix (out, in), for ties by magnitude; None: those of the model.
            device: where votes are counted.
        """
        from pyfed.pruning.fedprllm_server import FedPrLLMServer

        return FedPrLLMServer(self, layers, clients, round, weights, device)

    def _settings(self) -> tuple[tuple[str, str | int | float | bool | None], ...]:
        """All that votes and decisions depend on, in the order in which it is hashed.

        What does not count here is None: numbers of other scores, and a sparsity that both groups
        fix anyway.
        """
        sparsity = self.sparsity
        if ":" in self.group and ":" in self.local_group:
            sparsity = None
        elif isinstance(sparsity, float):
            sparsity = Fraction(repr(sparsity))
        return (
            ("protocol", NAME),
            ("sparsity", None if sparsity is None else str(Fraction(sparsity))),
            ("score", self.score),
            ("local_group", self.local_group),
            ("group", self.group),
            ("ties", self.tie_rule),
            ("scaling", self.scaling),
            ("iterative", self.iterative),
            ("rounding", self.rounding),
            ("max_length", self.max_length),
            ("truncate", self.truncate),
            ("power", float(self.power) if self.score == "ria" else None),
            ("damping", float(self.damping) if self.score == "sparsegpt" else None),
        )


def _expect_group(name: str, group: object, sparsity: object, rounding: str) -> None:
    """Raise unless there is such a group and sparsity; whether it divides a layer is seen later."""
    if not isinstance(group, str):
        raise DtypeError(f"{NAME}: {name} is {type(group).__name__}; it must be a str")
    pattern = re.fullmatch(r"(\d+)[:x](\d+)", group)
    shape = (max(1, int(pattern[1])), max(1, int(pattern[2]))) if pattern else (1, 1)
    tiles(f"{NAME} ({name})", shape, group, sparsity, rounding)
