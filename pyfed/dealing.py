"""Checking a dealer: are the shares that it dealt values of one polynomial, without seeing them?"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pyfed.checks import expect_field, expect_int, expect_key, expect_tensor
from pyfed.codes import LagrangeCode
from pyfed.errors import ArgumentError, DtypeError
from pyfed.keys import KEY_BYTES, Key
from pyfed.locate import challenge_count, combine_rows
from pyfed.ops.field import field_sum
from pyfed.ops.random import random_residues

LABEL = "dealer check"


class DealerCheck:
    """A masked random combination of a dealer's columns, which its holders compare.

    Beside share s_j of its vector a dealer deals holder j one share m_j of a uniform polynomial for
    each challenge, the pad. After everything is dealt a public coin gives coefficients r, and
    holder j answers y_j = Σ_l r_l · s_j,l + m_j. If all columns are values of polynomials of degree
    below K + T, then so are the answers; if those of the honest holders are not, then neither are
    the answers, but for a chance of 1/p a challenge, below 2^-60 over all of them. The pad makes
    the answers of all holders a uniform codeword, whatever the vector: they tell nothing of it,
    together with T shares and T pads either.

    Three rules hold this up. The coin must be unknown to the dealer while it deals: otherwise it
    can deal wrong shares that the coin does not see. A pad serves one coin: the difference of two
    answers under one pad is a combination of shares without a mask, and all holders get the same
    coin, for the same reason. With n answers n - (K + T) must be positive, or there is nothing to
    compare; half of it are the wrong rows that can be named.

    A row that is off does not tell whether the dealer dealt it or its holder answered wrong.

    Args:
        code: how the vector is shared.
        columns: of a share.

    Raises:
        DtypeError, ArgumentError: an argument is wrong.

    Source: the masked combination of verifiable secret sharing, with one coin for all columns;
        the location of rows that are off is :meth:`LagrangeCode.find_errors`.

    Example:
        >>> import torch, pyfed
        >>> from pyfed.dealing import DealerCheck
        >>> code = pyfed.LagrangeCode(shares=6, blocks=2, privacy=1)
        >>> check = DealerCheck(code, columns=2)
        >>> shares = code.encode(torch.tensor([10, 20, 30], dtype=torch.int32))
        >>> pads = check.pad(pyfed.Key.generate())
        >>> shares[4, 1] ^= 1  # the dealer cheats holder 4
        >>> coin = pyfed.Key.generate().reveal()  # after everything was dealt
        >>> check.verdict(check.respond(coin, shares, pads), range(6))
        (4,)
    """

    def __init__(self, code: LagrangeCode, columns: int) -> None:
        if not isinstance(code, LagrangeCode):
            kind = type(code).__name__
            raise DtypeError(f"DealerCheck: code is {kind}; it must be a pyfed.LagrangeCode")
        expect_field("DealerCheck", code.field)
        expect_int("DealerCheck", "columns", columns, 0, 2**31)
        self.code = code
        self.columns = columns
        self.challenges = challenge_count(code.field)

    def __repr__(self) -> str:
        return f"DealerCheck(code={self.code}, columns={self.columns})"

    def pad(self, key: Key) -> torch.Tensor:
        """The shares of a uniform polynomial of degree below K + T for each challenge.

        Args:
            key: of this dealing alone, used for nothing else.

        Returns:
            int32 (shares, challenges): row j is for holder j.
        """
        expect_key("DealerCheck.pad", key)
        # Values at the block points and random coefficients, apart by their purposes.
        uniform = random_residues(key, self.code.blocks * self.challenges, self.code.field)
        shares = self.code.encode(uniform, key)
        uniform.zero_()
        return shares

    def respond(self, coin: bytes, shares: torch.Tensor, pads: torch.Tensor) -> torch.Tensor:
        """The answers for many shares: a holder's, one from each dealer, or all of one dealer's.

        Args:
            coin: 32 public bytes that no dealer knew when it dealt.
            shares: int32 (rows, columns).
            pads: int32 (rows, challenges), for the same rows.

        Returns:
            int32 (rows, challenges), Σ_l r_l · share_l + pads over the columns l of each row.

        Raises:
            DtypeError, ArgumentError: an argument is wrong, or a residue lies outside [0, p).
        """
        op = "DealerCheck.respond"
        if not isinstance(coin, bytes):
            raise DtypeError(f"{op}: coin is {type(coin).__name__}; it must be 32 bytes")
        if len(coin) != KEY_BYTES:
            raise ArgumentError(f"{op}: coin has {len(coin)} bytes; it must have {KEY_BYTES}")
        expect_tensor(op, "shares", shares, torch.int32, 2)
        expect_tensor(op, "pads", pads, torch.int32, 2)
        for name, rows, width in (
            ("shares", shares, self.columns),
            ("pads", pads, self.challenges),
        ):
            if rows.shape != (shares.shape[0], width):
                raise ArgumentError(
                    f"{op}: {name} is {tuple(rows.shape)}; it must be {(shares.shape[0], width)}"
                )
        combined = combine_rows(shares, Key(coin).derive(LABEL), self.code.field)
        return field_sum(torch.stack([combined, pads]), self.code.field)

    def verdict(self, answers: torch.Tensor, holders: Sequence[int]) -> tuple[int, ...]:
        """The holders whose answers about one dealer are off, sorted; empty when all agree.

        Args:
            answers: int32 (n, challenges), n ≥ K + T. With n = K + T there is nothing to compare
                and all agree.
            holders: the share number of each row, in row order.

        Raises:
            DecodeError: more than (n - K - T) / 2 are off, so that they cannot be told; the
                dealer is then to be left out.
            ThresholdError, ArgumentError: as :meth:`LagrangeCode.decode`.
        """
        op = "DealerCheck.verdict"
        numbers = self.code.expect_rows(op, answers, holders)
        if answers.shape[1] != self.challenges:
            raise ArgumentError(
                f"{op}: answers has {answers.shape[1]} columns; it must have {self.challenges}"
            )
        most = (len(numbers) - self.code.threshold) // 2
        return self.code.name_errors(op, answers, numbers, most)
