// The factors of the products of digits.cuh: the digits of the left one, and what fills panels with
// the right one.
#pragma once
#include "digits.cuh"
#include "digits.h"

namespace pyfed {

inline int64_t octets_of(int64_t count) { return ceil_div(count, kOctet); }

// A left factor (rows, inner) whose first `split` columns and whose others are each rounded up to
// eights by columns of zeros.
struct Left {
  const uint32_t* __restrict__ at;
  int64_t rows, inner, split;
  int64_t row_octets, octets, split_octets;

  Left(const uint32_t* at, int64_t rows, int64_t inner, int64_t split)
      : at(at),
        rows(rows),
        inner(inner),
        split(split),
        row_octets(octets_of(rows)),
        octets(octets_of(split) + octets_of(inner - split)),
        split_octets(octets_of(split)) {}
};

// A thread's part of eight rows by eight columns: of element (g, t) and of (g, t + 4), with lane =
// 4g + t, the word of digit i holds that digit of w · 2^8j mod p in byte j. In two Quads, of digits
// 0 and 1 and of digits 2 and 3, and in each, digit by digit, the word of the first element and of
// the second.
__device__ __forceinline__ void make_digits(const Left& left, const Prime& prime, int64_t place,
                                            Quad (&quads)[2], int& bits) {
  const int lane = lane_of_thread();
  const int64_t row = place / left.octets * kOctet + lane / 4, octet = place % left.octets;
  const bool beyond = octet >= left.split_octets;
  const int64_t first = beyond ? left.split + (octet - left.split_octets) * kOctet : octet * kOctet;
  const int64_t end = beyond ? left.inner : left.split;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t column = first + lane % 4 + 4 * half;
    uint32_t w = row < left.rows && column < end ? left.at[row * left.inner + column] : 0;
    bits |= w >= prime.p ? kBadResidue : 0;
    w = w >= prime.p ? 0 : w;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint32_t digits = prime.digits(prime.reduce(uint64_t(w) << 8 * j));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        quads[i / 2].v[i % 2 * 2 + half] |= (digits >> 8 * i & 255) << 8 * j;
      }
    }
  }
}

// The right factor when it is a plain matrix (inner, columns), row-major.
struct MatrixRight {
  const uint32_t* __restrict__ b;
  int64_t inner, columns, first_column;
  const Tiling& tiling;
  uint32_t modulus;

  __device__ __forceinline__ int fill(Panel& shared, int64_t l, int& bits) const {
    const int depth = inner - l < tiling.rows ? int(inner - l) : tiling.rows;
    const uint32_t* from = b + l * columns + first_column;
    const int64_t width = columns - first_column;
    fill_panel(shared, tiling, depth, [&](int c, int i) {
      const uint32_t v = c < width && i < depth ? from[i * columns + c] : 0;
      bits |= v >= modulus ? kBadResidue : 0;
      return v;
    });
    return depth;
  }
};

// Columns of data on random rows. Panels end where the data rows do.
template <class Data>
struct EncodeRight {
  const ColumnsOf<Data>& from;
  int64_t first_column;  // start_column + first_column is a multiple of kBlock; may be negative
  const Tiling& tiling;
  uint32_t modulus, domain;

  __device__ __forceinline__ int fill(Panel& shared, int64_t l, int& bits) const {
    const int64_t end = l < from.blocks ? from.blocks : from.blocks + from.privacy;
    const int depth = end - l < tiling.rows ? int(end - l) : tiling.rows;
    if (l < from.blocks) {
      fill_data(shared, l, depth, bits);
    } else {
      fill_random(shared, l - from.blocks, depth, bits);
    }
    return depth;
  }

  // Where values are rounded, first by words in the places of the residues.
  __device__ __forceinline__ void fill_data(Panel& shared, int64_t l, int depth, int& bits) const {
    make_rounding_words(from, first_column, tiling.columns, l, depth,
                        [&](int c, int i, uint32_t word) { shared.at(tiling, c, i) = word; });
    // 32 bits do for places in a panel: 256 columns of up to kMostInner elements.
    const int64_t first = first_column * from.blocks + l, left = from.length - first;
    const Data data = from.data.from(first);
    const int before = first_column < 0 ? int(-first_column) : 0, blocks = int(from.blocks);
    const int live = left < 0x7fffffff ? int(left) : 0x7fffffff;
    turn_panel<Data::kAtOnce>(shared, tiling, depth, [&](int c, int i, uint32_t word) {
      const int place = c * blocks + i;
      uint32_t v = 0;
      if (c >= before && place < live && i < depth) v = data.residue(place, word, modulus, bits);
      bits |= v >= modulus ? kBadResidue : 0;
      return v;
    });
  }

  // One ChaCha20 block a thread: 16 columns of one random row. A warp makes four strips of eight
  // rows, and the first warps the first rows, so that few rows are spread over all schedulers.
  __device__ __forceinline__ void fill_random(Panel& shared, int64_t row, int depth,
                                              int& bits) const {
    const int lane = lane_of_thread(), warp = warp_of_thread();
    const int across = tiling.strips / 4, across_shift = tiling.strip_shift - 2;  // 1, 2 or 4 warps
    const int strip = (warp & (across - 1)) * 4 + lane / kOctet;
    const int octet = warp >> across_shift, i = octet * kOctet + lane % kOctet;
    if (octet * kOctet >= depth) return;
    const Nonce nonce = {uint32_t(row + i), from.stream, domain};
    const int64_t index = from.start_column + first_column + strip * kBlock;
    uint32_t words[kBlock] = {};
    if (i < depth) chacha_block(from.key, uint32_t(index / kBlock), nonce, words);
    // Word r of lane 4g + t is column g + 8 (r % 2): this row is t = i % 4, r = i / 4 % 2 · 2.
    Quad* lanes = shared.fragments[octet * tiling.strips + strip].lanes + i % 4;
    const int r = i % kOctet / 4 * 2;
    uint32_t rejected = 0;  // bit j: candidate j
#pragma unroll
    for (int j = 0; j < kBlock; ++j) {
      words[j] &= candidate_mask(modulus);
      rejected |= uint32_t(words[j] >= modulus) << j;
    }
#pragma unroll
    for (int g = 0; g < 8; ++g) {
      lanes[4 * g].v[r] = words[g];
      lanes[4 * g].v[r + 1] = words[g + 8];
    }
#pragma unroll 1
    for (int j = 0; rejected; ++j, rejected >>= 1) {
      if (rejected & 1) {
        lanes[4 * (j % 8)].v[r + j / 8] = retry_residue(from.key, index + j, nonce, modulus, &bits);
      }
    }
  }
};

}  // namespace pyfed
