// Vectors of the SIMD level that this file is compiled for. Every name is inside the level's
// namespace, so that the linker can never put one level's code in another's place.
#pragma once
#include <cstring>

#include "chacha.h"
#include "field.h"
#include "wipe.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace pyfed {
namespace PYFED_SIMD {

// 64-bit lanes for sums of products of 32-bit numbers. `even` and `odd` hold the same 2 · kLanes
// consecutive int32: product() reads the low half of each lane as signed.
#if defined(__AVX512F__)
constexpr int kLanes = 8;
constexpr int kTileRows = 8;  // 16 accumulators + 2 operands + 2 temporaries of 32 registers
using Lanes = __m512i;
inline Lanes lanes_zero() { return _mm512_setzero_si512(); }
inline Lanes lanes_load(const int32_t* p) { return _mm512_load_si512(p); }
inline Lanes lanes_each(int32_t v) { return _mm512_set1_epi32(v); }
inline Lanes lanes_each64(int64_t v) { return _mm512_set1_epi64(v); }
inline Lanes lanes_add(Lanes a, Lanes b) { return _mm512_add_epi64(a, b); }
inline Lanes lanes_high(Lanes a) { return _mm512_srli_epi64(a, 32); }
inline Lanes lanes_shift31(Lanes a) { return _mm512_srli_epi64(a, 31); }
inline Lanes lanes_and(Lanes a, Lanes b) { return _mm512_and_si512(a, b); }
inline Lanes lanes_product(Lanes a, Lanes b) { return _mm512_mul_epi32(a, b); }
inline Lanes lanes_join(Lanes even, Lanes odd) {
  return _mm512_or_si512(even, _mm512_slli_epi64(odd, 32));
}
// Numbers below 2p in 32-bit halves -> canonical: v - p wraps above v when v < p.
inline Lanes halves_reduce(Lanes v, Lanes p) { return _mm512_min_epu32(v, _mm512_sub_epi32(v, p)); }
inline Lanes halves_add(Lanes a, Lanes b) { return _mm512_add_epi32(a, b); }
inline void lanes_store(void* p, Lanes v) { _mm512_storeu_si512(p, v); }
inline Lanes lanes_loadu(const void* p) { return _mm512_loadu_si512(p); }
#elif defined(__AVX2__)
constexpr int kLanes = 4;
constexpr int kTileRows = 4;  // 8 accumulators of 16 registers
using Lanes = __m256i;
inline Lanes lanes_zero() { return _mm256_setzero_si256(); }
inline Lanes lanes_load(const int32_t* p) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(p));
}
inline Lanes lanes_each(int32_t v) { return _mm256_set1_epi32(v); }
inline Lanes lanes_each64(int64_t v) { return _mm256_set1_epi64x(v); }
inline Lanes lanes_add(Lanes a, Lanes b) { return _mm256_add_epi64(a, b); }
inline Lanes lanes_high(Lanes a) { return _mm256_srli_epi64(a, 32); }
inline Lanes lanes_shift31(Lanes a) { return _mm256_srli_epi64(a, 31); }
inline Lanes lanes_and(Lanes a, Lanes b) { return _mm256_and_si256(a, b); }
inline Lanes lanes_product(Lanes a, Lanes b) { return _mm256_mul_epi32(a, b); }
inline Lanes lanes_join(Lanes even, Lanes odd) {
  return _mm256_or_si256(even, _mm256_slli_epi64(odd, 32));
}
inline Lanes halves_reduce(Lanes v, Lanes p) { return _mm256_min_epu32(v, _mm256_sub_epi32(v, p)); }
inline Lanes halves_add(Lanes a, Lanes b) { return _mm256_add_epi32(a, b); }
inline void lanes_store(void* p, Lanes v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
inline Lanes lanes_loadu(const void* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
#else
constexpr int kLanes = 1;
constexpr int kTileRows = 4;
using Lanes = uint64_t;
inline Lanes lanes_zero() { return 0; }
inline Lanes lanes_load(const int32_t* p) {
  return uint64_t(uint32_t(p[0])) | uint64_t(uint32_t(p[1])) << 32;
}
inline Lanes lanes_each(int32_t v) { return uint64_t(uint32_t(v)) * 0x100000001u; }
inline Lanes lanes_each64(int64_t v) { return uint64_t(v); }
inline Lanes lanes_add(Lanes a, Lanes b) { return a + b; }
inline Lanes lanes_high(Lanes a) { return a >> 32; }
inline Lanes lanes_shift31(Lanes a) { return a >> 31; }
inline Lanes lanes_and(Lanes a, Lanes b) { return a & b; }
inline Lanes lanes_product(Lanes a, Lanes b) {
  return uint64_t(int64_t(int32_t(uint32_t(a))) * int64_t(int32_t(uint32_t(b))));
}
inline Lanes lanes_join(Lanes even, Lanes odd) { return even | odd << 32; }
inline Lanes halves_reduce(Lanes v, Lanes p) {
  const uint32_t m = uint32_t(p), low = uint32_t(v), high = uint32_t(v >> 32);
  const uint32_t a = low - m < low ? low - m : low, b = high - m < high ? high - m : high;
  return uint64_t(a) | uint64_t(b) << 32;
}
inline Lanes halves_add(Lanes a, Lanes b) {  // both halves stay below 2^32
  return a + b;
}
inline void lanes_store(void* p, Lanes v) {
  const uint32_t halves[2] = {uint32_t(v), uint32_t(v >> 32)};
  std::memcpy(p, halves, 8);
}
inline Lanes lanes_loadu(const void* p) {
  uint32_t halves[2];
  std::memcpy(halves, p, 8);
  return uint64_t(halves[0]) | uint64_t(halves[1]) << 32;
}
#endif

// ChaCha20 on kBlocks blocks at once, one 32-bit lane a block.
#if defined(__AVX512F__)
constexpr int kBlocks = 16;
#elif defined(__AVX2__)
constexpr int kBlocks = 8;
#else
constexpr int kBlocks = 4;
#endif
typedef uint32_t Words __attribute__((vector_size(4 * kBlocks)));
typedef int32_t Picks __attribute__((vector_size(4 * kBlocks)));

template <int kBits>
inline Words rotated(Words x) {
#if defined(__AVX512F__)
  return Words(_mm512_rol_epi32(__m512i(x), kBits));
#elif defined(__AVX2__)
  if (kBits % 8) return x << kBits | x >> (32 - kBits);
  constexpr int64_t kOrder = kBits == 16 ? 0x0504070601000302 : 0x0605040702010003;
  constexpr int64_t kNext = kOrder + 0x0808080808080808;
  static_assert(kBits % 8 || kBits == 16 || kBits == 8, "the orders of bytes above");
  return Words(_mm256_shuffle_epi8(__m256i(x), _mm256_setr_epi64x(kOrder, kNext, kOrder, kNext)));
#else
  return x << kBits | x >> (32 - kBits);
#endif
}

inline Words words_min(Words a, Words b) {
#if defined(__AVX512F__)
  return Words(_mm512_min_epu32(__m512i(a), __m512i(b)));
#elif defined(__AVX2__)
  return Words(_mm256_min_epu32(__m256i(a), __m256i(b)));
#else
  return a < b ? a : b;
#endif
}

inline Words words_max(Words a, Words b) {
#if defined(__AVX512F__)
  return Words(_mm512_max_epu32(__m512i(a), __m512i(b)));
#elif defined(__AVX2__)
  return Words(_mm256_max_epu32(__m256i(a), __m256i(b)));
#else
  return a > b ? a : b;
#endif
}

// Whether any word is `limit` or more.
inline bool any_reaches(Words v, uint32_t limit) {
  uint32_t most = 0;
  for (int l = 0; l < kBlocks; ++l) most = most > v[l] ? most : v[l];
  return most >= limit;
}

// How many quarter rounds take each of their steps side by side. A result takes two cycles on
// recent processors, so the steps of one alone would wait for each other; without 32 registers,
// more than one at a time costs more in moves to memory than it saves.
#if defined(__AVX512F__)
constexpr int kQuarters = 8;
#else
constexpr int kQuarters = 1;
#endif

// A round on the states of all groups: the quarter rounds of their columns or, with kDiagonal 1, of
// their diagonals.
template <int kDiagonal, int kGroups>
inline __attribute__((always_inline)) void round_lanes(Words (&state)[kGroups][16]) {
  constexpr int kTogether = kQuarters < 4 * kGroups ? kQuarters : 4 * kGroups;
#pragma GCC unroll 8
  for (int first = 0; first < 4 * kGroups; first += kTogether) {
    auto each = [&state, first](auto step) __attribute__((always_inline)) {
#pragma GCC unroll 8
      for (int i = first; i < first + kTogether; ++i) {
        Words(&s)[16] = state[i / 4];
        step(s[i % 4], s[4 + (i + kDiagonal) % 4], s[8 + (i + 2 * kDiagonal) % 4],
             s[12 + (i + 3 * kDiagonal) % 4]);
      }
    };
    each([](Words& a, Words& b, Words&, Words&) { a += b; });
    each([](Words& a, Words&, Words&, Words& d) { d ^= a; });
    each([](Words&, Words&, Words&, Words& d) { d = rotated<16>(d); });
    each([](Words&, Words&, Words& c, Words& d) { c += d; });
    each([](Words&, Words& b, Words& c, Words&) { b ^= c; });
    each([](Words&, Words& b, Words&, Words&) { b = rotated<12>(b); });
    each([](Words& a, Words& b, Words&, Words&) { a += b; });
    each([](Words& a, Words&, Words&, Words& d) { d ^= a; });
    each([](Words&, Words&, Words&, Words& d) { d = rotated<8>(d); });
    each([](Words&, Words&, Words& c, Words& d) { c += d; });
    each([](Words&, Words& b, Words& c, Words&) { b ^= c; });
    each([](Words&, Words& b, Words&, Words&) { b = rotated<7>(b); });
  }
}

// Rows of a square matrix of words.
template <int kSize>
struct Square {
  typedef uint32_t Row __attribute__((vector_size(4 * kSize)));
  typedef int32_t Pick __attribute__((vector_size(4 * kSize)));
};

// One stage of transposing kSize x kSize words: swaps the off-diagonal kStep-blocks.
template <int kSize, int kStep>
inline void transpose_stage(typename Square<kSize>::Row* rows) {
  typename Square<kSize>::Pick upper, lower;  // lanes, kSize and above in the second operand
  for (int l = 0; l < kSize; ++l) {
    upper[l] = l & kStep ? kSize + l - kStep : l;
    lower[l] = l & kStep ? kSize + l : l + kStep;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kSize; ++i) {
    if (i & kStep) continue;
    const auto a = rows[i], b = rows[i + kStep];
    rows[i] = __builtin_shuffle(a, b, upper);
    rows[i + kStep] = __builtin_shuffle(a, b, lower);
  }
}

template <int kSize>
inline void transpose(typename Square<kSize>::Row* rows) {
  transpose_stage<kSize, 1>(rows);
  transpose_stage<kSize, 2>(rows);
  if (kSize > 4) transpose_stage<kSize, 4 % kSize>(rows);
  if (kSize > 8) transpose_stage<kSize, 8 % kSize>(rows);
}

// kGroups times kBlocks blocks: state[g][i][l] becomes word i of the block with the counter and the
// row that lane l of group g has. Two groups side by side hide the time that each step of a quarter
// round waits for the last.
template <int kGroups>
inline __attribute__((always_inline)) void chacha_each(const uint32_t* key,
                                                       const Words (&counters)[kGroups],
                                                       const Words (&rows)[kGroups], Nonce nonce,
                                                       Words (&state)[kGroups][16]) {
  const uint32_t start[16] = {0x61707865, 0x3320646e, 0x79622d32,   0x6b206574,  key[0], key[1],
                              key[2],     key[3],     key[4],       key[5],      key[6], key[7],
                              0,          0,          nonce.stream, nonce.domain};
#pragma GCC unroll 2
  for (int g = 0; g < kGroups; ++g) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) state[g][i] = Words{} + start[i];
    state[g][12] = counters[g], state[g][13] = rows[g];
  }
  for (int round = 0; round < 10; ++round) {
    round_lanes<0>(state);
    round_lanes<1>(state);
  }
#pragma GCC unroll 2
  for (int g = 0; g < kGroups; ++g) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) state[g][i] += start[i];
    state[g][12] += counters[g], state[g][13] += rows[g];
  }
}

