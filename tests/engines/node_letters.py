"""Nodes of a small model, and letters that ask one of them for training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from flwr.app import ConfigRecord, Message, RecordDict

from engines.grids import NODES, grid_of, protocol_of, zeros
from pyfed.engines.flower.letters import Letter, write

LENGTH = 6
NODE = sorted(NODES)[2]


def updates() -> list[torch.Tensor]:
    return [torch.full((LENGTH,), i / 8) for i in range(5)]


def grid_in(folder: Path, protocol: Any = None) -> Any:
    return grid_of(protocol or protocol_of("LightSecAgg", LENGTH), updates(), [1] * 5, folder)


def training(letter: Letter, node: int) -> Message:
    content = RecordDict({"arrays": zeros(LENGTH), "config": ConfigRecord()})
    write(letter, content)
    return Message(content, node, "train")
