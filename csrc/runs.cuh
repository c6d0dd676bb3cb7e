// Runs of neighbouring elements in registers: read and written by wide accesses where that can be,
// and floats of any kind.
#pragma once
#include <type_traits>

#include "half.h"
#include "launch.h"

namespace pyfed {

template <int kRun>
constexpr uint32_t kWholeRun = kRun == 32 ? 0xffffffffu : (1u << (kRun % 32)) - 1;

// The widest access of `kRun` elements that is at most 16 bytes.
template <int kRun, class Stored>
struct alignas(kRun * sizeof(Stored) < 16 ? kRun * sizeof(Stored) : 16) Piece {
  static constexpr int kCount =
      (kRun * sizeof(Stored) < 16 ? kRun * sizeof(Stored) : 16) / sizeof(Stored);
  Stored v[kCount];
};

// Elements place … place + kRun - 1 of a tensor; those that are not live are not touched.
template <int kRun, class Stored>
__device__ __forceinline__ void read_run(const void* from, int64_t place, uint32_t live,
                                         bool vector, Stored (&run)[kRun]) {
  using Part = Piece<kRun, Stored>;
  const Stored* at = static_cast<const Stored*>(from) + place;
  if (vector && live == kWholeRun<kRun>) {
#pragma unroll
    for (int p = 0; p < kRun / Part::kCount; ++p) {
      const Part part = reinterpret_cast<const Part*>(at)[p];
#pragma unroll
      for (int j = 0; j < Part::kCount; ++j) run[p * Part::kCount + j] = part.v[j];
    }
    return;
  }
#pragma unroll
  for (int j = 0; j < kRun; ++j) run[j] = live >> j & 1 ? at[j] : Stored(0);
}

template <int kRun, class Stored>
__device__ __forceinline__ void write_run(void* to, int64_t place, uint32_t live, bool vector,
                                          const Stored (&run)[kRun]) {
  using Part = Piece<kRun, Stored>;
  Stored* at = static_cast<Stored*>(to) + place;
  if (vector && live == kWholeRun<kRun>) {
#pragma unroll
    for (int p = 0; p < kRun / Part::kCount; ++p) {
      Part part;
#pragma unroll
      for (int j = 0; j < Part::kCount; ++j) part.v[j] = run[p * Part::kCount + j];
      reinterpret_cast<Part*>(at)[p] = part;
    }
    return;
  }
#pragma unroll
  for (int j = 0; j < kRun; ++j) {
    if (live >> j & 1) at[j] = run[j];
  }
}

// The bits of a run as bytes.
template <int kRun>
__device__ __forceinline__ void write_mask(uint8_t* out, int64_t place, uint32_t live, bool vector,
                                           uint32_t taken) {
  uint8_t bytes[kRun];
#pragma unroll
  for (int j = 0; j < kRun; ++j) bytes[j] = uint8_t(taken >> j & 1);
  write_run(out, place, live, vector, bytes);
}

// To float32, and back with one rounding; one instruction each for float16 on a device.
template <class Format>
__device__ __forceinline__ float widened(typename Format::Stored x) {
#if !defined(PYFED_EMULATE)
  if constexpr (std::is_same_v<Format, Real<kFloat16>>) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x));
    return wide;
  }
#endif
  return float_of(Format::wide(x));
}

template <class Format>
__device__ __forceinline__ typename Format::Stored narrowed(float x) {
#if !defined(PYFED_EMULATE)
  if constexpr (std::is_same_v<Format, Real<kFloat16>>) {
    uint16_t narrow;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrow) : "f"(x));
    return narrow;
  }
#endif
  return Format::narrow(bits_of(x));
}

// Reports a number that is not finite.
template <int kRun, class Format>
__device__ __forceinline__ void check_finite(Format, const void* values, int64_t place,
                                             uint32_t live, bool vector, int& bits) {
  typename Format::Stored run[kRun];
  read_run(values, place, live, vector, run);
#pragma unroll
  for (int j = 0; j < kRun; ++j) bits |= Format::finite(run[j]) ? 0 : kNotFinite;
}

template <int kRun>
__device__ __forceinline__ void check_finite(const void* values, int kind, int64_t place,
                                             uint32_t live, bool vector, int& bits) {
  if (kind == kFloat32) {
    check_finite<kRun>(Real<kFloat32>{}, values, place, live, vector, bits);
  } else if (kind == kFloat16) {
    check_finite<kRun>(Real<kFloat16>{}, values, place, live, vector, bits);
  } else {
    check_finite<kRun>(Real<kBfloat16>{}, values, place, live, vector, bits);
  }
}

}  // namespace pyfed
