// Products of a panel in the second cache with a matrix of float32, which is copied in parts that
// the first cache holds.
#pragma once
#include <algorithm>

#include "gemm.h"

namespace pyfed {
namespace PYFED_SIMD {

constexpr int64_t kPanelDepth = 256;

// A tile of up to kRows rows of the product, to `out` or added to what is there.
template <int kRows>
inline void add_tile(const float* panel, int64_t pitch, const float* right, int64_t depth,
                     int64_t rows, int64_t columns, bool add, float* out, int64_t out_pitch) {
  Floats sums[kRows][kWide];
  tile_sums<kRows>(panel, pitch, right, kSpan, depth, sums);
  each_part<kRows>(sums, rows, columns, [=](int64_t m, int64_t column, int64_t live, Floats sum) {
    float* place = out + m * out_pitch + column;
    store_part(place, add ? load_part(place, live) + sum : sum, live);
  });
}

// out (rows, columns) = or, where `add`, += panel (rows, depth) times x (depth, columns). Element
// (m, k) of the panel is at k · pitch + m; kTall floats behind the panel may be read. `right` has
// room for kPanelDepth · kSpan floats.
inline void panel_product(const float* panel, int64_t pitch, int64_t rows, const float* x,
                          int64_t x_pitch, int64_t depth, int64_t columns, bool add, float* right,
                          float* out, int64_t out_pitch) {
  for (int64_t k = 0; k < depth; k += kPanelDepth, add = true) {
    const int64_t deep = depth - k < kPanelDepth ? depth - k : kPanelDepth;
    for (int64_t f = 0; f < columns; f += kSpan) {
      const int64_t live = columns - f;
      for (int64_t i = 0; i < deep; ++i) {
        const float* from = x + (k + i) * x_pitch + f;
        __builtin_prefetch(x + std::min(k + i + 16, depth - 1) * x_pitch + f);
        put_vector(right + i * kSpan, load_part(from, live));
        put_vector(right + i * kSpan + kFloats, load_part(from + kFloats, live - kFloats));
      }
      for (int64_t m = 0; m < rows;) {
        const float* left = panel + k * pitch + m;
        float* to = out + m * out_pitch + f;
        if (rows - m > kStrip) {
          add_tile<kTall>(left, pitch, right, deep, rows - m, live, add, to, out_pitch);
          m += kTall;
        } else {
          add_tile<kStrip>(left, pitch, right, deep, rows - m, live, add, to, out_pitch);
          m += kStrip;
        }
      }
    }
  }
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
