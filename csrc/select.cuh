// Exact selection on CUDA devices: what its kernels read, and the order of elements.
//
// The order of an element is (most count - count) · 2^32 + tie key, so that of every tile the k
// elements with the lowest (order, index) are selected. Kernels find the k-th lowest order digit by
// digit, 8 bits each from the top: they count the digits of those elements that share the digits
// found so far, and look where k falls.
#pragma once
#include "chacha.h"
#include "runs.cuh"
#include "votes.h"

namespace pyfed {

constexpr int kDigit = 8;  // bits
constexpr int kDigits = 1 << kDigit;
static_assert(kDigits == kThreads, "a thread for each value of a digit");

// A matrix cut into tiles of equal shape.
struct Tiles {
  int64_t rows, columns, tile_rows, tile_columns;

  int64_t across() const { return columns / tile_columns; }
  int64_t count() const { return rows / tile_rows * across(); }
  PYFED_HD int64_t size() const { return tile_rows * tile_columns; }
  // Whether the elements of a tile follow each other.
  PYFED_HD bool contiguous() const { return tile_rows == 1 || tile_columns == columns; }
};

// What decides: counts, and tie keys.
struct Votes {
  const void* counts;
  bool wide;        // int32, else uint8
  int64_t most;     // that a count may be
  const void* tie;  // floats of a kind, or null
  int kind, ties;
  const uint32_t* key;
  uint32_t stream;
  bool vector;  // whole runs may be read up to 16 bytes at a time

  PYFED_HD uint32_t most_count() const { return wide ? 65535 : 255; }
  PYFED_HD int order_bits() const { return wide ? 48 : 40; }
  // The low bits of an order, in whole digits, that are 0 in every one: there are no keys, or keys
  // come from floats of 16 bits.
  PYFED_HD int idle_bits() const {
    if (ties == kByIndex) return 32;
    if (ties == kByWord) return 0;
    return kind == kFloat16 ? 8 : kind == kBfloat16 ? 16 : 0;
  }
};

// How far the search for a tile's k-th lowest order has come: its digits above `shift` bits are
// `prefix`; of the `tied` elements with that prefix, `left` are selected.
struct Threshold {
  uint64_t prefix;
  int64_t left, tied;
  int32_t shift, settled;  // settled: all that are tied are selected

  static PYFED_HD Threshold start(const Votes& votes, int64_t k) {
    return {0, k, 0, votes.order_bits(), 0};
  }
  // Selects nothing.
  static PYFED_HD Threshold none() { return {0, 0, 0, 32, 0}; }
  // The part of the prefix that is of the count; all of it where shift is 32 or less.
  PYFED_HD uint32_t down() const { return uint32_t(shift >= 32 ? prefix : prefix >> (32 - shift)); }
};

// most_count - count of a run's elements: the lower, the sooner selected.
template <int kRun>
__device__ __forceinline__ void read_down(const Votes& votes, int64_t place, uint32_t live,
                                          uint32_t (&down)[kRun], int& bits) {
  const uint32_t top = votes.most_count();
  bool bad = false;
  if (votes.wide) {
    read_run(votes.counts, place, live, votes.vector, down);
#pragma unroll
    for (int j = 0; j < kRun; ++j) {
      bad = bad || int64_t(down[j]) > votes.most;  // as unsigned numbers, negative ones are too
      down[j] = down[j] < top ? top - down[j] : 0;
    }
  } else {
    uint8_t counts[kRun];
    read_run(votes.counts, place, live, votes.vector, counts);
#pragma unroll
    for (int j = 0; j < kRun; ++j) {
      bad = bad || counts[j] > votes.most;
      down[j] = top - counts[j];
    }
  }
  bits |= bad ? kBadCount : 0;
}

// The key of one element whose keys come from a tensor.
__device__ __forceinline__ uint32_t tie_key(const Votes& votes, int64_t i) {
  uint32_t bits;
  if (votes.kind == kFloat32) {
    bits = static_cast<const uint32_t*>(votes.tie)[i];
  } else {
    const uint16_t narrow = static_cast<const uint16_t*>(votes.tie)[i];
    bits = votes.kind == kFloat16 ? Real<kFloat16>::wide(narrow) : Real<kBfloat16>::wide(narrow);
  }
  return votes.ties == kByMagnitude ? magnitude_key(bits) : score_key(bits);
}

__device__ __forceinline__ void selection_block(const Votes& votes, int64_t i,
                                                uint32_t (&block)[16]) {
  const Nonce nonce = {0, votes.stream, domain_word(kSelection, 0)};
  chacha_block(votes.key, uint32_t(i / 16), nonce, block);
}

// Calls each(j, key) for the elements of a run whose bit in `tied` is set. Runs of 16 begin where
// blocks of ChaCha20 do; of other runs every element has a block made for it.
template <int kRun, class Each>
__device__ __forceinline__ void each_key(const Votes& votes, int64_t place, uint32_t tied,
                                         Each each) {
  if (votes.ties == kByWord && kRun == 16) {
    uint32_t block[16];
    selection_block(votes, place, block);
#pragma unroll
    for (int j = 0; j < kRun; ++j) {
      if (tied >> j & 1) each(j, block[j % 16]);
    }
    return;
  }
  if (votes.ties == kByWord) {
#pragma unroll 1
    for (int j = 0; j < kRun; ++j) {
      if (!(tied >> j & 1)) continue;
      uint32_t block[16], word = 0;
      selection_block(votes, place + j, block);
#pragma unroll
      for (int i = 0; i < 16; ++i) word |= block[i] & (0u - uint32_t(i == int((place + j) & 15)));
      each(j, word);
    }
    return;
  }
#pragma unroll
  for (int j = 0; j < kRun; ++j) {
    if (tied >> j & 1) each(j, tie_key(votes, place + j));
  }
}

}  // namespace pyfed
