// Selection in tiles of at most 32 elements: each compares itself with all of its tile.
#pragma once
#include "select.cuh"

namespace pyfed {
namespace {  // kernels are apart in every file that has them

constexpr int64_t kSmall = 32;  // elements of a tile

// Where an element stands in its tile by its count: how many are selected before it for certain,
// how many have its count, and how many of these come first in the tile.
struct Standing {
  int below = 0, same = 0, earlier = 0;

  __device__ __forceinline__ void meet(uint32_t own, uint32_t other, bool is_earlier) {
    below += other < own;
    same += other == own;
    earlier += other == own && is_earlier;
  }
  __device__ __forceinline__ bool surely(int k) const { return below + same <= k; }
  // Whether keys must decide.
  __device__ __forceinline__ bool close(int k) const { return below < k && !surely(k); }
};

// Tiles of kTile neighbours, a divisor of 16, by threads that have 16 elements each.
template <int kTile, class Emit>
__global__ void __launch_bounds__(kThreads)
    select_pattern_kernel(Votes votes, int64_t total, int k, Emit emit, int* errors) {
  constexpr int kRun = 16;
  const int64_t place = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * kRun;
  if (place >= total) return;
  const uint32_t live = total - place >= kRun ? kWholeRun<kRun> : (1u << int(total - place)) - 1;
  uint32_t down[kRun], taken = 0, close = 0;
  int bits = 0;
  read_down(votes, place, live, down, bits);
#pragma unroll
  for (int j = 0; j < kRun; ++j) {
    Standing is;
#pragma unroll
    for (int i = j / kTile * kTile; i < j / kTile * kTile + kTile; ++i) {
      is.meet(down[j], down[i], i < j);
    }
    const bool first = votes.ties == kByIndex && is.below + is.earlier < k;
    taken |= uint32_t(is.surely(k) || first) << j;
    close |= uint32_t(is.close(k)) << j;
  }
  close &= live;
  if (close && votes.ties != kByIndex) {
    uint32_t keys[kRun] = {};
    each_key<kRun>(votes, place, close, [&](int j, uint32_t key) { keys[j] = key; });
#pragma unroll
    for (int j = 0; j < kRun; ++j) {
      int before = 0;
#pragma unroll
      for (int i = j / kTile * kTile; i < j / kTile * kTile + kTile; ++i) {
        const bool sooner = keys[i] < keys[j] || (keys[i] == keys[j] && i < j);
        before += down[i] < down[j] || ((close >> i & 1) && sooner);
      }
      taken |= uint32_t((close >> j & 1) && before < k) << j;
    }
  }
  emit.template put<kRun>(votes, place, live, taken, down, bits);
  report(errors, bits);
}

struct SmallShared {
  uint32_t down[kThreads], keys[kThreads];
};

// Tiles of any shape, by a thread for each element; a block has whole tiles.
template <class Emit>
__global__ void __launch_bounds__(kThreads)
    select_small_kernel(Votes votes, Tiles tiles, int k, Emit emit, int* errors) {
  PYFED_SHARED(SmallShared, shared);
  const int size = int(tiles.size()), of_block = kThreads / size;
  const int64_t tile = int64_t(blockIdx.x) * of_block + threadIdx.x / size;
  const int64_t across = tiles.columns / tiles.tile_columns;
  const int index = int(threadIdx.x) % size, first = int(threadIdx.x) - index;
  const bool is_live =
      int(threadIdx.x) < of_block * size && tile < tiles.rows / tiles.tile_rows * across;
  const int64_t row = tile / across * tiles.tile_rows + index / int(tiles.tile_columns);
  const int64_t place =
      row * tiles.columns + tile % across * tiles.tile_columns + index % int(tiles.tile_columns);
  uint32_t down[1] = {};
  int bits = 0;
  Standing is;
  if (is_live) read_down(votes, place, 1, down, bits);
  shared.down[threadIdx.x] = down[0];
  __syncthreads();
  for (int i = 0; is_live && i < size; ++i) {
    is.meet(down[0], shared.down[first + i], i < index);
  }
  const bool close = is_live && is.close(k);
  if (close && votes.ties != kByIndex) {
    each_key<1>(votes, place, 1, [&](int, uint32_t key) { shared.keys[threadIdx.x] = key; });
  }
  __syncthreads();
  bool taken = is.surely(k);
  if (close) {  // all of the tile with this count are close
    int before = is.below + (votes.ties == kByIndex ? is.earlier : 0);
    for (int i = 0; votes.ties != kByIndex && i < size; ++i) {
      if (shared.down[first + i] != down[0]) continue;
      const uint32_t own = shared.keys[threadIdx.x], other = shared.keys[first + i];
      before += other < own || (other == own && i < index);
    }
    taken = before < k;
  }
  if (is_live) emit.template put<1>(votes, place, 1, taken, down, bits);
  wipe(shared);
  report(errors, bits);
}

template <int kTile, class Emit>
void select_patterns(const Votes& votes, const Tiles& tiles, int64_t k, const Emit& emit,
                     int* errors, void* stream) {
  const int64_t total = tiles.rows * tiles.columns;
  launch(select_pattern_kernel<kTile, Emit>, ceil_div(total, 16 * kThreads), stream, votes, total,
         int(k), emit, errors);
}

template <class Emit>
void select_small_tiles(const Votes& votes, const Tiles& tiles, int64_t k, const Emit& emit,
                        int* errors, void* stream) {
  if (tiles.tile_rows == 1 && tiles.tile_columns == 2) {
    select_patterns<2>(votes, tiles, k, emit, errors, stream);
  } else if (tiles.tile_rows == 1 && tiles.tile_columns == 4) {
    select_patterns<4>(votes, tiles, k, emit, errors, stream);
  } else if (tiles.tile_rows == 1 && tiles.tile_columns == 8) {
    select_patterns<8>(votes, tiles, k, emit, errors, stream);
  } else if (tiles.tile_rows == 1 && tiles.tile_columns == 16) {
    select_patterns<16>(votes, tiles, k, emit, errors, stream);
  } else {
    const int64_t of_block = kThreads / tiles.size();
    launch(select_small_kernel<Emit>, ceil_div(tiles.count(), of_block), stream, votes, tiles,
           int(k), emit, errors);
  }
}

}  // namespace
}  // namespace pyfed
