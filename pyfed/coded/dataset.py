"""Coded data sets: random combinations of a client's records plus noise, which add up."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from pyfed.checks import expect_tensor
from pyfed.coded.discrete_noise import expect_grid, with_discrete_noise
from pyfed.coded.fits import expect_fits
from pyfed.coded.records import (
    expect_not_negative,
    expect_records,
    sample_weights,
    source_of,
    within_norm,
)
from pyfed.errors import ArgumentError, DtypeError
from pyfed.fixed import FixedPoint
from pyfed.keys import Key
from pyfed.ops import sketch

if TYPE_CHECKING:
    from pyfed.coded.privacy_release import Release

Kind = Literal["rademacher", "gaussian", "countsketch"]
ALIKE = ("rows", "features", "outputs", "kind", "grid", "complement", "public", "device")
"""In what coded sets must agree to be summed."""
HINTS = {"grid": ": give all of them one grid=", "complement": ": give arrival= to all, or to none"}
KINDS: tuple[Kind, ...] = ("rademacher", "gaussian", "countsketch")


@dataclass(frozen=True, eq=False)
class CodedDataset:
    """X̃ = G·X + N and Ỹ = G·Y + N′ of one client, or the sum over many.

    With E[GᵀG] = c·I for c rows, E[X̃ᵀX̃]/c = XᵀX + σ²·I and E[X̃ᵀỸ]/c = XᵀY. The sum of the sets
    of many clients is the coded set of all their records, under [G₁ … G_N] and noise whose
    variances add up. A client draws G once and reuses its set in every round: the error of a
    gradient on it stays the same over the rounds and does not average out.

    Args:
        x: float32 (rows, features).
        y: float32 (rows, outputs).
        kind: the law of G.
        noise_variance: σ², of the noise in every entry of ``x`` and ``y``, all clients together.
            With a grid rounding adds grid²/12 for each client, which :attr:`variance` counts.
        samples: records behind it, of all clients together.
        sources: 8 bytes for each pair of key and stream in the sum. They say nothing about a key,
            and show when two clients used the same, which would correlate their parts.
        complement: whether records are weighted by √(1 − p), as the rule "complement" needs.
        grid: with discrete noise the step that all entries are multiples of; else 0.
        public: whether a G may be known, so that no guarantee may rest on its secrecy.
        record_norm: C, above which no record that was coded is; None: nobody looked.

    Example:
        >>> import torch, pyfed
        >>> from pyfed.coded import CodedDataset
        >>> x, y, key = torch.randn(40, 3), torch.randn(40), pyfed.Key(bytes(range(32)))
        >>> one = CodedDataset.encode(x[:20], y[:20], 8, key.derive("client", 0), noise_std=0.5)
        >>> two = CodedDataset.encode(x[20:], y[20:], 8, key.derive("client", 1), noise_std=0.5)
        >>> total = one + two
        >>> total.x.shape, total.noise_variance, total.clients, total.samples
        (torch.Size([8, 3]), 0.5, 2, 40)
    """

    x: torch.Tensor
    y: torch.Tensor
    kind: Kind
    noise_variance: float
    samples: int
    sources: frozenset[bytes]
    complement: bool = False
    grid: float = 0.0
    public: bool = False
    record_norm: float | None = None

    @property
    def rows(self) -> int:
        """c, the coded records."""
        return len(self.x)

    @property
    def features(self) -> int:
        """Columns of ``x``."""
        return self.x.shape[1]

    @property
    def outputs(self) -> int:
        """Columns of ``y``."""
        return self.y.shape[1]

    @property
    def clients(self) -> int:
        """Coded sets in the sum."""
        return len(self.sources)

    @property
    def noise_std(self) -> float:
        """σ of the noise in every entry."""
        return math.sqrt(self.noise_variance)

    @property
    def variance(self) -> float:
        """σ² and what rounding to a grid adds: what there is to make up for in a gradient."""
        return self.noise_variance + self.clients * self.grid**2 / 12

    @classmethod
    def encode(
        cls,
        x: torch.Tensor,
        y: torch.Tensor,
        rows: int,
        key: Key | int,
        kind: Kind = "gaussian",
        noise_std: float = 0.0,
        record_norm: float | None = None,
        on_large: Literal["clip", "refuse"] = "refuse",
        public: bool = False,
        noise: Literal["discrete", "gaussian"] = "discrete",
        grid: float | None = None,
        stream: int = 0,
        arrival: float | torch.Tensor | None = None,
    ) -> CodedDataset:
        """Code a client's records: features and labels by the same G, both with noise, in one pass.

        Noise on the features alone would give no guarantee: the labels are combinations of the
        same records.

        Discrete noise is added to the exact product, rounded to a grid, so that every bit is hidden
        and :mod:`pyfed.coded.privacy` counts what machines do (give it ``columns``). Continuous
        noise is float32 added to float32, by the kernel that makes the product: the lowest bits of
        small sums then tell of the data, and nothing is promised to who looks at them.

        Args:
            x: float32 (samples, features).
            y: float32 (samples,) or (samples, outputs), such as one-hot labels.
            rows: c, the coded records.
            key: the client's own, of which G and the noise come; with ``public=True`` and without
                noise a public seed instead. No two clients may have one key and stream in common.
            kind: "gaussian", "rademacher" or "countsketch"; the guarantee for a secret G is known
                for "gaussian" alone.
            noise_std: σ of the noise in every entry.
            record_norm: C, an upper bound of √(‖x_j‖² + ‖y_j‖²) over records, which guarantees
                are about; None: not looked at, and none is given.
            on_large: whether a record above ``record_norm`` is an error, or is scaled down to it.
            public: whether G may be known (it comes of Philox then), or is a secret.
            noise: "discrete", on multiples of ``grid``, or "gaussian", continuous.
            grid: of discrete noise, a power of two, from σ/2^20 to σ/4; None: the least of them.
                For sums in secret that of the fixed-point form, 1/scale.
            stream: which of the key's 2^32 streams.
            arrival: the probability p that a record's gradient comes from the client in a round,
                one or a float tensor (samples,), in [0, 1]: records are weighted by √(1 − p) for
                the rule "complement". None: weights of 1, for "convex" and "adaptive".

        Returns:
            The coded set, on the device of ``x``.

        Raises:
            DtypeError: an argument has a wrong type or dtype.
            ArgumentError: sizes do not match, a value is NaN or infinite, a record is above the
                norm, or a number is out of range.
        """
        op = "CodedDataset.encode"
        features, labels = expect_records(op, x, y)
        sigma = expect_not_negative(op, "noise_std", noise_std)
        if kind not in KINDS:
            raise ArgumentError(f"{op}: kind is {kind!r}; it must be one of {KINDS}")
        source = source_of(op, key, stream, public)
        joint = within_norm(op, torch.cat([features, labels], dim=1), record_norm, on_large)
        if arrival is not None:
            weights = sample_weights(op, arrival, len(joint)).to(joint.device)
            joint = (joint.to(torch.float64) * weights[:, None]).to(torch.float32)
        step = expect_grid(op, sigma, noise, grid)
        if step:
            if not isinstance(key, Key):
                raise ArgumentError(
                    f"{op}: key is an int, which is the public seed; noise needs a pyfed.Key"
                )
            coded = with_discrete_noise(joint, rows, key, kind, sigma, step, stream, public)
        else:
            coded = sketch(joint, rows, key, kind, sigma, stream, public)
        width = features.shape[1]
        return cls(
            x=coded[:, :width].contiguous(),
            y=coded[:, width:].contiguous(),
            kind=kind,
            noise_variance=sigma**2,
            samples=len(joint),
            sources=frozenset([source]),
            complement=arrival is not None,
            grid=step,
            public=public,
            record_norm=None if record_norm is None else float(record_norm),
        )

    def __add__(self, other: object) -> CodedDataset:
        """The coded set of both."""
        if not isinstance(other, CodedDataset):
            return NotImplemented
        return CodedDataset.total([self, other])

    @classmethod
    def total(cls, sets: Sequence[CodedDataset]) -> CodedDataset:
        """The sum of the coded sets of several clients.

        Raises:
            DtypeError: ``sets`` is no list of coded sets.
            ArgumentError: it is empty, they differ in shape, kind, grid, device or weighting, in
                whether G is public, or two share a key and stream.
        """
        like = cls.alike("CodedDataset.total", sets)
        x, y = sets[0].x.clone(), sets[0].y.clone()
        for one in sets[1:]:
            x += one.x
            y += one.y
        return like.replaced(x, y)

    @classmethod
    def alike(cls, op: str, sets: Sequence[CodedDataset]) -> CodedDataset:
        """What the sum of the sets is, but for its values, which are those of the first.

        Raises:
            DtypeError, ArgumentError: they cannot be added; ``op`` is what messages name.
        """
        if not isinstance(sets, Sequence) or not all(isinstance(one, cls) for one in sets):
            raise DtypeError(f"{op}: sets must be a list of CodedDatasets")
        if not sets:
            raise ArgumentError(f"{op}: sets is empty; there must be at least one")
        first, sources = sets[0], set(sets[0].sources)
        for index, one in enumerate(sets[1:], 1):
            for name in ALIKE:
                mine, theirs = getattr(first, name), getattr(one, name)
                if mine != theirs:
                    raise ArgumentError(
                        f"{op}: sets[{index}] has {name} {theirs} and sets[0] {mine}; coded sets "
                        f"that are summed must agree in it{HINTS.get(name, '')}"
                    )
            if sources & one.sources:
                raise ArgumentError(
                    f"{op}: sets[{index}] has a key and stream that an earlier one has too, so "
                    "that their noise is the same; give every client a key of its own"
                )
            sources |= one.sources
        norms = [one.record_norm for one in sets if one.record_norm is not None]
        return cls(
            x=first.x,
            y=first.y,
            kind=first.kind,
            noise_variance=math.fsum(one.noise_variance for one in sets),
            samples=sum(one.samples for one in sets),
            sources=frozenset(sources),
            complement=first.complement,
            grid=first.grid,
            public=first.public,
            record_norm=max(norms) if len(norms) == len(sets) else None,
        )

    @property
    def device(self) -> torch.device:
        """Where the set is."""
        return self.x.device

    def replaced(self, x: torch.Tensor, y: torch.Tensor) -> CodedDataset:
        """The same but for its values."""
        return dataclasses.replace(self, x=x, y=y)

    def release(self, colluders: int = 0, column_norm: float | None = None) -> Release:
        """What the set tells about a record, as :class:`pyfed.coded.privacy.Release` counts it.

        Args:
            colluders: clients in the sum that tell whoever sees it what their noise is. All are
                taken to have added as much.
            column_norm: with a public Gaussian G its greatest column norm.

        Raises:
            ArgumentError: all clients collude, the records' norms were not looked at, noise is
                continuous or none, or the secrecy of G protects nothing for its kind.

        Example:
            >>> import torch, pyfed
            >>> from pyfed.coded import CodedDataset, privacy
            >>> x, y, key = torch.rand(90, 3) / 2, torch.rand(90), pyfed.Key(bytes(32))
            >>> sigma = privacy.noise(50, epsilon=4.0, delta=1e-5, record_norm=1.4, columns=4)
            >>> coded = CodedDataset.encode(x, y, 50, key, noise_std=sigma, record_norm=1.4)
            >>> round(coded.release().epsilon(delta=1e-5), 3)
            4.0
        """
        from pyfed.coded.privacy_release import release_of

        return release_of(self, colluders, column_norm)

    def vector(self) -> torch.Tensor:
        """All values, float32 (rows · (features + outputs),), row by row, features first."""
        return torch.cat([self.x, self.y], dim=1).reshape(-1)

    def from_vector(self, values: torch.Tensor) -> CodedDataset:
        """The same set with other values, from such a vector.

        Raises:
            DtypeError, ArgumentError: it is no float32 vector of that length.
        """
        expect_tensor("CodedDataset.from_vector", "values", values, torch.float32, 1)
        width = self.features + self.outputs
        if len(values) != self.rows * width:
            raise ArgumentError(
                f"CodedDataset.from_vector: values has {len(values)} elements; it must have "
                f"rows · (features + outputs) = {self.rows * width}"
            )
        joint = values.reshape(self.rows, width)
        return self.replaced(
            joint[:, : self.features].contiguous(), joint[:, self.features :].contiguous()
        )

    def residues(self, fixed: FixedPoint, key: Key | None) -> torch.Tensor:
        """The values in fixed point, int32 (rows · (features + outputs),), to be summed modulo p.

        Args:
            fixed: its clip must be above all values, and with discrete noise its scale a multiple
                of 1 / grid, so that rounding changes nothing.
            key: makes the rounding unbiased, which continuous noise needs; None rounds to nearest.

        Raises:
            DtypeError, ArgumentError: an argument is wrong, a value would be cut or rounded, or
                steps are too coarse for continuous noise.
        """
        expect_fits("CodedDataset.residues", self, fixed, key is None)
        return fixed.encode(self.vector(), key)

    def from_residues(self, fixed: FixedPoint, residues: torch.Tensor) -> CodedDataset:
        """The same set with the values that (a sum of) residues stand for."""
        return self.from_vector(fixed.decode(residues))

    def to_bytes(self) -> bytes:
        """The set as bytes, which :meth:`from_bytes` reads; their SHA-256 is at their end."""
        from pyfed.coded.dataset_bytes import to_bytes

        return to_bytes(self)

    @staticmethod
    def from_bytes(data: bytes) -> CodedDataset:
        """The set that bytes stand for, on the CPU; nothing about them is trusted.

        Raises:
            ProtocolError: they are not exactly one coded set, or were damaged.
        """
        from pyfed.coded.dataset_bytes import from_bytes

        return from_bytes(data)
