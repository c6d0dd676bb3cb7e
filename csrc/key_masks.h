// Sums of the masks that many keys make, on the CPU, a few groups of ChaCha20 blocks at a time.
#pragma once
#include <algorithm>

#include "keystream.h"

namespace pyfed {
namespace PYFED_SIMD {

constexpr int kGroup = 16 * kBlocks;        // residues that one group of blocks makes
constexpr int64_t kMaskSpan = 32 * kGroup;  // residues a thread takes at a time

struct Masks {
  const uint32_t* keys;  // (count, 8)
  const int32_t* signs;  // (count), 1 or -1
  int64_t count;
  uint32_t modulus, candidates;
  Nonce nonce;

  Masks(const uint32_t* keys, const int32_t* signs, int64_t count, uint32_t modulus,
        uint32_t stream)
      : keys(keys),
        signs(signs),
        count(count),
        modulus(modulus),
        candidates(candidate_mask(modulus)),
        nonce{0, stream, domain_word(kResidues, modulus)} {}
};

// Puts accepted residues in place of the rejected candidates of words low … high - 1 of the groups,
// the first of which is residue `index` of the stream. What lies outside is never used, and must
// not be reported. Of block l the words are looked at if lane l of `top`, their maximum, says so.
template <int kGroups>
__attribute__((noinline)) int redo(const uint32_t* key, int64_t index, int64_t low, int64_t high,
                                   Nonce nonce, uint32_t modulus, Words top,
                                   Words (&state)[kGroups][16]) {
  int errors = 0;
  for (int l = 0; l < kBlocks; ++l) {
    if (top[l] < modulus) continue;
    for (int i = 0; i < 16 * kGroups; ++i) {
      uint32_t* const words = reinterpret_cast<uint32_t*>(&state[i / 16][i % 16]);
      const int64_t at = i / 16 * kGroup + 16 * l + i % 16;
      if (words[l] < modulus || at < low || at >= high) continue;
      words[l] = retry_residue(key, index + at, nonce, modulus, &errors);
    }
  }
  return errors;
}

// total[i] = Σ_m signs[m] · (residue index + i of key m) mod p for low <= i < high; `index` is the
// first of a block. Keystreams and their sum stay in the order in which blocks are made, in
// registers and the first-level cache. Sums and candidates are below p < 2^31, so that a sum of two
// is below 2^32, and the smaller of v and v - p (mod 2^32) is v reduced; likewise of v and v + p
// when v is a difference. Candidates at or above p remain outside low … high - 1 alone.
template <int kGroups>
inline int sum_masks(const Masks& masks, int64_t index, int64_t low, int64_t high,
                     uint32_t* total) {
  Words sum[kGroups][16] = {};
  const Words p = Words{} + masks.modulus;
  int errors = 0;
  for (int64_t m = 0; m < masks.count; ++m) {
    const uint32_t* key = masks.keys + 8 * m;
    Words state[kGroups][16];
    chacha_lanes<kGroups>(key, uint32_t(index >> 4), masks.nonce, state);
    Words most[4] = {};  // more than one, so that no maximum waits for the last
#pragma GCC unroll 2
    for (int g = 0; g < kGroups; ++g) {
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        state[g][i] &= masks.candidates;
        most[i % 4] = words_max(most[i % 4], state[g][i]);
      }
    }
    const Words top = words_max(words_max(most[0], most[1]), words_max(most[2], most[3]));
    if (any_reaches(top, masks.modulus)) {
      Words copy[kGroups][16];  // so that `state` needs no address, and stays in registers
      std::memcpy(copy, state, sizeof copy);
      errors |= redo<kGroups>(key, index, low, high, masks.nonce, masks.modulus, top, copy);
      std::memcpy(state, copy, sizeof copy);
    }
    if (masks.signs[m] > 0) {
#pragma GCC unroll 2
      for (int g = 0; g < kGroups; ++g) {
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) {
          const Words v = sum[g][i] + state[g][i];
          sum[g][i] = words_min(v, v - p);
        }
      }
    } else {
#pragma GCC unroll 2
      for (int g = 0; g < kGroups; ++g) {
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) {
          const Words v = sum[g][i] - state[g][i];
          sum[g][i] = words_min(v, v + p);
        }
      }
    }
  }
#pragma GCC unroll 2
  for (int g = 0; g < kGroups; ++g) store_blocks(sum[g], total + g * kGroup);
  return errors;
}

// The spans of a vector whose first element is residue `start` of a stream.
inline int64_t mask_spans(int64_t start, int64_t length) {
  return ((start & 15) + length + kMaskSpan - 1) / kMaskSpan;
}

// Runs body.template run<groups>(index, low, high, first) over one span of a vector: of the groups
// of blocks from residue `index` on, words low … high - 1 belong to it, and word 0 to the element
// with number `first`, which may be before the vector. It gives error bits.
template <class Body>
inline int over_span(int64_t span, int64_t start, int64_t length, const Body& body) {
  const int64_t skip = start & 15, end = std::min((span + 1) * kMaskSpan, skip + length);
  int errors = 0;
  // `at` counts from the block that holds `start`, so that no block is made twice.
  for (int64_t at = span * kMaskSpan; at < end;) {
    const int64_t low = at < skip ? skip - at : 0;
    if (end - at > kGroup) {
      const int64_t high = std::min<int64_t>(2 * kGroup, end - at);
      errors |= body.template run<2>(start - skip + at, low, high, at - skip);
      at += 2 * kGroup;
    } else {
      errors |= body.template run<1>(start - skip + at, low, end - at, at - skip);
      at += kGroup;
    }
  }
  return errors;
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
