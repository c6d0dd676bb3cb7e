// Products of matrices modulo a prime on the CPU: panels of the right operand are centred and
// packed, and a register tile accumulates eight products between reductions.
#pragma once
#include "field.h"
#include "lanes.h"
#include "words.h"

namespace pyfed {
namespace PYFED_SIMD {

constexpr int kTileColumns = 2 * kLanes;
constexpr int64_t kDepth = 256;      // inner elements of a panel: a multiple of 8
constexpr int64_t kPanel = 256;      // columns of a panel: a multiple of every kTileColumns
constexpr int64_t kSerial = 200000;  // multiply-adds below which one thread does it all
static_assert(kDepth % 8 == 0 && kPanel % kTileColumns == 0, "the loops below rest on this");

// Scratch of one thread, in 32-bit words: a panel, and a strip of the left operand.
constexpr int64_t kPanelWords = kDepth * kPanel;
constexpr int64_t kStripWords = kDepth * kTileRows;

// Where element (l, c) of a panel lies: tiles of kTileColumns columns, each contiguous in l.
inline int64_t panel_at(int64_t l, int64_t c) {
  return (c / kTileColumns) * kDepth * kTileColumns + l * kTileColumns + c % kTileColumns;
}

// A tile with at most kLanes live columns has them in its even places, and its product makes no
// others: column i lies at i times this.
inline int64_t column_step(int64_t live) { return live <= kLanes ? 2 : 1; }

// x -> a congruent number: the low 32 bits plus the high 32 bits, signed, times 2^32 mod p.
template <uint32_t P>
inline Lanes folded(Lanes x) {
  const Lanes low = lanes_and(x, lanes_each64(0xffffffff));
  return lanes_add(low, lanes_product(lanes_high(x), lanes_each(int32_t(Field<P>::kFold32))));
}

// What a fold left, |x| < 2^51 + 2^32 -> its residue below 2p. Another fold leaves
// |x| < 2^39 + 2^33; adding 512 p > 2^40 - 2^28 makes it positive and below 2^41; then
// x >> 31 < 2^10, and the result is below 2^31 + 2^10 · 2^19 < 2p.
template <uint32_t P>
inline Lanes nearly_reduced(Lanes x) {
  x = lanes_add(folded<P>(x), lanes_each64(int64_t(P) * 512));
  const Lanes low = lanes_and(x, lanes_each64(0x7fffffff));
  return lanes_add(low, lanes_product(lanes_shift31(x), lanes_each(int32_t(Field<P>::kFold31))));
}

// out[kTileRows, kTileColumns] = (or +=) strip (depth, kTileRows) ᵀ times one tile of a panel.
// Operands are centred, so a product is at most ((p - 1) / 2)^2 and between two folds there are
// eight of them and what the fold left: for 2^31 - 2^17 + 1, 8 (2^30 - 2^16)^2 + 2^49 + 2^32
// = 2^63 - 2^50 + 2^35 + 2^49 + 2^32 < 2^63; for 2^31 - 2^19 + 1, 8 (2^30 - 2^18)^2 + 2^51 + 2^32
// = 2^63 - 2^52 + 2^39 + 2^51 + 2^32 < 2^63; for 2^31 - 1, 8 (2^30 - 1)^2 + 2^33
// = 2^63 - 2^34 + 8 + 2^33 < 2^63.
// With kHalf the odd places of `out` become what they were, or 0 where nothing is added.
template <uint32_t P, bool kHalf>
inline void tile_product(const int32_t* strip, const int32_t* tile, int64_t depth, bool add,
                         uint32_t* out, int64_t stride) {
  Lanes even[kTileRows], odd[kTileRows];
#pragma GCC unroll 8
  for (int r = 0; r < kTileRows; ++r) even[r] = odd[r] = lanes_zero();
  for (int64_t base = 0; base < depth; base += 8) {
    const int64_t end = base + 8 < depth ? base + 8 : depth;
    for (int64_t l = base; l < end; ++l) {
      const Lanes b = lanes_load(tile + l * kTileColumns), b_odd = lanes_high(b);
#pragma GCC unroll 8
      for (int r = 0; r < kTileRows; ++r) {
        const Lanes a = lanes_each(strip[l * kTileRows + r]);
        even[r] = lanes_add(even[r], lanes_product(a, b));
        if (!kHalf) odd[r] = lanes_add(odd[r], lanes_product(a, b_odd));
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kTileRows; ++r) {
      even[r] = folded<P>(even[r]);
      if (!kHalf) odd[r] = folded<P>(odd[r]);
    }
  }
  const Lanes p = lanes_each(int32_t(P));
#pragma GCC unroll 8
  for (int r = 0; r < kTileRows; ++r) {
    const Lanes above = kHalf ? lanes_zero() : nearly_reduced<P>(odd[r]);
    Lanes v = halves_reduce(lanes_join(nearly_reduced<P>(even[r]), above), p);
    if (add) v = halves_reduce(halves_add(v, lanes_loadu(out + r * stride)), p);
    lanes_store(out + r * stride, v);
  }
}

// The strip of rows row … row + kTileRows - 1 of a (row-major, `pitch` apart), columns l0 …,
// centred; rows past the last are zero. Gives error bits.
template <uint32_t P>
inline int pack_strip(const uint32_t* a, int64_t pitch, int64_t row, int64_t rows, int64_t l0,
                      int64_t depth, int32_t* strip) {
  using Row = Square<kTileRows>::Row;
  const uint32_t* source = a + row * pitch + l0;
  // Whole squares are transposed in registers: narrow products read the left operand but once.
  const int64_t whole = row + kTileRows <= rows ? depth - depth % kTileRows : 0;
  Row most = {};
  for (int64_t l = 0; l < whole; l += kTileRows) {
    Row square[kTileRows];
#pragma GCC unroll 8
    for (int r = 0; r < kTileRows; ++r) {
      std::memcpy(&square[r], source + r * pitch + l, sizeof(Row));
      most = square[r] > most ? square[r] : most;
      square[r] -= Row(square[r] > (P - 1) / 2) & P;
    }
    transpose<kTileRows>(square);
    std::memcpy(strip + l * kTileRows, square, sizeof square);
  }
  uint32_t bad = 0;
  for (int i = 0; i < kTileRows; ++i) bad |= uint32_t(most[i] >= P);
  for (int r = 0; r < kTileRows; ++r) {
    for (int64_t l = whole; l < depth; ++l) {
      const uint32_t v = row + r < rows ? source[r * pitch + l] : 0;
      bad |= uint32_t(v >= P);
      strip[l * kTileRows + r] = centred(v, P);
    }
  }
  return bad ? kBadResidue : 0;
}

// out[rows, columns] (row stride `stride`) = or += a[:, l0 : l0 + depth] times a packed panel.
template <uint32_t P>
inline int panel_product(const uint32_t* a, int64_t pitch, int64_t rows, int64_t l0, int64_t depth,
                         const int32_t* panel, int64_t columns, int32_t* strip, uint32_t* out,
                         int64_t stride) {
  int errors = 0;
  const bool add = l0 > 0;
  for (int64_t row = 0; row < rows; row += kTileRows) {
    errors |= pack_strip<P>(a, pitch, row, rows, l0, depth, strip);
    const int64_t live_rows = rows - row < kTileRows ? rows - row : kTileRows;
    for (int64_t c = 0; c < columns; c += kTileColumns) {
      const int32_t* tile = panel + panel_at(0, c);
      uint32_t* target = out + row * stride + c;
      const int64_t live = columns - c < kTileColumns ? columns - c : kTileColumns;
      if (live == kTileColumns && live_rows == kTileRows) {
        tile_product<P, false>(strip, tile, depth, add, target, stride);
        continue;
      }
      alignas(64) uint32_t edge[kTileRows * kTileColumns] = {};
      const int64_t step = column_step(live);
      for (int64_t r = 0; add && r < live_rows; ++r) {
        for (int64_t i = 0; i < live; ++i) {
          edge[r * kTileColumns + i * step] = target[r * stride + i];
        }
      }
      if (step == 2) {
        tile_product<P, true>(strip, tile, depth, add, edge, kTileColumns);
      } else {
        tile_product<P, false>(strip, tile, depth, add, edge, kTileColumns);
      }
      for (int64_t r = 0; r < live_rows; ++r) {
        for (int64_t i = 0; i < live; ++i) {
          target[r * stride + i] = edge[r * kTileColumns + i * step];
        }
      }
    }
  }
  return errors;
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
