"""The operations: one file per kernel family."""

from pyfed.ops.counts import mask_add, mask_count, mask_totals
from pyfed.ops.field import field_matmul, field_sum
from pyfed.ops.fixed import dequantize, quantize
from pyfed.ops.lagrange import lagrange_decode, lagrange_encode
from pyfed.ops.masks import mask_pack, mask_popcount, mask_unpack
from pyfed.ops.means import masked_mean
from pyfed.ops.places import Indices, Rectangles
from pyfed.ops.prune import mask_prune_
from pyfed.ops.random import random_residues, random_words
from pyfed.ops.selection import mask_select

__all__ = [
    "Indices",
    "Rectangles",
    "dequantize",
    "field_matmul",
    "field_sum",
    "lagrange_decode",
    "lagrange_encode",
    "mask_add",
    "mask_count",
    "mask_pack",
    "mask_popcount",
    "mask_prune_",
    "mask_select",
    "mask_totals",
    "mask_unpack",
    "masked_mean",
    "quantize",
    "random_residues",
    "random_words",
]
