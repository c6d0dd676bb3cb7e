// Vectors of float32 from stored numbers of any kind, on the CPU.
#pragma once
#include "blocks.h"
#include "half.h"

namespace pyfed {
namespace PYFED_SIMD {

typedef float Floats __attribute__((vector_size(kVector)));
typedef int32_t Ints __attribute__((vector_size(kVector)));
constexpr int kFloats = kVector / 4;

template <class Vector, class T>
inline Vector vector_at(const T* p) {
  Vector v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <class Vector, class T>
inline void put_vector(T* p, Vector v) {
  std::memcpy(p, &v, sizeof v);
}

// kFloats neighbours as float32.
inline Floats load_floats(const uint32_t* x, Real<kFloat32>) { return vector_at<Floats>(x); }

inline Floats load_floats(const uint16_t* x, Real<kBfloat16>) {
  typedef uint16_t Stored __attribute__((vector_size(kVector / 2)));
  return Floats(__builtin_convertvector(vector_at<Stored>(x), Ints) << 16);
}

inline Floats load_floats(const uint16_t* x, Real<kFloat16>) {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
#elif defined(__AVX2__)
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
#else
  Floats v;
  for (int l = 0; l < kFloats; ++l) v[l] = float_of(widened_half(x[l]));
  return v;
#endif
}

// kFloats neighbours, each rounded half to even.
inline void store_floats(uint32_t* out, Floats x, Real<kFloat32>) { put_vector(out, x); }

inline void store_floats(uint16_t* out, Floats x, Real<kBfloat16>) {
  typedef uint32_t Words __attribute__((vector_size(kVector)));
  typedef uint16_t Stored __attribute__((vector_size(kVector / 2)));
  const Words bits = Words(x);
  const Words nan = Words((bits & 0x7fffffffu) > 0x7f800000u);
  const Words rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  const Words narrow = (nan & (bits >> 16 | 0x40u)) | (~nan & rounded);
  put_vector(out, __builtin_convertvector(narrow, Stored));
}

inline void store_floats(uint16_t* out, Floats x, Real<kFloat16>) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_cvtps_ph(x, 0));
#elif defined(__AVX2__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_cvtps_ph(x, 0));
#else
  for (int l = 0; l < kFloats; ++l) out[l] = uint16_t(narrowed_half(bits_of(x[l])));
#endif
}

// Which lanes hold something, bit l for lane l; and sums that grow in those lanes alone.
#if defined(__AVX512F__)
using Held = __mmask16;
inline Held held_by(uint64_t bits) { return Held(bits); }
inline Held all_held() { return Held(0xffff); }
inline Floats add_held(Floats sum, Floats x, Held held) {
  return _mm512_mask_add_ps(sum, held, sum, x);
}
inline Ints add_held(Ints sum, Ints x, Held held) {
  return Ints(_mm512_mask_add_epi32(__m512i(sum), held, __m512i(sum), __m512i(x)));
}
inline Floats floats_held(Floats x, Held held) { return _mm512_maskz_mov_ps(held, x); }
#else
using Held = Ints;  // -1 or 0
inline Held held_by(uint64_t bits) {
  Ints lane;
  for (int l = 0; l < kFloats; ++l) lane[l] = 1 << l;
  return ((Ints{} + int32_t(bits & 0xffff)) & lane) != 0;
}
inline Held all_held() { return Ints{} - 1; }
// A sum of floats that began at +0 is never -0, so that adding 0 changes no bit of it.
inline Floats add_held(Floats sum, Floats x, Held held) { return sum + Floats(Ints(x) & held); }
inline Ints add_held(Ints sum, Ints x, Held held) { return sum + (x & held); }
// What is in those lanes; +0 in the others.
inline Floats floats_held(Floats x, Held held) { return Floats(Ints(x) & held); }
#endif

#if defined(__AVX2__) && !defined(__AVX512F__)
// For each byte, where the lanes of its set bits come from: the first, the second, and so on.
struct Spreads {
  uint8_t from[256][8];
  constexpr Spreads() : from{} {
    for (int bits = 0; bits < 256; ++bits) {
      for (int l = 0, next = 0; l < 8; ++l) from[bits][l] = uint8_t(bits >> l & 1 ? next++ : 0);
    }
  }
};
alignas(64) constexpr Spreads kSpreads;
#endif

// The first values go to the lanes whose bit is set, in order; what others get has no meaning.
inline Floats spread_floats(Floats values, uint64_t bits) {
#if defined(__AVX512F__)
  asm("" : "+v"(values));  // from a register: processors take an expanding load apart
  return _mm512_maskz_expand_ps(Held(bits), values);
#elif defined(__AVX2__)
  const uint8_t* from = kSpreads.from[bits & 0xff];
  const __m256i lanes =
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
  return Floats(_mm256_permutevar8x32_ps(values, lanes));
#else
  float dense[kFloats], out[kFloats] = {};
  put_vector(dense, values);
  for (int l = 0, next = 0; l < kFloats; ++l) {
    const int set = int(bits >> l & 1);
    out[l] = set ? dense[next] : 0.0f;
    next += set;
  }
  return vector_at<Floats>(out);
#endif
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
