"""What a user would write or call without pyfed: the strongest way of each kind that we know.

A function here prepares what may be ready beforehand (conversions, coefficients, keys) and gives
the call that is timed. Packages are imported where they are used: a baseline whose package is not
installed is left out.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from contests import Baseline
from limbs import Limbs, centred, exact_matmul, lifted

FLINT = "python-flint"
GALOIS = "galois"
WRAPPING = "torch int64 @"
LIMBS = "float64 limbs"
NUMPY_INT64 = "numpy int64, 15-bit p"
OPENSSL = "OpenSSL ChaCha20"
REJECTION = "OpenSSL and rejection"
TORCH_RANDOM = "torch.randint"
TORCH = "torch"
NUMPY = "numpy"
FLOWER = "flwr secure_aggregation"

NEEDS = {
    **{FLINT: "flint", GALOIS: "galois", FLOWER: "flwr"},
    **{OPENSSL: "cryptography", REJECTION: "cryptography"},
}
"""The packages that only baselines need."""

SMALL_PRIME = 32749
"""The largest prime below 2^15: so small that int64 dot products of any length in use are exact."""


def missing(name: str) -> str | None:
    """The package that a baseline needs and that is not installed; None when it can run."""
    package = NEEDS.get(name)
    return package if package and importlib.util.find_spec(package) is None else None


def _equal(to_tensor: Callable[[Any], torch.Tensor] = torch.as_tensor) -> Callable[..., None]:
    def check(output: Any, expected: torch.Tensor) -> None:
        assert torch.equal(to_tensor(output).to(expected.dtype), expected)

    return check


def flint_matmul(a: torch.Tensor, b: torch.Tensor, modulus: int) -> Baseline:
    """FLINT's nmod_mat through python-flint; the operands are FLINT's already."""
    import flint

    left = flint.nmod_mat(*a.shape, a.flatten().tolist(), modulus)
    right = flint.nmod_mat(*b.shape, b.flatten().tolist(), modulus)

    def to_tensor(product: Any) -> torch.Tensor:
        entries = torch.tensor([int(entry) for entry in product.entries()])
        return entries.view(a.shape[0], b.shape[1])

    return Baseline(lambda: left * right, _equal(to_tensor))


def galois_matmul(a: torch.Tensor, b: torch.Tensor, modulus: int) -> Baseline:
    """Arrays of galois over GF(p); the operands are galois arrays already."""
    import galois

    # The primitive element is given because finding it would factor p - 1, and no product needs it.
    field = galois.GF(modulus, primitive_element=_GENERATORS[modulus], verify=False)
    left, right = a.long().numpy().view(field), b.long().numpy().view(field)
    return Baseline(lambda: left @ right, _equal(lambda c: torch.as_tensor(c.view(np.ndarray))))


_GENERATORS = {2**31 - 2**17 + 1: 5, 2**31 - 1: 7, 2**31 - 2**19 + 1: 19}


def wrapping_matmul(a: torch.Tensor, b: torch.Tensor) -> Baseline:
    """An int64 product in torch: the same number of multiply-adds, but modulo 2^64."""
    left, right = a.long(), b.long()

    def check(output: torch.Tensor, expected: torch.Tensor) -> None:
        assert output.shape == expected.shape
        column = [int(v) for v in right[:, 0]]
        for got, row in zip(output[:, 0].tolist(), left.tolist(), strict=True):
            exact = sum(x * y for x, y in zip(row, column, strict=True))
            assert (got - exact) % 2**64 == 0

    return Baseline(lambda: left @ right, check, lacks="wraps modulo 2^64, no reduction")


def limb_matmul(a: torch.Tensor, b: torch.Tensor, modulus: int) -> Baseline:
    """Exact through float64; a's limbs are ready, b comes as int32."""
    limbs = Limbs(a, modulus)
    return Baseline(lambda: limbs.times(b), _equal())


def numpy_sum(x: torch.Tensor, modulus: int) -> Baseline:
    rows = x.numpy()
    return Baseline(lambda: (rows.sum(axis=0, dtype=np.int64) % modulus).astype(np.int32), _equal())


