// What every kernel file shares: host/device markers, error bits, limits.
#pragma once
#include <cstdint>

#if defined(__CUDACC__)
#define PYFED_HD __host__ __device__ __forceinline__
#else
#define PYFED_HD inline __attribute__((always_inline))
#endif

namespace pyfed {

// Bits of the error word; pyfed/checks.py gives them their text.
constexpr int kBadResidue = 1;
constexpr int kNotFinite = 2;
constexpr int kAllRejected = 4;
constexpr int kBadPadding = 8;
constexpr int kTooMany = 16;
constexpr int kBadCount = 32;
constexpr int kBadPlace = 64;

}  // namespace pyfed
