"""Skip-gram with negative sampling on one client, and how well its embeddings tell neighbours."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from secea_embeddings_text import Corpus
from torch.nn import functional

NEGATIVES = 5


def first_values(words: Sequence[str], dim: int) -> torch.Tensor:
    """Where every client starts with a word: by its spelling alone, float32 (words, 2·dim).

    The first half is the word as a center, the second as a context.
    """
    rows = []
    for word in words:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:7], "little")
        generator = torch.Generator().manual_seed(seed)
        rows.append(torch.randn(2 * dim, generator=generator) * (0.3 / dim**0.5))
    return torch.stack(rows)


def train(
    values: torch.Tensor, corpus: Corpus, steps: int, batch: int, lr: float, seed: int
) -> torch.Tensor:
    """A client's steps in a round.

    Args:
        values: float32 (words, 2·dim), left as they are.
        corpus: The client's text.
        steps: How many.
        batch: Pairs in a step.
        lr: Learning rate of Adam, which forgets its moments between rounds.
        seed: Of the pairs and the negative examples.

    Returns:
        The new values.
    """
    generator = torch.Generator().manual_seed(seed)
    pairs, count = corpus.train, steps * batch
    chosen = torch.multinomial(pairs.weights, count, True, generator=generator).view(steps, batch)
    noise = torch.multinomial(corpus.noise, count * NEGATIVES, True, generator=generator)
    noise = noise.view(steps, batch, NEGATIVES)
    new = values.clone().requires_grad_()
    optimizer = torch.optim.Adam([new], lr=lr)
    for at, negative in zip(chosen, noise, strict=True):
        inner, outer = new.chunk(2, dim=1)
        center = inner[pairs.centers[at]]  # (batch, dim)
        near = (center * outer[pairs.contexts[at]]).sum(1)
        far = torch.einsum("bd,bnd->bn", center, outer[negative])
        loss = -(functional.logsigmoid(near) + functional.logsigmoid(-far).sum(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return new.detach()


def heldout(values: torch.Tensor, corpus: Corpus) -> tuple[float, float]:
    """What embeddings, float32 (words, 2·dim), say about text that was held out.

    Returns:
        The skip-gram loss, in expectation over negative examples, so without noise; and how often
        a neighbour scores higher than a word of the noise, ties counting half.
    """
    inner, outer = values.to(torch.float64).chunk(2, dim=1)
    scores = inner @ outer.t()  # (words, words)
    noise, pairs = corpus.noise.to(torch.float64), corpus.heldout
    weights = pairs.weights.to(torch.float64)
    near = scores[pairs.centers, pairs.contexts]
    far = functional.logsigmoid(-scores) @ noise  # (words,)
    losses = functional.logsigmoid(near) + NEGATIVES * far[pairs.centers]
    ordered, order = scores.sort(dim=1)
    below = functional.pad(noise[order].cumsum(1), (1, 0))  # (words, words + 1)
    rows, at = ordered[pairs.centers], near[:, None]
    left, right = torch.searchsorted(rows, at), torch.searchsorted(rows, at, right=True)
    mass = below[pairs.centers]
    wins = (mass.gather(1, left) + mass.gather(1, right))[:, 0] / 2
    return float(-(losses * weights).sum()), float((wins * weights).sum())
