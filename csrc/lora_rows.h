// Rows of one client on the CPU, a block at a time: read as float32 with their dropout, and
// multiplied with its factors, which are packed with zeros up to whole tiles.
#pragma once
#include <algorithm>

#include "gemm.h"
#include "philox_lanes.h"

namespace pyfed {
namespace PYFED_SIMD {

// Sizes of a layer and of its packed operands. Rows of those are an odd number of vectors apart:
// with a power of two all would compete for the same few lines of the first cache.
struct Layer {
  int64_t in, outs, rank;

  static int64_t pitch(int64_t n) { return rounded_up(n, kSpan) + kFloats; }
  int64_t in_pitch() const { return pitch(in); }
  int64_t out_pitch() const { return pitch(outs); }
  int64_t ranks() const { return rounded_up(rank, 4); }
  // Rows of a block, so many that factors in the second cache are read seldom.
  int64_t block() const {
    return std::clamp<int64_t>((48 << 10) / (in_pitch() + out_pitch()) / 24 * 24, 24, 48);
  }
  int64_t factors() const { return ranks() * (in_pitch() + out_pitch()); }
  int64_t kept_floats() const { return rounded_up(2 * (block() * in / kGroup + 3), 16); }
};

// The dropout of all clients; no key: none.
struct Drops {
  const uint32_t* key;
  const int64_t* streams;
  uint32_t threshold;
  float scale;

  Dropout of(int64_t client) const {
    return {{key[0], key[1]}, uint64_t(streams[client]), threshold};
  }
};

// Bits of which elements of a block are kept, from bit `first` on; no words: all are.
struct Kept {
  const uint64_t* words;
  int64_t first;

