// CountSketch (Charikar, Chen and Farach-Colton, 2002): every sample goes, with a sign, to one row.
#pragma once
#include <algorithm>
#include <cmath>

#include "gemm.h"
#include "sketch_words.h"

namespace pyfed {
namespace PYFED_SIMD {

constexpr int64_t kHashed = 512;        // samples of which the places are kept
constexpr int64_t kCountColumns = 256;  // columns at a time, so that rows stay in the second cache

// Where samples go in a sketch of `rows` rows, and √rows with their sign.
struct Places {
  int64_t row[kHashed];
  float factor[kHashed];

  // Those of samples first … first + count - 1; first is a multiple of 16.
  void fill(const WordSource& source, int64_t first, int64_t count, int64_t rows) {
    const float root = float(std::sqrt(double(rows)));
    for (int64_t j = 0; j < count; j += kUnit) {
      Words unit[2][16];
      row_words(source, 0, (first + j) / kUnit, unit);
      for (int64_t i = 0; i < kUnit && j + i < count; ++i) {
        row[j + i] = int64_t(uint64_t(unit[0][i][0]) * uint64_t(rows) >> 32);
        factor[j + i] = unit[0][i][1] & 1 ? -root : root;
      }
    }
  }
};

// to[…] = factor · from[…], or that added to what is there.
template <bool kAdd>
inline void scaled_row(const float* from, float factor, int64_t columns, float* to) {
  for (int64_t f = 0; f < columns; f += kFloats) {
    const Floats old = kAdd ? load_part(to + f, columns - f) : Floats{};
    store_part(to + f, fused(load_part(from + f, columns - f), Floats{} + factor, old),
               columns - f);
  }
}

// out (rows, columns) = the sketch of x (samples, columns); rows of both are `pitch` apart.
inline void count_into(const WordSource& source, const float* x, int64_t samples, int64_t rows,
                       int64_t columns, int64_t pitch, float* out) {
  Places places;
  for (int64_t r = 0; r < rows; ++r) std::fill(out + r * pitch, out + r * pitch + columns, 0.0f);
  for (int64_t first = 0; first < samples; first += kHashed) {
    const int64_t count = std::min(kHashed, samples - first);
    places.fill(source, first, count, rows);
    for (int64_t f = 0; f < columns; f += kCountColumns) {
      const int64_t live = std::min(kCountColumns, columns - f);
      for (int64_t j = 0; j < count; ++j) {
        scaled_row<true>(x + (first + j) * pitch + f, places.factor[j], live,
                         out + places.row[j] * pitch + f);
      }
    }
  }
}

// out (count, columns) = samples first … of the transposed sketch of x (rows, columns).
inline void count_back(const WordSource& source, const float* x, int64_t rows, int64_t first,
                       int64_t count, int64_t columns, int64_t pitch, float* out) {
  Places places;
  for (int64_t j = 0; j < count; ++j, out += pitch) {
    if (j % kHashed == 0) {
      places.fill(source, first + j, std::min(kHashed, count - j), rows);
    }
    scaled_row<false>(x + places.row[j % kHashed] * pitch, places.factor[j % kHashed], columns,
                      out);
  }
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