def torch_sum(x: torch.Tensor, modulus: int) -> Baseline:
    return Baseline(lambda: x.sum(0, dtype=torch.int64).remainder_(modulus).int(), _equal())


def torch_weighted_sum(x: torch.Tensor, weights: torch.Tensor, modulus: int) -> Baseline:
    """Row by row into int64, which is exact while Σ weights · p < 2^63."""

    def run() -> torch.Tensor:
        total = torch.zeros(x.shape[1:], dtype=torch.int64, device=x.device)
        for row, weight in zip(x, factors, strict=True):
            total.add_(row, alpha=weight)
        return total.remainder_(modulus).int()

    factors = weights.tolist()
    assert sum(factors) * modulus < 2**63
    return Baseline(run, _equal())


def openssl_words(
    key: bytes, nonce: tuple[int, int, int], count: int, first_block: int = 0
) -> Baseline:
    """The keystream of OpenSSL's ChaCha20, by encrypting zeros that are ready beforehand.

    Args:
        key: 32 bytes.
        nonce: the nonce words, such that the keystream is the very one that pyfed gives.
        count: 32-bit words.
        first_block: the counter of the first block.
    """
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

    # 16 bytes: the block counter and the three nonce words.
    start = b"".join(word.to_bytes(4, "little") for word in (first_block, *nonce))
    zeros, out = bytes(4 * count), bytearray(4 * count)

    def run() -> np.ndarray:
        Cipher(ChaCha20(key, start), mode=None).encryptor().update_into(zeros, out)
        return np.frombuffer(out, dtype=np.int32)

    return Baseline(run, _equal())


def openssl_keystream(key: bytes, count: int) -> Baseline:
    """As many bytes of keystream, with nothing made of them."""
    words = openssl_words(key, (0, 0, 0), count)

    def check(output: np.ndarray, expected: torch.Tensor) -> None:
        assert output.nbytes == expected.numel() * 4

    return Baseline(words.run, check, lacks="bytes, not residues")


def openssl_residues(key: bytes, count: int, modulus: int) -> Baseline:
    """Uniform residues from OpenSSL's keystream: 31 bits a word, those not below p drawn again."""
    words = openssl_words(key, (0, 0, 0), count)
    again = openssl_words(key, (1, 0, 0), 1024)

    def run() -> np.ndarray:
        values = words.run() & 0x7FFFFFFF
        rejected = np.flatnonzero(values >= modulus)
        if rejected.size:
            fresh = again.run() & 0x7FFFFFFF
            values[rejected] = fresh[fresh < modulus][: rejected.size]
        return values

    def check(output: np.ndarray, expected: torch.Tensor) -> None:
        assert output.shape == tuple(expected.shape)
        assert output.min() >= 0
        assert output.max() < modulus

    return Baseline(run, check)


def torch_randint(count: int, modulus: int, device: str) -> Baseline:
    """Torch's generator, whose output tells its state: nothing to hide a secret behind."""

    def check(output: torch.Tensor, expected: torch.Tensor) -> None:
        assert output.shape == expected.shape
        assert bool(((output >= 0) & (output < modulus)).all())

    def run() -> torch.Tensor:
        return torch.randint(modulus, (count,), dtype=torch.int32, device=device)

    return Baseline(run, check, lacks="not fit for secrets")


def torch_quantize(values: torch.Tensor, scale: float, clip: float, modulus: int) -> Baseline:
    """Clip, scale, add uniform noise, round down, reduce: with torch's generator."""

    def run() -> torch.Tensor:
        steps = values.clamp(-clip, clip).mul_(scale)
        return lifted(steps.add_(torch.rand_like(values)).floor_().int(), modulus)

    def check(output: torch.Tensor, expected: torch.Tensor) -> None:
        # Both round to a neighbour, so they are at most one step apart, going round the prime.
        apart = (output.long() - expected).remainder(modulus)
        assert bool(((apart <= 1) | (apart == modulus - 1)).all())

    return Baseline(run, check, lacks="noise not fit for secrets")


