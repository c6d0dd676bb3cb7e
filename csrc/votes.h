// Arithmetic of votes on host and device: full adders on bit planes, and the keys of ties.
#pragma once
#include "half.h"

namespace pyfed {

constexpr int64_t kMostClients = 65535;  // so that a count has 16 bits
constexpr int kMostPlanes = 16;

// The rule for ties; pyfed/ops/selection.py has the same numbers.
enum Ties { kByIndex = 0, kByWord = 1, kByMagnitude = 2, kByScore = 3 };

// Bits that numbers up to `most` have: the planes of a total.
PYFED_HD constexpr int planes_for(int64_t most) {
  int planes = 0;
  for (; most > 0; most >>= 1) ++planes;
  return planes;
}

// A full adder in each bit position: sum + a + b = sum' + 2 · carry. Gives the carry.
template <class Word>
PYFED_HD Word full_add(Word& sum, Word a, Word b) {
  const Word half = sum ^ a;
  const Word carry = (sum & a) | (half & b);
  sum = half ^ b;
  return carry;
}

// 32-bit keys that ascend with |x|, or with x where -0 equals 0, from the bits of a finite x.
PYFED_HD uint32_t magnitude_key(uint32_t bits) { return bits & 0x7fffffffu; }
PYFED_HD uint32_t score_key(uint32_t bits) {
  const uint32_t low = bits & 0x7fffffffu;
  return 0x80000000u + (bits >> 31 ? 0u - low : low);
}

}  // namespace pyfed
