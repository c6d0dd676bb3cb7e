// Panels of a sketching matrix G (rows, columns), made where they are used and as they are used: of
// G, or of its transpose. A panel has `pitch` numbers for each step of the inner dimension.
#pragma once
#include "gemm.h"
#include "normal.h"
#include "sketch_words.h"

namespace pyfed {
namespace PYFED_SIMD {

constexpr int64_t kWordBits = 32;
constexpr int64_t kUnitBits = kUnit * kWordBits;

// Part of G or of its transpose: places along its own rows (outer) and along the inner dimension.
struct Part {
  int64_t outer, outers, inner, inners;
  bool transpose;
};

// Standard normal numbers of rows row … row + kRowGroup - 1, columns 16 · unit … + 15.
inline void normal_unit(const WordSource& source, int64_t row, int64_t unit, Words (&out)[2][16]) {
  row_words(source, row, unit, out);
#pragma GCC unroll 2
  for (int g = 0; g < 2; ++g) {
#pragma GCC unroll 1
    for (int i = 0; i < 16; i += 2) {
      Floats x, y;
      normal_pair(out[g][i], out[g][i + 1], x, y);
      out[g][i] = Words(x), out[g][i + 1] = Words(y);
    }
  }
}

// A unit with rows apart by `pitch`: kRowGroup rows of 16 numbers.
inline void put_rows(Words (&unit)[2][16], float* out, int64_t pitch) {
  for (int g = 0; g < 2; ++g) {
    for (int first = 0; first < 16; first += kBlocks) {
      transpose<kBlocks>(unit[g] + first);
      for (int l = 0; l < kBlocks; ++l) {
        put_vector(out + (g * kBlocks + l) * pitch + first, unit[g][first + l]);
      }
    }
  }
}

// panel[k · pitch + m] = entry (outer + m, inner + k); the beginnings are multiples of 16 along
// columns, and the panel has room for whole units and row groups.
inline void fill_normals(const WordSource& source, const Part& part, float* panel, int64_t pitch) {
  Words unit[2][16];
  if (part.transpose) {
    for (int64_t k = 0; k < part.inners; k += kRowGroup) {
      for (int64_t m = 0; m < part.outers; m += kUnit) {
        normal_unit(source, part.inner + k, (part.outer + m) / kUnit, unit);
        put_rows(unit, panel + k * pitch + m, pitch);
      }
    }
    return;
  }
  for (int64_t m = 0; m < part.outers; m += kRowGroup) {
    for (int64_t k = 0; k < part.inners; k += kUnit) {
      normal_unit(source, part.outer + m, (part.inner + k) / kUnit, unit);
      for (int i = 0; i < 16; ++i) {
        put_vector(panel + (k + i) * pitch + m, unit[0][i]);
        put_vector(panel + (k + i) * pitch + m + kBlocks, unit[1][i]);
      }
    }
  }
}

// Transposes 32 x 32 bits in every lane: bit r of row j becomes bit j of row r.
inline void transpose_bits(Words (&rows)[32]) {
  uint32_t mask = 0x0000ffffu;
  for (int half = 16; half; half /= 2, mask ^= mask << half) {
    for (int r = 0; r < 32; ++r) {
      if (r & half) continue;
      const Words moved = (rows[r] >> half ^ rows[r + half]) & mask;
      rows[r] ^= moved << half, rows[r + half] ^= moved;
    }
  }
}

// bits[k / 32 · pitch + m], bit k % 32 = the sign bit of entry (outer + m, inner + k). Beginnings
// are multiples of 32 along rows and of 512 along columns, and so is the room.
inline void fill_signs(const WordSource& source, const Part& part, uint32_t* bits, int64_t pitch) {
  Words unit[2][16];
  if (!part.transpose) {
    for (int64_t m = 0; m < part.outers; m += kRowGroup) {
      for (int64_t k = 0; k < part.inners; k += kUnitBits) {
        row_words(source, part.outer + m, (part.inner + k) / kUnitBits, unit);
        uint32_t* out = bits + k / kWordBits * pitch + m;
        for (int i = 0; i < 16; ++i) {
          put_vector(out + i * pitch, unit[0][i]);
          put_vector(out + i * pitch + kBlocks, unit[1][i]);
        }
      }
    }
    return;
  }
  constexpr int kSquares = 16 / kBlocks;
  Words squares[kSquares][32];  // lane i: word kBlocks · s + i of row r, then of column r
  for (int64_t k = 0; k < part.inners; k += kWordBits) {
    for (int64_t m = 0; m < part.outers; m += kUnitBits) {
      for (int r = 0; r < 32; r += kRowGroup) {
        row_words(source, part.inner + k + r, (part.outer + m) / kUnitBits, unit);
        for (int g = 0; g < 2; ++g) {
          for (int s = 0; s < kSquares; ++s) {
            transpose<kBlocks>(unit[g] + s * kBlocks);
            std::memcpy(&squares[s][r + g * kBlocks], unit[g] + s * kBlocks,
                        kBlocks * sizeof(Words));
          }
        }
      }
      uint32_t* out = bits + k / kWordBits * pitch + m;
      for (int s = 0; s < kSquares; ++s) {
        transpose_bits(squares[s]);
        for (int j = 0; j < 32; j += kBlocks) {
          transpose<kBlocks>(squares[s] + j);
          for (int i = 0; i < kBlocks; ++i) {
            put_vector(out + (s * kBlocks + i) * kWordBits + j, squares[s][j + i]);
          }
        }
      }
    }
  }
}

// A panel of ±1 (depth, pitch) from such bits.
inline void signs_of_bits(const uint32_t* bits, int64_t bits_pitch, int64_t depth, float* panel,
                          int64_t pitch) {
  for (int64_t k = 0; k < depth; ++k) {
    const uint32_t* from = bits + k / kWordBits * bits_pitch;
    for (int64_t m = 0; m < pitch; m += kBlocks) {
      const Words sign = vector_at<Words>(from + m) >> uint32_t(k % kWordBits) << 31;
      put_vector(panel + k * pitch + m, sign | 0x3f800000u);
    }
  }
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