def torch_dequantize(residues: torch.Tensor, scale: float, modulus: int) -> Baseline:
    def run() -> torch.Tensor:
        return centred(residues, modulus).float().mul_(1 / scale)

    return Baseline(run, _equal())


def numpy_encode(
    values: torch.Tensor, shares: int, blocks: int, privacy: int, scale: float
) -> Baseline:
    """Floats to shares in int64 numpy: C-ordered data, a dot product a row, reduced at the end.

    Exact only because p is so small: (blocks + privacy) · p² < 2^63. Rounds to nearest and does
    not clip, with random rows from numpy's generator; the coefficients (random ones, which cost
    the same) are ready.
    """
    p, threshold = SMALL_PRIME, blocks + privacy
    assert threshold * p**2 < 2**63
    updates = values.numpy()
    columns = -(-updates.size // blocks)
    matrix = np.random.default_rng(1).integers(0, p, (shares, threshold))
    draws = np.random.default_rng(2)
    pads: list[np.ndarray] = []

    def quantised() -> np.ndarray:
        steps = np.rint(updates * np.float32(scale)).astype(np.int64)
        steps += p * (steps < 0)
        return steps

    def run() -> np.ndarray:
        rows = np.zeros((threshold, columns), dtype=np.int64)
        rows[:blocks].reshape(-1)[: updates.size] = quantised()
        pads[:] = [draws.integers(0, p, (privacy, columns))]
        rows[blocks:] = pads[0]
        out = np.empty((shares, columns), dtype=np.int64)
        for number, coefficients in enumerate(matrix):
            out[number] = np.dot(coefficients, rows)
        return out % p

    def check(output: np.ndarray, expected: torch.Tensor) -> None:
        assert output.shape == tuple(expected.shape)
        data = np.zeros(blocks * columns, dtype=np.int64)
        data[: updates.size] = quantised()
        stacked = np.concatenate([data.reshape(blocks, columns), pads[0]])
        rows = torch.as_tensor(stacked).int()
        wanted = exact_matmul(torch.as_tensor(matrix).int(), rows, p)
        assert torch.equal(torch.as_tensor(output).int(), wanted)

    return Baseline(run, check, lacks="15-bit prime, randomness not fit for secrets")


def limb_encode(
    values: torch.Tensor,
    matrix: torch.Tensor,
    blocks: int,
    modulus: int,
    scale: float,
    clip: float,
) -> Baseline:
    """Floats to shares at 31 bits: torch's quantisation and generator, products in float64."""
    privacy = matrix.shape[1] - blocks
    limbs = Limbs(matrix, modulus)
    quantise = torch_quantize(values, scale, clip, modulus).run
    columns = -(-values.numel() // blocks)
    kept: list[torch.Tensor] = []

    def run() -> torch.Tensor:
        rows = values.new_empty(blocks + privacy, columns, dtype=torch.int32)
        flat = torch.nn.functional.pad(quantise(), (0, blocks * columns - values.numel()))
        rows[:blocks] = flat.view(columns, blocks).t()
        rows[blocks:].random_(modulus)
        kept[:] = [rows]
        return limbs.times(rows)

    def check(output: torch.Tensor, expected: torch.Tensor) -> None:
        # The first share is checked against sums of products that int64 holds, one term at a time.
        assert output.shape == expected.shape
        total = torch.zeros(columns, dtype=torch.int64, device=values.device)
        for coefficient, row in zip(matrix[0].tolist(), kept[0], strict=True):
            total = (total + coefficient * row.long()) % modulus
        assert torch.equal(output[0].long(), total)

    return Baseline(run, check, lacks="randomness not fit for secrets")


def limb_decode(rows: torch.Tensor, matrix: torch.Tensor, modulus: int, length: int) -> Baseline:
    """Shares to the vector at 31 bits; the matrix's limbs are ready."""
    limbs = Limbs(matrix, modulus)
    return Baseline(lambda: limbs.times(rows).t().reshape(-1)[:length], _equal())
