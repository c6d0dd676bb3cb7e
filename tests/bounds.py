"""The ops whose sums may be added in any order, and what says how far they may be off."""

from __future__ import annotations

from collections.abc import Callable

import bank_oracles
import lora_oracles
import sketch_oracles
from lora_oracles import Between

BOUNDS: dict[str, Callable[..., list[Between]]] = {
    "lora_merge_": lora_oracles.lora_merge_,
    "lora_linear": lora_oracles.lora_linear,
    "lora_linear_backward": lora_oracles.lora_linear_backward,
    "segment_clip_": bank_oracles.clip,
    "sketch": sketch_oracles.sketch,
}
