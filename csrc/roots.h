// The points of codes whose shares are made by number-theoretic transforms, and numbers to multiply
// residues by: on the host, and the same table on CUDA devices (csrc/transform.cu).
#pragma once
#include <cstdint>

#include "field.h"

#ifndef PYFED_SIMD
#define PYFED_SIMD plain
#endif

namespace pyfed {
namespace PYFED_SIMD {

constexpr uint32_t times(uint32_t a, uint32_t b, uint32_t p) {
  return uint32_t(uint64_t(a) * b % p);
}

constexpr uint32_t power(uint32_t base, uint64_t exponent, uint32_t p) {
  uint32_t result = 1;
  for (; exponent; exponent >>= 1, base = times(base, base, p)) {
    if (exponent & 1) result = times(result, base, p);
  }
  return result;
}

constexpr uint32_t inverse(uint32_t v, uint32_t p) { return power(v, p - 2, p); }

// A number below p to multiply by, and ⌊value · 2^32 / p⌋.
struct alignas(8) Factor {
  uint32_t value, quotient;
};

constexpr Factor factor_of(uint32_t value, uint32_t p) {
  return {value, uint32_t((uint64_t(value) << 32) / p)};
}

constexpr int kSubgroupBits = 12;  // share points are the roots of unity of order 2^12

// The generator of the multiplicative group from which the points are made.
template <uint32_t P>
struct Group;
template <>
struct Group<kSolinas31> {
  static constexpr uint32_t kGenerator = 5;
};
template <>
struct Group<kSecond31> {
  static constexpr uint32_t kGenerator = 19;
};

// Calls body(Field<P>{}) for a prime whose points allow transforms.
template <class Body>
inline void with_subgroup(uint32_t modulus, Body&& body) {
  if (modulus == kSolinas31) body(Field<kSolinas31>{});
  if (modulus == kSecond31) body(Field<kSecond31>{});
}

// of[j] = α_2j = ω^bitrev12(2j), the share points of even number; α_(2j+1) = -α_2j. A polynomial
// modulo x^2n - α_j has, because of α_2j^2 = α_j, the parts modulo x^n - α_2j and x^n + α_2j.
template <uint32_t P>
struct Roots {
  Factor of[1 << (kSubgroupBits - 1)];
  constexpr Roots() : of() {
    uint32_t step = power(Group<P>::kGenerator, (P - 1) >> kSubgroupBits, P);
    uint32_t steps[kSubgroupBits] = {};  // steps[i] = ω^(2^i)
    for (int i = 0; i < kSubgroupBits; ++i, step = times(step, step, P)) steps[i] = step;
    of[0] = factor_of(1, P);
    for (int bit = 0; bit < kSubgroupBits - 1; ++bit) {
      const uint32_t turn = steps[kSubgroupBits - 2 - bit];
      for (int j = 0; j < 1 << bit; ++j) {
        of[(1 << bit) + j] = factor_of(times(of[j].value, turn, P), P);
      }
    }
  }
};
template <uint32_t P>
inline constexpr Roots<P> kRoots{};

}  // namespace PYFED_SIMD
}  // namespace pyfed
