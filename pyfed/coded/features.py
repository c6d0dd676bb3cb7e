"""Random Fourier features: linear regression on them approximates a Gaussian kernel's."""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass

import torch

from pyfed.checks import expect_int, expect_tensor
from pyfed.coded.records import expect_positive
from pyfed.errors import ArgumentError
from pyfed.keys import Key
from pyfed.ops import random_words, sketch


@dataclass(frozen=True)
class RandomFeatures:
    """φ(x) = √(2/q)·cos(Ωᵀx + b), so that φ(x)·φ(x′) ≈ exp(−‖x − x′‖² / 2ℓ²).

    Ω (inputs, q) has independent N(0, 1/ℓ²) entries: it is a public Gaussian matrix of
    :func:`pyfed.ops.sketch` over ℓ, never stored, of which everyone has the same by the seed. b is
    uniform in [0, 2π). Nothing here is secret. ‖φ(x)‖² ≤ 2 always, and about 1.

    Args:
        inputs: of x.
        features: q.
        length_scale: ℓ.
        seed: public, in [0, 2^64).

    Raises:
        DtypeError, ArgumentError: an argument is wrong.

    Example:
        >>> import torch
        >>> from pyfed.coded import RandomFeatures
        >>> features = RandomFeatures(inputs=3, features=4000, length_scale=2.0, seed=1)
        >>> phi = features(torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]]))
        >>> (phi @ phi.T).round(decimals=1)  # off the diagonal exp(-1/2)
        tensor([[1.0000, 0.6000],
                [0.6000, 1.0000]])

    Source: Rahimi and Recht, Random features for large-scale kernel machines, NIPS 2007.
    """

    inputs: int
    features: int
    length_scale: float
    seed: int = 0

    def __post_init__(self) -> None:
        expect_int("RandomFeatures", "inputs", self.inputs, 1, 2**31)
        expect_int("RandomFeatures", "features", self.features, 1, 2**31)
        expect_positive("RandomFeatures", "length_scale", self.length_scale)
        expect_int("RandomFeatures", "seed", self.seed, 0, 2**64)

    def phases(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """b, float32 (features,): 2π/2^32 times ChaCha20 words under SHA-256 of the seed."""
        digest = hashlib.sha256(b"pyfed/v1/phases" + struct.pack("<Q", self.seed)).digest()
        words = random_words(Key(digest), self.features).to(torch.int64) % 2**32
        return (words.to(torch.float64) * (2 * math.pi / 2**32)).to(torch.float32).to(device)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """φ of every sample.

        Args:
            x: float32 (samples, inputs).

        Returns:
            float32 (samples, features).

        Raises:
            DtypeError, ArgumentError: ``x`` is unfit, or holds NaN or infinity.
        """
        expect_tensor("RandomFeatures", "x", x, torch.float32, 2)
        if x.shape[1] != self.inputs:
            raise ArgumentError(
                f"RandomFeatures: x has shape {tuple(x.shape)}; it must be (samples, {self.inputs})"
            )
        columns = x.detach().T.contiguous()  # (inputs, samples)
        projected = sketch(columns, self.features, self.seed, "gaussian", transpose=True)
        angles = projected.T / self.length_scale + self.phases(x.device)
        return torch.cos(angles) * math.sqrt(2 / self.features)
