"""Docstrings of Python's own library, labelled by what their modules are for, dealt to clients."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

# By the chapters of the library reference; modules that every Python from 3.11 on has.
FAMILIES = {
    "mail": ("email", "mailbox", "smtplib", "imaplib", "poplib"),
    "web": ("http", "urllib", "wsgiref", "xmlrpc", "html", "socketserver", "webbrowser"),
    "concurrency": ("asyncio", "threading", "multiprocessing", "concurrent", "queue", "subprocess"),
    "numbers": ("_pydecimal", "statistics", "fractions", "random", "numbers", "datetime"),
    "testing": ("unittest", "doctest", "pdb", "bdb", "trace", "traceback", "timeit", "pstats"),
    "language": ("typing", "inspect", "ast", "enum", "dis", "dataclasses", "functools", "abc"),
    "imports": ("importlib", "pkgutil", "zipimport", "runpy", "modulefinder", "site"),
    "files": ("pathlib", "shutil", "tarfile", "zipfile", "tempfile", "_pyio", "gzip", "bz2"),
    "settings": ("logging", "configparser", "argparse", "optparse", "gettext", "locale"),
    "markup": ("xml", "json", "difflib", "textwrap", "codecs", "plistlib", "string"),
}
LABELS = tuple(FAMILIES)
WORDS = 16  # a shorter passage says too little to be told apart


@dataclass(frozen=True)
class Passage:
    """One sample.

    Attributes:
        text: With single spaces.
        label: Number of its family.
        document: Module and top-level definition that it is from.
    """

    text: str
    label: int
    document: str


@dataclass(frozen=True)
class Deal:
    """Who has which samples; every tensor holds numbers of samples, int64.

    Attributes:
        train: For each client its own (each,), of documents that are not held out.
        tests: For each client (tests,) from held-out documents, in its own mix of labels. Two
            clients' may overlap.
        everyone: The global test set, from held-out documents, as many of each label.
        mixes: What part of a client's samples has which label, float64 (clients, labels).
    """

    train: list[torch.Tensor]
    tests: list[torch.Tensor]
    everyone: torch.Tensor
    mixes: torch.Tensor


def passages() -> list[Passage]:
    """All passages of the families' docstrings; a paragraph that is there twice counts once.

    A passage is as many neighbouring paragraphs of one document as it takes to have WORDS words.
    """
    seen: set[str] = set()
    found: list[Passage] = []
    current, words = "", list[str]()
    for label, modules in enumerate(FAMILIES.values()):
        for document, text in (pair for module in modules for pair in docstrings(module)):
            if document != current:
                current, words = document, []
            for part in text.split("\n\n"):
                line = part.split()
                if ">>>" in line or (key := " ".join(line)) in seen:
                    continue
                seen.add(key)
                words += line
                if len(words) >= WORDS:
                    found.append(Passage(" ".join(words), label, document))
                    words = []
    return found


def docstrings(module: str) -> Iterator[tuple[str, str]]:
    """Document and text of each docstring in a module's or package's source, which is not run."""
    folder = Path(sysconfig.get_path("stdlib")) / module  # some are frozen, and name no file
    files = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for file in files:
        if {"test", "tests"} & set(file.relative_to(folder.parent).parts) or not file.exists():
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for top in [tree, *tree.body]:
            name = f"{module}/{file.stem}.{getattr(top, 'name', '')}"
            for node in [tree] if top is tree else ast.walk(top):
                text = ast.get_docstring(node) if isinstance(node, kinds) else None
                if text:
                    yield name, text


def deal(
    samples: Sequence[Passage],
    clients: int,
    each: int,
    tests: int,
    alpha: float,
    seed: int,
    held_out: float = 0.35,
    balanced: int = 30,
) -> Deal:
    """Hold documents out, and deal the other samples to clients with skewed labels.

    Every client draws its mix of labels from Dirichlet(α, …, α), and from it how many samples of
    each label it has. Where a label has no more, others take its place, in the client's own mix.

    Args:
        samples: All there are.
        clients: How many clients.
        each: Training samples of a client.
        tests: Test samples of a client.
        alpha: The smaller, the more skewed.
        seed: Of everything; the same arguments give the same parts.
        held_out: The part of the documents that is held out.
        balanced: Samples of each label in the global test set.

    Raises:
        ValueError: If there are too few samples.
    """
    rng = np.random.default_rng(seed)
    names = sorted({sample.document for sample in samples})
    kept = set(rng.permutation(names)[: round(held_out * len(names))])
    labels = np.array([sample.label for sample in samples])
    test = np.array([sample.document in kept for sample in samples])
    mixes = rng.dirichlet(np.full(len(LABELS), alpha), clients)

    def pools(chosen: np.ndarray) -> list[np.ndarray]:
        each_label = (np.flatnonzero(chosen & (labels == label)) for label in range(len(LABELS)))
        return [rng.permutation(pool) for pool in each_label]

    def draw(mix: np.ndarray, count: int, left: list[np.ndarray]) -> torch.Tensor:
        """Take ``count`` samples out of the pools."""
        taken: list[np.ndarray] = []
        while missing := count - sum(map(len, taken)):
            there = mix * [len(pool) > 0 for pool in left]
            if not there.sum() > 0:
                raise ValueError(f"{count} samples for a client are too many: some label runs out")
            for label, wanted in enumerate(rng.multinomial(missing, there / there.sum())):
                taken.append(left[label][:wanted])
                left[label] = left[label][wanted:]
        return torch.from_numpy(np.sort(np.concatenate(taken)))

    free = pools(~test)
    train = [draw(mix, each, free) for mix in mixes]
    local = [draw(mix, tests, pools(test)) for mix in mixes]
    everyone = np.concatenate([pool[:balanced] for pool in pools(test)])
    return Deal(train, local, torch.from_numpy(np.sort(everyone)), torch.from_numpy(mixes))
