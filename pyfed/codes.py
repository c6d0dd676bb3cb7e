"""Lagrange codes over a prime field: secret sharing with exact, verified decoding."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pyfed.checks import expect_field, expect_int, expect_key, expect_tensor
from pyfed.errors import ArgumentError, DecodeError, DtypeError, ThresholdError
from pyfed.fields import SOLINAS31, Field
from pyfed.keys import Key
from pyfed.locate import challenge_rows, locate_errors, parity_matrix
from pyfed.ops.field import field_matmul
from pyfed.ops.lagrange import lagrange_decode, lagrange_encode

MOST_SHARES = 4096


def batch_inverse(values: torch.Tensor, modulus: int) -> torch.Tensor:
    """Inverses along the last dimension of non-zero residues, by one inversion per row.

    Args:
        values: int64 (rows, count), all non-zero modulo the prime.
        modulus: the prime.

    Returns:
        int64 (rows, count). Products of prefixes are formed, the last one is inverted, and the
        inverses are peeled off backwards: 3 products an element (Montgomery's trick).
    """
    rows, count = values.shape
    prefix = torch.empty(count + 1, rows, dtype=torch.int64)
    prefix[0] = 1
    columns = values.t().contiguous()  # (count, rows), so that one step is contiguous
    for i in range(count):
        prefix[i + 1] = prefix[i] * columns[i] % modulus
    running = torch.tensor([pow(int(p), -1, modulus) for p in prefix[count]], dtype=torch.int64)
    inverses = torch.empty_like(columns)
    for i in range(count - 1, -1, -1):
        inverses[i] = running * prefix[i] % modulus
        running = running * columns[i] % modulus
    return inverses.t()


def _product(values: torch.Tensor, modulus: int) -> torch.Tensor:
    """The product along the last dimension: int64 (rows, count) → (rows,)."""
    out = torch.ones(values.shape[0], dtype=torch.int64)
    for column in values.t().contiguous():
        out = out * column % modulus
    return out


def lagrange_matrix(sources: torch.Tensor, targets: torch.Tensor, modulus: int) -> torch.Tensor:
    """Values at ``targets`` of the Lagrange polynomials of ``sources``: int64 (targets, sources).

    L_i(x) = M(x) · w_i / (x - s_i), with M(x) = ∏(x - s_i) and w_i = 1 / ∏_{j≠i}(s_i - s_j).
    No target may be a source.
    """
    between = (sources[:, None] - sources[None]) % modulus
    between.fill_diagonal_(1)
    weights = batch_inverse(_product(between, modulus)[None], modulus)[0]
    apart = (targets[:, None] - sources[None]) % modulus  # (targets, sources)
    master = _product(apart, modulus)
    return master[:, None] * weights % modulus * batch_inverse(apart, modulus) % modulus


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
        field: the prime field.

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
        expect_field("LagrangeCode", field)
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
        if "cpu" not in self._matrices:
            p, alphas = self.field.modulus, self._share_points
            lagrange = lagrange_matrix(self._block_points, alphas, p)
            power = _product((alphas[:, None] - self._block_points) % p, p)
            columns = [lagrange]
            for _ in range(self.privacy):
                columns.append(power[:, None])
                power = power * alphas % p
            self._matrices["cpu"] = torch.cat(columns, dim=1).to(torch.int32)
        if name not in self._matrices:
            self._matrices[name] = self._matrices["cpu"].to(device)
        return self._matrices[name]

    def encode(
        self, residues: torch.Tensor, key: Key | None = None, stream: int = 0, start_column: int = 0
    ) -> torch.Tensor:
        """Make the shares of a vector.

        Args:
            residues: int32 (length,), in [0, p).
            key: makes the T random rows; None takes a fresh one from the operating system, which
                is wiped afterwards. One (key, stream, column) must never serve two vectors.
            stream: which of the key's 2^32 streams.
            start_column: number of the first column, so that a long vector can be encoded in
                pieces of whole columns.

        Returns:
            int32 (shares, ⌈length / blocks⌉): row j is for recipient j.

        Raises:
            DtypeError: residues is not an int32 tensor.
            ArgumentError: an argument is out of range, or a residue lies outside [0, p).
        """
        expect_tensor("LagrangeCode.encode", "residues", residues, torch.int32, 1)
        if key is not None:
            expect_key("LagrangeCode.encode", key)
        used = Key.generate() if key is None else key
        matrix = self.encoding_matrix(residues.device)
        shares = lagrange_encode(
            residues, matrix, used, self.field, self.blocks, stream, start_column
        )
        if key is None:
            used.wipe()
        return shares

    def _expect_survivors(self, op: str, rows: torch.Tensor, survivors: Sequence[int]) -> list[int]:
        expect_tensor(op, "rows", rows, torch.int32, 2)
        if hasattr(survivors, "tolist"):  # a tensor or an array
            survivors = survivors.tolist()
        if not isinstance(survivors, Sequence):  # a set has no order that rows could follow
            kind = type(survivors).__name__
            raise DtypeError(f"{op}: survivors is {kind}; it must be a list in the order of rows")
        numbers = list(survivors)
        for number in numbers:
            expect_int(op, "a survivor", number, 0, self.shares)
        if len(set(numbers)) != len(numbers):
            again = sorted({n for n in numbers if numbers.count(n) > 1})
            raise ArgumentError(f"{op}: survivors {again} are named more than once")
        if len(numbers) != rows.shape[0]:
            raise ArgumentError(
                f"{op}: rows has {rows.shape[0]} rows and survivors names {len(numbers)}; they "
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

    def _decoding_matrix(self, survivors: tuple[int, ...], device: torch.device) -> torch.Tensor:
        key = (survivors, str(device))
        if key not in self._matrices:
            if len(self._matrices) > 16:  # many survivor sets in a long life: start again
                for old in [k for k in self._matrices if not isinstance(k, str)]:
                    del self._matrices[old]
            sources = self._share_points[list(survivors)]
            matrix = lagrange_matrix(sources, self._block_points, self.field.modulus)
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
        which threshold + 2e rows are needed, and still notices n - threshold - e.

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
        op = "LagrangeCode.decode"
        numbers = self._expect_survivors(op, rows, survivors)
        expect_int(op, "correct", correct, 0, MOST_SHARES)
        most = self.blocks * rows.shape[1]
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
        if len(numbers) > self.threshold:
            wrong = self._wrong_rows(op, rows, numbers, correct)
        good = [i for i, number in enumerate(numbers) if number not in wrong][: self.threshold]
        matrix = self._decoding_matrix(tuple(numbers[i] for i in good), rows.device)
        # The rows are already in order in the usual case: then nothing is copied.
        used = rows[: self.threshold] if good == list(range(self.threshold)) else rows[good]
        return lagrange_decode(used, matrix, self.field, length)

    def find_errors(self, rows: torch.Tensor, survivors: Sequence[int]) -> tuple[int, ...]:
        """The share numbers of wrong rows, sorted; empty when all agree.

        Args:
            rows: int32 (n, columns), n ≥ threshold.
            survivors: the share number of each row, in row order.

        Raises:
            DecodeError: some row is wrong and there are more than (n - threshold) / 2, so that
                they cannot be told from right ones.
            ThresholdError, ArgumentError: as :meth:`decode`.
        """
        op = "LagrangeCode.find_errors"
        numbers = self._expect_survivors(op, rows, survivors)
        return self._wrong_rows(op, rows, numbers, (len(numbers) - self.threshold) // 2)

    def _wrong_rows(
        self, op: str, rows: torch.Tensor, numbers: list[int], correct: int
    ) -> tuple[int, ...]:
        """Share numbers of at most ``correct`` wrong rows; DecodeError when there are more."""
        p = self.field.modulus
        points = self._share_points[numbers]
        parity = parity_matrix(points, self.threshold, p).to(torch.int32).to(rows.device)
        combined = challenge_rows(rows, self.field)  # (n, challenges)
        if not bool(field_matmul(parity, combined, self.field).any()):
            return ()
        most = (len(numbers) - self.threshold) // 2
        located = locate_errors(combined, points.tolist(), self.threshold, most, p)
        wrong = () if located is None else tuple(sorted(numbers[i] for i in located))
        if located is None or len(wrong) > correct:
            told = f"rows {list(wrong)} are wrong" if wrong else "which ones cannot be told"
            remedy = "pass correct= to repair them" if wrong else "more rows would be needed"
            raise DecodeError(
                f"{op}: the {len(numbers)} rows contradict one another; {told}, and correct is "
                f"{correct}: {remedy}",
                rows=wrong,
            )
        return wrong
