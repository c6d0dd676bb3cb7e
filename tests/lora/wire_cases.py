"""A small plan, its messages, and what tests of their bytes ask."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import msgpack
import numpy as np
import pytest

from pyfed.errors import ProtocolError
from pyfed.lora import LoraMessage, LoraPlan, LoraShared, LoraTensor, LoraUpdate

TENSORS = (
    LoraTensor("größer.lora_A.weight", (1, 2), "float32", "a"),
    LoraTensor("größer.lora_B.weight", (3, 1), "float32", "b"),
    LoraTensor("q.lora_A.weight", (2, 3), "float32", "a"),
    LoraTensor("q.lora_B.weight", (4, 2), "float32", "b"),
)
SCALINGS = (("größer", 2.0), ("q", 0.5))
SETTINGS = (("protocol", "FedSALoRA"), ("rule", "fedsa"))


def plan_of(**changes: Any) -> LoraPlan:
    fields = {"settings": SETTINGS, "tensors": TENSORS, "scalings": SCALINGS, "share": ("a",)}
    return LoraPlan(**{**fields, **changes})


PLAN = plan_of()
WIDE = plan_of(share=("a", "b"))
HALF = plan_of(wire="float16")
BRAIN = plan_of(wire="bfloat16")
VALUES = np.arange(8, dtype="<f4") - 3.5


def update(plan: LoraPlan = PLAN, **fields: Any) -> LoraUpdate:
    common = {"session": plan.digest, "marks": plan.marks, "round": 3, "weight": 20}
    payload = VALUES.astype("<f2" if plan.wire == "float16" else "<f4").tobytes()
    return LoraUpdate(**{**common, "sender": 4, "recipient": -1, "payload": payload, **fields})


def shared(plan: LoraPlan = PLAN, **fields: Any) -> LoraShared:
    common = {"session": plan.digest, "marks": plan.marks, "round": 3, "weight": 41, "included": 2}
    body = {"sender": -1, "recipient": 4, "payload": VALUES.tobytes()}
    return LoraShared(**{**common, **body, **fields})


def brain(*bits: int) -> bytes:
    return struct.pack("<8H", *bits, *([0] * (8 - len(bits))))


MOST = 2**37 - 1
GENUINE: dict[str, tuple[LoraMessage, LoraPlan]] = {
    "update": (update(), PLAN),
    "both halves": (update(WIDE, payload=bytes(4 * 19)), WIDE),
    "largest numbers": (update(sender=65_534, round=2**64 - 1, weight=MOST), PLAN),
    "no weight": (update(weight=0), PLAN),
    "float16": (update(HALF), HALF),
    "bfloat16": (update(BRAIN, payload=brain(0xBF80, 0x7E80)), BRAIN),
    "mean": (shared(), PLAN),
    "mean of all": (shared(included=65_535, weight=65_535 * MOST), PLAN),
}
EVERY = pytest.mark.parametrize("what", GENUINE)


def sealed(values: Any) -> bytes:
    """Any msgpack value with the digest that a message needs."""
    packed = values if isinstance(values, bytes) else msgpack.packb(values)
    return packed + hashlib.sha256(packed).digest()


def unsealed(message: LoraMessage) -> list[Any]:
    return msgpack.unpackb(message.to_bytes()[:-32])


def refused(data: Any, plan: LoraPlan = PLAN) -> str:
    with pytest.raises(ProtocolError) as caught:
        LoraMessage.from_bytes(data, plan)
    return str(caught.value)
