// Blocks of up to 64 elements on the CPU, as a bit each of one word: comparisons make such words,
// and stores spread them to a byte an element.
#pragma once
#include <cstring>

#include "votes.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#ifndef PYFED_SIMD
#define PYFED_SIMD plain
#endif

namespace pyfed {
namespace PYFED_SIMD {

constexpr int64_t kBlock = 64;

inline int ones(uint64_t word) { return __builtin_popcountll(word); }

// The bits of the first n elements of a block.
inline uint64_t first_bits(int64_t n) { return n >= 64 ? ~uint64_t(0) : (uint64_t(1) << n) - 1; }

// The lowest `count` bits that are set; count is below their number.
inline uint64_t lowest_ones(uint64_t word, int64_t count) {
#if defined(__BMI2__)
  return _pdep_u64((uint64_t(1) << count) - 1, word);
#else
  uint64_t left = word;
  for (; count > 0; --count) left &= left - 1;
  return word ^ left;
#endif
}

// 8 bytes, or fewer, as a little-endian word.
inline uint64_t load_word(const void* p) {
  uint64_t word;
  std::memcpy(&word, p, 8);
  return word;
}

inline uint64_t load_word(const void* p, int64_t bytes) {
  if (bytes >= 8) return load_word(p);
  uint64_t word = 0;
  std::memcpy(&word, p, size_t(bytes));
  return word;
}

// Rows of packed masks have no bit set behind their last element.
inline int padding_errors(const uint8_t* packed, int64_t rows, int64_t length) {
  if (length % 8 == 0) return 0;
  const int64_t bytes = length / 8 + 1;
  uint32_t bad = 0;
  for (int64_t row = 0; row < rows; ++row) bad |= packed[(row + 1) * bytes - 1] >> (length % 8);
  return bad ? kBadPadding : 0;
}

#if !defined(__AVX2__)
// Lowest bits of 8 bytes -> 8 bits: the product moves bit 8i to 56 + i, and no two sums collide.
inline uint64_t gather_bits(uint64_t bytes) {
  return (bytes & 0x0101010101010101u) * 0x0102040810204080u >> 56;
}
#endif

// Which of 64 bytes are not 0.
inline uint64_t nonzero(const uint8_t* x) {
#if defined(__AVX512F__)
  const __m512i v = _mm512_loadu_si512(x);
  return _mm512_test_epi8_mask(v, v);
#elif defined(__AVX2__)
  const __m256i* p = reinterpret_cast<const __m256i*>(x);
  const __m256i zero = _mm256_setzero_si256();
  const __m256i a = _mm256_cmpeq_epi8(_mm256_loadu_si256(p), zero);
  const __m256i b = _mm256_cmpeq_epi8(_mm256_loadu_si256(p + 1), zero);
  return ~(uint64_t(uint32_t(_mm256_movemask_epi8(b))) << 32 | uint32_t(_mm256_movemask_epi8(a)));
#else
  uint64_t word = 0;
  for (int i = 0; i < 8; ++i) {
    const uint64_t bytes = load_word(x + 8 * i);
    const uint64_t low = (bytes & 0x7f7f7f7f7f7f7f7fu) + 0x7f7f7f7f7f7f7f7fu;
    word |= gather_bits((bytes | low) >> 7) << (8 * i);
  }
  return word;
#endif
}

// Bytes 0 or 1 from 64 bits.
inline void spread(uint64_t word, uint8_t* out) {
#if defined(__AVX512F__)
  _mm512_storeu_si512(out, _mm512_maskz_set1_epi8(word, 1));
#elif defined(__AVX2__)
  const __m256i which =
      _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i bit = _mm256_set1_epi64x(int64_t(0x8040201008040201u));
  for (int half = 0; half < 2; ++half) {
    const __m256i bytes =
        _mm256_shuffle_epi8(_mm256_set1_epi32(int32_t(uint32_t(word >> (32 * half)))), which);
    const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 32 * half),
                        _mm256_and_si256(set, _mm256_set1_epi8(1)));
  }
#else
  for (int i = 0; i < 8; ++i) {
    const uint64_t bits = (word >> (8 * i) & 0xff) * 0x0101010101010101u & 0x8040201008040201u;
    const uint64_t bytes = (bits + 0x7f7f7f7f7f7f7f7fu) >> 7 & 0x0101010101010101u;
    std::memcpy(out + 8 * i, &bytes, 8);
  }
#endif
}

inline void spread(uint64_t word, uint8_t* out, int64_t n) {
  if (n == kBlock) {
    spread(word, out);
  } else {
    uint8_t bytes[kBlock];
    spread(word, bytes);
    std::memcpy(out, bytes, size_t(n));
  }
}

// Which of 64 counts are above their limits, and which equal them.
struct Sides {
  uint64_t above, equal;
};

