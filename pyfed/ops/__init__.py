"""The operations: one file per kernel family."""

from pyfed.ops.field import field_matmul, field_sum
from pyfed.ops.fixed import dequantize, quantize
from pyfed.ops.lagrange import lagrange_decode, lagrange_encode
from pyfed.ops.random import random_residues, random_words

__all__ = [
    "dequantize",
    "field_matmul",
    "field_sum",
    "lagrange_decode",
    "lagrange_encode",
    "quantize",
    "random_residues",
    "random_words",
]
