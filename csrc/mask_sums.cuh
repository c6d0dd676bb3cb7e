// Sums of the masks that many keys make, on CUDA devices: a thread has one ChaCha20 block of the
// stream and adds up what the keys make there, in registers.
#pragma once
#include "field.h"
#include "keystream.cuh"

namespace pyfed {

// One ChaCha20 block of residues of each key, with its sign. The sum of up to 2^31 masks is above
// -2^31 p and below 2^31 p, so that 2^31 p more makes it positive and below 2^32 p < 2^63.
struct Sums {
  int64_t at[Keystream::kBlock] = {};
};

// The residue of a positive sum, below 2^32 P.
template <uint32_t P>
struct Reduced {
  static __device__ __forceinline__ uint32_t of(int64_t sum, uint32_t) {
    return Field<P>::reduce(uint64_t(sum));
  }
};
// Any other prime, bit by bit: after step k the sum is below 2^k p.
template <>
struct Reduced<0> {
  static __device__ __forceinline__ uint32_t of(int64_t sum, uint32_t modulus) {
#pragma unroll 1
    for (int k = 31; k >= 0; --k) {
      const int64_t left = sum - (int64_t(modulus) << k);
      sum = left < 0 ? sum : left;
    }
    return uint32_t(sum);
  }
};

// Puts accepted residues in the place of rejected candidates. A candidate outside the words `from`
// to `to` - 1 belongs to nobody, and may stay without.
__device__ __forceinline__ void redraw(const uint32_t* key, uint32_t counter, Nonce nonce,
                                       uint32_t modulus, int from, int to,
                                       uint32_t (&words)[Keystream::kBlock], int& bits) {
#pragma unroll 1  // one copy of the retry
  for (int i = 0; i < Keystream::kBlock; ++i) {
    uint32_t candidate = 0;  // selected without an index, which registers cannot have
#pragma unroll
    for (int j = 0; j < Keystream::kBlock; ++j) candidate |= i == j ? words[j] : 0;
    if (candidate < modulus) continue;
    int failed = 0;
    const int64_t index = int64_t(counter) * Keystream::kBlock + i;
    const uint32_t residue = retry_residue(key, index, nonce, modulus, &failed);
#pragma unroll
    for (int j = 0; j < Keystream::kBlock; ++j) words[j] = i == j ? residue : words[j];
    bits |= i >= from && i < to ? failed : 0;
  }
}

constexpr int64_t kEnoughBlocks = 256;  // about two for each multiprocessor of a large device
constexpr int kMostGroups = 16;

struct Masks {
  const uint32_t* __restrict__ keys;  // (count, 8)
  const int32_t* __restrict__ signs;  // (count), 1 or -1
  int64_t count;
  uint32_t modulus, stream;
  int groups = 1;  // of threads, each with its own masks: a power of two

  // More groups where the vector alone gives too few blocks.
  void spread(int64_t start, int64_t length) {
    while (groups < kMostGroups && 2 * groups <= count &&
           Portions(start, length, kThreads / groups).blocks() < kEnoughBlocks) {
      groups *= 2;
    }
  }
  Portions portions(int64_t start, int64_t length) const {
    return {start, length, kThreads / groups};
  }
};

// Every group's sums, reduced, in shared memory: word i of the stream of lane l of group g is word
// i of chunk g · lanes + l. The caller synchronises. Nothing depends on a secret but the redraw of
// rejected candidates, which are not among the masks.
template <uint32_t P>
__device__ __forceinline__ void sum_masks(Keystream& shared, const Portions& portions,
                                          const Masks& masks, int& bits) {
  const int lanes = kThreads / masks.groups, lane = int(threadIdx.x) % lanes;
  const uint32_t modulus = P ? P : masks.modulus;
  const uint32_t low_bits = candidate_mask(modulus), excess = low_bits + 1 - modulus;
  const Nonce nonce = {0, masks.stream, domain_word(kResidues, modulus)};
  const uint32_t counter = uint32_t((portions.start + portions.first()) / Keystream::kBlock + lane);
  const int from = portions.skip - lane * Keystream::kBlock, to = from + portions.live();
  Sums sums;
  const int64_t end = to > 0 ? masks.count : 0;  // 0: this ChaCha20 block has nothing to add to
#pragma unroll 1
  for (int64_t m = int(threadIdx.x) / lanes; m < end; m += masks.groups) {
    const uint32_t* key = masks.keys + 8 * m;
    const int32_t sign = masks.signs[m];
    uint32_t words[Keystream::kBlock];
    chacha_block(key, counter, nonce, words);
    uint32_t above = 0;  // beyond low_bits when a candidate is the modulus or more
#pragma unroll
    for (int i = 0; i < Keystream::kBlock; ++i) {
      words[i] &= low_bits;
      above |= words[i] + excess;
    }
    if (above > low_bits) redraw(key, counter, nonce, modulus, from, to, words, bits);
#pragma unroll
    for (int i = 0; i < Keystream::kBlock; ++i) sums.at[i] += int64_t(sign) * int32_t(words[i]);
  }
#pragma unroll
  for (int i = 0; i < Keystream::kBlock; ++i) {
    shared.words[threadIdx.x * Keystream::kPitch + i] =
        Reduced<P>::of(sums.at[i] + (int64_t(modulus) << 31), modulus);
  }
}

// value + all groups' sums for word i of the portion, canonical when the value is.
__device__ __forceinline__ uint32_t with_masks(const Keystream& shared, const Masks& masks, int i,
                                               uint32_t modulus, uint32_t value) {
  const int words = kThreads / masks.groups * Keystream::kBlock;
  for (int group = 0; group < masks.groups; ++group) {
    value += shared[group * words + i];
    value = value >= modulus ? value - modulus : value;
  }
  return value;
}

}  // namespace pyfed
