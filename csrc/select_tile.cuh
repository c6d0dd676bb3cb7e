// Selection in tiles, or chunks of a long one, by one thread block each.
#pragma once
#include "select.cuh"

namespace pyfed {
namespace {  // kernels are apart in every file that has them

constexpr int64_t kChunk = 32768;  // elements of a block; pyfed/ops/selection.py has the same
constexpr int kTileBlocks = 3;     // on a multiprocessor at least: leaves 80 registers

// Elements of a tile in runs: of 16 that begin at a multiple of 16, where the tile's elements
// follow each other; else single ones, in the order of the tile.
template <int kRun>
struct Walk {
  Tiles tiles;
  int64_t first;       // place of the tile's first element
  int64_t begin, end;  // runs of this block

  __device__ __forceinline__ Walk(const Tiles& tiles, int64_t tile) : tiles(tiles), begin(0) {
    const int64_t across = tiles.columns / tiles.tile_columns;
    first = tile / across * tiles.tile_rows * tiles.columns + tile % across * tiles.tile_columns;
    end = kRun == 1 ? tiles.size() : (first % kRun + tiles.size() + kRun - 1) / kRun;
  }
  // The same of one chunk of the tile; the last may be empty.
  __device__ __forceinline__ Walk(const Tiles& tiles, int64_t tile, int64_t chunk)
      : Walk(tiles, tile) {
    begin = chunk * (kChunk / kRun);
    if (begin + kChunk / kRun < end) end = begin + kChunk / kRun;
  }
  // Chunks that any tile has at most.
  static int64_t chunks(const Tiles& tiles) {
    return ceil_div(tiles.size() + 2 * (kRun - 1), kChunk);
  }
  __device__ __forceinline__ int64_t place(int64_t run) const {
    if (kRun > 1) return first - first % kRun + run * kRun;
    return first + run / tiles.tile_columns * tiles.columns + run % tiles.tile_columns;
  }
  // Which elements of the run at a place are of this tile.
  __device__ __forceinline__ uint32_t live(int64_t place) const {
    if (kRun == 1) return 1;
    uint32_t bits = kWholeRun<kRun>;
    const int64_t last = first + tiles.size() - place;
    if (place < first) bits &= ~0u << int(first - place);
    if (last < kRun) bits &= ~(~0u << int(last));
    return bits;
  }
};

// How often each digit occurs, apart for every lane, because most elements share a few counts.
// A block counts at most 2^15 elements and some, so that 16 bits are enough for each.
struct Tally {
  uint32_t pairs[kDigits / 2][32];

