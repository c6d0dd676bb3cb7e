// Fixed point, a vector of values at a time, into residues in place of the words that round them.
#pragma once
#include "keystream.h"
#include "rounding.h"

namespace pyfed {
namespace PYFED_SIMD {

typedef float Floats __attribute__((vector_size(4 * kBlocks)));

inline Floats floats_min(Floats a,
                         Floats b) {  // a < b ? a : b, so b where a is no number
#if defined(__AVX512F__)
  return Floats(_mm512_min_ps(__m512(a), __m512(b)));
#elif defined(__AVX2__)
  return Floats(_mm256_min_ps(__m256(a), __m256(b)));
#else
  return a < b ? a : b;
#endif
}

inline Floats floats_max(Floats a, Floats b) {  // a > b ? a : b
#if defined(__AVX512F__)
  return Floats(_mm512_max_ps(__m512(a), __m512(b)));
#elif defined(__AVX2__)
  return Floats(_mm256_max_ps(__m256(a), __m256(b)));
#else
  return a > b ? a : b;
#endif
}

// The floats of an update as residues, any part of them.
template <uint32_t P>
struct Quantizer {
  const float* values;
  float scale, clip;
  const uint32_t* key;
  Nonce nonce;
  int64_t start;  // the word that rounds values[0]

  // Residues of values first … first + count - 1, into out; gives error bits. The steps are those
  // of rounding.h.
  __attribute__((noinline)) int operator()(int64_t first, int64_t count, uint32_t* out) const {
    constexpr int64_t kChunk = 1024;  // words that are still in the first-level cache when used
    Words most = {};                  // of the magnitudes' bits, which order floats as floats do
    uint32_t bad = 0;
    for (int64_t at = 0; at < count; at += kChunk) {
      const int64_t part = count - at < kChunk ? count - at : kChunk;
      const float* const x = values + first + at;
      uint32_t* const words = out + at;
      fill_words(key, start + first + at, part, nonce, words);
      int64_t i = 0;
      for (; i + kBlocks <= part; i += kBlocks) {
        Words bits, word;
        std::memcpy(&bits, x + i, sizeof bits);
        std::memcpy(&word, words + i, sizeof word);
        most = words_max(most, bits & 0x7fffffffu);
        const Floats limit = Floats{} + clip;
        const Floats y = floats_max(floats_min(Floats(bits), limit), -limit) * scale;
        const Picks whole = __builtin_convertvector(y, Picks);
        const Floats rest = (y - __builtin_convertvector(whole, Floats)) * 16777216.0f;
        const Picks part24 = __builtin_convertvector(rest, Picks) + Picks(word >> 8);
        const Words rounded = Words(whole + (part24 >> 24));
        word = words_min(rounded, rounded + P);  // what is negative is huge, and + p wraps
        std::memcpy(words + i, &word, sizeof word);
      }
      for (; i < part; ++i) {
        bad |= uint32_t(!is_finite(x[i]));
        const float y = scaled(x[i], scale, clip);
        words[i] = uint32_t(residue_of(rounded_at_random(y, words[i]), P));
      }
    }
    for (int l = 0; l < kBlocks; ++l) bad |= uint32_t(most[l] >= 0x7f800000u);
    return bad ? kNotFinite : 0;
  }
};

}  // namespace PYFED_SIMD
}  // namespace pyfed
