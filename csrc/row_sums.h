// Sums of many rows of residues on the CPU, as fast as memory gives the rows.
#pragma once
#include <algorithm>

#include "field.h"
#include "words.h"

namespace pyfed {
namespace PYFED_SIMD {

constexpr int64_t kSumWidth = 1024;    // residues of each row at a time: 8 KiB of sums
constexpr int64_t kSumRows = 1 << 16;  // rows between two reductions
constexpr int kAtOnce = 4;             // rows whose sums are added in one go
constexpr int kPrefetched = 64 / 4;    // residues in a line of the cache
static_assert(kSumWidth % kPrefetched == 0 && kSumWidth % kBlocks == 0, "whole lines and vectors");

// Two residues are below 2^32 together. Of such pairs, `low` is the sum modulo 2^32, and `high`
// that of their upper halves: 2^16 · high is at most 2^16 - 1 below the sum for each pair. There
// are no more than 2^15 + 3 pairs and one residue that was carried over, so that is less than 2^32,
// and both together tell the sum, which is below 2^48.
struct RowSums {
  Words low[kSumWidth / kBlocks], high[kSumWidth / kBlocks];
};

inline Words words_loadu(const uint32_t* p) {
  Words v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// Adds kRows rows, `pitch` apart, and asks for those that begin `ahead` further on.
template <int kRows>
inline void add_rows(const uint32_t* rows, int64_t pitch, int64_t ahead, int64_t vectors,
                     RowSums& sums, Words& most) {
  for (int64_t j = 0; j < vectors; ++j) {
    const uint32_t* const at = rows + j * kBlocks;
    if (j * kBlocks % kPrefetched == 0) {
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) __builtin_prefetch(at + ahead + r * pitch);
    }
    Words low = sums.low[j], high = sums.high[j];
#pragma GCC unroll 2
    for (int r = 0; r < kRows; r += 2) {
      const Words first = words_loadu(at + r * pitch);
      const Words second = r + 1 < kRows ? words_loadu(at + (r + 1) * pitch) : Words{};
      most = words_max(most, words_max(first, second));
      low += first + second;
      high += (first + second) >> 16;
    }
    sums.low[j] = low, sums.high[j] = high;
  }
}

// The residue of a sum below 2^49, where 2^31 mod p is below 2^19. What the first step leaves is
// below 2^37 + 2^31, and what the second leaves below 2^31 + 2^26 < 2p.
template <uint32_t P>
inline uint32_t reduced_sum(uint64_t x) {
  x = (x & 0x7fffffffu) + uint64_t(uint32_t(x >> 31)) * Field<P>::kFold31;
  const uint32_t r = uint32_t(x & 0x7fffffffu) + uint32_t(x >> 31) * Field<P>::kFold31;
  return std::min(r, r - P);
}

// out[i] = Σ_c rows[c · pitch + i] mod P for `count` ≤ kSumWidth columns; gives error bits.
template <uint32_t P>
inline int sum_rows(const uint32_t* rows, int64_t clients, int64_t pitch, int64_t count,
                    uint32_t* out) {
  RowSums sums;
  Words top = {};
  const int64_t vectors = count / kBlocks, whole = vectors * kBlocks;
  std::memset(out, 0, size_t(count) * 4);
  uint32_t most = 0;
  for (int64_t c0 = 0; c0 < clients; c0 += kSumRows) {
    const int64_t end = std::min(clients, c0 + kSumRows);
    for (int64_t j = 0; j < vectors; ++j) {
      sums.low[j] = words_loadu(out + j * kBlocks);
      sums.high[j] = sums.low[j] >> 16;
    }
    int64_t c = c0;
    for (; c + kAtOnce <= end; c += kAtOnce) {
      const int64_t ahead = c + 2 * kAtOnce <= end ? kAtOnce * pitch : 0;
      add_rows<kAtOnce>(rows + c * pitch, pitch, ahead, vectors, sums, top);
    }
    for (; c < end; ++c) add_rows<1>(rows + c * pitch, pitch, 0, vectors, sums, top);
    const uint32_t* low = reinterpret_cast<const uint32_t*>(sums.low);
    const uint32_t* high = reinterpret_cast<const uint32_t*>(sums.high);
    for (int64_t i = 0; i < whole; ++i) {
      const uint64_t least = uint64_t(high[i]) << 16;
      out[i] = reduced_sum<P>(least + uint32_t(low[i] - uint32_t(least)));
    }
    for (int64_t i = whole; i < count; ++i) {  // fewer than a vector; the sum is below 2^48
      uint64_t sum = out[i];
      for (int64_t row = c0; row < end; ++row) {
        most = std::max(most, rows[row * pitch + i]);
        sum += rows[row * pitch + i];
      }
      out[i] = reduced_sum<P>(sum);
    }
  }
  for (int l = 0; l < kBlocks; ++l) most = std::max(most, top[l]);
  return most >= P ? kBadResidue : 0;
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