// As above, where word kVaried of block l of group g is g · kBlocks + l more than given: by default
// its counter, and 13 is the row.
template <int kGroups, int kVaried = 12>
inline __attribute__((always_inline)) void chacha_lanes(const uint32_t* key, uint32_t counter,
                                                        Nonce nonce, Words (&state)[kGroups][16]) {
  Words lane, counters[kGroups], rows[kGroups];
  for (int l = 0; l < kBlocks; ++l) lane[l] = uint32_t(l);
#pragma GCC unroll 2
  for (int g = 0; g < kGroups; ++g) {
    counters[g] = Words{} + counter, rows[g] = Words{} + nonce.row;
    (kVaried == 12 ? counters[g] : rows[g]) += lane + uint32_t(g * kBlocks);
  }
  chacha_each<kGroups>(key, counters, rows, nonce, state);
}

// Puts words in the order of their stream: word i of block l to where(l)[i].
template <class Where>
inline __attribute__((always_inline)) void store_blocks_at(Words (&state)[16], Where where) {
#pragma GCC unroll 4
  for (int first = 0; first < 16; first += kBlocks) {
    transpose<kBlocks>(state + first);
    for (int l = 0; l < kBlocks; ++l) {
      std::memcpy(where(l) + first, &state[first + l], sizeof(Words));
    }
  }
}

