// The discrete Gaussian over the integers on the CPU. No branch and no address depends on a random
// bit: what is chosen by one is chosen by masks, or by permuting registers.
#include "kernels.h"
#include "keystream.h"

namespace pyfed {
namespace PYFED_SIMD {
namespace {

constexpr int kGroups = 2;
constexpr int kSamples = 16 * kBlocks * kGroups;  // made at a time
constexpr int kDeepest = 7;                       // 2^7 - 1 entries at most
constexpr uint32_t kFirstAttempt = 1;             // attempt 0 is for other noise

// A table of up to 127 entries of 96 bits, which decrease. Behind them come zeros, above which
// nothing lies, so that there are 2^depth - 1.
struct Table {
  alignas(64) uint32_t words[3][1 << kDeepest];  // highest words first
  int64_t entries;
  int depth;
};

#if defined(__AVX2__)
// The n · kBlocks words at `from`, 64-byte aligned: the one that the low bits of each index name.
template <int n>
inline __attribute__((always_inline)) Words picked(const uint32_t* from, Words index) {
  if constexpr (n == 1) {
#if defined(__AVX512F__)
    return Words(_mm512_permutexvar_epi32(__m512i(index), _mm512_load_si512(from)));
  } else if constexpr (n == 2) {
    const __m512i low = _mm512_load_si512(from), high = _mm512_load_si512(from + kBlocks);
    return Words(_mm512_permutex2var_epi32(low, __m512i(index), high));
#else
    const __m256i all = _mm256_load_si256(reinterpret_cast<const __m256i*>(from));
    return Words(_mm256_permutevar8x32_epi32(all, __m256i(index)));
#endif
  } else {
    constexpr uint32_t kHalf = n / 2 * kBlocks;
    const Words low = picked<n / 2>(from, index), high = picked<n / 2>(from + kHalf, index);
#if defined(__AVX512F__)
    const __mmask16 upper = _mm512_test_epi32_mask(__m512i(index), _mm512_set1_epi32(kHalf));
    return Words(_mm512_mask_blend_epi32(upper, __m512i(low), __m512i(high)));
#else
    const Words upper = index * (0x80000000u / kHalf);  // a blend looks at the sign alone
    return Words(_mm256_blendv_ps(__m256(low), __m256(high), __m256(upper)));
#endif
  }
}

// Table as a tree in the order of breadth: below node i are 2i and, for what lies below i's entry,
// 2i + 1. Node 1 is the middle entry; node 0 is none.
inline void lay_out(Table& table) {
  uint32_t sorted[1 << kDeepest];
  for (auto& words : table.words) {
    std::memcpy(sorted, words, sizeof sorted);
    for (int level = 0; level < table.depth; ++level) {
      for (int at = 0; at < 1 << level; ++at) {
        const int step = 1 << (table.depth - level);
        words[(1 << level) + at] = sorted[at * step + step / 2 - 1];
      }
    }
  }
}

#if defined(__AVX512F__)
constexpr uint32_t kFlip = 0;
#else
constexpr uint32_t kFlip = 0x80000000;  // AVX2 compares signed numbers alone
#endif

// How many entries lie above the words: a descent of the tree.
template <int kDepth, int kLevel = 0>
inline __attribute__((always_inline)) Words entries_above(const Table& table, Words high,
                                                          Words middle, Words low,
                                                          Words node = Words{} + 1u) {
  if constexpr (kLevel == kDepth) {
    return node - (1u << kDepth);
  } else {
    constexpr int kNodes = 1 << kLevel, kVectors = kNodes / kBlocks ? kNodes / kBlocks : 1;
    constexpr int kFirst = kNodes / kBlocks * kBlocks;
    const Words h = picked<kVectors>(table.words[0] + kFirst, node);
    const Words m = picked<kVectors>(table.words[1] + kFirst, node);
    const Words l = picked<kVectors>(table.words[2] + kFirst, node);
#if defined(__AVX512F__)
    __mmask16 below = _mm512_cmplt_epu32_mask(__m512i(low), __m512i(l));
    below = _mm512_mask_cmpeq_epu32_mask(below, __m512i(middle), __m512i(m)) |
            _mm512_cmplt_epu32_mask(__m512i(middle), __m512i(m));
    below = _mm512_mask_cmpeq_epu32_mask(below, __m512i(high), __m512i(h)) |
            _mm512_cmplt_epu32_mask(__m512i(high), __m512i(h));
    const __m512i twice = _mm512_add_epi32(__m512i(node), __m512i(node));
    const Words next = Words(_mm512_mask_add_epi32(twice, below, twice, _mm512_set1_epi32(1)));
#else
    Picks below = Picks(low) < Picks(l);
    below = (Picks(middle) < Picks(m)) | ((middle == m) & below);
    below = (Picks(high) < Picks(h)) | ((high == h) & below);
    const Words next = node + node - Words(below);
#endif
    return entries_above<kDepth, kLevel + 1>(table, high, middle, low, next);
  }
}
#else
inline void lay_out(Table&) {}

constexpr uint32_t kFlip = 0x80000000;  // SSE2 compares signed numbers alone

// How many entries lie above the words: each is looked at.
template <int>
inline __attribute__((always_inline)) Words entries_above(const Table& table, Words high,
                                                          Words middle, Words low) {
  Words found = {};
  for (int64_t j = 0; j < table.entries; ++j) {
    Picks below = Picks(low) < Picks(Words{} + table.words[2][j]);
    const Words m = Words{} + table.words[1][j], h = Words{} + table.words[0][j];
    below = (Picks(middle) < Picks(m)) | ((middle == m) & below);
    below = (Picks(high) < Picks(h)) | ((high == h) & below);
    found -= Words(below);
  }
  return found;
}
#endif

struct Sampler {
  const uint32_t* key;
  const int32_t* coefficients;
  int64_t terms;
  uint32_t stream;
  Table table;