  Held at(int64_t element) const {
    const int64_t bit = first + element;
    return held_by(load_word(reinterpret_cast<const uint8_t*>(words) + bit / 8) >> (bit % 8));
  }
};

// Elements first … first + count - 1 of a client; words has room for count / 64 + 3.
inline Kept make_kept(const Dropout& dropout, int64_t first, int64_t count, uint64_t* words) {
  const int64_t group = first / kGroup, end = (first + count + kGroup - 1) / kGroup;
  for (int64_t g = group; g < end; ++g) words[g - group] = kept_bits(dropout, uint64_t(g));
  words[end - group] = 0;  // behind the last bit, where a read of 8 bytes may end
  return {words, first % kGroup};
}

struct Rows {
  const float* data;
  int64_t pitch;
};

// Rows (rows, columns) as float32, with zeros up to whole tiles: where they lie, or in `out`. With
// kept bits each is multiplied by the scale and rounded to its own kind.
template <class Number>
Rows wide_rows(const typename Number::Stored* x, int64_t rows, int64_t columns, const Kept& kept,
               float scale, float* out) {
  if (sizeof *x == sizeof *out && !kept.words && columns % kSpan == 0) {
    return {reinterpret_cast<const float*>(x), columns};
  }
  const int64_t pitch = Layer::pitch(columns), wide = rounded_up(columns, kSpan);
  for (int64_t m = 0; m < rows; ++m) {
    for (int64_t c = 0; c < wide; c += kFloats) {
      Floats values = load_part<Number>(x + m * columns + c, columns - c);
      if (kept.words && c < columns) {
        typename Number::Stored rounded[kFloats];
        store_floats(rounded, values * scale, Number{});
        values = floats_held(load_floats(rounded, Number{}), kept.at(m * columns + c));
      }
      put_vector(out + m * pitch + c, values);
    }
  }
  return {out, pitch};
}

// The factors of a client: a (ranks, in_pitch) and bᵀ (ranks, out_pitch) behind it.
inline void pack_factors(const Layer& layer, const float* a, const float* b, float* out) {
  const int64_t wide = rounded_up(layer.in, kSpan), pitch = layer.in_pitch();
  std::fill(out + layer.rank * pitch, out + layer.ranks() * pitch, 0.0f);
  for (int64_t j = 0; j < layer.rank; ++j) {
    std::copy(a + j * layer.in, a + (j + 1) * layer.in, out + j * pitch);
    std::fill(out + j * pitch + layer.in, out + j * pitch + wide, 0.0f);
  }
  float* turned = out + layer.ranks() * pitch;
  std::fill(turned + layer.rank * layer.out_pitch(), out + layer.factors(), 0.0f);
  transpose(b, layer.rank, layer.outs, layer.rank, turned, rounded_up(layer.outs, kSpan),
            layer.out_pitch());
}

// out (rows, ranks) = x (rows, columns) times w (ranks, columns) ᵀ.
inline void shrink(const Rows& x, int64_t rows, int64_t columns, const float* w, int64_t w_pitch,
                   int64_t ranks, float* out) {
#if defined(__AVX2__)
  constexpr int kRows = 3;
#else
  constexpr int kRows = 2;
#endif
  const int64_t depth = rounded_up(columns, kFloats);
  for (int64_t j = 0; j < ranks; j += kRanks) {
    const float* factor = w + j * w_pitch;
    const bool whole = ranks - j >= kRanks;
    for (int64_t m = 0; m < rows;) {
      const float* from = x.data + m * x.pitch;
      float* to = out + m * ranks + j;
      if (rows - m >= kRows) {
        whole ? dot_tile<kRows, kRanks>(from, x.pitch, factor, w_pitch, depth, to, ranks)
              : dot_tile<kRows, 4>(from, x.pitch, factor, w_pitch, depth, to, ranks);
        m += kRows;
      } else {
        whole ? dot_tile<1, kRanks>(from, x.pitch, factor, w_pitch, depth, to, ranks)
              : dot_tile<1, 4>(from, x.pitch, factor, w_pitch, depth, to, ranks);
        m += 1;
      }
    }
  }
}

// write(row, column, live, sums) for every vector of h (rows, rank) times w (rank, columns); strip
// has room for (rank, kStrip).
template <class Write>
inline void expand(const float* h, int64_t rows, int64_t ranks, int64_t rank, const float* w,
                   int64_t w_pitch, int64_t columns, float* strip, Write write) {
  for (int64_t m = 0; m < rows; m += kStrip) {
    const int64_t live = std::min<int64_t>(kStrip, rows - m);
    transpose(h + m * ranks, ranks, live, rank, strip, kStrip, kStrip);
    for (int64_t c = 0; c < columns; c += kSpan) {
      Floats sums[kStrip][kWide];
      tile_sums<kStrip>(strip, kStrip, w + c, w_pitch, rank, sums);
      each_part(sums, live, columns - c, [&](int64_t i, int64_t column, int64_t n, Floats sum) {
        write(m + i, c + column, n, sum);
      });
    }
  }
}

template <int kRows>
inline void add_outer(const float* h, int64_t ranks, const Rows& x, int64_t rows, float* out,
                      int64_t pitch) {
  Floats sums[kRows][kWide];
  tile_sums<kRows>(h, ranks, x.data, x.pitch, rows, sums);
  for (int j = 0; j < kRows; ++j) {
    for (int v = 0; v < kWide; ++v) {
      float* place = out + j * pitch + v * kFloats;
      put_vector(place, vector_at<Floats>(place) + sums[j][v]);
    }
  }
}

// out (ranks, pitch) += h (rows, ranks) ᵀ times x (rows, columns).
inline void outer(const float* h, int64_t ranks, const Rows& x, int64_t rows, int64_t columns,
                  float* out, int64_t pitch) {
  for (int64_t c = 0; c < columns; c += kSpan) {
    for (int64_t j = 0; j < ranks; j += kRanks) {
      const Rows tile = {x.data + c, x.pitch};
      float* place = out + j * pitch + c;
      if (ranks - j >= kRanks) {
        add_outer<kRanks>(h + j, ranks, tile, rows, place, pitch);
      } else {
        add_outer<4>(h + j, ranks, tile, rows, place, pitch);
      }
    }
  }
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
