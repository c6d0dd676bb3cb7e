// Exact products of residues on int8 matrix units. With the bytes of a residue x and digits of a
// left factor w,
//
//     x = Σ_j x_j · 2^8j  (0 … 255),   w · 2^8j mod p, centred, = Σ_i w_ji · 2^8i  (-128 … 127),
//     Σ_k w_k · x_k  ≡  Σ_i 2^8i · (Σ_k,j w_kji · x_kj)    (mod p):
//
// four int8 products over 4k bytes, 16 multiply-adds for one of the field. The residues need no
// conversion at all: a word in memory is what a thread hands to the matrix unit.
#pragma once
#include "field.h"
#include "mma.cuh"

namespace pyfed {

// Inner elements of one product. An int32 sum of their 4 · 2^14 products of bytes and digits is at
// most 2^16 · 255 · 128 = 2^31 - 2^23 in magnitude.
constexpr int64_t kMostInner = 1 << 14;

constexpr int kWarp = 32;
constexpr int kOctet = 8;       // inner elements of one instruction, and rows of the left factor
constexpr int kStrip = 16;      // columns of one instruction
constexpr int kWarpStrips = 4;  // of a warp: 8 rows by 64 columns, 64 registers of sums

__device__ __forceinline__ int lane_of_thread() { return int(threadIdx.x) % kWarp; }
__device__ __forceinline__ int warp_of_thread() { return int(threadIdx.x) / kWarp; }

// A prime that the kernels get at run time, so that one build of each serves all.
struct Prime {
  uint32_t p, fold32, fold31;

  explicit Prime(uint32_t modulus)
      : p(modulus),
        fold32(uint32_t((uint64_t(1) << 32) % modulus)),
        fold31(uint32_t((uint64_t(1) << 31) % modulus)) {}

  __device__ __forceinline__ uint64_t fold(uint64_t x) const {
    return uint64_t(uint32_t(x)) + (x >> 32) * fold32;
  }
  // x < 2^58 -> its canonical residue, for 2^31 - 2^19 < p < 2^31: then 2^32 mod p < 2^20, so that
  // two folds leave x < 2^46 + 2^32 and x < 2^34 + 2^32; x >> 31 is at most 10, and the last step
  // below 2^31 + 10 · 2^19 < 2p.
  __device__ __forceinline__ uint32_t reduce(uint64_t x) const {
    x = fold(fold(x));
    const uint32_t r = uint32_t(x & 0x7fffffffu) + uint32_t(x >> 31) * fold31;
    return r >= p ? r - p : r;
  }
  // The four digits from -128 to 127 of a canonical residue, centred, one in each byte. Adding 128
  // to each makes all of them unsigned; the flip of the top bits takes it away again. No carry is
  // lost, as |centred| < 2^30 and 0x80808080 ± 2^30 is in [0, 2^32).
  __device__ __forceinline__ uint32_t digits(uint32_t residue) const {
    return (uint32_t(centred(residue, p)) + 0x80808080u) ^ 0x80808080u;
  }
  // The residue of a sum whose digits are d_i: |Σ d_i · 2^8i| < 2^31 (1 + 2^8 + 2^16 + 2^24) <
  // 2^55 + 2^48, and 2^26 p > 2^56 makes it positive, below 2^58.
  __device__ __forceinline__ uint32_t joined(int32_t d0, int32_t d1, int32_t d2, int32_t d3) const {
    const int64_t low = d0 + d1 * (int64_t(1) << 8), high = d2 + d3 * (int64_t(1) << 8);
    return reduce(uint64_t(low + high * (int64_t(1) << 16) + (int64_t(p) << 26)));
  }
};

// How the eight warps of a block share its outputs: 16 rows by 256 columns, 32 by 128 or 64 by 64.
// `rows` is also the depth of a panel, which so has 4096 words. All are powers of two, and shifts
// stand for divisions by them.
struct Tiling {
  int rows, columns;
  int row_warps, row_warp_shift;  // warps above one another: each has eight rows
  int strips, strip_shift;

  PYFED_HD explicit Tiling(int64_t all_rows)
      : rows(all_rows <= 16   ? 16
             : all_rows <= 32 ? 32
                              : 64),
        columns(4096 / rows),
        row_warps(rows / kOctet),
        row_warp_shift(row_warps == 2   ? 1
                       : row_warps == 4 ? 2
                                        : 3),
        strips(columns / kStrip),
        strip_shift(5 - row_warp_shift) {}

  // Of this thread's warp: its eight rows, and its four strips, among the block's.
  __device__ __forceinline__ int octet() const { return warp_of_thread() & (row_warps - 1); }
  __device__ __forceinline__ int first_strip() const {
    return (warp_of_thread() >> row_warp_shift) * kWarpStrips;
  }
};

// Residues of the right factor, in the order in which threads hand them to the matrix unit: word r
// of lane 4g + t is element t + 4 (r / 2) of column g + 8 (r % 2). 16 words between fragments keep
// threads that write to neighbouring ones in different banks.
struct Panel {
  static constexpr int kFragments = 4096 / (kOctet * kStrip);
  struct Fragment {
    Quad lanes[kWarp];
    uint32_t unused[16];
  };
  Fragment fragments[kFragments];  // strip by strip, eight inner elements after eight

