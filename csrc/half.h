// float16 and bfloat16 from and to float32, exactly or with one rounding, on host and device.
// Numbers travel as their bits, so that no NaN is touched on the way.
#pragma once
#include "common.h"

namespace pyfed {

// The number of a dtype in kernel calls; pyfed/ops/selection.py has the same.
enum Kind { kNoValues = 0, kFloat32 = 1, kFloat16 = 2, kBfloat16 = 3 };

PYFED_HD float float_of(uint32_t bits) {
  union {
    uint32_t bits;
    float value;
  } u = {bits};
  return u.value;
}

PYFED_HD uint32_t bits_of(float value) {
  union {
    float value;
    uint32_t bits;
  } u = {value};
  return u.bits;
}

// Exact. A subnormal half is m · 2^-24 with m < 2^10: an exact product, and normal in float32.
PYFED_HD uint32_t widened_half(uint32_t half) {
  const uint32_t sign = (half & 0x8000u) << 16, low = half & 0x7fffu;
  const uint32_t tiny = bits_of(float(int32_t(low)) * 5.9604644775390625e-8f);
  const uint32_t normal = (low << 13) + (low < 0x7c00u ? 0x38000000u : 0x70000000u);
  return sign | (low < 0x400u ? tiny : normal);
}

// Half to even. Below 2^-14 a sum with 0.5, whose last place is 2^-24, does the rounding.
PYFED_HD uint32_t narrowed_half(uint32_t bits) {
  const uint32_t sign = bits >> 16 & 0x8000u, low = bits & 0x7fffffffu;
  const uint32_t tiny = bits_of(float_of(low < 0x38800000u ? low : 0) + 0.5f) - 0x3f000000u;
  const uint32_t normal = (low - 0x38000000u + 0xfffu + (low >> 13 & 1u)) >> 13;
  const uint32_t huge = low > 0x7f800000u ? 0x7e00u : 0x7c00u;  // NaN, or beyond 65504
  return sign | (low < 0x38800000u ? tiny : low < 0x47800000u ? normal : huge);
}

// Half to even.
PYFED_HD uint32_t narrowed_bfloat(uint32_t bits) {
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return nan ? (bits >> 16 | 0x40u) : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

// Elements of one kind: how they are stored, and their float32 bits.
template <int kKind>
struct Real;

template <>
struct Real<kFloat32> {
  using Stored = uint32_t;
  static PYFED_HD uint32_t wide(Stored x) { return x; }
  static PYFED_HD Stored narrow(uint32_t bits) { return bits; }
  static PYFED_HD bool finite(Stored x) { return (x & 0x7f800000u) != 0x7f800000u; }
};

template <>
struct Real<kFloat16> {
  using Stored = uint16_t;
  static PYFED_HD uint32_t wide(Stored x) { return widened_half(x); }
  static PYFED_HD Stored narrow(uint32_t bits) { return Stored(narrowed_half(bits)); }
  static PYFED_HD bool finite(Stored x) { return (x & 0x7c00u) != 0x7c00u; }
};

template <>
struct Real<kBfloat16> {
  using Stored = uint16_t;
  static PYFED_HD uint32_t wide(Stored x) { return uint32_t(x) << 16; }
  static PYFED_HD Stored narrow(uint32_t bits) { return Stored(narrowed_bfloat(bits)); }
  static PYFED_HD bool finite(Stored x) { return (x & 0x7f80u) != 0x7f80u; }
};

// Calls body(Real<kind>{}); false when there is no such kind.
template <class Body>
inline bool with_kind(int kind, Body&& body) {
  if (kind == kFloat32) {
    body(Real<kFloat32>{});
  } else if (kind == kFloat16) {
    body(Real<kFloat16>{});
  } else if (kind == kBfloat16) {
    body(Real<kBfloat16>{});
  } else {
    return false;
  }
  return true;
}

}  // namespace pyfed
