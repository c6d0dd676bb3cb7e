// Selection in columns, by one thread block for 32 neighbouring ones: four columns a thread, so
// that rows are read 32 elements at a time, and 32 threads with neighbouring rows for each four.
#pragma once
#include "select.cuh"

namespace pyfed {
namespace {  // kernels are apart in every file that has them

constexpr int kStrip = 32;  // columns
constexpr int kFour = 4;    // columns of a thread
constexpr int kLanes = kThreads * kFour / kStrip;

struct StripShared {
  uint32_t tally[kDigits][kStrip];  // below 2^32 rows
  uint32_t parts[kLanes][kStrip];
  Threshold at[kStrip];
};

// The elements of one thread: four columns, and a part of the rows.
struct StripPart {
  int column;  // the first of the four, in the strip
  int lane;
  uint32_t live;  // which of the four are in the matrix
  int64_t place;  // of the first element
  int64_t rows, step;

  __device__ __forceinline__ StripPart(const Tiles& tiles) {
    column = threadIdx.x % (kStrip / kFour) * kFour;
    lane = threadIdx.x / (kStrip / kFour);
    const int64_t strips = (tiles.columns + kStrip - 1) / kStrip;
    const int64_t first = blockIdx.x % strips * kStrip + column;
    const int64_t each = (tiles.tile_rows + kLanes - 1) / kLanes, begin = lane * each;
    rows = begin + each < tiles.tile_rows ? each : tiles.tile_rows - begin;
    live = 0;
    for (int j = 0; j < kFour; ++j) live |= uint32_t(first + j < tiles.columns) << j;
    if (!live) rows = 0;
    step = tiles.columns;
    place = (blockIdx.x / strips * tiles.tile_rows + begin) * tiles.columns + first;
  }
};

// Counts the next digit of the elements that share their column's prefix. Whole block.
__device__ __forceinline__ void tally_columns(StripShared& shared, const Votes& votes,
                                              const StripPart& part, int shift) {
  constexpr int kAhead = 4;  // rows that are read before the first is used
  for (int i = threadIdx.x; i < kDigits * kStrip; i += kThreads) {
    shared.tally[i / kStrip][i % kStrip] = 0;
  }
  const Threshold* columns = shared.at + part.column;
  uint32_t wanted[kFour], open = 0;
#pragma unroll
  for (int j = 0; j < kFour; ++j) {
    wanted[j] = columns[j].down();
    open |= uint32_t(!columns[j].settled) << j;
  }
  open &= part.live;
  __syncthreads();
  const int above = shift > 32 ? shift - 32 : 0;
  int ignored = 0;
#pragma unroll 1
  for (int64_t row = 0; row < part.rows; row += kAhead) {
    uint32_t down[kAhead][kFour];
#pragma unroll
    for (int r = 0; r < kAhead; ++r) {
      const uint32_t live = row + r < part.rows ? part.live : 0;
      read_down(votes, part.place + (row + r) * part.step, live, down[r], ignored);
    }
#pragma unroll
    for (int r = 0; r < kAhead; ++r) {
      uint32_t tied = 0, digits = 0;
#pragma unroll
      for (int j = 0; j < kFour; ++j) {
        tied |= uint32_t(down[r][j] >> above == wanted[j]) << j;
        if (above) digits |= (down[r][j] >> (above - kDigit) & (kDigits - 1)) << (kDigit * j);
      }
      tied &= row + r < part.rows ? open : 0;
      if (!above) {
        const int64_t place = part.place + (row + r) * part.step;
        each_key<kFour>(votes, place, tied, [&](int j, uint32_t key) {
          const uint64_t order = uint64_t(columns[j].down()) << 32 | key;
          if (order >> shift != columns[j].prefix) return;
          const int digit = int(order >> (shift - kDigit)) & (kDigits - 1);
          atomicAdd(&shared.tally[digit][part.column + j], 1u);
        });
        continue;
      }
#pragma unroll
      for (int i = 0; i < kFour; ++i) {
        const int j = (i + part.lane) % kFour;  // each thread of a warp at another bank
        if (!(tied >> j & 1)) continue;
        atomicAdd(&shared.tally[digits >> (kDigit * j) & (kDigits - 1)][part.column + j], 1u);
      }
    }
  }
  __syncthreads();
}

// Finds the next digit of every column. Whole block.
__device__ __forceinline__ void pick_columns(StripShared& shared) {
  constexpr int kShare = kDigits * kStrip / kThreads;  // digits that a thread looks at
  const int column = threadIdx.x % kStrip, share = threadIdx.x / kStrip;
  const Threshold at = shared.at[column];
  uint32_t own = 0;
#pragma unroll 8
  for (int d = 0; d < kShare; ++d) own += shared.tally[share * kShare + d][column];
  shared.parts[share][column] = own;
  __syncthreads();
  if (!at.settled) {
    int64_t left = at.left;
    for (int s = 0; s < share; ++s) left -= shared.parts[s][column];
    if (left > 0 && left <= own) {
      int digit = share * kShare;
      while (left > shared.tally[digit][column]) left -= shared.tally[digit++][column];
      const int64_t tied = shared.tally[digit][column];
      shared.at[column] = {at.prefix << kDigit | digit, left, tied, at.shift - kDigit,
                           left == tied};
    }
  }
  __syncthreads();
}

__device__ __forceinline__ bool all_settled(const StripShared& shared) {
  bool all = true;
#pragma unroll 8
  for (int c = 0; c < kStrip; ++c) all = all && shared.at[c].settled;
  return all;
}

// Which of four neighbours lie below, and at, the thresholds of their columns.
struct Compared {
  uint32_t below, equal;