  __device__ __forceinline__ uint32_t& at(const Tiling& tiling, unsigned column, unsigned row) {
    const unsigned fragment = (row / kOctet << tiling.strip_shift) + column / kStrip;
    Quad& quad = fragments[fragment].lanes[column % 8 * 4 + row % 4];
    return quad.v[row / 4 % 2 * 2 + column / 8 % 2];
  }
};

struct DigitSums {
  int32_t at[kWarpStrips][4][4];  // strip, digit, output of the instruction
};

// Turns each word of `depth` rows of a panel, rounded up to eights, into value(column, row, word),
// `at_once` Quads with their reads side by side.
template <int at_once, class Value>
__device__ __forceinline__ void turn_panel(Panel& shared, const Tiling& tiling, int depth,
                                           Value value) {
  const int lane = lane_of_thread(), fragments = (depth + kOctet - 1) / kOctet * tiling.strips;
#pragma unroll at_once
  for (int f = warp_of_thread(); f < fragments; f += kThreads / kWarp) {
    const int c = (f & (tiling.strips - 1)) * kStrip + lane / 4;
    const int i = (f >> tiling.strip_shift) * kOctet + lane % 4;
    Quad quad = shared.fragments[f].lanes[lane];
    quad.v[0] = value(c, i, quad.v[0]);
    quad.v[1] = value(c + 8, i, quad.v[1]);
    quad.v[2] = value(c, i + 4, quad.v[2]);
    quad.v[3] = value(c + 8, i + 4, quad.v[3]);
    shared.fragments[f].lanes[lane] = quad;
  }
}

// Fills them with value(column, row).
template <class Value>
__device__ __forceinline__ void fill_panel(Panel& shared, const Tiling& tiling, int depth,
                                           Value value) {
  turn_panel<2>(shared, tiling, depth, [&](int c, int i, uint32_t) { return value(c, i); });
}

// sums += digits of eight rows times a panel. `digits` is where this thread's begin: see
// digits_kernel.
__device__ __forceinline__ void add_panel(const Panel& shared, const Tiling& tiling, int octets,
                                          const Quad* __restrict__ digits, DigitSums& sums) {
  const int lane = lane_of_thread(), first_strip = tiling.first_strip();
  Quad low = digits[0], high = digits[kWarp];  // of digits 0 and 1, and of 2 and 3
#pragma unroll 1
  for (int octet = 0; octet < octets; ++octet) {
    Quad next_low = low, next_high = high;
    if (octet + 1 < octets) {
      digits += 2 * kWarp;
      next_low = digits[0], next_high = digits[kWarp];
    }
#pragma unroll
    for (int s = 0; s < kWarpStrips; ++s) {
      const Quad residues = shared.fragments[octet * tiling.strips + first_strip + s].lanes[lane];
      multiply_bytes(sums.at[s][0], residues, low.v[0], low.v[1]);
      multiply_bytes(sums.at[s][1], residues, low.v[2], low.v[3]);
      multiply_bytes(sums.at[s][2], residues, high.v[0], high.v[1]);
      multiply_bytes(sums.at[s][3], residues, high.v[2], high.v[3]);
    }
    low = next_low, high = next_high;
  }
}

// A tile of the product of a left factor, as digits, with what `right` fills panels with. The
// digits are `octets` · 64 Quads for each eight rows, of `row_octets` in all; panels end where
// `right` wants, on multiples of eight in the order of the digits.
template <class Right>
__device__ __forceinline__ void digit_product(Panel& shared, const Tiling& tiling,
                                              const Quad* digits, int64_t row_octets,
                                              int64_t octets, int64_t row_tile, const Right& right,
                                              int64_t inner, DigitSums& sums, int& bits) {
#pragma unroll
  for (int s = 0; s < kWarpStrips; ++s) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sums.at[s][i][e] = 0;
    }
  }
  const int64_t row_octet = row_tile * tiling.row_warps + tiling.octet();
  digits += row_octet * octets * 2 * kWarp + lane_of_thread();
  for (int64_t l = 0; l < inner;) {
    const int depth = right.fill(shared, l, bits);
    const int panel_octets = (depth + kOctet - 1) / kOctet;
    __syncthreads();
    if (row_octet < row_octets) add_panel(shared, tiling, panel_octets, digits, sums);
    __syncthreads();
    digits += panel_octets * 2 * kWarp;
    l += depth;
  }
}

// Calls body(row, column, residue) for each of this thread's outputs, counted within the block.
template <class Body>
__device__ __forceinline__ void each_output(const DigitSums& sums, const Tiling& tiling,
                                            const Prime& prime, Body body) {
  const int lane = lane_of_thread();
  const int row = tiling.octet() * kOctet + lane % 4 * 2;
  const int column = tiling.first_strip() * kStrip + lane / 4;
#pragma unroll
  for (int s = 0; s < kWarpStrips; ++s) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int32_t (&at)[4][4] = sums.at[s];
      body(row + e % 2, column + s * kStrip + e / 2 * 8,
           prime.joined(at[0][e], at[1][e], at[2][e], at[3][e]));
    }
  }
}

}  // namespace pyfed
