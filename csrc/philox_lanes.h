// Which elements dropout keeps, 64 at a time, on the CPU: 16 blocks of Philox4x32-10 at once.
#pragma once
#include "blocks.h"
#include "philox.h"

namespace pyfed {
namespace PYFED_SIMD {

constexpr int64_t kGroup = 64;  // elements of a word of bits

// A client's stream, and the rule by which its words are judged: kept from the threshold on.
struct Dropout {
  PhiloxKey key;
  uint64_t stream;
  uint32_t threshold;
};

#if defined(__AVX2__)
#if defined(__AVX512F__)
using Quads = __m512i;  // 64-bit lanes, a block each; only the low half of a lane has a meaning
constexpr int kQuads = 8;
inline Quads quads_each(uint64_t v) { return _mm512_set1_epi64(int64_t(v)); }
inline Quads quads_product(Quads a, Quads b) { return _mm512_mul_epu32(a, b); }
inline Quads quads_high(Quads a) { return _mm512_srli_epi64(a, 32); }
inline Quads quads_xor(Quads a, Quads b, Quads c) {
  return _mm512_ternarylogic_epi64(a, b, c, 0x96);
}
// Blocks 0 to 3 are in the lanes 0, 2, 4, 6 and blocks 4 to 7 in the others: unpacking then gives
// words in the order of the blocks.
inline Quads quads_counters(uint64_t first) {
  return _mm512_add_epi64(quads_each(first), _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7));
}
inline uint64_t quads_kept(Quads w0, Quads w1, Quads w2, Quads w3, uint32_t threshold) {
  const __m512i least = _mm512_set1_epi32(int32_t(threshold));
  const __m512i front = _mm512_mask_shuffle_epi32(w0, 0xaaaa, w1, _MM_PERM_CCAA);
  const __m512i back = _mm512_mask_shuffle_epi32(w2, 0xaaaa, w3, _MM_PERM_CCAA);
  const __m512i low = _mm512_unpacklo_epi64(front, back);
  const __m512i high = _mm512_unpackhi_epi64(front, back);
  return uint64_t(_mm512_cmpge_epu32_mask(low, least)) |
         uint64_t(_mm512_cmpge_epu32_mask(high, least)) << 16;
}
#else
using Quads = __m256i;
constexpr int kQuads = 4;
inline Quads quads_each(uint64_t v) { return _mm256_set1_epi64x(int64_t(v)); }
inline Quads quads_product(Quads a, Quads b) { return _mm256_mul_epu32(a, b); }
inline Quads quads_high(Quads a) { return _mm256_srli_epi64(a, 32); }
inline Quads quads_xor(Quads a, Quads b, Quads c) {
  return _mm256_xor_si256(_mm256_xor_si256(a, b), c);
}
inline Quads quads_counters(uint64_t first) {
  return _mm256_add_epi64(quads_each(first), _mm256_setr_epi64x(0, 2, 1, 3));
}
inline uint64_t quads_kept(Quads w0, Quads w1, Quads w2, Quads w3, uint32_t threshold) {
  const __m256i least = _mm256_set1_epi32(int32_t(threshold));
  const __m256i front = _mm256_blend_epi32(w0, _mm256_slli_epi64(w1, 32), 0xaa);
  const __m256i back = _mm256_blend_epi32(w2, _mm256_slli_epi64(w3, 32), 0xaa);
  const __m256i low = _mm256_unpacklo_epi64(front, back);
  const __m256i high = _mm256_unpackhi_epi64(front, back);
  const __m256i a = _mm256_cmpeq_epi32(_mm256_max_epu32(low, least), low);
  const __m256i b = _mm256_cmpeq_epi32(_mm256_max_epu32(high, least), high);
  return uint64_t(uint32_t(_mm256_movemask_ps(_mm256_castsi256_ps(a)))) |
         uint64_t(uint32_t(_mm256_movemask_ps(_mm256_castsi256_ps(b)))) << 8;
}
#endif

// All rounds on kChains registers of blocks: their counters become their words.
template <int kChains>
inline __attribute__((always_inline)) void philox_rounds(Quads (&x0)[kChains], Quads (&x1)[kChains],
                                                         Quads (&x2)[kChains], Quads (&x3)[kChains],
                                                         PhiloxKey key) {
  const Quads factor0 = quads_each(kPhiloxFactor0), factor1 = quads_each(kPhiloxFactor1);
#pragma GCC unroll 10
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const Quads low = quads_each(key.low), high = quads_each(key.high);
#pragma GCC unroll 4
    for (int i = 0; i < kChains; ++i) {
      const Quads first = quads_product(x0[i], factor0), second = quads_product(x2[i], factor1);
      x0[i] = quads_xor(quads_high(second), x1[i], low);
      x2[i] = quads_xor(quads_high(first), x3[i], high);
      x1[i] = second, x3[i] = first;
    }
    key.low += kPhiloxStep0, key.high += kPhiloxStep1;
  }
}

// Elements 64 · group … 64 · group + 63: bit e % 64 is set where element e is kept.
inline uint64_t kept_bits(const Dropout& dropout, uint64_t group) {
  constexpr int kChains = 16 / kQuads;
  Quads x0[kChains], x1[kChains], x2[kChains], x3[kChains];
#pragma GCC unroll 4
  for (int i = 0; i < kChains; ++i) {
    x0[i] = quads_counters(group * 16 + uint64_t(i * kQuads));
    x1[i] = quads_high(x0[i]);
    x2[i] = quads_each(dropout.stream), x3[i] = quads_each(dropout.stream >> 32);
  }
  philox_rounds(x0, x1, x2, x3, dropout.key);
  uint64_t kept = 0;
#pragma GCC unroll 4
  for (int i = 0; i < kChains; ++i) {
    kept |= quads_kept(x0[i], x1[i], x2[i], x3[i], dropout.threshold) << (4 * kQuads * i);
  }
  return kept;
}
#else
inline uint64_t kept_bits(const Dropout& dropout, uint64_t group) {
  uint64_t kept = 0;
  for (int block = 0; block < 16; ++block) {
    uint32_t words[4];
    philox_block(dropout.key, group * 16 + uint64_t(block), dropout.stream, words);
    for (int i = 0; i < 4; ++i) {
      kept |= uint64_t(words[i] >= dropout.threshold) << (4 * block + i);
    }
  }
  return kept;
}
#endif

}  // namespace PYFED_SIMD
}  // namespace pyfed
