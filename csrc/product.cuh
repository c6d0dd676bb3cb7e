// Products of matrices modulo a prime on CUDA devices: panels of both operands go through shared
// memory, and each thread accumulates a small tile of 64-bit sums in registers.
#pragma once
#include "field.h"
#include "launch.h"

namespace pyfed {

// Rows and columns of the output that a block makes; a thread makes 4 consecutive rows by 4
// columns, kGroups apart so that stores of neighbours coalesce: 32 registers of sums leave room for
// a ChaCha20 block beside them.
template <int rows, int columns>
struct Shape {
  static constexpr int kRows = rows, kColumns = columns;
  static constexpr int kTile = 4;
  static constexpr int kGroups = kColumns / kTile;
  static constexpr int kStrip = 16;               // inner elements of a panel of the left operand
  static constexpr int kDepth = 4096 / kColumns;  // and of the right one: 4096 numbers
  static_assert(kRows / kTile * kGroups == kThreads, "every thread has a tile");
};
using Rows16 = Shape<16, 256>;
using Rows64 = Shape<64, 64>;
constexpr int kBlocksAtOnce = 2;  // on a multiprocessor: at most 128 registers a thread

// Centred residues, |.| <= (p - 1) / 2. The left panel is transposed, so that a thread's rows are
// one 16-byte read; 4 more words a row keep those aligned and spread columns over banks.
template <class S>
struct alignas(16) Panels {
  static constexpr int kLeftPitch = S::kRows + 4;
  static constexpr int kRightPitch = S::kColumns + 4;
  int32_t left[S::kStrip][kLeftPitch];
  int32_t right[S::kDepth][kRightPitch];
};

// A residue of an operand, centred; a number that is none becomes 0 and is told of.
template <uint32_t P>
__device__ __forceinline__ int32_t checked(uint32_t v, int& bits) {
  const bool bad = v >= P;
  bits |= bad ? kBadResidue : 0;
  return centred(bad ? 0 : v, P);
}

__device__ __forceinline__ int rounded_up4(int count) { return (count + 3) & ~3; }

// x -> a congruent number, |.| < 2^51 + 2^32: |high word| <= 2^31 times 2^32 mod p < 2^20, plus the
// low word.
template <uint32_t P>
__device__ __forceinline__ int64_t folded(int64_t x) {
  return int64_t(uint32_t(x)) + int64_t(int32_t(x >> 32)) * int32_t(Field<P>::kFold32);
}

// A folded number -> its canonical residue: 2^21 p > 2^52 - 2^41 makes it positive.
template <uint32_t P>
__device__ __forceinline__ uint32_t residue_of_folded(int64_t x) {
  return Field<P>::reduce(uint64_t(x + (int64_t(P) << 21)));
}

template <class S>
struct Sums {
  int64_t at[S::kTile][S::kTile];
};

// Row and column within the block of a thread's sum.
template <class S>
__device__ __forceinline__ int row_of(int r) {
  return int(threadIdx.x) / S::kGroups * S::kTile + r;
}
template <class S>
__device__ __forceinline__ int column_of(int c) {
  return int(threadIdx.x) % S::kGroups + c * S::kGroups;
}

// Elements a[row + r, l + i], r < kRows, i < depth <= kStrip, into the left panel; zero beyond.
template <uint32_t P, class S>
__device__ __forceinline__ void fill_left(Panels<S>& shared, const uint32_t* __restrict__ a,
                                          int64_t pitch, int64_t row, int64_t rows, int64_t l,
                                          int depth, int& bits) {
#pragma unroll 8
  for (int e = threadIdx.x; e < S::kRows * S::kStrip; e += kThreads) {
    const int r = e / S::kStrip, i = e % S::kStrip;
    uint32_t v = 0;
    if (row + r < rows && i < depth) v = a[(row + r) * pitch + l + i];
    shared.left[i][r] = checked<P>(v, bits);
  }
}

// The right operand when it is a plain matrix (…, columns), row-major.
template <uint32_t P>
struct MatrixRight {
  const uint32_t* __restrict__ b;
  int64_t columns, first_column;