  __device__ __forceinline__ void add(uint32_t digit) {
    atomicAdd(&pairs[digit / 2][threadIdx.x % 32], 1u << (digit % 2 * 16));
  }
  __device__ __forceinline__ void clear() {
    for (int i = threadIdx.x; i < kDigits / 2 * 32; i += kThreads) pairs[i / 32][i % 32] = 0;
  }
  // How often the digit occurs that equals this thread's number.
  __device__ __forceinline__ uint32_t own() const {
    const int digit = threadIdx.x;
    uint32_t sum = 0;
#pragma unroll 8
    for (int lane = 0; lane < 32; ++lane) {  // each thread of a warp at another bank
      sum += pairs[digit / 2][(lane + digit) % 32] >> (digit % 2 * 16) & 0xffff;
    }
    return sum;
  }
};

struct Scan {
  uint64_t at[kThreads];
};

// The sum over the threads before this one, and over all. Whole block.
__device__ __forceinline__ uint64_t sum_before(Scan& shared, uint64_t own, uint64_t& all) {
  shared.at[threadIdx.x] = own;
  __syncthreads();
  uint64_t before = 0;
  all = 0;
#pragma unroll 8
  for (int i = 0; i < kThreads; ++i) {
    before += i < int(threadIdx.x) ? shared.at[i] : 0;
    all += shared.at[i];
  }
  __syncthreads();
  return before;
}

struct Pick {
  Scan scan;
  uint64_t before, own, digit;
};

// Finds the next digit of the threshold, given how often this thread's digit occurs. Whole block.
__device__ __forceinline__ void pick_digit(Pick& shared, uint64_t own, Threshold& at) {
  uint64_t all;
  const uint64_t before = sum_before(shared.scan, own, all), left = uint64_t(at.left);
  if (before < left && left <= before + own) {
    shared.before = before, shared.own = own, shared.digit = threadIdx.x;
  }
  __syncthreads();
  at.prefix = at.prefix << kDigit | shared.digit;
  at.left -= int64_t(shared.before);
  at.tied = int64_t(shared.own);
  at.shift -= kDigit;
  at.settled = at.left == at.tied;
}

struct Deal {
  uint32_t listed;
  uint32_t runs[kThreads];   // thread that has the run, and which elements are tied << 8
  uint32_t found[kThreads];  // for the thread that has it
};

// Calls body(thread, tied) for every run that has tied elements: in the thread that has it, or,
// where keys are costly to make, in the first threads, one run each. Whole block.
template <class Body>
__device__ __forceinline__ void deal_runs(Deal& shared, const Votes& votes, uint32_t tied,
                                          Body body) {
  if (votes.ties != kByWord) {
    if (tied) body(int(threadIdx.x), tied);
    return;
  }
  if (threadIdx.x == 0) shared.listed = 0;
  __syncthreads();
  if (tied) shared.runs[atomicAdd(&shared.listed, 1u)] = threadIdx.x | tied << 8;
  __syncthreads();
  if (threadIdx.x < shared.listed) {
    const uint32_t run = shared.runs[threadIdx.x];
    body(int(run % kThreads), run >> 8);
  }
  __syncthreads();
}

struct TileShared {
  Tally tally;
  Pick pick;
  Deal deal;
};

// Counts the next digit, which is of the count, of the elements that share the threshold's prefix.
template <int kRun>
__device__ __forceinline__ void tally_counts(Tally& tally, const Votes& votes,
                                             const Walk<kRun>& walk, const Threshold& at) {
  constexpr int kAhead = kRun == 1 ? 8 : 2;  // runs that a thread reads before the first is used
  const int above = at.shift - 32;
  int ignored = 0;
#pragma unroll 1
  for (int64_t base = walk.begin + threadIdx.x; base < walk.end; base += kAhead * kThreads) {
    uint32_t down[kAhead][kRun], live[kAhead];
#pragma unroll
    for (int r = 0; r < kAhead; ++r) {
      const int64_t run = base + r * kThreads, place = run < walk.end ? walk.place(run) : 0;
      live[r] = run < walk.end ? walk.live(place) : 0;
      read_down(votes, place, live[r], down[r], ignored);
    }
#pragma unroll
    for (int r = 0; r < kAhead; ++r) {
#pragma unroll
      for (int j = 0; j < kRun; ++j) {
        if (!(live[r] >> j & 1) || down[r][j] >> above != at.prefix) continue;
        tally.add(down[r][j] >> (above - kDigit) & (kDigits - 1));
      }
    }
  }
}

// The same for a digit of the key. Whole block.
template <int kRun>
__device__ __forceinline__ void tally_keys(TileShared& shared, const Votes& votes,
                                           const Walk<kRun>& walk, const Threshold& at) {
  int ignored = 0;
#pragma unroll 1
  for (int64_t base = walk.begin; base < walk.end; base += kThreads) {
    const int64_t run = base + threadIdx.x;
    uint32_t tied = 0;
    if (run < walk.end) {
      const int64_t place = walk.place(run);
      const uint32_t live = walk.live(place);
      uint32_t down[kRun];
      read_down(votes, place, live, down, ignored);
#pragma unroll
      for (int j = 0; j < kRun; ++j) tied |= uint32_t(down[j] == at.down()) << j;
      tied &= live;
    }
    deal_runs(shared.deal, votes, tied, [&](int thread, uint32_t these) {
      each_key<kRun>(votes, walk.place(base + thread), these, [&](int, uint32_t key) {
        const uint64_t order = uint64_t(at.down()) << 32 | key;
        if (order >> at.shift != at.prefix) return;
        shared.tally.add(uint32_t(order >> (at.shift - kDigit)) & (kDigits - 1));
      });
    });
  }
}

// How often the next digit of the elements that share the threshold's prefix is this thread's
// number. Whole block.
template <int kRun>
__device__ __forceinline__ uint32_t tally_digit(TileShared& shared, const Votes& votes,
                                                const Walk<kRun>& walk, const Threshold& at,
                                                bool of_count) {
  shared.tally.clear();
  __syncthreads();
  if (of_count) {
    tally_counts(shared.tally, votes, walk, at);
  } else {
    tally_keys(shared, votes, walk, at);
  }
  __syncthreads();
  return shared.tally.own();
}

// The lowest `count` of the bits that are set.
__device__ __forceinline__ uint32_t lowest(uint32_t bits, int64_t count) {
  uint32_t taken = 0;
  for (; bits && count > 0; --count, bits &= bits - 1) taken |= bits & (0u - bits);
  return taken;
}

// Selects what lies below the threshold, and the first `spare` of what lies at it: all where
// `spare` is negative. Whole block.
template <int kRun, class Emit>
__device__ __forceinline__ void emit_runs(TileShared& shared, const Votes& votes,
                                          const Walk<kRun>& walk, const Threshold& at,
                                          int64_t spare, const Emit& emit, int& bits) {
  const int above = at.shift > 32 ? at.shift - 32 : 0;
#pragma unroll 1
  for (int64_t base = walk.begin; base < walk.end; base += kThreads) {
    const int64_t run = base + threadIdx.x;
    int64_t place = 0;
    uint32_t live = 0, below = 0, equal = 0, down[kRun] = {};
    if (run < walk.end) {
      place = walk.place(run);
      live = walk.live(place);
      read_down(votes, place, live, down, bits);
#pragma unroll
      for (int j = 0; j < kRun; ++j) {
        below |= uint32_t(down[j] >> above < at.down()) << j;
        equal |= uint32_t(down[j] >> above == at.down()) << j;
      }
      equal &= live;
    }
    if (at.shift < 32) {
      shared.deal.found[threadIdx.x] = 0;
      deal_runs(shared.deal, votes, equal, [&](int thread, uint32_t these) {
        uint32_t under = 0, same = 0;
        each_key<kRun>(votes, walk.place(base + thread), these, [&](int j, uint32_t key) {
          const uint64_t digits = (uint64_t(at.down()) << 32 | key) >> at.shift;
          under |= uint32_t(digits < at.prefix) << j;
          same |= uint32_t(digits == at.prefix) << j;
        });
        shared.deal.found[thread] = under | same << 16;
      });
      below |= shared.deal.found[threadIdx.x] & 0xffff;
      equal = shared.deal.found[threadIdx.x] >> 16;
    }
    if (spare > 0) {
      uint64_t all;
      const uint64_t before = sum_before(shared.pick.scan, uint64_t(__popc(equal)), all);
      equal = lowest(equal, spare - int64_t(before));
      spare = spare > int64_t(all) ? spare - int64_t(all) : 0;
    } else if (spare == 0) {
      equal = 0;
    }
    if (run < walk.end) emit.template put<kRun>(votes, place, live, below | equal, down, bits);
  }
}

// One tile of at most kChunk elements, whole.
template <int kRun, class Emit>
__global__ void __launch_bounds__(kThreads, kTileBlocks)
    select_tile_kernel(Votes votes, Tiles tiles, int64_t k, Emit emit, int* errors) {
  PYFED_SHARED(TileShared, shared);
  const Walk<kRun> walk(tiles, blockIdx.x);
  Threshold at = k ? Threshold::start(votes, k) : Threshold::none();
#pragma unroll 1
  while (k && !at.settled && at.shift > votes.idle_bits()) {
    const uint32_t own = tally_digit(shared, votes, walk, at, at.shift > 32);
    pick_digit(shared.pick, own, at);
  }
  int bits = 0;
  emit_runs(shared, votes, walk, at, at.settled ? -1 : at.left, emit, bits);
  wipe(shared);
  report(errors, bits);
}

}  // namespace
}  // namespace pyfed