  __device__ __forceinline__ Compared(const Votes& votes, const Threshold* columns, int64_t place,
                                      uint32_t live, const uint32_t (&down)[kFour])
      : below(0), equal(0) {
    uint32_t keyed = 0;
#pragma unroll
    for (int j = 0; j < kFour; ++j) {
      const int shift = columns[j].shift;
      const uint32_t digits = down[j] >> (shift > 32 ? shift - 32 : 0), wanted = columns[j].down();
      below |= uint32_t(digits < wanted) << j;
      equal |= uint32_t(digits == wanted) << j;
      keyed |= uint32_t(shift < 32) << j;
    }
    equal &= live;
    const uint32_t tied = equal & keyed;
    if (!tied) return;
    equal &= ~keyed;
    each_key<kFour>(votes, place, tied, [&](int j, uint32_t key) {
      const uint64_t digits = (uint64_t(columns[j].down()) << 32 | key) >> columns[j].shift;
      below |= uint32_t(digits < columns[j].prefix) << j;
      equal |= uint32_t(digits == columns[j].prefix) << j;
    });
  }
};

template <class Emit>
__global__ void __launch_bounds__(kThreads)
    select_strip_kernel(Votes votes, Tiles tiles, int64_t k, Emit emit, int* errors) {
  PYFED_SHARED(StripShared, shared);
  const StripPart part(tiles);
  if (threadIdx.x < kStrip) {
    const int64_t strips = (tiles.columns + kStrip - 1) / kStrip;
    Threshold at = k ? Threshold::start(votes, k) : Threshold::none();
    at.settled = blockIdx.x % strips * kStrip + threadIdx.x >= tiles.columns;
    shared.at[threadIdx.x] = at;
  }
  __syncthreads();
  if (k) {
#pragma unroll 1
    for (int shift = votes.order_bits(); shift > votes.idle_bits(); shift -= kDigit) {
      tally_columns(shared, votes, part, shift);
      pick_columns(shared);
      if (all_settled(shared)) break;
    }
  }
  const Threshold* columns = shared.at + part.column;
  int64_t spare[kFour];
  int bits = 0;
#pragma unroll
  for (int j = 0; j < kFour; ++j) spare[j] = columns[j].left;
  if (k && !all_settled(shared)) {  // equal elements go by row: count those of the lanes before
    uint32_t found[kFour] = {};
    uint32_t down[kFour];
#pragma unroll 4
    for (int64_t row = 0; row < part.rows; ++row) {
      const int64_t place = part.place + row * part.step;
      read_down(votes, place, part.live, down, bits);
      const Compared is(votes, columns, place, part.live, down);
#pragma unroll
      for (int j = 0; j < kFour; ++j) found[j] += is.equal >> j & 1;
    }
#pragma unroll
    for (int j = 0; j < kFour; ++j) shared.parts[part.lane][part.column + j] = found[j];
    __syncthreads();
    for (int lane = 0; lane < part.lane; ++lane) {
#pragma unroll
      for (int j = 0; j < kFour; ++j) spare[j] -= shared.parts[lane][part.column + j];
    }
  }
#pragma unroll 1
  for (int64_t row = 0; row < part.rows; ++row) {
    const int64_t place = part.place + row * part.step;
    uint32_t down[kFour];
    read_down(votes, place, part.live, down, bits);
    const Compared is(votes, columns, place, part.live, down);
    uint32_t taken = is.below;
#pragma unroll
    for (int j = 0; j < kFour; ++j) {
      const bool equal = is.equal >> j & 1;
      taken |= uint32_t(equal && (columns[j].settled || spare[j] > 0)) << j;
      spare[j] -= equal;
    }
    emit.template put<kFour>(votes, place, part.live, taken, down, bits);
  }
  wipe(shared);
  report(errors, bits);
}

template <class Emit>
void select_strips(Votes votes, const Tiles& tiles, int64_t k, Emit emit, int* errors,
                   void* stream) {
  votes.vector = votes.vector && tiles.columns % kFour == 0;
  emit.vector = emit.vector && tiles.columns % kFour == 0;
  const int64_t blocks = ceil_div(tiles.columns, kStrip) * (tiles.rows / tiles.tile_rows);
  launch(select_strip_kernel<Emit>, blocks, stream, votes, tiles, k, emit, errors);
}

}  // namespace
}  // namespace pyfed
