// Products of float32 matrices on the CPU: register tiles over operands that are padded with zeros,
// so that no loop has a tail. Sums run over the inner dimension in order.
#pragma once
#include <cstring>

#include "floats.h"
#include "words.h"

namespace pyfed {
namespace PYFED_SIMD {

constexpr int kWide = 2;                    // vectors side by side in a tile
constexpr int64_t kSpan = kWide * kFloats;  // columns of a tile
#if defined(__AVX512F__)
// Rows of a tall tile and of a short one, and columns of sums of products: 28 sums of 32 registers.
constexpr int kTall = 14, kStrip = 8, kRanks = 8;
#elif defined(__AVX2__)
constexpr int kTall = 6, kStrip = 4, kRanks = 4;  // 12 sums of 16
#else
constexpr int kTall = 4, kStrip = 4, kRanks = 4;
#endif

inline int64_t rounded_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// a · b + c, with one rounding where the processor has it.
inline Floats fused(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

// Up to kFloats numbers, then zeros; nothing behind the n-th is read or written.
inline __attribute__((always_inline)) Floats load_part(const float* x, int64_t n) {
  if (n >= kFloats) return vector_at<Floats>(x);
#if defined(__AVX512F__)
  return _mm512_maskz_loadu_ps(n > 0 ? __mmask16((1u << n) - 1) : 0, x);
#else
  float part[kFloats] = {};
  for (int64_t i = 0; i < n; ++i) part[i] = x[i];
  return vector_at<Floats>(part);
#endif
}

template <class Number>
inline __attribute__((always_inline)) Floats load_part(const typename Number::Stored* x,
                                                       int64_t n) {
  if (n >= kFloats) return load_floats(x, Number{});
  typename Number::Stored part[kFloats] = {};
  if (n > 0) std::memcpy(part, x, size_t(n) * sizeof *x);
  return load_floats(part, Number{});
}

inline __attribute__((always_inline)) void store_part(float* out, Floats x, int64_t n) {
  if (n >= kFloats) return put_vector(out, x);
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(out, n > 0 ? __mmask16((1u << n) - 1) : 0, x);
#else
  for (int64_t i = 0; i < n; ++i) out[i] = x[i];
#endif
}

template <class Number>
inline __attribute__((always_inline)) void store_part(typename Number::Stored* out, Floats x,
                                                      int64_t n) {
  if (n >= kFloats) return store_floats(out, x, Number{});
  typename Number::Stored part[kFloats];
  store_floats(part, x, Number{});
  if (n > 0) std::memcpy(out, part, size_t(n) * sizeof *out);
}

// sums (kRows, kSpan) of left (kRows, depth) times right (depth, kSpan). Element (m, k) of the left
// is at k · step + m; rows of the right are `pitch` apart.
template <int kRows>
inline __attribute__((always_inline)) void tile_sums(const float* left, int64_t step,
                                                     const float* right, int64_t pitch,
                                                     int64_t depth, Floats (&sums)[kRows][kWide]) {
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) sums[m][0] = sums[m][1] = Floats{};
  for (int64_t k = 0; k < depth; ++k, left += step, right += pitch) {
    const Floats first = vector_at<Floats>(right), second = vector_at<Floats>(right + kFloats);
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
      const Floats factor = left[m] - Floats{};  // not + 0: -0 stays, and no addition
      sums[m][0] = fused(factor, first, sums[m][0]);
      sums[m][1] = fused(factor, second, sums[m][1]);
    }
  }
}

// write(row, column, live, sum) for the vectors of a tile of which rows and columns are live. Whole
// tiles are written from registers, without a condition.
template <int kRows, class Write>
inline __attribute__((always_inline)) void each_part(const Floats (&sums)[kRows][kWide],
                                                     int64_t rows, int64_t columns, Write write) {
  if (rows >= kRows && columns >= kSpan) {
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
      write(m, 0, kFloats, sums[m][0]);
      write(m, kFloats, kFloats, sums[m][1]);
    }
    return;
  }
  Floats kept[kRows][kWide];  // a copy, so that the others need no address
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) kept[m][0] = sums[m][0], kept[m][1] = sums[m][1];
  for (int m = 0; m < kRows && m < rows; ++m) {
    write(m, 0, columns, kept[m][0]);
    if (columns > kFloats) write(m, kFloats, columns - kFloats, kept[m][1]);
  }
}

