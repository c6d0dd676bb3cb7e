// Vectors of 32-bit words and the transposition of squares of them, at the SIMD level that this
// file is compiled for; in the level's namespace, as in lanes.h.
#pragma once
#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace pyfed {
namespace PYFED_SIMD {

// A lane for each of the kBlocks blocks that ChaCha20 makes at once.
#if defined(__AVX512F__)
constexpr int kBlocks = 16;
#elif defined(__AVX2__)
constexpr int kBlocks = 8;
#else
constexpr int kBlocks = 4;
#endif
typedef uint32_t Words __attribute__((vector_size(4 * kBlocks)));
typedef int32_t Picks __attribute__((vector_size(4 * kBlocks)));

template <int kBits>
inline Words rotated(Words x) {
#if defined(__AVX512F__)
  return Words(_mm512_rol_epi32(__m512i(x), kBits));
#elif defined(__AVX2__)
  if (kBits % 8) return x << kBits | x >> (32 - kBits);
  constexpr int64_t kOrder = kBits == 16 ? 0x0504070601000302 : 0x0605040702010003;
  constexpr int64_t kNext = kOrder + 0x0808080808080808;
  static_assert(kBits % 8 || kBits == 16 || kBits == 8, "the orders of bytes above");
  return Words(_mm256_shuffle_epi8(__m256i(x), _mm256_setr_epi64x(kOrder, kNext, kOrder, kNext)));
#else
  return x << kBits | x >> (32 - kBits);
#endif
}

inline Words words_min(Words a, Words b) {
#if defined(__AVX512F__)
  return Words(_mm512_min_epu32(__m512i(a), __m512i(b)));
#elif defined(__AVX2__)
  return Words(_mm256_min_epu32(__m256i(a), __m256i(b)));
#else
  return a < b ? a : b;
#endif
}

inline Words words_max(Words a, Words b) {
#if defined(__AVX512F__)
  return Words(_mm512_max_epu32(__m512i(a), __m512i(b)));
#elif defined(__AVX2__)
  return Words(_mm256_max_epu32(__m256i(a), __m256i(b)));
#else
  return a > b ? a : b;
#endif
}

// Whether any word is `limit` or more.
inline bool any_reaches(Words v, uint32_t limit) {
  uint32_t most = 0;
  for (int l = 0; l < kBlocks; ++l) most = most > v[l] ? most : v[l];
  return most >= limit;
}

// Rows of a square matrix of words.
template <int kSize>
struct Square {
  typedef uint32_t Row __attribute__((vector_size(4 * kSize)));
  typedef int32_t Pick __attribute__((vector_size(4 * kSize)));
};

// One stage of transposing kSize x kSize words: swaps the off-diagonal kStep-blocks.
template <int kSize, int kStep>
inline void transpose_stage(typename Square<kSize>::Row* rows) {
  typename Square<kSize>::Pick upper, lower;  // lanes, kSize and above in the second operand
  for (int l = 0; l < kSize; ++l) {
    upper[l] = l & kStep ? kSize + l - kStep : l;
    lower[l] = l & kStep ? kSize + l : l + kStep;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kSize; ++i) {
    if (i & kStep) continue;
    const auto a = rows[i], b = rows[i + kStep];
    rows[i] = __builtin_shuffle(a, b, upper);
    rows[i + kStep] = __builtin_shuffle(a, b, lower);
  }
}

template <int kSize>
inline void transpose(typename Square<kSize>::Row* rows) {
  transpose_stage<kSize, 1>(rows);
  transpose_stage<kSize, 2>(rows);
  if (kSize > 4) transpose_stage<kSize, 4 % kSize>(rows);
  if (kSize > 8) transpose_stage<kSize, 8 % kSize>(rows);
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
