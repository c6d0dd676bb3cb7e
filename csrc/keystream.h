// ChaCha20 on kBlocks blocks at once, one 32-bit lane a block: words and residues of a stream.
#pragma once
#include <cstring>

#include "chacha.h"
#include "field.h"
#include "wipe.h"
#include "words.h"

namespace pyfed {
namespace PYFED_SIMD {

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
