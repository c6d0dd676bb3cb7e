// Selection in tiles of any shape: which kernel serves which.
#pragma once
#include "select_grid.cuh"
#include "select_small.cuh"
#include "select_strip.cuh"

namespace pyfed {
namespace {  // kernels are apart in every file that has them

constexpr int64_t kEnoughStrips = 64;  // to keep a device half busy

// Emit has put<kRun>(votes, place, live, taken, down, bits), which takes the result for a run of
// elements: `taken` has a bit for each that is selected, `down` their most_count - count. It is
// called once for each element, when no other thread reads what belongs to it.
template <class Emit>
void select_tiles(const Votes& votes, const Tiles& tiles, int64_t k, const Emit& emit,
                  int64_t* scratch, int64_t scratch_words, int* errors, void* stream) {
  const int64_t size = tiles.size(), strips = ceil_div(tiles.columns, kStrip);
  if (size <= kSmall) {
    select_small_tiles(votes, tiles, k, emit, errors, stream);
  } else if (!tiles.contiguous() && tiles.tile_columns == 1 &&
             (size <= kChunk || strips >= kEnoughStrips)) {
    select_strips(votes, tiles, k, emit, errors, stream);
  } else if (size <= kChunk && tiles.contiguous()) {
    launch(select_tile_kernel<16, Emit>, tiles.count(), stream, votes, tiles, k, emit, errors);
  } else if (size <= kChunk) {
    launch(select_tile_kernel<1, Emit>, tiles.count(), stream, votes, tiles, k, emit, errors);
  } else if (tiles.contiguous()) {
    select_long_tiles<16>(votes, tiles, k, emit, scratch, scratch_words, errors, stream);
  } else {
    select_long_tiles<1>(votes, tiles, k, emit, scratch, scratch_words, errors, stream);
  }
}

inline Votes votes_of(const void* counts, int wide, int64_t most, const void* tie, int tie_kind,
                      int ties, const uint32_t* key, uint32_t stream) {
  const bool vector = is_aligned16(counts) && is_aligned16(tie);
  return {counts, wide != 0, most, tie, tie_kind, ties, key, stream, vector};
}

}  // namespace
}  // namespace pyfed
