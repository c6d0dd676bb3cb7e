"""Neighbouring words in the documentation of Python's library, dealt to clients by module."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from fedsa_lora_text import FAMILIES, docstrings

WINDOW = 4  # a pair is of words that are at most so many apart
FREQUENT = 1e-3  # a word that is a larger part of the text counts less
HELD_OUT = 0.25  # of the paragraphs

Paragraphs = list[list[str]]


@dataclass(frozen=True)
class Pairs:
    """Ordered pairs of neighbouring words, as numbers in a client's own vocabulary.

    Attributes:
        centers: int64 (pairs,).
        contexts: Likewise.
        weights: float32 (pairs,), which sum to 1: pairs of frequent words count less.
    """

    centers: torch.Tensor
    contexts: torch.Tensor
    weights: torch.Tensor


@dataclass(frozen=True)
class Corpus:
    """What one client has.

    Attributes:
        modules: Whose documentation it is.
        words: Its own vocabulary, which nobody else is told.
        noise: float32 (words,): how likely each is as a negative example, ∝ count^(3/4).
        train: Pairs to learn from.
        heldout: Pairs of the paragraphs that are held out.
    """

    modules: tuple[str, ...]
    words: tuple[str, ...]
    noise: torch.Tensor
    train: Pairs
    heldout: Pairs


def documentation() -> dict[str, Paragraphs]:
    """Module → words of each paragraph of its docstrings; none is there twice, nor any example."""
    seen: set[str] = set()
    found: dict[str, Paragraphs] = {}
    for module in (module for family in FAMILIES.values() for module in family):
        found[module] = []
        for _, text in docstrings(module):
            for part in text.split("\n\n"):
                if part not in seen and ">>>" not in part:
                    seen.add(part)
                    found[module].append(re.findall(r"[a-z]{2,}", part.lower()))
    return found


def deal(
    texts: Mapping[str, Paragraphs], clients: int, each: int, vocabulary: int, seed: int
) -> list[Corpus]:
    """Every module goes to one client, the longest first, to whom has the least.

    Args:
        texts: Module → paragraphs.
        clients: How many.
        each: Paragraphs of a client at most, drawn from its modules'.
        vocabulary: The most words of a client; it takes those that it has most often.
        seed: Of who has which module, what is drawn, and what is held out.
    """
    rng = np.random.default_rng(seed)
    size = {module: sum(map(len, parts)) for module, parts in texts.items()}
    hands: list[list[str]] = [[] for _ in range(clients)]
    order = [str(module) for module in rng.permutation(sorted(texts))]
    for module in sorted(order, key=lambda module: -size[module]):
        least = min(hands, key=lambda hand: sum(size[other] for other in hand))
        least.append(module)
    corpora = []
    for at in rng.permutation(clients):
        hand = hands[at]
        parts = [part for module in hand for part in texts[module]]
        drawn = [parts[i] for i in rng.permutation(len(parts))[:each]]
        corpora.append(_corpus(tuple(hand), drawn, vocabulary, rng))
    return corpora


def _corpus(
    modules: tuple[str, ...], texts: Paragraphs, vocabulary: int, rng: np.random.Generator
) -> Corpus:
    """One client's vocabulary and pairs."""
    held = rng.random(len(texts)) < HELD_OUT
    train = [text for text, out in zip(texts, held, strict=True) if not out]
    heldout = [text for text, out in zip(texts, held, strict=True) if out]
    common = dict(Counter(word for text in train for word in text).most_common(vocabulary))
    words = tuple(sorted(common))
    counts = torch.tensor([common[word] for word in words], dtype=torch.float32)
    keep = (FREQUENT / (counts / counts.sum())).sqrt().clamp(max=1)
    noise = counts**0.75
    both = (pairs(part, words, keep) for part in (train, heldout))
    return Corpus(modules, words, noise / noise.sum(), *both)


def pairs(texts: Paragraphs, words: tuple[str, ...], keep: torch.Tensor) -> Pairs:
    """All pairs of words that are at most WINDOW apart, when unknown words are left out.

    Args:
        texts: Paragraphs.
        words: The vocabulary.
        keep: float32 (words,): a pair counts as much as the product of its words'.
    """
    number = {word: at for at, word in enumerate(words)}
    centers, contexts = list[int](), list[int]()
    for text in texts:
        known = [number[word] for word in text if word in number]
        for at, center in enumerate(known):
            near = known[max(0, at - WINDOW) : at] + known[at + 1 : at + 1 + WINDOW]
            contexts += near
            centers += [center] * len(near)
    first, second = torch.tensor(centers), torch.tensor(contexts)
    weights = keep[first] * keep[second]
    return Pairs(first, second, weights / weights.sum())