inline Sides compared(const uint8_t* x, const uint8_t* limits) {
#if defined(__AVX512F__)
  const __m512i v = _mm512_loadu_si512(x), t = _mm512_loadu_si512(limits);
  return {_mm512_cmpgt_epu8_mask(v, t), _mm512_cmpeq_epi8_mask(v, t)};
#elif defined(__AVX2__)
  uint64_t least = 0, equal = 0;
  for (int half = 0; half < 2; ++half) {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x) + half);
    const __m256i t = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(limits) + half);
    const __m256i high = _mm256_cmpeq_epi8(_mm256_max_epu8(v, t), v);
    least |= uint64_t(uint32_t(_mm256_movemask_epi8(high))) << (32 * half);
    equal |= uint64_t(uint32_t(_mm256_movemask_epi8(_mm256_cmpeq_epi8(v, t)))) << (32 * half);
  }
  return {least ^ equal, equal};
#else
  uint8_t above[kBlock], equal[kBlock];
  for (int i = 0; i < kBlock; ++i) above[i] = x[i] > limits[i];
  for (int i = 0; i < kBlock; ++i) equal[i] = x[i] == limits[i];
  Sides sides = {0, 0};
  for (int i = 0; i < 8; ++i) {
    sides.above |= gather_bits(load_word(above + 8 * i)) << (8 * i);
    sides.equal |= gather_bits(load_word(equal + 8 * i)) << (8 * i);
  }
  return sides;
#endif
}

inline Sides compared(const int32_t* x, const int32_t* limits) {
  Sides sides = {0, 0};
#if defined(__AVX512F__)
  for (int i = 0; i < 4; ++i) {
    const __m512i v = _mm512_loadu_si512(x + 16 * i), t = _mm512_loadu_si512(limits + 16 * i);
    sides.above |= uint64_t(_mm512_cmpgt_epi32_mask(v, t)) << (16 * i);
    sides.equal |= uint64_t(_mm512_cmpeq_epi32_mask(v, t)) << (16 * i);
  }
#elif defined(__AVX2__)
  for (int i = 0; i < 8; ++i) {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x) + i);
    const __m256i t = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(limits) + i);
    const __m256 above = _mm256_castsi256_ps(_mm256_cmpgt_epi32(v, t));
    const __m256 equal = _mm256_castsi256_ps(_mm256_cmpeq_epi32(v, t));
    sides.above |= uint64_t(uint32_t(_mm256_movemask_ps(above))) << (8 * i);
    sides.equal |= uint64_t(uint32_t(_mm256_movemask_ps(equal))) << (8 * i);
  }
#else
  uint8_t above[kBlock], equal[kBlock];
  for (int i = 0; i < kBlock; ++i) above[i] = x[i] > limits[i];
  for (int i = 0; i < kBlock; ++i) equal[i] = x[i] == limits[i];
  for (int i = 0; i < 8; ++i) {
    sides.above |= gather_bits(load_word(above + 8 * i)) << (8 * i);
    sides.equal |= gather_bits(load_word(equal + 8 * i)) << (8 * i);
  }
#endif
  return sides;
}

// The same of n <= 64 counts; nothing behind them is read.
template <class Count>
inline Sides compared(const Count* x, const Count* limits, int64_t n) {
  if (n == kBlock) return compared(x, limits);
  Count block[kBlock] = {};
  std::memcpy(block, x, size_t(n) * sizeof(Count));
  const Sides sides = compared(block, limits);
  return {sides.above & first_bits(n), sides.equal & first_bits(n)};
}

// Vectors of counts; comparisons of them give -1 where they hold.
#if defined(__AVX512F__)
constexpr int kVector = 64;
#elif defined(__AVX2__)
constexpr int kVector = 32;
#else
constexpr int kVector = 16;
#endif
template <class Count>
struct Counts {
  typedef Count Vector __attribute__((vector_size(kVector)));
  static constexpr int64_t kSize = kVector / sizeof(Count);
  // Additions of 1 before a lane could overflow.
  static constexpr int64_t kMost = sizeof(Count) == 1 ? 255 : 1 << 26;

  static Vector load(const Count* x) {
    Vector v;
    std::memcpy(&v, x, sizeof v);
    return v;
  }
  static int64_t sum(Vector v) {
    int64_t total = 0;
    for (int i = 0; i < kSize; ++i) total += v[i];
    return total;
  }
};

#if defined(__AVX512F__)
template <>
inline int64_t Counts<uint8_t>::sum(Vector v) {
  return _mm512_reduce_add_epi64(_mm512_sad_epu8(__m512i(v), _mm512_setzero_si512()));
}
template <>
inline int64_t Counts<int32_t>::sum(Vector v) {
  return _mm512_reduce_add_epi32(__m512i(v));
}
#elif defined(__AVX2__)
template <>
inline int64_t Counts<uint8_t>::sum(Vector v) {
  const __m256i x = _mm256_sad_epu8(__m256i(v), _mm256_setzero_si256());
  const __m128i two = _mm_add_epi64(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  return _mm_extract_epi64(two, 0) + _mm_extract_epi64(two, 1);
}
template <>
inline int64_t Counts<int32_t>::sum(Vector v) {
  const __m256i x = __m256i(v);
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  const __m128i two = _mm_add_epi32(four, _mm_srli_si128(four, 8));
  return _mm_extract_epi32(two, 0) + _mm_extract_epi32(two, 1);
}
#endif

}  // namespace PYFED_SIMD
}  // namespace pyfed
