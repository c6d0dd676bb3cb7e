"""What a user would write without pyfed to round an update and mask it for every neighbour."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from baselines import OPENSSL
from contests import Baseline

GENERATOR = "numpy generator, int64"
CIPHER = OPENSSL
RANGE = 1 << 32
SEEDS = 20


class Update:
    """One client's update, and what it shares with each of its neighbours.

    Args:
        values: float32 (length,).
        scale: steps per unit.
        clip: the largest magnitude.
        keys: 32 bytes for every neighbour.
        signs: 1 or -1 for every neighbour.
    """

    def __init__(
        self,
        values: torch.Tensor,
        scale: float,
        clip: float,
        keys: list[bytes],
        signs: list[int],
    ) -> None:
        self.values = values.numpy()
        self.scale, self.clip, self.keys, self.signs = scale, clip, keys, signs

    def rounded(self, random: np.random.Generator) -> np.ndarray:
        """Steps from -clip on, rounded up with probability their fraction: float32 (length,)."""
        steps = (np.clip(self.values, -self.clip, self.clip) + np.float32(self.clip)) * self.scale
        whole = np.floor(steps)
        whole += random.random(len(steps), dtype=np.float32) < steps - whole
        return whole

    def baseline(
        self,
        dtype: type[np.signedinteger | np.unsignedinteger],
        mask: Callable[[bytes], np.ndarray],
        lacks: str,
    ) -> Baseline:
        """Round, add or subtract a mask for every neighbour, reduce modulo 2^32."""

        def run() -> np.ndarray:
            total = self.rounded(np.random.default_rng(SEEDS)).astype(dtype)
            for key, sign in zip(self.keys, self.signs, strict=True):
                if sign > 0:
                    np.add(total, mask(key), out=total)
                else:
                    np.subtract(total, mask(key), out=total)
            return total if dtype is np.uint32 else np.mod(total, RANGE, out=total)

        def check(output: np.ndarray, expected: torch.Tensor) -> None:
            assert output.shape == tuple(expected.shape)
            bare = output.astype(np.int64)
            for key, sign in zip(self.keys, self.signs, strict=True):
                bare -= sign * mask(key).astype(np.int64)
            steps = (np.clip(self.values, -self.clip, self.clip) + self.clip) * self.scale
            assert np.abs(bare % RANGE - steps).max() <= 1

        return Baseline(run, check, lacks=lacks)


def by_generator(update: Update) -> Baseline:
    """As runtimes of federated learning have it: 64-bit integers below 2^32 from a seed."""

    def mask(key: bytes) -> np.ndarray:
        random = np.random.default_rng(int.from_bytes(key[:8], "little"))
        return random.integers(0, RANGE, len(update.values), dtype=np.int64)

    return update.baseline(np.int64, mask, "8 B a value; the generator's output tells its state")


def by_cipher(update: Update) -> Baseline:
    """Keystreams of OpenSSL's ChaCha20, added as unsigned 32-bit integers, which wrap."""
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

    zeros, out = bytes(4 * len(update.values)), bytearray(4 * len(update.values))

    def mask(key: bytes) -> np.ndarray:
        Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update_into(zeros, out)
        return np.frombuffer(out, dtype=np.uint32)

    return update.baseline(np.uint32, mask, "sums modulo 2^32, not modulo a prime")
