// The words behind a sketching matrix or its noise, on the CPU: a lane is a row, and the words of a
// row come in units of 16.
#pragma once
#include "keystream.h"
#include "philox_lanes.h"

namespace pyfed {
namespace PYFED_SIMD {

constexpr int64_t kUnit = 16;               // words of a row that are made together
constexpr int64_t kRowGroup = 2 * kBlocks;  // rows that are made together: two lots of lanes

struct WordSource {
  const uint32_t* key;  // of ChaCha20; null where Philox serves
  PhiloxKey seed;
  uint32_t stream;
  uint32_t domain;  // ChaCha20's third nonce word; Philox has it above the counter's 40 bits
};

// Unit `unit` of rows row … row + kRowGroup - 1: out[g][i][l] is word i of row + g · kBlocks + l.
inline __attribute__((always_inline)) void philox_rows(const WordSource& source, uint32_t row,
                                                       uint64_t unit, Words (&out)[2][16]) {
#pragma GCC unroll 1
  for (int part = 0; part < 4; ++part) {
    const uint64_t counter = unit * 4 + uint64_t(part);
    const uint64_t high = counter >> 32 | uint64_t(source.domain) << 8;
#if defined(__AVX2__)
    // Even rows, odd rows, and both of the second lot.
    Quads x0[4], x1[4], x2[4], x3[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      typedef uint64_t Lanes64 __attribute__((vector_size(sizeof(Quads))));
      Lanes64 lane;
      for (int l = 0; l < kQuads; ++l) lane[l] = uint64_t(2 * l + i % 2 + i / 2 * kBlocks);
      x0[i] = quads_each(counter), x1[i] = quads_each(high);
      x2[i] = Quads(lane + uint64_t(row)), x3[i] = quads_each(source.stream);
    }
    philox_rounds(x0, x1, x2, x3, source.seed);
    auto join = [](Quads even, Quads odd) {
#if defined(__AVX512F__)
      return Words(_mm512_mask_shuffle_epi32(even, 0xaaaa, odd, _MM_PERM_CCAA));
#else
      return Words(_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa));
#endif
    };
#pragma GCC unroll 2
    for (int g = 0; g < 2; ++g) {
      out[g][4 * part] = join(x0[2 * g], x0[2 * g + 1]);
      out[g][4 * part + 1] = join(x1[2 * g], x1[2 * g + 1]);
      out[g][4 * part + 2] = join(x2[2 * g], x2[2 * g + 1]);
      out[g][4 * part + 3] = join(x3[2 * g], x3[2 * g + 1]);
    }
#else
    const uint64_t low = uint64_t(uint32_t(counter));
    for (int l = 0; l < kRowGroup; ++l) {
      uint32_t words[4];
      const uint64_t place = uint64_t(row + uint32_t(l)) | uint64_t(source.stream) << 32;
      philox_block(source.seed, high << 32 | low, place, words);
      for (int i = 0; i < 4; ++i) out[l / kBlocks][4 * part + i][l % kBlocks] = words[i];
    }
#endif
  }
}

inline void row_words(const WordSource& source, int64_t row, int64_t unit, Words (&out)[2][16]) {
  if (!source.key) return philox_rows(source, uint32_t(row), uint64_t(unit), out);
  const Nonce nonce = {uint32_t(row), source.stream, source.domain};
  chacha_lanes<2, 13>(source.key, uint32_t(unit), nonce, out);
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
