// Selection by votes on the CPU: which way serves which groups.
#pragma once
#include <omp.h>

#include "small.h"
#include "strips.h"

namespace pyfed {
namespace PYFED_SIMD {

// A matrix in tiles of equal size; k elements of each are selected.
struct Tiling {
  int64_t rows, columns, tile_rows, tile_columns, k;

  int64_t size() const { return rows * columns; }
  int64_t tile_size() const { return tile_rows * tile_columns; }
  int64_t across() const { return columns / tile_columns; }
  int64_t count() const { return rows / tile_rows * across(); }
  Group group(int64_t tile) const {
    const int64_t down = tile / across();
    const int64_t first = down * tile_rows * columns + (tile - down * across()) * tile_columns;
    if (tile_columns == columns || tile_rows == 1) return {first, 1, tile_size(), 0};
    return {first, tile_rows, tile_columns, columns};
  }
};

constexpr int64_t kLargeGroup = 1 << 18;  // elements that are worth all threads for one group

// How neighbouring tiles are taken together, `most` at a time, in each band of tile rows. When
// tiles are one row high, the whole matrix is one band of one row.
struct Bands {
  Tiling tiling;
  int64_t most, across, runs;

  Bands(const Tiling& whole, int64_t most) : tiling(whole), most(most) {
    if (tiling.tile_rows == 1) tiling.columns *= tiling.rows, tiling.rows = 1;
    across = tiling.across();
    runs = (across + most - 1) / most;
  }
  int64_t count() const { return tiling.rows / tiling.tile_rows * runs; }
  int64_t groups(int64_t number) const { return std::min(most, across - number % runs * most); }
  int64_t first(int64_t number) const {
    return number / runs * tiling.tile_rows * tiling.columns +
           number % runs * most * tiling.tile_columns;
  }
};

template <class Count, class Sink>
inline void do_bands(const Count* counts, const Tiling& whole, const TieKeys& keys,
                     const Sink& sink, uint32_t* scratch, int threads) {
  const bool small = whole.tile_size() <= kSmall;
  const Bands bands(whole, small ? kRun / whole.tile_size() : kBlock / whole.tile_columns);
  const Tiling& tiling = bands.tiling;
#pragma omp parallel num_threads(threads) if (tiling.size() > kParallel)
  {
    Guess guess = kNoGuess;
    uint32_t* own = scratch + omp_get_thread_num() * kScratchKeys;
#pragma omp for schedule(static)
    for (int64_t number = 0; number < bands.count(); ++number) {
      const int64_t first = bands.first(number), groups = bands.groups(number);
      if (small) {
        const Small group = {first, tiling.columns, tiling.tile_rows, tiling.tile_columns, groups};
        do_smalls(counts, group, tiling.k, keys, sink);
      } else {
        const Strip<Count> strip = {counts,         tiling.size(),    first,
                                    tiling.columns, tiling.tile_rows, tiling.tile_columns,
                                    int(groups)};
        do_strip(strip, tiling.k, keys, guess, sink, own);
      }
    }
  }
}

// Writes every element by sink.put(flat index, n, selected bits); scratch has kScratchKeys words a
// thread.
template <class Count, class Sink>
inline void select_groups(const Count* counts, const Tiling& tiling, const TieKeys& keys,
                          const Sink& sink, uint32_t* scratch, int threads) {
  if (tiling.size() == 0) return;
  const int64_t size = tiling.tile_size(), k = tiling.k;
  if (k == 0 || k == size) {
    const Group all = {0, 1, tiling.size(), 0};
    const int64_t wanted = k == 0 ? 0 : all.size();  // of those with the last count
    const int32_t last = k == 0 ? kMostVotes<Count> : 0;
    const Rule<Count> rule = {Limits<Count>(last), false, 0, wanted, all.size()};
    write_group(counts, all, keys, rule, sink, threads);
  } else if (size <= kSmall ||
             (tiling.tile_columns <= kBlock / 2 && tiling.tile_columns < tiling.columns)) {
    do_bands(counts, tiling, keys, sink, scratch, threads);
  } else if (size >= kLargeGroup) {
    for (int64_t tile = 0; tile < tiling.count(); ++tile) {
      const Group group = tiling.group(tile);
      Guess guess = guess_from_sample(counts, group, k);
      do_group(counts, group, k, keys, guess, sink, scratch, threads);
    }
  } else {
#pragma omp parallel num_threads(threads) if (tiling.size() > kParallel)
    {
      Guess guess = kNoGuess;
      uint32_t* own = scratch + omp_get_thread_num() * kScratchKeys;
#pragma omp for schedule(static)
      for (int64_t tile = 0; tile < tiling.count(); ++tile) {
        do_group(counts, tiling.group(tile), k, keys, guess, sink, own, 1);
      }
    }
  }
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
