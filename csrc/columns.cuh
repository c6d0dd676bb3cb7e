// What an encoding on CUDA devices multiplies the matrix with: residues as they are, or floats that
// are rounded on their way into shared memory, each by a word of ChaCha20 of its own.
#pragma once
#include "chacha.h"
#include "launch.h"
#include "rounding.h"

namespace pyfed {

constexpr int kBlock = 16;  // words, or residues, of a ChaCha20 block

// Sources of residues. `word` is what rounds the value.
struct Residues {
  static constexpr int kAtOnce = 2;
  const uint32_t* __restrict__ at;

  __device__ __forceinline__ Residues from(int64_t first) const { return {at + first}; }
  __device__ __forceinline__ uint32_t residue(int64_t i, uint32_t, uint32_t, int&) const {
    return at[i];  // as it is: kernels look whether it lies in the field
  }
};

struct Floats {
  static constexpr int kAtOnce = 1;  // registers are few
  const float* __restrict__ at;
  float scale, clip;

  __device__ __forceinline__ Floats from(int64_t first) const { return {at + first, scale, clip}; }
  __device__ __forceinline__ uint32_t residue(int64_t i, uint32_t word, uint32_t modulus,
                                              int& bits) const {
    const float value = at[i];
    bits |= is_finite(value) ? 0 : kNotFinite;
    return uint32_t(residue_of(rounded_at_random(scaled(value, scale, clip), word), modulus));
  }
};

// Column c is elements c·K … c·K + K - 1 of the data (zero beyond the end) and, below them, residue
// start_column + c of each random row.
template <class Data>
struct ColumnsOf {
  Data data;
  int64_t length, columns, blocks, privacy;
  const uint32_t* __restrict__ key;
  uint32_t stream;
  int64_t start_column;
};
using Columns = ColumnsOf<Residues>;

// Residues want no words.
template <class Store>
__device__ __forceinline__ void make_rounding_words(const Columns&, int64_t, int, int64_t, int,
                                                    Store) {}

// The words that round elements first … first + depth - 1 of columns column … column + count - 1:
// calls store(c, i, word). A thread makes 16 at a time. Whole columns follow one another, so that
// no block of ChaCha20 is made twice in a tile; of parts of columns those at the ends are. `count`
// times `depth` is what a tile holds, at most 8192. Whole block; ends with a barrier.
template <class Store>
__device__ __forceinline__ void make_rounding_words(const ColumnsOf<Floats>& from, int64_t column,
                                                    int count, int64_t first, int depth,
                                                    Store store) {
  const bool whole = depth == from.blocks;
  const int64_t start = (from.start_column + column) * from.blocks + first;
  const int runs = whole ? 1 : count, length = whole ? count * depth : depth;
  const bool aligned = start % kBlock == 0 && (whole || from.blocks % kBlock == 0);
  const int blocks = (length + (aligned ? kBlock - 1 : 2 * kBlock - 2)) / kBlock;  // of a run
  const Nonce nonce = {0, from.stream, domain_word(kRounding, 0)};
#pragma unroll 1
  for (int e = threadIdx.x; e < runs * blocks; e += kThreads) {
    int c = e / blocks;
    const int64_t begin = start + c * from.blocks;
    int i = (e - c * blocks) * kBlock - int(begin % kBlock);  // of the block's first word
    if (i >= length) continue;
    uint32_t words[kBlock];
    chacha_block(from.key, uint32_t((begin + i) / kBlock), nonce, words);
    if (i >= depth) c = i / depth, i -= c * depth;  // in whole columns alone: c was 0
    const int end = whole ? count : c + 1;          // of the columns that this block serves
#pragma unroll
    for (int j = 0; j < kBlock; ++j) {
      if (i >= 0 && c < end) store(c, i, words[j]);
      const bool last = ++i == depth;  // selected: a branch would part the threads of a warp
      c += int(last), i = last ? 0 : i;
    }
  }
  __syncthreads();
}

}  // namespace pyfed