// Word i of block l to out[16 · l + i].
inline __attribute__((always_inline)) void store_blocks(Words (&state)[16], uint32_t* out) {
  store_blocks_at(state, [out](int l) { return out + 16 * l; });
}

// Writes 16 · kBlocks · kGroups words: the blocks with counters `counter` … in order.
template <int kGroups>
inline void chacha_blocks(const uint32_t* key, uint32_t counter, Nonce nonce, uint32_t* out) {
  Words state[kGroups][16];
  chacha_lanes<kGroups>(key, counter, nonce, state);
#pragma GCC unroll 2
  for (int g = 0; g < kGroups; ++g) store_blocks(state[g], out + 16 * kBlocks * g);
}

// Words index … index + count - 1 of a stream, into dst. The last block of a stream has counter
// 2^32 - 1; vectors that run past it wrap around to blocks that are never copied. What is left on
// the stack, here and below, is the caller's to overwrite: see wiped_after.
inline void fill_words(const uint32_t* key, int64_t index, int64_t count, Nonce nonce,
                       uint32_t* dst) {
  constexpr int kVector = 16 * kBlocks;
  alignas(64) uint32_t spare[kVector];
  int64_t skip = index & 15;
  uint32_t counter = uint32_t(index >> 4);
  while (count > 0) {
    int64_t part = count < kVector - skip ? count : kVector - skip;
    if (skip == 0 && count >= 2 * kVector) {
      part = 2 * kVector;
      chacha_blocks<2>(key, counter, nonce, dst);
    } else if (part == kVector) {
      chacha_blocks<1>(key, counter, nonce, dst);
    } else {
      chacha_blocks<1>(key, counter, nonce, spare);
      std::memcpy(dst, spare + skip, size_t(part) * 4);
    }
    dst += part, count -= part, counter += uint32_t((skip + part) >> 4), skip = 0;
  }
}

// Residues index … index + count - 1 of a stream, into dst; gives error bits.
inline int fill_residues(const uint32_t* key, int64_t index, int64_t count, Nonce nonce,
                         uint32_t modulus, uint32_t* dst) {
  fill_words(key, index, count, nonce, dst);
  const uint32_t mask = candidate_mask(modulus);
  int errors = 0;
  for (int64_t at = 0; at < count; at += 64) {  // 64 at a time: rejections are rare
    const int part = int(count - at < 64 ? count - at : 64);
    uint32_t rejected = 0;
    for (int i = 0; i < part; ++i) {
      const uint32_t candidate = dst[at + i] & mask;
      dst[at + i] = candidate;
      rejected |= uint32_t(candidate >= modulus);
    }
    if (!rejected) continue;
    for (int i = 0; i < part; ++i) {
      if (dst[at + i] >= modulus) {
        dst[at + i] = retry_residue(key, index + at + i, nonce, modulus, &errors);
      }
    }
  }
  return errors;
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
