// Arithmetic modulo the three fast primes, on host and device.
#pragma once
#include "common.h"

namespace pyfed {

constexpr uint32_t kSolinas31 = 2147352577u;   // 2^31 - 2^17 + 1
constexpr uint32_t kMersenne31 = 2147483647u;  // 2^31 - 1
constexpr uint32_t kSecond31 = 2146959361u;    // 2^31 - 2^19 + 1, the second plane of WIDE

template <uint32_t P>
struct Field {
  static constexpr uint32_t kModulus = P;
  static constexpr uint32_t kHalf = (P - 1) / 2;
  static constexpr uint32_t kFold32 = (uint64_t(1) << 32) % P;  // 2^18 - 2, 2 or 2^20 - 2
  static constexpr uint32_t kFold31 = (uint64_t(1) << 31) % P;  // 2^17 - 1, 1 or 2^19 - 1
  static_assert(kFold32 < (1u << 20) && kFold31 < (1u << 19), "bounds below rest on this");

  // x -> a number below 2^32 (kFold32 + 1) <= 2^52 - 2^32, congruent to x: the high word times
  // 2^32 mod p, plus the low. So after a fold four products of canonical residues still fit 64
  // bits: with p - 1 = 2^31 - c, c = kFold31 + 1, they are 4 (2^31 - c)^2 = 2^64 - 2^34 c + 4 c^2,
  // and the fold leaves below 2^33 c - 2^32 < 2^34 c - 4 c^2 for c = 2^19, 2^17 or 2.
  static PYFED_HD uint64_t fold(uint64_t x) { return uint64_t(uint32_t(x)) + (x >> 32) * kFold32; }

  // Any 64-bit x -> its canonical residue. Two folds leave x < 2^20 · 2^20 + 2^32 < 2^41; then
  // x >> 31 < 2^10, so that the last step is below 2^31 + 2^29 < 2p and one conditional subtraction
  // ends it.
  static PYFED_HD uint32_t reduce(uint64_t x) {
    x = fold(fold(x));
    uint32_t r = uint32_t(x & 0x7fffffffu) + uint32_t(x >> 31) * kFold31;
    return r >= P ? r - P : r;
  }

  static PYFED_HD uint32_t add(uint32_t a, uint32_t b) {  // canonical in, canonical out
    uint32_t r = a + b;
    return r >= P ? r - P : r;
  }
};

// The centred representative of a canonical residue, |.| <= (p - 1) / 2 < 2^30.
PYFED_HD int32_t centred(uint32_t v, uint32_t p) {
  return int32_t(v) - (v > (p - 1) / 2 ? int32_t(p) : 0);
}

// Calls body(Field<P>{}) for the prime at hand; false when there is no kernel for it.
template <class Body>
inline bool with_field(uint32_t modulus, Body&& body) {
  if (modulus == kSolinas31) {
    body(Field<kSolinas31>{});
  } else if (modulus == kMersenne31) {
    body(Field<kMersenne31>{});
  } else if (modulus == kSecond31) {
    body(Field<kSecond31>{});
  } else {
    return false;
  }
  return true;
}

}  // namespace pyfed
