// Standard normal numbers from pairs of words, kFloats pairs at once, by the operations of
// pyfed/ops/normal.py: float32, each rounded by itself (no product is fused with a sum), in the
// same order; so the bits are the same on every device.
#pragma once
#include <cmath>

#include "floats.h"
#include "words.h"

namespace pyfed {
namespace PYFED_SIMD {

static_assert(kFloats == kBlocks, "a word for each float");

constexpr float kLogarithm[] = {0x1.555554p-2f, -0x1.000226p-2f, 0x1.99a00ep-3f, -0x1.547282p-3f,
                                0x1.22d9e6p-3f, -0x1.0d8308p-3f, 0x1.055ba2p-3f, -0x1.38c070p-4f};
constexpr float kSine[] = {-0x1.555546p-3f, 0x1.110760p-7f, -0x1.994eb4p-13f};
constexpr float kCosine[] = {0x1.55554ap-5f, -0x1.6c0c8cp-10f, 0x1.9a025ap-16f};
constexpr float kLn2High = 0x1.63p-1f, kLn2Low = -0x1.bd0106p-13f;
constexpr float kQuarterStep = 0x1.921fb6p-30f;  // π/2 · 2^-30
constexpr int32_t kSqrtHalf = 0x3f3504f3;        // the bits of √½

template <int kSize>
inline Floats polynomial(const float (&coefficients)[kSize], Floats x) {
  Floats value = Floats{} + coefficients[kSize - 1];
#pragma GCC unroll 8
  for (int i = kSize - 2; i >= 0; --i) value = value * x + coefficients[i];
  return value;
}

// Words as floats, rounded once: the upper half is exact, and so is the lower.
inline Floats floats_of(Words x) {
#if defined(__AVX512F__)
  return _mm512_cvtepu32_ps(__m512i(x));
#else
  const Floats high = __builtin_convertvector(Ints(x >> 16), Floats);
  const Floats low = __builtin_convertvector(Ints(x & 0xffffu), Floats);
  return high * 65536.0f + low;
#endif
}

inline Floats square_root(Floats x) {
#if defined(__AVX512F__)
  return _mm512_sqrt_ps(x);
#elif defined(__AVX2__)
  return _mm256_sqrt_ps(x);
#else
  for (int l = 0; l < kFloats; ++l) x[l] = std::sqrt(x[l]);
  return x;
#endif
}

// √(-2 ln u), u = float32(word | 1) · 2^-32.
inline Floats normal_radius(Words word) {
  const Ints bits = Ints(floats_of(word | 1u));
  const Ints exponent = (bits - kSqrtHalf) >> 23;
  const Floats z = Floats(bits - (exponent << 23)) - 1.0f;  // the significand in [√½, √2), less 1
  const Floats e = __builtin_convertvector(exponent - 32, Floats);
  const Floats square = z * z;
  Floats y = polynomial(kLogarithm, z) * z * square;
  y = (y + kLn2Low * e) - 0.5f * square;
  const Floats doubled = -2.0f * ((z + y) + kLn2High * e);
  return square_root(doubled > 0.0f ? doubled : Floats{});
}

// Normal numbers 2i and 2i + 1 from words 2i and 2i + 1.
inline __attribute__((always_inline)) void normal_pair(Words first, Words second, Floats& x,
                                                       Floats& y) {
  const Floats radius = normal_radius(first);
  const Words moved = second + 0x20000000u;  // two bits of the quarter, then the angle in it
  const Floats angle =
      __builtin_convertvector(Ints(moved & 0x3fffffffu) - 0x20000000, Floats) * kQuarterStep;
  const Floats square = angle * angle;
  const Floats sine = angle + (polynomial(kSine, square) * square) * angle;
  const Floats cosine = 1.0f + ((polynomial(kCosine, square) * square) * square - 0.5f * square);
  const Ints across = Ints(moved << 1) < 0;
  const Words up = moved & 0x80000000u, left = (moved ^ moved << 1) & 0x80000000u;
  x = radius * Floats(Words(across ? sine : cosine) ^ left);
  y = radius * Floats(Words(across ? cosine : sine) ^ up);
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
