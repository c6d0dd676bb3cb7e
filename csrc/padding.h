// The random rows of a Lagrange code, for batches of columns that are whole blocks of ChaCha20.
#pragma once
#include "keystream.h"
#include "ntt.h"

namespace pyfed {
namespace PYFED_SIMD {

// Puts accepted residues in place of the rejected candidates of a block.
__attribute__((noinline)) inline int redo_block(const uint32_t* key, uint32_t counter, Nonce nonce,
                                                uint32_t modulus, uint32_t* residues) {
  int errors = 0;
  for (int i = 0; i < 16; ++i) {
    if (residues[i] >= modulus) {
      residues[i] = retry_residue(key, int64_t(counter) * 16 + i, nonce, modulus, &errors);
    }
  }
  return errors;
}

// kGroups · kBlocks blocks from number `at` on, of rows · 2^shift that are numbered row by row.
template <int kGroups, class Where>
int pad_groups(const uint32_t* key, uint32_t counter, Nonce nonce, uint32_t modulus, int64_t at,
               int64_t rows, int shift, int64_t batches, Where where, uint32_t* unused) {
  Words counters[kGroups], numbers[kGroups], state[kGroups][16];
  for (int g = 0; g < kGroups; ++g) {
    Words block;
    for (int l = 0; l < kBlocks; ++l) block[l] = uint32_t(at + g * kBlocks + l);
    counters[g] = (block & ((1u << shift) - 1)) + counter, numbers[g] = block >> shift;
  }
  chacha_each<kGroups>(key, counters, numbers, nonce, state);
  const uint32_t mask = candidate_mask(modulus);
  Words most = {};
  for (int g = 0; g < kGroups; ++g) {
    for (int i = 0; i < 16; ++i) {
      state[g][i] &= mask;
      most = words_max(most, state[g][i]);
    }
  }
  uint32_t rejected = 0;
  for (int l = 0; l < kBlocks; ++l) rejected |= uint32_t(most[l] >= modulus);
  auto place = [&](int64_t block) {
    const int64_t row = block >> shift, batch = block & ((int64_t(1) << shift) - 1);
    return row < rows && batch < batches ? where(row, batch) : unused;
  };
  for (int g = 0; g < kGroups; ++g) {
    store_blocks_at(state[g], [&](int l) { return place(at + g * kBlocks + l); });
  }
  int errors = 0;
  for (int64_t b = at; rejected && b < at + kGroups * kBlocks; ++b) {
    uint32_t* const residues = place(b);
    if (residues == unused) continue;
    nonce.row = uint32_t(b >> shift);
    const uint32_t own = counter + uint32_t(b & ((int64_t(1) << shift) - 1));
    errors |= redo_block(key, own, nonce, modulus, residues);
  }
  return errors;
}

// Residues 16 · counter … of rows 0 … rows - 1, 16 for each batch, to where(row, batch); gives
// error bits. `unused` has room for 16 words.
template <class Where>
int pad_batches(const uint32_t* key, uint32_t counter, Nonce nonce, uint32_t modulus, int64_t rows,
                int64_t batches, Where where, uint32_t* unused) {
  int shift = 0;
  while (int64_t(1) << shift < batches) ++shift;
  const int64_t blocks = rows << shift;
  int errors = 0;
  for (int64_t at = 0; at < blocks;) {
    if (blocks - at > kBlocks) {
      errors |=
          pad_groups<2>(key, counter, nonce, modulus, at, rows, shift, batches, where, unused);
      at += 2 * kBlocks;
    } else {
      errors |=
          pad_groups<1>(key, counter, nonce, modulus, at, rows, shift, batches, where, unused);
      at += kBlocks;
    }
  }
  return errors;
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
