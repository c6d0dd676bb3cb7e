// The masks of many keys, added to residues while they are made.
#include <algorithm>

#include "kernels.h"
#include "simd.h"

namespace pyfed {
namespace PYFED_SIMD {
namespace {

constexpr int kGroup = 16 * kBlocks;    // residues that one group of blocks makes
constexpr int64_t kSpan = 32 * kGroup;  // residues a thread takes at a time
constexpr int64_t kParallel = 1 << 15;  // masks · residues below which one thread does it all

// Puts accepted residues in place of the rejected candidates of words low … high - 1 of the groups,
// the first of which is residue `index` of the stream. What lies outside is never used, and must
// not be reported.
template <int kGroups>
__attribute__((noinline)) int redo(const uint32_t* key, int64_t index, int64_t low, int64_t high,
                                   Nonce nonce, uint32_t modulus, Words (&state)[kGroups][16]) {
  int errors = 0;
  for (int64_t at = low; at < high; ++at) {
    const int64_t within = at % kGroup;
    Words& words = state[at / kGroup][within % 16];
    if (words[within / 16] >= modulus) {
      words[within / 16] = retry_residue(key, index + at, nonce, modulus, &errors);
    }
  }
  return errors;
}

struct Masks {
  const uint32_t* keys;  // (count, 8)
  const int32_t* signs;
  int64_t count;
  uint32_t modulus, candidates;
  Nonce nonce;
};

// residues[low … high - 1] += the masks' sum there; residues[0] would be residue `index`, the first
// of a block. Keystreams and their sum stay in the order in which blocks are made, in registers and
// the first-level cache. Sums and candidates are below p < 2^31, so that a sum of two is below
// 2^32, and the smaller of v and v - p (mod 2^32) is v reduced; likewise of v and v + p when v is a
// difference.
template <int kGroups>
int add_groups(const Masks& masks, int64_t index, int64_t low, int64_t high, uint32_t* residues) {
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
    uint32_t rejected = 0;
    for (int l = 0; l < kBlocks; ++l) rejected |= uint32_t(top[l] >= masks.modulus);
    if (rejected) {
      Words copy[kGroups][16];  // so that `state` needs no address, and stays in registers
      std::memcpy(copy, state, sizeof copy);
      errors |= redo<kGroups>(key, index, low, high, masks.nonce, masks.modulus, copy);
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
  alignas(64) uint32_t total[kGroups * kGroup];
#pragma GCC unroll 2
  for (int g = 0; g < kGroups; ++g) store_blocks(sum[g], total + g * kGroup);
  for (int64_t i = low; i < high; ++i) {
    // Candidates at or above p remain outside low … high - 1 alone.
    const uint32_t v = residues[i] + total[i];
    residues[i] = std::min(v, v - masks.modulus);
  }
  return errors;
}

uint32_t largest(const uint32_t* values, int64_t count) {
  uint32_t most = 0;
  for (int64_t i = 0; i < count; ++i) most = std::max(most, values[i]);
  return most;
}

}  // namespace

int add_masks_cpu(uint32_t* residues, int64_t length, const uint32_t* keys, const int32_t* signs,
                  int64_t masks, uint32_t modulus, uint32_t stream, int64_t start, int threads) {
  const int64_t skip = start & 15;
  const int64_t spans = (skip + length + kSpan - 1) / kSpan;
  const bool parallel = double(length) * double(masks + 1) > kParallel;
  uint32_t most = 0;
  // All residues are looked at before one is written.
#pragma omp parallel for num_threads(threads) reduction(max : most) schedule(static) if (parallel)
  for (int64_t first = 0; first < length; first += kSpan) {
    most = std::max(most, largest(residues + first, std::min(kSpan, length - first)));
  }
  if (most >= modulus) return kBadResidue;
  if (masks == 0) return 0;
  const Masks all = {keys,
                     signs,
                     masks,
                     modulus,
                     candidate_mask(modulus),
                     {0, stream, domain_word(kResidues, modulus)}};
  int errors = 0;
#pragma omp parallel num_threads(threads) reduction(| : errors) if (parallel)
  errors |= wiped_after([&] {
    int found = 0;
#pragma omp for schedule(static) nowait
    for (int64_t span = 0; span < spans; ++span) {
      const int64_t end = std::min((span + 1) * kSpan, skip + length);
      // `at` counts from the block that holds `start`, so that no block is made twice.
      for (int64_t at = span * kSpan; at < end;) {
        const int64_t low = at < skip ? skip - at : 0;
        uint32_t* const here = residues + (at - skip);
        const int64_t index = start - skip + at;
        if (end - at > kGroup) {
          const int64_t high = std::min<int64_t>(2 * kGroup, end - at);
          found |= add_groups<2>(all, index, low, high, here);
          at += 2 * kGroup;
        } else {
          found |= add_groups<1>(all, index, low, end - at, here);
          at += kGroup;
        }
      }
    }
    return found;
  });
  return errors;
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
