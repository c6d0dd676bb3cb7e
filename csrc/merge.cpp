// Low-rank products added to a weight in place on the CPU: both factors are packed, then every tile
// of the weight is read and written once.
#include <algorithm>

#include "gemm.h"
#include "kernels.h"

namespace pyfed {
namespace PYFED_SIMD {
namespace {

constexpr int64_t kCached = 3 << 17;  // bytes of the right factor that stay in the second cache
constexpr int64_t kStripsAtOnce = 8;  // of rows, that a thread does for the same columns

// A factor: element (lane, k) is at lane · row + k · step.
struct Factor {
  const float* data;
  int64_t row, step;
};

// Packs lanes first … first + live - 1 as (depth, width), zeros behind them, times scale[k] when
// there is one; says whether all numbers are finite.
template <int64_t kWidth>
bool pack(const Factor& factor, int64_t first, int64_t live, int64_t depth, const float* scale,
          float* out) {
  const float* from = factor.data + first * factor.row;
  if (factor.step == 1 && factor.row != 1) {
    transpose(from, factor.row, live, depth, out, kWidth, kWidth);
  } else {
    for (int64_t k = 0; k < depth; ++k) {
      for (int64_t l = 0; l < kWidth; l += kFloats) {
        const float* source = from + l * factor.row + k * factor.step;
        Floats lanes{};
        if (factor.row == 1) {
          lanes = load_part(source, live - l);
        } else {
          for (int i = 0; i < kFloats && l + i < live; ++i) lanes[i] = source[i * factor.row];
        }
        put_vector(out + k * kWidth + l, lanes);
      }
    }
  }
  Ints bad{};
  for (int64_t k = 0; k < depth; ++k) {
    for (int64_t l = 0; l < kWidth; l += kFloats) {
      const Floats lanes = vector_at<Floats>(out + k * kWidth + l);
      bad |= (Ints(lanes) & 0x7f800000) == 0x7f800000;
      if (scale) put_vector(out + k * kWidth + l, lanes * scale[k]);
    }
  }
  int any = 0;
  for (int l = 0; l < kFloats; ++l) any |= bad[l];
  return any == 0;
}

// base (rows, columns), a tile at most, += strip (depth, kFloats) ᵀ times panel (depth, kSpan).
template <class Number>
void add_tile(typename Number::Stored* base, int64_t pitch, int64_t rows, int64_t columns,
              int64_t depth, const float* strip, const float* panel) {
  for (int64_t m = 0; m < rows; ++m) {
    __builtin_prefetch(base + m * pitch, 1, 2);
    __builtin_prefetch(base + m * pitch + columns - 1, 1, 2);
  }
  Floats sums[kTall][kWide];
  tile_sums<kTall>(strip, kFloats, panel, kSpan, depth, sums);
  each_part(sums, rows, columns, [=](int64_t m, int64_t column, int64_t live, Floats sum) {
    auto* place = base + m * pitch + column;
    store_part<Number>(place, load_part<Number>(place, live) + sum, live);
  });
}

template <class Number>
int run(typename Number::Stored* base, int64_t rows, int64_t columns, int64_t rank,
        const Factor& left, const Factor& right, const float* scale, float* scratch, int threads) {
  const int64_t strips = (rows + kTall - 1) / kTall, panels = (columns + kSpan - 1) / kSpan;
  float* packed_left = scratch;
  float* packed_right = scratch + strips * rank * kFloats;
  const int64_t together = std::max<int64_t>(4, kCached / 4 / (rank * kSpan));
  const int64_t high = (strips + kStripsAtOnce - 1) / kStripsAtOnce;
  const int64_t tasks = (panels + together - 1) / together * high;
  int bad = 0;
  for (int64_t k = 0; k < rank; ++k) bad |= (bits_of(scale[k]) & 0x7f800000u) == 0x7f800000u;
  if (double(rows) * double(columns) * double(rank) < 1 << 17) threads = 1;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
#pragma omp for schedule(static) reduction(| : bad)
    for (int64_t part = 0; part < strips + panels; ++part) {
      const int64_t row = part * kTall, column = (part - strips) * kSpan;
      if (part < strips) {
        bad |= !pack<kFloats>(left, row, std::min<int64_t>(kTall, rows - row), rank, scale,
                              packed_left + part * rank * kFloats);
      } else {
        bad |= !pack<kSpan>(right, column, std::min<int64_t>(kSpan, columns - column), rank,
                            nullptr, packed_right + (part - strips) * rank * kSpan);
      }
    }
    const int64_t wanted = bad ? 0 : tasks;  // a bad factor changes nothing
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < wanted; ++task) {
      const int64_t low = task / high * together, end = std::min(low + together, panels);
      const int64_t strip = task % high * kStripsAtOnce;
      for (int64_t s = strip; s < std::min(strip + kStripsAtOnce, strips); ++s) {
        for (int64_t p = low; p < end; ++p) {
          add_tile<Number>(base + s * kTall * columns + p * kSpan, columns,
                           std::min<int64_t>(kTall, rows - s * kTall),
                           std::min<int64_t>(kSpan, columns - p * kSpan), rank,
                           packed_left + s * rank * kFloats, packed_right + p * rank * kSpan);
        }
      }
    }
  }
  return bad ? kNotFinite : 0;
}

}  // namespace

int64_t merge_workspace(int64_t rows, int64_t columns, int64_t rank) {
  return ((rows + kTall - 1) / kTall * kFloats + rounded_up(columns, kSpan)) * rank;
}

int lora_merge_cpu(void* base, int kind, int64_t rows, int64_t columns, int64_t rank,
                   const float* left, int64_t left_row, int64_t left_k, const float* right,
                   int64_t right_k, int64_t right_column, const float* scale, float* scratch,
                   int threads) {
  if (rows == 0 || columns == 0 || rank == 0) return 0;
  int errors = 0;
  with_kind(kind, [&](auto real) {
    using Number = decltype(real);
    errors = run<Number>(static_cast<typename Number::Stored*>(base), rows, columns, rank,
                         {left, left_row, left_k}, {right, right_column, right_k}, scale, scratch,
                         threads);
  });
  return errors;
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
