"""Text that ships with Python, cut into windows of tokens and shared out over clients."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Protocol

import torch
from tokenizers import Tokenizer

# Modules with much documentation, in every Python from 3.11 on.
MODULES = (
    *("argparse", "ast", "collections", "configparser", "difflib", "doctest", "enum", "functools"),
    *("inspect", "ipaddress", "logging", "mailbox", "optparse", "pathlib", "pdb", "pickletools"),
    *("random", "shutil", "smtplib", "socket", "socketserver", "ssl", "statistics", "subprocess"),
    *("tarfile", "threading", "traceback", "typing", "uuid", "zipfile"),
)
HELD_OUT_DOCUMENTS = 12  # at the least, so that no single document decides a figure


class HasBackend(Protocol):
    """A fast tokenizer of transformers."""

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """The tokenizer itself, without the limits on length around it."""
        ...


@dataclass(frozen=True)
class Split:
    """Windows of token ids, int64 (windows, length); no document is on both sides of it.

    Attributes:
        clients: For each client its own calibration windows.
        public: Calibration windows that the server has for itself; no client's.
        heldout: What quality is measured on.
    """

    clients: list[torch.Tensor]
    public: torch.Tensor
    heldout: torch.Tensor

    @property
    def pooled(self) -> torch.Tensor:
        """The windows of all clients in one place."""
        return torch.cat(self.clients)


def documents() -> dict[str, str]:
    """The language reference by topic, and the docstrings of MODULES.

    The topics quote one another at length, so a paragraph counts for the first document that has it
    only: what is held out was then never calibrated on.
    """
    texts = {f"topic {name}": text for name, text in sorted(topics.items())}
    texts |= {f"module {name}": "\n\n".join(docstrings(name)) for name in MODULES}
    seen: set[str] = set()
    kept = {}
    for name, text in texts.items():
        paragraphs = dict.fromkeys(part for part in text.split("\n\n") if part.strip())
        kept[name] = "\n\n".join(part for part in paragraphs if part not in seen)
        seen.update(paragraphs)
    return kept


def docstrings(module: str) -> list[str]:
    """The docstrings in a module's source, which is parsed and not imported."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = ast.walk(ast.parse(Path(spec.origin).read_text(encoding="utf-8")))
    found = (ast.get_docstring(node) for node in nodes if isinstance(node, kinds))
    return [text for text in found if text]


def cut(texts: Mapping[str, str], tokenizer: HasBackend, length: int) -> dict[str, torch.Tensor]:
    """Cut each document into windows of ``length`` tokens; what is left at its end is dropped.

    A tokenizer that frames its text ([CLS] … [SEP]) frames every window.

    Returns:
        For each document with a whole window: int64 (windows, length).
    """
    own = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())  # a copy, to leave theirs as is
    own.no_padding()
    own.no_truncation()
    frame = own.encode("").ids
    first, last = torch.tensor(frame[:1]), torch.tensor(frame[1:])
    room = length - len(frame)
    result = {}
    for name, text in texts.items():
        ids = torch.tensor(own.encode(text, add_special_tokens=False).ids, dtype=torch.int64)
        count = len(ids) // room
        if count:
            body = ids[: count * room].view(count, room)
            around = [part.long().expand(count, -1) for part in (first, last)]
            result[name] = torch.cat([around[0], body, around[1]], 1)
    return result


def split(
    windows: Mapping[str, torch.Tensor],
    clients: int,
    each: int,
    heldout: int,
    seed: int,
    by_topic: bool = False,
) -> Split:
    """Hold documents out, and share the windows of the others out over the clients.

    Args:
        windows: For each document int64 (windows, length).
        clients: How many clients there are.
        each: Windows of a client; the server's own are four times as many.
        heldout: Windows to hold out, from HELD_OUT_DOCUMENTS documents or more.
        seed: Of the split.
        by_topic: Whether a client's windows are neighbours in one document, instead of drawn from
            all of them.

    Returns:
        The parts, the same for the same arguments.

    Raises:
        ValueError: If there are too few windows.
    """
    generator = torch.Generator().manual_seed(seed)

    def shuffled(items: list) -> list:
        return [items[i] for i in torch.randperm(len(items), generator=generator).tolist()]

    most = -(-heldout // HELD_OUT_DOCUMENTS)
    kept: list[torch.Tensor] = []
    rest: list[torch.Tensor] = []
    for name in shuffled(sorted(windows)):
        missing = heldout - sum(map(len, kept))
        if missing:
            kept.append(windows[name][: min(most, missing)])
        else:
            rest.append(windows[name])
    size = each if by_topic else 1
    runs = shuffled([run for part in rest for run in part.split(size) if len(run) == size])
    pool = torch.cat(runs) if runs else torch.empty(0)
    need = (clients + 4) * each
    if sum(map(len, kept)) < heldout or len(pool) < need:
        raise ValueError(
            f"the text has {len(pool)} windows to calibrate on beside {sum(map(len, kept))} held "
            f"out; {clients} clients of {each} and the server need {need}, beside {heldout}"
        )
    parts = pool[:need].split(each)
    return Split(list(parts[:clients]), torch.cat(parts[clients:]), torch.cat(kept))
