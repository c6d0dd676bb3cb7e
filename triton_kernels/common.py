"""What the kernel families share: the error word, reduction, and large numbers as arguments.

No kernel is specialised on the value of a number, so that a new length, stream or prime compiles
nothing; nor on the alignment of a caller's tensor where its tiles are not aligned anyway.
"""

import triton
import triton.language as tl

BAD_RESIDUE = tl.constexpr(1)
NOT_FINITE = tl.constexpr(2)
ALL_REJECTED = tl.constexpr(4)
BAD_PADDING = tl.constexpr(8)
TOO_MANY = tl.constexpr(16)
BAD_COUNT = tl.constexpr(32)
BAD_PLACE = tl.constexpr(64)


def signed32(word: int) -> int:
    """An unsigned 32-bit number as the signed one of the same bits.

    Kernels take nonce words and block counters this way: an argument above 2^31 would change the
    type of the parameter, and so compile the kernel again.
    """
    return word - 2**32 if word >= 2**31 else word


def ceil_div(count: int, size: int) -> int:
    """⌈count / size⌉."""
    return -(-count // size)


@triton.jit
def report_any(word, bad, BIT: tl.constexpr):
    """OR a bit into the error word when any element of the tile ``bad`` is true."""
    tl.atomic_or(word, BIT, mask=tl.max(bad.to(tl.int32)) != 0)


@triton.jit
def canonical(value, modulus):
    """The residue in [0, p) of any uint64, as uint32.

    With 2^31 ≡ c = 2^31 - p, and c < 2^19 here, the three folds give
    value < 2^64 → < 2^33 · c + 2^31 < 2^53 → < 2^22 · c + 2^31 < 2^42 → < 2^11 · c + 2^31 < 2p:
    2^30 + 2^31 at most, and 2p > 2^32 - 2^20.
    """
    prime = modulus.to(tl.uint64)
    excess = 2147483648 - prime
    value = (value & 0x7FFFFFFF) + (value >> 31) * excess
    value = (value & 0x7FFFFFFF) + (value >> 31) * excess
    value = (value & 0x7FFFFFFF) + (value >> 31) * excess
    return tl.where(value >= prime, value - prime, value).to(tl.uint32)


# Where a mask may end anywhere, bytes are moved one by one; without it, 16 go together.
@triton.jit
def load_tile(pointer, inside, full):
    """Load a tile, 0 where ``inside`` is false; ``full``, a scalar, says that it nowhere is."""
    return tl.load(pointer) if full else tl.load(pointer, mask=inside, other=0)


@triton.jit
def store_tile(pointer, value, inside, full):
    """Store a tile where ``inside`` is true; ``full``, a scalar, says that it is so everywhere."""
    if full:
        tl.store(pointer, value)
    else:
        tl.store(pointer, value, mask=inside)


COMPILED = tl.constexpr(isinstance(report_any, triton.JITFunction))
"""False where kernels are interpreted."""

# All threads of the program, each every so-and-so-many-th word, once none reads any more.
_CLEAR = tl.constexpr("""{
    .reg .pred past;
    .reg .b32 place, step, size;
    mov.u32 place, %tid.x;
    shl.b32 place, place, 2;
    mov.u32 step, %ntid.x;
    shl.b32 step, step, 2;
    mov.u32 size, %dynamic_smem_size;
    bar.sync 0;
next:
    setp.ge.u32 past, place, size;
    @past bra done;
    mov.u32 $0, global_smem;
    add.u32 $0, $0, place;
    st.volatile.shared.u32 [$0], 0;
    add.u32 place, place, step;
    bra next;
done:
    mov.u32 $0, 0;
}""")


@triton.jit
def clear_shared():
    """Overwrite what this program left in shared memory, which the next one there could read.

    The last statement of a kernel whose keystreams, masks or shares the compiler moves between
    threads that way; ``global_smem`` is what it calls all of a program's shared memory.
    """
    if COMPILED:
        tl.inline_asm_elementwise(_CLEAR, "=r", [], dtype=tl.int32, is_pure=False, pack=1)
