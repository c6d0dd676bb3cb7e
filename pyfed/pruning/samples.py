"""Calibration samples: tokens, and which of them are real."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from pyfed.checks import expect_int, expect_tensor
from pyfed.errors import ArgumentError, DtypeError

_KEYS = ("input_ids", "attention_mask", "token_type_ids")


class Samples:
    """Tokens of bounded length.

    Args:
        samples: int64 (count, length), or a mapping with such ``input_ids`` and, if there is
            padding, an ``attention_mask`` of that shape, 1 or True at real tokens; and
            ``token_type_ids`` for models that have them.
        max_length: the most tokens of a sample; more are refused, or cut off.
        truncate: cut off what is longer, at its end.
        op: what a message names.

    Raises:
        DtypeError: an argument has a wrong type.
        ArgumentError: there is no sample, a sample is too long, or has no real token.
    """

    def __init__(
        self,
        samples: torch.Tensor | Mapping[str, torch.Tensor],
        max_length: int,
        truncate: bool = False,
        op: str = "local_votes",
    ) -> None:
        expect_int(op, "max_length", max_length, 1, 2**31)
        self.is_mapping = isinstance(samples, Mapping)
        given = dict(samples) if isinstance(samples, Mapping) else {"input_ids": samples}
        if "input_ids" not in given or not set(given) <= set(_KEYS):
            raise ArgumentError(
                f"{op}: samples has {sorted(map(str, given))}; it must have input_ids, and may "
                "have attention_mask and token_type_ids"
            )
        for name, value in given.items():
            masks = (torch.bool, torch.int32) if name == "attention_mask" else ()
            expect_tensor(op, name, value, (torch.int64, *masks), 2)
            if value.shape != given["input_ids"].shape:
                raise ArgumentError(
                    f"{op}: {name} has shape {tuple(value.shape)}; it must be that of input_ids, "
                    f"{tuple(given['input_ids'].shape)}"
                )
        count, length = given["input_ids"].shape
        if count == 0 or length == 0:
            raise ArgumentError(
                f"{op}: samples has shape {(count, length)}; there must be one token at least"
            )
        if not isinstance(truncate, bool):
            raise DtypeError(f"{op}: truncate is {type(truncate).__name__}; it must be a bool")
        if length > max_length and not truncate:
            raise ArgumentError(
                f"{op}: samples have {length} tokens and max_length is {max_length}; shorten them, "
                "raise max_length, or pass truncate=True"
            )
        self._tensors = {name: value[:, :max_length] for name, value in given.items()}
        self.count, self.length = self._tensors["input_ids"].shape
        if "attention_mask" in given:
            self._expect_real(op, self._tensors["attention_mask"])

    @staticmethod
    def _expect_real(op: str, mask: torch.Tensor) -> None:
        if bool(((mask != 0) & (mask != 1)).any()):
            raise ArgumentError(f"{op}: attention_mask has an element that is neither 0 nor 1")
        empty = torch.nonzero(mask.sum(1) == 0)[:, 0].tolist()
        if empty:
            raise ArgumentError(
                f"{op}: samples {empty[:8]} have no real token; leave out samples of padding"
            )

    def expect_known(self, op: str, model: nn.Module) -> None:
        """Raise where a token is none of the model's, as far as the model tells how many it has."""
        embeddings = getattr(model, "get_input_embeddings", None)
        try:
            words = getattr(embeddings() if callable(embeddings) else None, "num_embeddings", None)
        except NotImplementedError:  # transformers raises it where it cannot find them
            return
        if not isinstance(words, int):
            return
        low, high = (int(end) for end in self._tensors["input_ids"].aminmax())
        if low < 0 or high >= words:  # padding is looked up too
            raise ArgumentError(
                f"{op}: samples have tokens from {low} to {high}; the model's are in [0, {words})"
            )

    def batches(self, size: int) -> list[dict[str, torch.Tensor]]:
        """The samples in batches of at most ``size``; the last may be smaller, none is filled."""
        return [
            {name: value[at : at + size] for name, value in self._tensors.items()}
            for at in range(0, self.count, size)
        ]