// One stage of summing kCount vectors: lane l of the i-th takes what bit kStep of l picks.
template <int kCount, int kStep>
inline void fold_stage(Floats* v) {
  if (kStep >= kCount) return;
  Ints own, other;  // lane numbers, kFloats and above in the second operand
  for (int l = 0; l < kFloats; ++l) {
    own[l] = l & kStep ? kFloats + l : l;
    other[l] = l & kStep ? kFloats + (l ^ kStep) : l ^ kStep;
  }
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) {
    if (i & kStep) continue;
    const Floats a = v[i], b = v[(i + kStep) % kCount];
    v[i] = __builtin_shuffle(a, b, own) + __builtin_shuffle(a, b, other);
  }
}

// out[i] = the sum of all lanes of v[i], for kCount <= kFloats vectors, a power of two of at most
// 8.
template <int kCount>
inline void lane_sums(Floats* v, float* out) {
  static_assert(kCount <= kFloats && kCount <= 8, "the stages below");
  fold_stage<kCount, 1>(v);
  fold_stage<kCount, 2>(v);
  fold_stage<kCount, 4>(v);
  for (int half = kFloats / 2; half >= kCount; half /= 2) {
    Ints turned;
    for (int l = 0; l < kFloats; ++l) turned[l] = l ^ half;
    v[0] += __builtin_shuffle(v[0], turned);
  }
  std::memcpy(out, &v[0], kCount * sizeof(float));
}

// out (kRows, kCount) = x (kRows, depth) times w (kCount, depth) ᵀ; depth is a multiple of kFloats.
template <int kRows, int kCount>
inline void dot_tile(const float* x, int64_t x_pitch, const float* w, int64_t w_pitch,
                     int64_t depth, float* out, int64_t out_pitch) {
  Floats sums[kRows][kCount];
#pragma GCC unroll 4
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 8
    for (int j = 0; j < kCount; ++j) sums[m][j] = Floats{};
  }
  for (int64_t k = 0; k < depth; k += kFloats) {
    Floats values[kRows];
#pragma GCC unroll 4
    for (int m = 0; m < kRows; ++m) values[m] = vector_at<Floats>(x + m * x_pitch + k);
#pragma GCC unroll 8
    for (int j = 0; j < kCount; ++j) {
      const Floats factor = vector_at<Floats>(w + j * w_pitch + k);
#pragma GCC unroll 4
      for (int m = 0; m < kRows; ++m) sums[m][j] = fused(values[m], factor, sums[m][j]);
    }
  }
#pragma GCC unroll 4
  for (int m = 0; m < kRows; ++m) lane_sums<kCount>(sums[m], out + m * out_pitch);
}

// out (columns, width) = the transpose of x (rows, columns), with zeros from column `rows` on; rows
// of out are `pitch` apart.
inline void transpose(const float* x, int64_t x_pitch, int64_t rows, int64_t columns, float* out,
                      int64_t width, int64_t pitch) {
  static_assert(kFloats == kBlocks, "blocks are square");
  for (int64_t r = 0; r < width; r += kFloats) {
    for (int64_t c = 0; c < columns; c += kFloats) {
      const int64_t wide = columns - c < kFloats ? columns - c : kFloats;
      Words block[kFloats];
#pragma GCC unroll 16
      for (int i = 0; i < kFloats; ++i) {
        block[i] = r + i < rows ? Words(load_part(x + (r + i) * x_pitch + c, wide)) : Words{};
      }
      transpose<kBlocks>(block);
#pragma GCC unroll 16
      for (int i = 0; i < kFloats; ++i) {
        if (i < wide) store_part(out + (c + i) * pitch + r, Floats(block[i]), width - r);
      }
    }
  }
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
