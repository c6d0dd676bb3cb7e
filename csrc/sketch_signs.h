// Products of a matrix of signs by the method of four Russians (Arlazarov, Dinic, Kronrod and
// Faradzhev, 1970): the 256 signed sums of eight rows of x are made once, and then every row of the
// matrix adds up the one that its eight bits name.
#pragma once
#include "gemm.h"

namespace pyfed {
namespace PYFED_SIMD {

// Tables that are read together: 32 KB, which the first cache holds, or less.
#if defined(__AVX512F__)
constexpr int kTables = 2;
#else
constexpr int kTables = 4;
#endif
constexpr int64_t kTableSize = 256;
constexpr int64_t kTableRows = 8 * kTables;  // of x

// out[b] = ±v[0] ± v[1] ± v[2] ± v[3], minus where bit i of b is set.
inline __attribute__((always_inline)) void signed_sums(const Floats* v, Floats (&out)[16]) {
  const Floats low[4] = {v[0] + v[1], v[1] - v[0], v[0] - v[1], -v[0] - v[1]};
  const Floats high[4] = {v[2] + v[3], v[3] - v[2], v[2] - v[3], -v[2] - v[3]};
#pragma GCC unroll 16
  for (int b = 0; b < 16; ++b) out[b] = low[b & 3] + high[b >> 2];
}

// The tables of `rows` rows of x, at most kTableRows, and of `columns` columns from the first.
inline void fill_tables(const float* x, int64_t pitch, int64_t rows, int64_t columns,
                        Floats* tables) {
  for (int t = 0; t < kTables; ++t) {
    Floats v[8], low[16], high[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      const int64_t row = 8 * t + i;
      v[i] = row < rows ? load_part(x + row * pitch, columns) : Floats{};
    }
    signed_sums(v, low), signed_sums(v + 4, high);
    Floats* table = tables + t * kTableSize;
    for (int h = 0; h < 16; ++h) {
#pragma GCC unroll 16
      for (int l = 0; l < 16; ++l) table[16 * h + l] = low[l] + high[h];
    }
  }
}

// sums[m] += what the bits of row m from `shift` on name, for `rows` rows.
inline void add_named(const uint32_t* bits, int shift, int64_t rows, const Floats* tables,
                      Floats* sums) {
#pragma GCC unroll 4
  for (int64_t m = 0; m < rows; ++m) {
    const uint32_t word = bits[m] >> shift;
    Floats sum = sums[m];
#pragma GCC unroll 4
    for (int t = 0; t < kTables; ++t) {
      sum += tables[t * kTableSize + int64_t(word >> (8 * t) & 0xff)];
    }
    sums[m] = sum;
  }
}

// sums[v · rows + m] += the product of signs (rows, depth) with x (depth, columns), kFloats columns
// v a vector. Bit k % 32 of bits[k / 32 · bits_pitch + m] is the sign of entry (m, k).
inline void add_signed(const uint32_t* bits, int64_t bits_pitch, int64_t rows, const float* x,
                       int64_t x_pitch, int64_t depth, int64_t columns, Floats* tables,
                       Floats* sums) {
  for (int64_t f = 0; f < columns; f += kFloats, sums += rows) {
    for (int64_t k = 0; k < depth; k += kTableRows) {
      for (int64_t next = k + kTableRows; next < k + 2 * kTableRows && next < depth; ++next) {
        __builtin_prefetch(x + next * x_pitch + f);
      }
      fill_tables(x + k * x_pitch + f, x_pitch, depth - k, columns - f, tables);
      add_named(bits + k / 32 * bits_pitch, int(k % 32), rows, tables, sums);
    }
  }
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
