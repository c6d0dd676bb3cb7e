"""Random Fourier features: the kernel they approximate, and that everyone has the same."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from scipy import stats

from pyfed.coded import RandomFeatures
from pyfed.errors import ArgumentError, DtypeError
from pyfed.ops import sketch_block


def test_products_are_the_gaussian_kernel_within_five_standard_errors() -> None:
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(1))
    features = RandomFeatures(inputs=5, features=20_000, length_scale=1.7, seed=9)
    phi = features(x).double()
    wanted = torch.exp(-torch.cdist(x.double(), x.double()).square() / (2 * 1.7**2))
    assert float((phi @ phi.T - wanted).abs().max()) < 5 / math.sqrt(20_000)


def test_features_are_cosines_of_a_public_gaussian_matrix() -> None:
    features = RandomFeatures(inputs=4, features=6, length_scale=2.0, seed=5)
    x = torch.randn(3, 4)
    omega = sketch_block((0, 4), (0, 6), 5, "gaussian", shape=(4, 6)) / 2.0
    wanted = math.sqrt(2 / 6) * torch.cos(x @ omega + features.phases())
    assert torch.allclose(features(x), wanted, atol=1e-6)
    assert float(features(x).square().sum(1).max()) <= 2


def test_phases_are_uniform_and_of_the_seed() -> None:
    phases = RandomFeatures(1, 5000, 1.0, seed=3).phases().double()
    assert stats.kstest(phases.numpy() / (2 * math.pi), "uniform").pvalue > 1e-6
    assert torch.equal(RandomFeatures(1, 10, 1.0, seed=3).phases(), phases[:10].float())
    assert not torch.equal(RandomFeatures(1, 10, 1.0, seed=4).phases(), phases[:10].float())


def test_phases_are_words_of_chacha20_under_a_hash_of_the_seed() -> None:
    key = hashlib.sha256(b"pyfed/v1/phases" + (77).to_bytes(8, "little")).digest()
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), None).encryptor().update(bytes(4 * 20))
    wanted = np.frombuffer(stream, "<u4") * (2 * math.pi / 2**32)
    np.testing.assert_allclose(RandomFeatures(1, 20, 1.0, seed=77).phases(), wanted, rtol=1e-6)


def test_a_sample_s_features_do_not_depend_on_the_others() -> None:
    features, x = RandomFeatures(3, 50, 1.0), torch.randn(9, 3)
    assert torch.allclose(features(x)[4:6], features(x[4:6]), atol=1e-6)


def test_wrong_arguments_are_refused() -> None:
    for more, error, text in (
        ({"inputs": 0}, ArgumentError, "inputs is 0"),
        ({"features": 0}, ArgumentError, "features is 0"),
        ({"length_scale": 0.0}, ArgumentError, "length_scale is 0.0"),
        ({"seed": -1}, ArgumentError, "seed is -1"),
        ({"seed": 1.5}, DtypeError, "seed is float"),
    ):
        with pytest.raises(error, match=text):
            RandomFeatures(**({"inputs": 2, "features": 3, "length_scale": 1.0} | more))
    features = RandomFeatures(2, 3, 1.0)
    with pytest.raises(ArgumentError, match=r"x has shape \(4, 3\); it must be \(samples, 2\)"):
        features(torch.ones(4, 3))
    with pytest.raises(DtypeError, match=r"x has dtype torch\.float64"):
        features(torch.ones(4, 2).double())
    with pytest.raises(ArgumentError, match="NaN or infinite"):
        features(torch.full((4, 2), math.inf))
