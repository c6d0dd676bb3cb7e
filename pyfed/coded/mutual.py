"""Mutual-information privacy of a coded data set, for comparison with papers that state it.

A release M is ε-MI private when I(record; M | all other records) ≤ ε for every law of the data
(Cuff and Yu, CCS 2016). That is an average over what the record may be, and weak: it gives (0, δ)
with δ = √(2ε) and nothing better in general, so that from half a nat on it promises nothing. The
numbers of :mod:`pyfed.coded.privacy` hold for the worst record. The bounds here are derived.
"""

from __future__ import annotations

import math

import numpy as np

from pyfed.checks import expect_int
from pyfed.coded.privacy_curves import log1p_rest
from pyfed.coded.privacy_release import Release
from pyfed.coded.records import expect_not_negative, expect_positive


def mutual_information(release: Release, columns: int | None = None) -> float:
    """Nats that a release tells about one record, all others known: an upper bound.

    With a secret Gaussian G, the divergence from the release without the record bounds it:
    (k/2)·(q − ln(1 + q)) with k rows and q as in :attr:`Release.ratio`, about k·q²/4. With a public
    G it is the capacity (d/2)·ln(1 + μ²/d) of a Gaussian channel with d inputs of energy C². Noise
    is ideal here.

    Args:
        release: what is released.
        columns: d, features and labels of a record, with a public G; None: the release's.

    Raises:
        DtypeError, ArgumentError: an argument is wrong.

    Example:
        >>> from pyfed.coded.privacy import Release, mutual_information
        >>> release = Release(rows=1000, noise_std=5.0, record_norm=1.0)
        >>> round(mutual_information(release), 3)
        0.39
    """
    if release.secret:
        ratio = release.ratio
        rest = float(log1p_rest(np.array([ratio]))[0])
        # KL(N(0, 1 + q) ‖ N(0, 1)), per row, is half of q − ln(1 + q).
        return -release.rows / 2 * rest
    if columns is None:
        columns = release.columns
    expect_int("mutual_information", "columns", columns, 1, 2**31 + 1)
    assert columns is not None
    return columns / 2 * math.log1p(release.ratio**2 / columns)


def entry_information(
    rows: int, noise_std: float, largest: float, column_norm: float | None = None
) -> float:
    """Nats about a single entry of a record with a public G: ½·ln(1 + g²·x_max²/σ²).

    Here g is the greatest column norm, and all other entries, also of the same record, are known.
    This is what papers on coded data call privacy; a record has many entries.

    Args:
        rows: c.
        noise_std: σ > 0.
        largest: x_max, an upper bound of the entry's absolute value.
        column_norm: g; None: √c.

    Raises:
        DtypeError, ArgumentError: an argument is wrong.
    """
    op = "entry_information"
    expect_int(op, "rows", rows, 1, 2**31 + 1)
    sigma = expect_positive(op, "noise_std", noise_std)
    bound = expect_positive(op, "largest", largest)
    norm = math.sqrt(rows)
    if column_norm is not None:
        norm = expect_positive(op, "column_norm", column_norm)
    return 0.5 * math.log1p((norm * bound / sigma) ** 2)


def distinguishing(nats: float) -> float:
    """δ of the (0, δ)-privacy that mutual information gives, min(1, √(2·nats)).

    Between two records that are equally likely a priori the information is the Jensen–Shannon
    divergence, which is at least half the squared total variation (Pinsker). 1 promises nothing.

    Args:
        nats: mutual information, at least 0.

    Raises:
        DtypeError, ArgumentError: nats is negative or not finite.

    Example:
        >>> from pyfed.coded.privacy import distinguishing
        >>> distinguishing(0.02), distinguishing(0.5)
        (0.2, 1.0)
    """
    return min(1.0, math.sqrt(2 * expect_not_negative("distinguishing", "nats", nats)))
