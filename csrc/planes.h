// Bit planes on the CPU: plane b holds bit b of the totals of a tile of elements, 8 a byte. Clients
// are added by full adders, 16 rows at a time, so that a row is read once and in long runs.
#pragma once
#include <cstring>
#include <type_traits>

#include "blocks.h"

namespace pyfed {
namespace PYFED_SIMD {

#if defined(__AVX512F__)
using Bits = __m512i;
inline Bits bits_load(const void* p) { return _mm512_loadu_si512(p); }
inline void bits_store(void* p, Bits x) { _mm512_storeu_si512(p, x); }
inline Bits bits_add(Bits& sum, Bits a, Bits b) {  // full_add in two instructions
  const Bits carry = _mm512_ternarylogic_epi64(sum, a, b, 0xe8);
  sum = _mm512_ternarylogic_epi64(sum, a, b, 0x96);
  return carry;
}
#elif defined(__AVX2__)
using Bits = __m256i;
inline Bits bits_load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void bits_store(void* p, Bits x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }
inline Bits bits_add(Bits& sum, Bits a, Bits b) { return full_add(sum, a, b); }
#else
typedef uint64_t Bits __attribute__((vector_size(16)));
inline Bits bits_load(const void* p) {
  Bits x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
inline void bits_store(void* p, Bits x) { std::memcpy(p, &x, sizeof x); }
inline Bits bits_add(Bits& sum, Bits a, Bits b) { return full_add(sum, a, b); }
#endif
constexpr int64_t kBitsBytes = sizeof(Bits);

constexpr int64_t kTileBytes = 2048;  // of a row: 16 rows and the planes fit the first cache
constexpr int kTilePlanes = kMostPlanes + 1;  // 65,535 in planes and 65,535 clients more
constexpr int kTogether = 16;

// Totals of 8 · kBytes elements; kBytes is a multiple of 64.
template <int64_t kBytes>
struct Planes {
  alignas(64) uint8_t bits[kTilePlanes][kBytes];

  // Zeroes planes [first, end), `bytes` of each and what the last vector takes in with them.
  void clear(int first, int end, int64_t bytes) {
    const int64_t padded = (bytes + 63) / 64 * 64;
    for (int b = first; b < end; ++b) std::memset(bits[b], 0, size_t(padded));
  }
};

// Adds kRows rows at one place to the planes 0 … log2(kRows) - 1 in `low`; gives the carry, whose
// bits count kRows each.
template <int kRows>
inline __attribute__((always_inline)) Bits add_rows(const uint8_t* rows, int64_t stride,
                                                    Bits* low) {
  if constexpr (kRows == 1) {
    return bits_load(rows);
  } else {
    const Bits a = add_rows<kRows / 2>(rows, stride, low);
    const Bits b = add_rows<kRows / 2>(rows + kRows / 2 * stride, stride, low);
    return bits_add(low[planes_for(kRows) - 2], a, b);
  }
}

// Adds kRows rows of `bytes`, a multiple of kBitsBytes, at offset `at` of the planes.
template <int kRows, int64_t kBytes>
inline void add_group(const uint8_t* rows, int64_t stride, int64_t bytes, int planes, int64_t at,
                      Planes<kBytes>& total) {
  constexpr int kLow = planes_for(kRows) - 1;
  for (int64_t i = 0; i < bytes; i += kBitsBytes) {
    Bits low[kLow + 1];
    for (int b = 0; b < kLow; ++b) low[b] = bits_load(total.bits[b] + at + i);
    Bits carry = add_rows<kRows>(rows + i, stride, low);
    for (int b = 0; b < kLow; ++b) bits_store(total.bits[b] + at + i, low[b]);
    for (int b = kLow; b < planes; ++b) {
      const Bits plane = bits_load(total.bits[b] + at + i);
      bits_store(total.bits[b] + at + i, plane ^ carry);
      carry = plane & carry;
    }
  }
}

template <int kRows, int64_t kBytes>
inline void add_part(const uint8_t* rows, int64_t stride, int64_t bytes, int planes,
                     Planes<kBytes>& total) {
  const int64_t whole = bytes - bytes % kBitsBytes;
  add_group<kRows>(rows, stride, whole, planes, 0, total);
  if (whole == bytes) return;
  alignas(64) uint8_t edge[kRows * kBitsBytes] = {};  // never reads past a row
  for (int r = 0; r < kRows; ++r) {
    std::memcpy(edge + r * kBitsBytes, rows + r * stride + whole, size_t(bytes - whole));
  }
  add_group<kRows>(edge, kBitsBytes, kBitsBytes, planes, whole, total);
}

// Adds clients' rows of `bytes` <= kBytes to planes that hold totals up to `most`. The planes
// that a sum could need, planes_for(most + clients), must be zero where nothing is in them.
template <int64_t kBytes>
inline void add_clients(const uint8_t* rows, int64_t clients, int64_t stride, int64_t bytes,
                        int64_t most, Planes<kBytes>& total) {
  const auto add = [&](auto rows_at_once) {
    constexpr int kRows = decltype(rows_at_once)::value;
    for (; clients >= kRows; clients -= kRows, rows += kRows * stride) {
      most += kRows;
      add_part<kRows>(rows, stride, bytes, planes_for(most), total);
    }
  };
  add(std::integral_constant<int, kTogether>{});
  add(std::integral_constant<int, 4>{});
  add(std::integral_constant<int, 1>{});
}

constexpr int64_t kExpanded = 8 * kBitsBytes;  // elements that one vector of a plane has

#if !defined(__AVX512F__)
// Interleaves the numbers of a and b that are in the lower or upper half of each 16 bytes.
template <class Number, bool kUpper>
inline Bits interleaved(Bits a, Bits b) {
  typedef Number Vector __attribute__((vector_size(kBitsBytes)));
  constexpr int kLane = 16 / sizeof(Number), kCount = kBitsBytes / sizeof(Number);
  Vector which;  // numbers of a, then those of b
  for (int i = 0; i < kCount; ++i) {
    which[i] =
        Number(i / kLane * kLane + i % kLane / 2 + (kUpper ? kLane / 2 : 0) + (i % 2 ? kCount : 0));
  }
  return Bits(__builtin_shuffle(Vector(a), Vector(b), which));
}

// Transposes the 8 x 8 bits of every 64-bit word, whose byte b has bits of plane b.
inline Bits transposed(Bits words) {
  typedef uint64_t Vector __attribute__((vector_size(kBitsBytes)));
  Vector x = Vector(words);
  Vector moved = (x ^ x >> 7) & 0x00aa00aa00aa00aau;
  x ^= moved ^ moved << 7;
  moved = (x ^ x >> 14) & 0x0000cccc0000ccccu;
  x ^= moved ^ moved << 14;
  moved = (x ^ x >> 28) & 0x00000000f0f0f0f0u;
  return Bits(x ^ moved ^ moved << 28);
}
#endif

// kExpanded numbers of up to 8 bits from as many planes, at a byte offset.
template <int64_t kBytes>
inline void expand(const Planes<kBytes>& total, int first, int planes, int64_t at, uint8_t* out) {
#if defined(__AVX512F__)
  for (int64_t i = 0; i < kExpanded; i += 64) {
    __m512i sum = _mm512_setzero_si512();
    for (int b = 0; b < planes; ++b) {
      const uint64_t bits = load_word(total.bits[first + b] + at + i / 8);
      sum = _mm512_mask_add_epi8(sum, bits, sum, _mm512_set1_epi8(char(1 << b)));
    }
    _mm512_storeu_si512(out + i, sum);
  }
#else
  Bits rows[8] = {}, pairs[8], fours[8];
  for (int b = 0; b < planes; ++b) rows[b] = bits_load(total.bits[first + b] + at);
  for (int i = 0; i < 4; ++i) {
    pairs[i] = interleaved<uint8_t, false>(rows[2 * i], rows[2 * i + 1]);
    pairs[4 + i] = interleaved<uint8_t, true>(rows[2 * i], rows[2 * i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int j = 0; j < 2; ++j) {
      fours[i + j] = interleaved<uint16_t, false>(pairs[i + 2 * j], pairs[i + 2 * j + 1]);
      fours[i + 2 + j] = interleaved<uint16_t, true>(pairs[i + 2 * j], pairs[i + 2 * j + 1]);
    }
  }
  for (int i = 0; i < 8; i += 2) {  // words 2i, 2i + 1 of every 16 bytes of a row, then the next
    const Bits low = transposed(interleaved<uint32_t, false>(fours[i], fours[i + 1]));
    const Bits high = transposed(interleaved<uint32_t, true>(fours[i], fours[i + 1]));
    for (int lane = 0; lane < kBitsBytes / 16; ++lane) {
      uint8_t* target = out + 128 * lane + 16 * i;
      std::memcpy(target, reinterpret_cast<const uint8_t*>(&low) + 16 * lane, 16);
      std::memcpy(target + 16, reinterpret_cast<const uint8_t*>(&high) + 16 * lane, 16);
    }
  }
#endif
}

template <int64_t kBytes>
inline void write_narrow(const Planes<kBytes>& total, int planes, int64_t elements, uint8_t* out) {
  int64_t i = 0;
  for (; i + kExpanded <= elements; i += kExpanded) expand(total, 0, planes, i / 8, out + i);
  if (i == elements) return;
  uint8_t block[kExpanded];
  expand(total, 0, planes, i / 8, block);
  std::memcpy(out + i, block, size_t(elements - i));
}

template <int64_t kBytes>
inline void write_wide(const Planes<kBytes>& total, int planes, int64_t elements, int32_t* out) {
  uint8_t low[kExpanded], high[kExpanded];
  for (int64_t i = 0; i < elements; i += kExpanded) {
    expand(total, 0, planes < 8 ? planes : 8, i / 8, low);
    expand(total, 8, planes < 8 ? 0 : planes - 8, i / 8, high);
    const int64_t n = elements - i < kExpanded ? elements - i : kExpanded;
    for (int64_t j = 0; j < n; ++j) out[i + j] = low[j] | high[j] << 8;
  }
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
