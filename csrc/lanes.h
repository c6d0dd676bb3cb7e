// 64-bit lanes for sums of products, of the SIMD level that this file is compiled for. Every name
// is inside the level's namespace, so that the linker can never put one level's code in another's
// place.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace pyfed {
namespace PYFED_SIMD {

// `even` and `odd` hold the same 2 · kLanes consecutive int32: product() reads the low half of each
// lane as signed.
#if defined(__AVX512F__)
constexpr int kLanes = 8;
constexpr int kTileRows = 8;  // 16 accumulators + 2 operands + 2 temporaries of 32 registers
using Lanes = __m512i;
inline Lanes lanes_zero() { return _mm512_setzero_si512(); }
inline Lanes lanes_load(const int32_t* p) { return _mm512_load_si512(p); }
inline Lanes lanes_each(int32_t v) { return _mm512_set1_epi32(v); }
inline Lanes lanes_each64(int64_t v) { return _mm512_set1_epi64(v); }
inline Lanes lanes_add(Lanes a, Lanes b) { return _mm512_add_epi64(a, b); }
inline Lanes lanes_high(Lanes a) { return _mm512_srli_epi64(a, 32); }
inline Lanes lanes_shift31(Lanes a) { return _mm512_srli_epi64(a, 31); }
inline Lanes lanes_and(Lanes a, Lanes b) { return _mm512_and_si512(a, b); }
inline Lanes lanes_product(Lanes a, Lanes b) { return _mm512_mul_epi32(a, b); }
inline Lanes lanes_join(Lanes even, Lanes odd) {
  return _mm512_or_si512(even, _mm512_slli_epi64(odd, 32));
}
// Numbers below 2p in 32-bit halves -> canonical: v - p wraps above v when v < p.
inline Lanes halves_reduce(Lanes v, Lanes p) { return _mm512_min_epu32(v, _mm512_sub_epi32(v, p)); }
inline Lanes halves_add(Lanes a, Lanes b) { return _mm512_add_epi32(a, b); }
inline void lanes_store(void* p, Lanes v) { _mm512_storeu_si512(p, v); }
inline Lanes lanes_loadu(const void* p) { return _mm512_loadu_si512(p); }
#elif defined(__AVX2__)
constexpr int kLanes = 4;
constexpr int kTileRows = 4;  // 8 accumulators of 16 registers
using Lanes = __m256i;
inline Lanes lanes_zero() { return _mm256_setzero_si256(); }
inline Lanes lanes_load(const int32_t* p) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(p));
}
inline Lanes lanes_each(int32_t v) { return _mm256_set1_epi32(v); }
inline Lanes lanes_each64(int64_t v) { return _mm256_set1_epi64x(v); }
inline Lanes lanes_add(Lanes a, Lanes b) { return _mm256_add_epi64(a, b); }
inline Lanes lanes_high(Lanes a) { return _mm256_srli_epi64(a, 32); }
inline Lanes lanes_shift31(Lanes a) { return _mm256_srli_epi64(a, 31); }
inline Lanes lanes_and(Lanes a, Lanes b) { return _mm256_and_si256(a, b); }
inline Lanes lanes_product(Lanes a, Lanes b) { return _mm256_mul_epi32(a, b); }
inline Lanes lanes_join(Lanes even, Lanes odd) {
  return _mm256_or_si256(even, _mm256_slli_epi64(odd, 32));
}
inline Lanes halves_reduce(Lanes v, Lanes p) { return _mm256_min_epu32(v, _mm256_sub_epi32(v, p)); }
inline Lanes halves_add(Lanes a, Lanes b) { return _mm256_add_epi32(a, b); }
inline void lanes_store(void* p, Lanes v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
inline Lanes lanes_loadu(const void* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
#else
constexpr int kLanes = 1;
constexpr int kTileRows = 4;
using Lanes = uint64_t;
inline Lanes lanes_zero() { return 0; }
inline Lanes lanes_load(const int32_t* p) {
  return uint64_t(uint32_t(p[0])) | uint64_t(uint32_t(p[1])) << 32;
}
inline Lanes lanes_each(int32_t v) { return uint64_t(uint32_t(v)) * 0x100000001u; }
inline Lanes lanes_each64(int64_t v) { return uint64_t(v); }
inline Lanes lanes_add(Lanes a, Lanes b) { return a + b; }
inline Lanes lanes_high(Lanes a) { return a >> 32; }
inline Lanes lanes_shift31(Lanes a) { return a >> 31; }
inline Lanes lanes_and(Lanes a, Lanes b) { return a & b; }
inline Lanes lanes_product(Lanes a, Lanes b) {
  return uint64_t(int64_t(int32_t(uint32_t(a))) * int64_t(int32_t(uint32_t(b))));
}
inline Lanes lanes_join(Lanes even, Lanes odd) { return even | odd << 32; }
inline Lanes halves_reduce(Lanes v, Lanes p) {
  const uint32_t m = uint32_t(p), low = uint32_t(v), high = uint32_t(v >> 32);
  const uint32_t a = low - m < low ? low - m : low, b = high - m < high ? high - m : high;
  return uint64_t(a) | uint64_t(b) << 32;
}
inline Lanes halves_add(Lanes a, Lanes b) {  // both halves stay below 2^32
  return a + b;
}
inline void lanes_store(void* p, Lanes v) {
  const uint32_t halves[2] = {uint32_t(v), uint32_t(v >> 32)};
  std::memcpy(p, halves, 8);
}
inline Lanes lanes_loadu(const void* p) {
  uint32_t halves[2];
  std::memcpy(halves, p, 8);
  return uint64_t(halves[0]) | uint64_t(halves[1]) << 32;
}
#endif

}  // namespace PYFED_SIMD
}  // namespace pyfed
