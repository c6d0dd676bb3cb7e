// Selection in long tiles, by many thread blocks each: a pass over the tile for every digit, and
// between two passes one block for each tile that picks the digit.
#pragma once
#include "select_tile.cuh"

namespace pyfed {
namespace {  // kernels are apart in every file that has them

// What the passes leave in device memory, for each tile. `all` is counted up by every block; the
// parts of the last digit tell the place of equal elements among those of all chunks.
struct Passes {
  Threshold* thresholds;    // (tiles)
  unsigned long long* all;  // (tiles, kDigits) how often a digit occurs; 0 between two passes
  int64_t* before;          // (tiles, chunks + 1) elements at the threshold before each chunk
  uint32_t* parts;          // (tiles, chunks, kDigits) the same of each chunk, for the last digit
  int64_t chunks;

  static constexpr int64_t kFixed = sizeof(Threshold) / 8 + kDigits + 1;  // words of a tile
  static constexpr int64_t kOfChunk = 1 + kDigits / 2;

  static int64_t words(int64_t tiles, int64_t chunks) {
    return tiles * (kFixed + kOfChunk * chunks);
  }
  Passes(int64_t* scratch, int64_t tiles, int64_t chunks)
      : thresholds(reinterpret_cast<Threshold*>(scratch)),
        all(reinterpret_cast<unsigned long long*>(thresholds + tiles)),
        before(reinterpret_cast<int64_t*>(all + tiles * kDigits)),
        parts(reinterpret_cast<uint32_t*>(before + tiles * (chunks + 1))),
        chunks(chunks) {}
};

template <int kRun, bool kOfCount>
__global__ void __launch_bounds__(kThreads, kTileBlocks)
    select_tally_kernel(Votes votes, Tiles tiles, int64_t k, Passes passes, bool first, bool last) {
  PYFED_SHARED(TileShared, shared);
  const int64_t tile = blockIdx.x / passes.chunks, chunk = blockIdx.x % passes.chunks;
  const Threshold at = first ? Threshold::start(votes, k) : passes.thresholds[tile];
  if (at.settled) return;
  const Walk<kRun> walk(tiles, tile, chunk);
  const uint32_t own = tally_digit(shared, votes, walk, at, kOfCount);
  if (own) atomicAdd(passes.all + tile * kDigits + threadIdx.x, (unsigned long long)(own));
  if (last) passes.parts[int64_t(blockIdx.x) * kDigits + threadIdx.x] = own;
  wipe(shared);
}

__global__ void __launch_bounds__(kThreads)
    select_pick_kernel(Votes votes, int64_t k, Passes passes, bool first, bool last) {
  PYFED_SHARED(Pick, shared);
  const int64_t tile = blockIdx.x, chunks = passes.chunks;
  Threshold at = first ? Threshold::start(votes, k) : passes.thresholds[tile];
  if (at.settled) return;
  unsigned long long& own = passes.all[tile * kDigits + threadIdx.x];
  pick_digit(shared, own, at);
  own = 0;
  if (threadIdx.x == 0) passes.thresholds[tile] = at;
  if (last && !at.settled) {  // a thread adds up neighbouring chunks
    const int64_t each = (chunks + kThreads - 1) / kThreads, begin = each * threadIdx.x;
    const int64_t end = begin + each < chunks ? begin + each : chunks;
    const uint32_t* parts = passes.parts + tile * chunks * kDigits + int(at.prefix % kDigits);
    uint64_t sum = 0, all;
#pragma unroll 4
    for (int64_t chunk = begin; chunk < end; ++chunk) sum += parts[chunk * kDigits];
    uint64_t before = sum_before(shared.scan, sum, all);
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      passes.before[tile * (chunks + 1) + chunk] = int64_t(before);
      before += parts[chunk * kDigits];
    }
    if (threadIdx.x == 0) passes.before[tile * (chunks + 1) + chunks] = int64_t(all);
  }
  wipe(shared);
}

template <int kRun, class Emit>
__global__ void __launch_bounds__(kThreads, kTileBlocks)
    select_emit_kernel(Votes votes, Tiles tiles, bool nothing, Passes passes, Emit emit,
                       int* errors) {
  PYFED_SHARED(TileShared, shared);
  const int64_t tile = blockIdx.x / passes.chunks, chunk = blockIdx.x % passes.chunks;
  const Threshold at = nothing ? Threshold::none() : passes.thresholds[tile];
  int64_t spare = at.settled ? -1 : at.left;
  if (!nothing && !at.settled) {  // only one chunk needs to look at the order of its elements
    const int64_t* before = passes.before + tile * (passes.chunks + 1) + chunk;
    spare = before[1] <= at.left ? -1 : before[0] >= at.left ? 0 : at.left - before[0];
  }
  int bits = 0;
  emit_runs(shared, votes, Walk<kRun>(tiles, tile, chunk), at, spare, emit, bits);
  wipe(shared);
  report(errors, bits);
}

template <int kRun, class Emit>
void select_long_tiles(const Votes& votes, const Tiles& tiles, int64_t k, const Emit& emit,
                       int64_t* scratch, int64_t scratch_words, int* errors, void* stream) {
  const int64_t count = tiles.count(), chunks = Walk<kRun>::chunks(tiles);
  if (Passes::words(count, chunks) > scratch_words) {
    throw std::runtime_error("selection has too little scratch memory");
  }
  const Passes passes(scratch, count, chunks);
  if (k) {
    check(cudaMemsetAsync(passes.all, 0, size_t(count) * kDigits * 8,
                          static_cast<cudaStream_t>(stream)));
    const int from = votes.order_bits(), to = votes.idle_bits();
    for (int shift = from; shift > to; shift -= kDigit) {
      const bool first = shift == from, last = shift - kDigit == to;
      const auto tally =
          shift > 32 ? &select_tally_kernel<kRun, true> : &select_tally_kernel<kRun, false>;
      launch(tally, count * chunks, stream, votes, tiles, k, passes, first, last);
      launch(select_pick_kernel, count, stream, votes, k, passes, first, last);
    }
  }
  launch(select_emit_kernel<kRun, Emit>, count * chunks, stream, votes, tiles, k == 0, passes, emit,
         errors);
}

}  // namespace
}  // namespace pyfed
