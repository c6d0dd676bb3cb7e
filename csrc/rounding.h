// Fixed point, one value at a time, on host and device. Every step is exact, so that fused
// multiply-add, flush-to-zero and vector width change no bit.
#pragma once
#include "common.h"

namespace pyfed {

PYFED_HD bool is_finite(float x) {
  union {
    float value;
    uint32_t bits;
  } u = {x};
  return (u.bits & 0x7f800000u) != 0x7f800000u;
}

PYFED_HD float scaled(float x, float scale, float clip) {
  x = x < clip ? x : clip;  // a NaN becomes clip, so that what follows is defined
  x = x > -clip ? x : -clip;
  return x * scale;  // a power of two
}

// y rounded up with probability frac(y): floor of y plus a 24-bit uniform fraction.
// |y| <= 2^30 - 2^20, so trunc(y) fits int32; y - trunc(y) is exact, and so is its product with
// 2^24; |q| < 2^24, so q + (word >> 8) lies in (-2^24, 2^25) and the shift gives -1, 0 or 1.
PYFED_HD int32_t rounded_at_random(float y, uint32_t word) {
  const int32_t whole = int32_t(y);
  const int32_t part = int32_t((y - float(whole)) * 16777216.0f);
  return whole + ((part + int32_t(word >> 8)) >> 24);
}

// |r| < p.
PYFED_HD int32_t residue_of(int32_t r, uint32_t modulus) {
  return r + (r < 0 ? int32_t(modulus) : 0);
}

}  // namespace pyfed
