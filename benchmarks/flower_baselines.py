"""The client's steps of SecAgg+ as flwr's own functions do them."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import torch

from contests import Baseline
from pairwise_baselines import RANGE, Update


def by_flower(update: Update) -> Baseline:
    """Round, add or subtract a mask for every neighbour, reduce: as flwr's client does.

    A key reaches the generator as flwr hands it on, in base64: the exclusive or of its words then
    has 28 bits that are not known beforehand.
    """
    from flwr.common.secure_aggregation.ndarrays_arithmetic import (
        parameters_addition,
        parameters_mod,
        parameters_subtraction,
    )
    from flwr.common.secure_aggregation.quantization import quantize
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

    values, shapes = [update.values], [update.values.shape]
    target = int(2 * update.clip * update.scale)
    seeds = [base64.urlsafe_b64encode(key) for key in update.keys]

    def run() -> np.ndarray:
        total = quantize(values, update.clip, target)
        for seed, sign in zip(seeds, update.signs, strict=True):
            mask = pseudo_rand_gen(seed, RANGE, shapes)
            total = (parameters_addition if sign > 0 else parameters_subtraction)(total, mask)
        return parameters_mod(total, RANGE)[0]

    def check(output: Any, expected: torch.Tensor) -> None:
        assert output.shape == tuple(expected.shape)
        bare = np.asarray(output)
        for seed, sign in zip(seeds, update.signs, strict=True):
            bare = bare - sign * pseudo_rand_gen(seed, RANGE, shapes)[0]
        steps = (np.clip(update.values, -update.clip, update.clip) + update.clip) * update.scale
        assert np.abs(bare % RANGE - steps).max() <= 1

    return Baseline(run, check, lacks="8 B a value, masks from a seed of 28 bits")
