// From residues to the integer of least magnitude: of one prime, or of the two of WIDE.
#pragma once
#include "field.h"

namespace pyfed {

// x^e mod p, for constants.
constexpr uint64_t power_mod(uint64_t x, uint64_t e, uint64_t p) {
  uint64_t result = 1;
  for (x %= p; e; e >>= 1, x = x * x % p) result = e & 1 ? result * x % p : result;
  return result;
}

// The Chinese remainder theorem for SOLINAS31 and 2^31 - 2^19 + 1 (Garner's form).
struct Pair {
  static constexpr uint64_t kFirst = kSolinas31, kSecond = kSecond31;
  static constexpr int64_t kModulus = int64_t(kFirst * kSecond);                 // below 2^62
  static constexpr uint64_t kInverse = power_mod(kFirst, kSecond - 2, kSecond);  // of p_0 mod p_1
  static_assert(kFirst * kInverse % kSecond == 1, "an inverse");

  // r_0 + p_0 t with t = (r_1 - r_0) / p_0 mod p_1, centred. As r_0 < p_0 < 2 p_1, the difference
  // plus 2 p_1 is positive and below 3 p_1, so that its product with the inverse is below
  // 3 p_1^2 < 2^64.
  static PYFED_HD int64_t lift(uint32_t r0, uint32_t r1) {
    const uint64_t difference = r1 + 2 * kSecond - r0;
    const uint64_t t = Field<kSecond31>::reduce(difference * kInverse);
    const int64_t v = int64_t(r0 + kFirst * t);
    return v > (kModulus - 1) / 2 ? v - kModulus : v;
  }
};

}  // namespace pyfed