  // Samples kSamples integers, the first of which is number 0 of block `counter`.
  template <int kDepth>
  void make(uint32_t counter, uint32_t* out) const {
    Words total[kGroups][16] = {};
    for (int64_t term = 0; term < terms; ++term) {
      Words high[kGroups][16], middle[kGroups][16], low[kGroups][16];
      const uint32_t attempt = domain_word(kNoise, 0) + kFirstAttempt + 3 * uint32_t(term);
      chacha_lanes<kGroups>(key, counter, {0, stream, attempt}, high);
      chacha_lanes<kGroups>(key, counter, {0, stream, attempt + 1}, middle);
      chacha_lanes<kGroups>(key, counter, {0, stream, attempt + 2}, low);
      const uint32_t coefficient = uint32_t(coefficients[term]);
      for (int g = 0; g < kGroups; ++g) {
        for (int i = 0; i < 16; ++i) {
          const Words magnitude = entries_above<kDepth>(table, high[g][i] ^ kFlip,
                                                        middle[g][i] ^ kFlip, low[g][i] ^ kFlip);
          const Words minus = -(low[g][i] & 1u);
          total[g][i] += ((magnitude ^ minus) - minus) * coefficient;
        }
      }
    }
    for (int g = 0; g < kGroups; ++g) store_blocks(total[g], out + 16 * kBlocks * g);
  }

  // Integers low … high - 1 of those from block `counter` on; out[0] is integer `low`.
  template <int kDepth>
  void fill(uint32_t counter, int64_t low, int64_t high, uint32_t* out) const {
    alignas(64) uint32_t spare[kSamples];
    for (int64_t at = 0; at < high; at += kSamples, counter += kSamples / 16) {
      const int64_t skip = low > at ? low - at : 0;
      const int64_t part = high - at < kSamples ? high - at : kSamples;
      uint32_t* const dst = out + (at + skip - low);
      if (skip == 0 && part == kSamples) {
        make<kDepth>(counter, dst);
      } else {
        make<kDepth>(counter, spare);
        std::memcpy(dst, spare + skip, size_t(part - skip) * 4);
      }
    }
  }
};

constexpr int64_t kChunk = 16 * kSamples;  // integers a thread makes at a time

}  // namespace

int discrete_gaussian_cpu(const uint32_t* key, const uint32_t* table, int64_t entries,
                          const int32_t* coefficients, int64_t terms, int64_t start, int64_t count,
                          uint32_t stream, uint32_t* out, int threads) {
  Sampler sampler = {key, coefficients, terms, stream, {{}, entries, 4}};
  while (entries >= int64_t(1) << sampler.table.depth) ++sampler.table.depth;
  for (int w = 0; w < 3; ++w) {
    for (int j = 0; j < 1 << kDeepest; ++j) {
      sampler.table.words[w][j] = (j < entries ? table[w * entries + j] : 0) ^ kFlip;
    }
  }
  lay_out(sampler.table);
  using Fill = void (Sampler::*)(uint32_t, int64_t, int64_t, uint32_t*) const;
  const Fill fills[] = {&Sampler::fill<4>, &Sampler::fill<5>, &Sampler::fill<6>, &Sampler::fill<7>};
  const Fill fill = fills[sampler.table.depth - 4];
  const int64_t skip = start & 15;
  const int64_t chunks = (skip + count + kChunk - 1) / kChunk;
#pragma omp parallel num_threads(threads) if (chunks > 1)
  wiped_after([&] {
#pragma omp for schedule(static) nowait
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const int64_t at = chunk * kChunk, end = skip + count - at;
      const int64_t low = at < skip ? skip - at : 0, high = end < kChunk ? end : kChunk;
      (sampler.*fill)(uint32_t((start - skip + at) >> 4), low, high, out + (at + low - skip));
    }
    return 0;
  });
  return 0;
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
