// Bits of packed masks in registers: words from any address, and bits from and to bytes.
#pragma once
#include "launch.h"

namespace pyfed {

constexpr int kWordBits = 32;  // elements of a word of a mask

// The 4 bytes at `at`, which may lie anywhere; those outside [begin, end) read as 0.
__device__ __forceinline__ uint32_t word_at(const uint8_t* at, const uint8_t* begin,
                                            const uint8_t* end) {
  const int skew = int(reinterpret_cast<uintptr_t>(at) % 4);
  if (at - begin >= skew && end - at >= (skew ? 8 - skew : 4)) {
    const uint32_t* words = reinterpret_cast<const uint32_t*>(at - skew);
    return skew ? words[0] >> (8 * skew) | words[1] << (32 - 8 * skew) : words[0];
  }
  uint32_t word = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (at - begin >= -i && end - at > i) word |= uint32_t(at[i]) << (8 * i);
  }
  return word;
}

// Bits below `live`, which may be beyond a word's.
__device__ __forceinline__ uint32_t first_bits(int64_t live) {
  return live >= kWordBits ? 0xffffffffu : live <= 0 ? 0 : (1u << int(live)) - 1;
}

// Which bits of word `word` of a row lie behind its elements, up to the end of the last byte.
__device__ __forceinline__ uint32_t padding_bits(int64_t word, int64_t length) {
  const int64_t live = length - word * kWordBits;
  return first_bits((live + 7) / 8 * 8) & ~first_bits(live);
}

// Four bytes of 0 or 1 from the four lowest bits, and back: no two products meet in a bit.
__device__ __forceinline__ uint32_t spread4(uint32_t bits) {
  return ((bits & 15) * 0x00204081u) & 0x01010101u;
}
__device__ __forceinline__ uint32_t gathered4(uint32_t bytes) {
  return ((bytes & 0x01010101u) * 0x10204080u) >> 28;
}

// Stores the bytes of a word that a row of `bytes` bytes has at `at`.
__device__ __forceinline__ void put_word(uint8_t* at, uint32_t word, int64_t bytes, bool wide) {
  if (wide && bytes >= 4) {
    *reinterpret_cast<uint32_t*>(at) = word;
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (i < bytes) at[i] = uint8_t(word >> (8 * i));
  }
}

// Stores 32 bytes, or the first `live` of them.
__device__ __forceinline__ void put_bytes(uint8_t* at, const uint32_t (&words)[8], int64_t live,
                                          bool wide) {
  if (wide && live >= kWordBits) {
    Quad* quads = reinterpret_cast<Quad*>(at);
    quads[0] = {{words[0], words[1], words[2], words[3]}};
    quads[1] = {{words[4], words[5], words[6], words[7]}};
    return;
  }
#pragma unroll
  for (int j = 0; j < kWordBits; ++j) {
    if (j < live) at[j] = uint8_t(words[j / 4] >> (8 * (j % 4)));
  }
}

inline bool is_aligned4(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 4 == 0;
}

}  // namespace pyfed
