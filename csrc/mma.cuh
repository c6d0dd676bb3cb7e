// The matrix instruction of the int8 products: sm_80 and newer.
#pragma once
#include "launch.h"

namespace pyfed {

// d (16 x 8, int32) += a (16 x 32, unsigned bytes) times b (32 x 8, signed bytes), by the 32
// threads of a warp together. With g = lane / 4 and t = lane % 4 a thread holds
//   a: rows g, g + 8, g, g + 8, bytes 4t … 4t + 3 in two words, then bytes 4t + 16 … 4t + 19;
//   b: column g, bytes 4t … 4t + 3, then 4t + 16 … 4t + 19;
//   d: (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
// PTX ISA, "Matrix Fragments for mma.m16n8k32".
__device__ __forceinline__ void multiply_bytes(int32_t (&d)[4], const Quad& a, uint32_t b0,
                                               uint32_t b1) {
#if defined(PYFED_EMULATE)
  emulate::multiply_bytes(d, a.v, b0, b1);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a.v[0]), "r"(a.v[1]), "r"(a.v[2]), "r"(a.v[3]), "r"(b0), "r"(b1));
#endif
}

}  // namespace pyfed
