"""Lagrange codes over a prime field: secret sharing with exact, verified decoding."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pyfed.checks import (
    expect_device,
    expect_field,
    expect_int,
    expect_numbers,
    expect_residues,
    naming,
)
from pyfed.chosen import decode_chosen
from pyfed.errors import ArgumentError, DecodeError, ThresholdError
from pyfed.fields import SOLINAS31, Field
from pyfed.fixed import FixedPoint
from pyfed.interpolation import lagrange_matrix, product
from pyfed.keys import Key
from pyfed.locate import challenge_rows, name_errors
from pyfed.sharing import encode

MOST_SHARES = 4096


class LagrangeCode:
    """Shares a vector of residues so that few shares say nothing and enough of them say all.

    Column c of the data is elements c·K … c·K + K - 1. Share j is f(α_j) for the polynomial
    f(x) = d(x) + Z(x)·r(x): d of degree below K goes through the K data values at β_0 … β_(K-1),
    Z(x) = ∏(x - β_k), and the T coefficients of r are uniform. Any T shares are uniform whatever
    the data; any K + T determine it. Points as :class:`pyfed.Field` says.

    Args:
        shares: N, how many shares, 1 to 4096.
        blocks: K ≥ 1, data values in a column.
        privacy: T ≥ 0, how many shares say nothing.
        field: the prime field, or ``WIDE``: then vectors, shares and rows have a leading axis of 2
            planes, each a code of its own prime with points and random coefficients of its own.

    Raises:
        ArgumentError: blocks + privacy exceeds shares, or the field has too few points.

    Source: Yu et al., Lagrange coded computing, AISTATS 2019, in the systematic-free form above.

    Example:
        >>> import torch, pyfed
        >>> code = pyfed.LagrangeCode(shares=5, blocks=2, privacy=1)
        >>> data = torch.tensor([10, 20, 30], dtype=torch.int32)
        >>> shares = code.encode(data)
        >>> shares.shape
        torch.Size([5, 2])
        >>> code.decode(shares[[4, 0, 2]], [4, 0, 2], length=3)
        tensor([10, 20, 30], dtype=torch.int32)
    """

    def __init__(self, shares: int, blocks: int, privacy: int, field: Field = SOLINAS31) -> None:
        expect_int("LagrangeCode", "shares", shares, 1, MOST_SHARES + 1)
        expect_int("LagrangeCode", "blocks", blocks, 1, MOST_SHARES + 1)
        expect_int("LagrangeCode", "privacy", privacy, 0, MOST_SHARES + 1)
        expect_field("LagrangeCode", field, wide=True)
        if blocks + privacy > shares:
            raise ArgumentError(
                f"LagrangeCode: blocks + privacy is {blocks} + {privacy} = {blocks + privacy}; it "
                f"must be at most shares = {shares}"
            )
        field.check_points(shares, blocks)
        self.shares = shares
        self.blocks = blocks
        self.privacy = privacy
        self.field = field
        self._planes: tuple[LagrangeCode, ...] = (self,)
        if field.lead:
            self._planes = tuple(
                LagrangeCode(shares, blocks, privacy, plane) for plane in field.planes
            )
        else:
            self._share_points = torch.tensor(field.share_points(shares), dtype=torch.int64)
            self._block_points = torch.tensor(field.block_points(blocks), dtype=torch.int64)
        self._matrices: dict[object, torch.Tensor] = {}

    @property
    def threshold(self) -> int:
        """K + T: how many shares determine the data."""
        return self.blocks + self.privacy

    def __repr__(self) -> str:
        return (
            f"LagrangeCode(shares={self.shares}, blocks={self.blocks}, privacy={self.privacy}, "
            f"field={self.field.name})"
        )

    def encoding_matrix(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """[Lagrange | Z · Vandermonde]: int32 (shares, blocks + privacy), kept per device."""
        name = str(device)
        if "cpu" not in self._matrices and len(self._planes) > 1:
            self._matrices["cpu"] = torch.stack([code.encoding_matrix() for code in self._planes])
        elif "cpu" not in self._matrices:
            p, alphas = self.field.modulus, self._share_points
            lagrange = lagrange_matrix(self._block_points, alphas, p)
            power = product((alphas[:, None] - self._block_points) % p, p)
            columns = [lagrange]
            for _ in range(self.privacy):
                columns.append(power[:, None])
                power = power * alphas % p
            self._matrices["cpu"] = torch.cat(columns, dim=1).to(torch.int32)
        if name not in self._matrices:
            self._matrices[name] = self._matrices["cpu"].to(device)
        return self._matrices[name]

    def encode(
        self,
        data: torch.Tensor,
        key: Key | None = None,
        stream: int = 0,
        start_column: int = 0,
        fixed: FixedPoint | None = None,
    ) -> torch.Tensor:
        """Make the shares of a vector.

        Args:
            data: residues, int32 (length,), in [0, p); with ``fixed`` floats (length,).
            key: makes the T random rows, and the rounding of floats; None takes a fresh one from
                the operating system, which is wiped afterwards. One (key, stream, column) must
                never serve two vectors.
            stream: which of the key's 2^32 streams.
            start_column: number of the first column, so that a long vector can be encoded in
                pieces of whole columns.
            fixed: rounds floats, in the same pass: the shares are those of ``fixed.encode(data,
                key, stream=stream, start=start_column · blocks)``. It takes no weight: give those
                of the clients to :func:`pyfed.ops.field_sum`.

        Returns:
            int32 (shares, ⌈length / blocks⌉): row j is for recipient j. Over ``WIDE`` behind a
            leading axis of 2 planes.

        Raises:
            DtypeError: data is not an int32 tensor; with ``fixed``, not float.
            ArgumentError: an argument is out of range, a residue lies outside [0, p), a float is
                NaN or infinite, or ``fixed`` is for another field.
        """
        matrix = self.encoding_matrix
        return encode(data, matrix, self.field, self.blocks, key, stream, start_column, fixed)

    def expect_rows(self, op: str, rows: torch.Tensor, survivors: Sequence[int]) -> list[int]:
        """The share numbers of rows as a list; raises as :meth:`decode` does."""
        expect_residues(op, "rows", rows, self.field, 2)
        numbers = expect_numbers(op, "survivors", survivors, self.shares)
        if len(numbers) != rows.shape[-2]:
            raise ArgumentError(
                f"{op}: rows has {rows.shape[-2]} rows and survivors names {len(numbers)}; they "
                "must be as many"
            )
        if len(numbers) < self.threshold:
            missing = sorted(set(range(self.shares)) - set(numbers))
            raise ThresholdError(
                f"{op}: {len(numbers)} rows are given and {self.threshold} are needed; missing are "
                f"{missing}",
                missing=missing,
                needed=self.threshold,
            )
        return numbers

    def decoding_matrix(
        self, survivors: Sequence[int], device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """What turns the rows of ``threshold`` survivors into blocks, for ``ops.decode_sum``.

        Args:
            survivors: the share number of each row, in row order, no two equal.
            device: where the matrix shall be.

        Returns:
            int32 (blocks, threshold), the Lagrange coefficients l_j(β_k) of the survivors' points;
            over ``WIDE`` behind a leading axis of 2 planes.

        Raises:
            DtypeError, ArgumentError: survivors are not ``threshold`` different share numbers.
        """
        op = "LagrangeCode.decoding_matrix"
        numbers = expect_numbers(op, "survivors", survivors, self.shares)
        if len(numbers) != self.threshold:
            raise ArgumentError(
                f"{op}: survivors names {len(numbers)} shares; exactly {self.threshold} decode"
            )
        return self._decoding_matrix(tuple(numbers), expect_device(op, device)).clone()

    def _decoding_matrix(self, survivors: tuple[int, ...], device: torch.device) -> torch.Tensor:
        key = (survivors, str(device))
        if key not in self._matrices:
            if len(self._matrices) > 16:  # many survivor sets in a long life: start again
                for old in [k for k in self._matrices if not isinstance(k, str)]:
                    del self._matrices[old]
            matrices = [
                lagrange_matrix(
                    code._share_points[list(survivors)], code._block_points, code.field.modulus
                )
                for code in self._planes
            ]
            matrix = torch.stack(matrices) if len(matrices) > 1 else matrices[0]
            self._matrices[key] = matrix.to(torch.int32).to(device)
        return self._matrices[key]

    def decode(
        self,
        rows: torch.Tensor,
        survivors: Sequence[int],
        length: int | None = None,
        correct: int = 0,
    ) -> torch.Tensor:
        """The vector that shares stand for.

        Rows beyond the threshold are checked against the rest by random linear combinations (a
        wrong row escapes with probability below 2^-60). ``correct=0`` only detects: with n rows
        any n - threshold wrong ones are noticed. ``correct=e`` repairs up to e wrong rows, for
        which threshold + 2e rows are needed, and still notices n - threshold - e. Holders who
        agree on a forgery and are more than that can pass theirs off: as a word without errors, or
        as one whose errors are the rows of others.

        Args:
            rows: int32 (n, columns), n ≥ threshold.
            survivors: the share number of each row, in row order, no two equal.
            length: elements to give back; None: blocks · columns, so with the zeros that fill the
                last column.
            correct: how many wrong rows may be repaired.

        Returns:
            int32 (length,).

        Raises:
            ThresholdError: fewer rows than needed; ``.missing`` names the absent shares.
            DecodeError: rows contradict one another; ``.rows`` names wrong ones where they can be
                told.
            ArgumentError: survivors or length do not fit the rows, or a residue lies outside
                [0, p).
        """
        return self.repair(rows, survivors, length, correct)[0]

    def repair(
        self,
        rows: torch.Tensor,
        survivors: Sequence[int],
        length: int | None = None,
        correct: int = 0,
    ) -> tuple[torch.Tensor, tuple[int, ...]]:
        """As :meth:`decode`, and the share numbers of the rows that were wrong, sorted."""
        op = "LagrangeCode.decode"
        numbers = self.expect_rows(op, rows, survivors)
        expect_int(op, "correct", correct, 0, MOST_SHARES)
        most = self.blocks * rows.shape[-1]
        length = most if length is None else length
        expect_int(op, "length", length, 0, most + 1)
        needed = self.threshold + 2 * correct
        if len(numbers) < needed:
            raise ThresholdError(
                f"{op}: {len(numbers)} rows are given; to correct {correct} of them {needed} are "
                "needed",
                missing=set(range(self.shares)) - set(numbers),
                needed=needed,
            )
        wrong: tuple[int, ...] = ()
        with naming(op, "rows", rows, self.field.code):
            if len(numbers) > self.threshold:
                wrong = self._wrong_rows(op, rows, numbers, correct)
            good = [i for i, number in enumerate(numbers) if number not in wrong][: self.threshold]
            matrix = self._decoding_matrix(tuple(numbers[i] for i in good), rows.device)
            return decode_chosen(rows, good, matrix, self.field, length), wrong

    def find_errors(self, rows: torch.Tensor, survivors: Sequence[int]) -> tuple[int, ...]:
        """The share numbers of wrong rows, sorted; empty when all agree.

        Up to e = ⌊(n - threshold) / 2⌋ wrong rows are named, and up to n - threshold - e noticed.
        More holders who forge together may make it name honest ones.

        Args:
            rows: int32 (n, columns), n ≥ threshold.
            survivors: the share number of each row, in row order.

        Raises:
            DecodeError: some row is wrong and there are more than (n - threshold) / 2, so that
                they cannot be told from right ones.
            ThresholdError, ArgumentError: as :meth:`decode`.
        """
        op = "LagrangeCode.find_errors"
        numbers = self.expect_rows(op, rows, survivors)
        with naming(op, "rows", rows, self.field.code):
            return self._wrong_rows(op, rows, numbers, (len(numbers) - self.threshold) // 2)

    def _wrong_rows(
        self, op: str, rows: torch.Tensor, numbers: list[int], correct: int
    ) -> tuple[int, ...]:
        """Share numbers of at most ``correct`` wrong rows; DecodeError when there are more."""
        if len(self._planes) == 1:
            combined = challenge_rows(rows, self.field)
            return self.name_errors(op, combined, numbers, correct)
        found = [
            code._wrong_rows(op, plane, numbers, correct)
            for code, plane in zip(self._planes, rows, strict=True)
        ]
        wrong = tuple(sorted({number for plane in found for number in plane}))
        if len(wrong) > correct:  # a row may be wrong in one plane alone
            raise DecodeError(
                f"{op}: the {len(numbers)} rows contradict one another; unless more are wrong, "
                f"those are {list(wrong)}, in one plane or the other, and correct is {correct}",
                rows=wrong,
            )
        return wrong

    def name_errors(
        self, op: str, combined: torch.Tensor, numbers: list[int], correct: int
    ) -> tuple[int, ...]:
        """As :func:`pyfed.locate.name_errors`, for int32 (n, challenges) of these shares."""
        points = self._share_points[numbers]
        return name_errors(op, combined, numbers, points, self.threshold, correct, self.field)