  // Fills the right panel from row l on, and gives its depth, at most limit - l.
  template <class S>
  __device__ __forceinline__ int fill(Panels<S>& shared, int64_t l, int64_t limit,
                                      int& bits) const {
    const int depth = limit - l < S::kDepth ? int(limit - l) : S::kDepth;
#pragma unroll 4
    for (int e = threadIdx.x; e < rounded_up4(depth) * S::kColumns; e += kThreads) {
      const int i = e / S::kColumns, c = e % S::kColumns;
      uint32_t v = 0;
      if (i < depth && first_column + c < columns) v = b[(l + i) * columns + first_column + c];
      shared.right[i][c] = checked<P>(v, bits);
    }
    return depth;
  }
};

template <class S>
__device__ __forceinline__ void add_products(const Panels<S>& shared, int left, int right,
                                             Sums<S>& sums) {
  int32_t a[S::kTile], b[S::kTile];
#pragma unroll
  for (int r = 0; r < S::kTile; ++r) a[r] = shared.left[left][row_of<S>(r)];
#pragma unroll
  for (int c = 0; c < S::kTile; ++c) b[c] = shared.right[right][column_of<S>(c)];
#pragma unroll
  for (int r = 0; r < S::kTile; ++r) {
#pragma unroll
    for (int c = 0; c < S::kTile; ++c) sums.at[r][c] += int64_t(a[r]) * b[c];
  }
}

// sums = a[row …, from … to - 1] times rows from … to - 1 of the right operand, folded.
// Eight products and what a fold left fit 64 bits: for 2^31 - 2^17 + 1,
// 8 (2^30 - 2^16)^2 + 2^49 + 2^32 = 2^63 - 2^49 + 2^35 + 2^32 < 2^63; for 2^31 - 2^19 + 1,
// 8 (2^30 - 2^18)^2 + 2^51 + 2^32 = 2^63 - 2^51 + 2^39 + 2^32 < 2^63; and for 2^31 - 1,
// 8 (2^30 - 1)^2 + 2^32 + 2^32 = 2^63 - 2^34 + 8 + 2^33 < 2^63.
template <uint32_t P, class S, class Right>
__device__ __forceinline__ void tile_product(Panels<S>& shared, const uint32_t* a, int64_t pitch,
                                             int64_t row, int64_t rows, const Right& operand,
                                             int64_t from, int64_t to, Sums<S>& sums, int& bits) {
#pragma unroll
  for (int r = 0; r < S::kTile; ++r) {
#pragma unroll
    for (int c = 0; c < S::kTile; ++c) sums.at[r][c] = 0;
  }
  for (int64_t l = from; l < to;) {
    const int depth = operand.fill(shared, l, to, bits);
    for (int base = 0; base < depth; base += S::kStrip) {
      const int strip = depth - base < S::kStrip ? depth - base : S::kStrip;
      fill_left<P>(shared, a, pitch, row, rows, l + base, strip, bits);
      __syncthreads();
#pragma unroll 1
      for (int i = 0; i < strip; i += 8) {
#pragma unroll
        for (int j = 0; j < 4; ++j) add_products(shared, i + j, base + i + j, sums);
        if (i + 4 < strip) {
#pragma unroll
          for (int j = 4; j < 8; ++j) add_products(shared, i + j, base + i + j, sums);
        }
#pragma unroll
        for (int r = 0; r < S::kTile; ++r) {
#pragma unroll
          for (int c = 0; c < S::kTile; ++c) {
            sums.at[r][c] = folded<P>(sums.at[r][c]);
          }
        }
      }
      __syncthreads();
    }
    l += depth;
  }
}

// Calls body(r, c, residue) for each of this thread's outputs: row and column within the block.
template <uint32_t P, class S, class Body>
__device__ __forceinline__ void each_residue(const Sums<S>& sums, Body body) {
#pragma unroll
  for (int r = 0; r < S::kTile; ++r) {
#pragma unroll
    for (int c = 0; c < S::kTile; ++c) {
      body(row_of<S>(r), column_of<S>(c), residue_of_folded<P>(sums.at[r][c]));
    }
  }
}

// Calls body(Field<P>{}) for the prime at hand.
template <class Body>
void for_field(uint32_t modulus, Body&& body) {
  if (!with_field(modulus, body)) {
    throw std::runtime_error("CUDA: there is no kernel for modulus " + std::to_string(modulus));
  }
}

}  // namespace pyfed
