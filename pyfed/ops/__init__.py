"""The operations: one file per kernel family."""

from pyfed.ops.aggregate import decode_sum
from pyfed.ops.bank import segment_clip_
from pyfed.ops.bank_steps import bank_adamw_, bank_sgd_
from pyfed.ops.counts import mask_add, mask_count, mask_totals
from pyfed.ops.discrete import discrete_gaussian
from pyfed.ops.dropout import counter_dropout
from pyfed.ops.encode import quantize_encode
from pyfed.ops.field import field_matmul, field_sum
from pyfed.ops.fixed import dequantize, quantize
from pyfed.ops.lagrange import lagrange_decode, lagrange_encode
from pyfed.ops.lift import field_lift
from pyfed.ops.lora import lora_linear
from pyfed.ops.masks import mask_pack, mask_popcount, mask_unpack
from pyfed.ops.means import masked_mean
from pyfed.ops.merge import lora_merge_
from pyfed.ops.pairwise import add_masks_
from pyfed.ops.places import Indices, Rectangles
from pyfed.ops.prune import mask_prune_
from pyfed.ops.random import random_residues, random_words
from pyfed.ops.selection import mask_select
from pyfed.ops.sketch import sketch
from pyfed.ops.sketch_arguments import sketch_seed
from pyfed.ops.sketch_matrix import sketch_block
from pyfed.ops.upload import quantize_mask
from pyfed.ops.verify import field_verify
from pyfed.ops.weighted import weighted_mean

__all__ = [
    "Indices",
    "Rectangles",
    "add_masks_",
    "bank_adamw_",
    "bank_sgd_",
    "counter_dropout",
    "decode_sum",
    "dequantize",
    "discrete_gaussian",
    "field_lift",
    "field_matmul",
    "field_sum",
    "field_verify",
    "lagrange_decode",
    "lagrange_encode",
    "lora_linear",
    "lora_merge_",
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
    "quantize_encode",
    "quantize_mask",
    "random_residues",
    "random_words",
    "segment_clip_",
    "sketch",
    "sketch_block",
    "sketch_seed",
    "weighted_mean",
]
