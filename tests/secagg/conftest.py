"""What tests of the protocols share."""

from __future__ import annotations

import hashlib
import itertools
import os

import pytest


@pytest.fixture
def same_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run of a test draws the same keys.

    Where secrets are told from public residues by their value alone, one round in a thousand of
    SecEA, of a million of the others, has a public residue that equals a secret by chance.
    """
    counter = itertools.count()

    def drawn(size: int) -> bytes:
        return hashlib.shake_256(b"entropy" + next(counter).to_bytes(8, "little")).digest(size)

    monkeypatch.setattr(os, "urandom", drawn)
