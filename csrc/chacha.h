// ChaCha20 (RFC 8439) addressed by word, and residues by rejection, on host and device.
#pragma once
#include "common.h"

namespace pyfed {

// What a stream of words is for; the top byte of the third nonce word.
enum Purpose : uint32_t {
  kWords = 0,
  kResidues = 1,
  kRounding = 2,
  kPadding = 3,
  kNoise = 4,
  kSketch = 6,
  kSelection = 7
};
constexpr int kAttempts = 16;

PYFED_HD uint32_t field_id(uint32_t modulus) {
  switch (modulus) {
    case 2147352577u:
      return 1;  // SOLINAS31
    case 2147483647u:
      return 2;  // MERSENNE31
    case 2146959361u:
      return 3;  // the second prime of WIDE, 2^31 - 2^19 + 1
    default:
      return 0;
  }
}

PYFED_HD uint32_t domain_word(Purpose purpose, uint32_t modulus) {
  return uint32_t(purpose) << 24 | field_id(modulus) << 16;
}

struct Nonce {
  uint32_t row, stream, domain;
};

PYFED_HD uint32_t rotate(uint32_t x, int bits) { return x << bits | x >> (32 - bits); }

PYFED_HD void quarter(uint32_t& a, uint32_t& b, uint32_t& c, uint32_t& d) {
  a += b, d = rotate(d ^ a, 16);
  c += d, b = rotate(b ^ c, 12);
  a += b, d = rotate(d ^ a, 8);
  c += d, b = rotate(b ^ c, 7);
}

PYFED_HD void chacha_block(const uint32_t* key, uint32_t counter, Nonce nonce, uint32_t out[16]) {
  const uint32_t start[16] = {0x61707865, 0x3320646e, 0x79622d32,   0x6b206574,  key[0], key[1],
                              key[2],     key[3],     key[4],       key[5],      key[6], key[7],
                              counter,    nonce.row,  nonce.stream, nonce.domain};
  for (int i = 0; i < 16; ++i) out[i] = start[i];
  for (int round = 0; round < 10; ++round) {
    quarter(out[0], out[4], out[8], out[12]);
    quarter(out[1], out[5], out[9], out[13]);
    quarter(out[2], out[6], out[10], out[14]);
    quarter(out[3], out[7], out[11], out[15]);
    quarter(out[0], out[5], out[10], out[15]);
    quarter(out[1], out[6], out[11], out[12]);
    quarter(out[2], out[7], out[8], out[13]);
    quarter(out[3], out[4], out[9], out[14]);
  }
  for (int i = 0; i < 16; ++i) out[i] += start[i];
}

// The bits of a word that make a candidate: as many as p - 1 has.
PYFED_HD uint32_t candidate_mask(uint32_t modulus) {
  uint32_t mask = modulus - 1;
  for (int shift = 1; shift < 32; shift *= 2) mask |= mask >> shift;
  return mask;
}

// Residue `index` after attempt 0 was rejected: the same word of attempts 1 to 15. The branch
// depends on rejected candidates alone, which say nothing about the accepted one.
PYFED_HD uint32_t retry_residue(const uint32_t* key, int64_t index, Nonce nonce, uint32_t modulus,
                                int* errors) {
  const uint32_t mask = candidate_mask(modulus);
  uint32_t block[16];
  for (int attempt = 1; attempt < kAttempts; ++attempt) {
    ++nonce.domain;
    chacha_block(key, uint32_t(index >> 4), nonce, block);
    uint32_t word = 0;  // selected without an index into the block, which registers cannot have
    for (int i = 0; i < 16; ++i) word |= block[i] & (0u - uint32_t(i == int(index & 15)));
    if ((word & mask) < modulus) return word & mask;
  }
  *errors |= kAllRejected;
  return 0;
}

}  // namespace pyfed
