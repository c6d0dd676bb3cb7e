// Matrix products and sums of residues on CUDA devices.
#include "digits.h"
#include "field.h"
#include "kernels.h"
#include "product.cuh"

namespace pyfed {
namespace {

constexpr int64_t kEnoughBlocks = 1024;  // several for each multiprocessor of any device
constexpr int64_t kLeastDepth = 2048;    // inner elements that are worth a block of their own

// An inner dimension (or the clients of a sum) in pieces, each for another block: only where the
// output alone gives too few blocks. Residues of the pieces are then added into `out`, in any
// order: the sum is exact.
struct Split {
  int64_t pieces, length;

  Split(int64_t total, int64_t tiles) {
    const int64_t most = ceil_div(total, kLeastDepth), wanted = ceil_div(kEnoughBlocks, tiles);
    length = ceil_div(total, most < wanted ? most : wanted);
    pieces = ceil_div(total, length);
  }
};

// out = out + v mod p, while other blocks do the same.
template <uint32_t P>
__device__ __forceinline__ void add_residue(uint32_t* out, uint32_t v) {
  uint32_t seen = *out, before;
  do {
    before = seen;
    seen = atomicCAS(out, before, Field<P>::add(before, v));
  } while (seen != before);
}

template <uint32_t P>
__device__ __forceinline__ void put_residue(uint32_t* out, uint32_t v, int64_t pieces) {
  if (pieces == 1) {
    *out = v;
  } else {
    add_residue<P>(out, v);
  }
}

void clear(uint32_t* out, int64_t count, void* stream) {
  check(cudaMemsetAsync(out, 0, size_t(count) * 4, static_cast<cudaStream_t>(stream)));
}

template <uint32_t P, class S>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    field_matmul_kernel(const uint32_t* __restrict__ a, const uint32_t* __restrict__ b, int64_t m,
                        int64_t k, int64_t n, Split split, uint32_t* __restrict__ out,
                        int* errors) {
  PYFED_SHARED(Panels<S>, shared);
  const int64_t piece = blockIdx.x % split.pieces, tile = blockIdx.x / split.pieces;
  const int64_t across = (n + S::kColumns - 1) / S::kColumns;
  const int64_t row = tile / across * S::kRows, column = tile % across * S::kColumns;
  const int64_t from = piece * split.length;
  const int64_t to = from + split.length < k ? from + split.length : k;
  int bits = 0;
  Sums<S> sums;
  tile_product<P>(shared, a, k, row, m, MatrixRight<P>{b, n, column}, from, to, sums, bits);
  each_residue<P>(sums, [&](int r, int c, uint32_t v) {
    if (row + r < m && column + c < n) {
      put_residue<P>(out + (row + r) * n + column + c, v, split.pieces);
    }
  });
  wipe(shared);
  report(errors, bits);
}

constexpr int kDotTile = 4;
struct DotSums {
  uint32_t at[kDotTile * kDotTile][kThreads];
};

// For few columns and a long inner dimension: threads lie along it, so that both operands are read
// once and coalesced; each thread accumulates a tile of 4 x 4 products, and the block adds up.
template <uint32_t P>
__global__ void __launch_bounds__(kThreads)
    field_dot_kernel(const uint32_t* __restrict__ a, const uint32_t* __restrict__ b, int64_t m,
                     int64_t k, int64_t n, Split split, uint32_t* __restrict__ out, int* errors) {
  PYFED_SHARED(DotSums, shared);
  const int64_t piece = blockIdx.x % split.pieces, tile = blockIdx.x / split.pieces;
  const int64_t across = (n + kDotTile - 1) / kDotTile;
  const int64_t row = tile / across * kDotTile, column = tile % across * kDotTile;
  const int64_t from = piece * split.length;
  const int64_t to = from + split.length < k ? from + split.length : k;
  const int rows = m - row < kDotTile ? int(m - row) : kDotTile;
  const int columns = n - column < kDotTile ? int(n - column) : kDotTile;
  int bits = 0;
  int64_t sums[kDotTile][kDotTile] = {};
  for (int64_t base = from + threadIdx.x; base < to; base += 8 * kThreads) {
#pragma unroll 4
    for (int i = 0; i < 8; ++i) {  // between folds: the bound beside tile_product
      const int64_t l = base + i * kThreads;
      int32_t left[kDotTile], right[kDotTile];
#pragma unroll
      for (int j = 0; j < kDotTile; ++j) {
        const uint32_t x = j < rows && l < to ? a[(row + j) * k + l] : 0;
        const uint32_t y = j < columns && l < to ? b[l * n + column + j] : 0;
        left[j] = checked<P>(x, bits), right[j] = checked<P>(y, bits);
      }
#pragma unroll
      for (int r = 0; r < kDotTile; ++r) {
#pragma unroll
        for (int c = 0; c < kDotTile; ++c) sums[r][c] += int64_t(left[r]) * right[c];
      }
    }
#pragma unroll
    for (int r = 0; r < kDotTile; ++r) {
#pragma unroll
      for (int c = 0; c < kDotTile; ++c) sums[r][c] = folded<P>(sums[r][c]);
    }
  }
#pragma unroll
  for (int r = 0; r < kDotTile; ++r) {
#pragma unroll
    for (int c = 0; c < kDotTile; ++c) {
      shared.at[r * kDotTile + c][threadIdx.x] = residue_of_folded<P>(sums[r][c]);
    }
  }
  __syncthreads();
  // 16 threads add up each of the 16 outputs, then one of them adds up the 16 sums.
  constexpr int kParts = kThreads / (kDotTile * kDotTile);
  const int output = threadIdx.x / kParts, part = threadIdx.x % kParts;
  uint64_t sum = 0;
  for (int i = part; i < kThreads; i += kParts) sum += shared.at[output][i];
  __syncthreads();
  shared.at[output][part] = Field<P>::reduce(sum);
  __syncthreads();
  const int r = output / kDotTile, c = output % kDotTile;
  if (part == 0 && r < rows && c < columns) {
    sum = 0;
    for (int i = 0; i < kParts; ++i) sum += shared.at[output][i];
    put_residue<P>(out + (row + r) * n + column + c, Field<P>::reduce(sum), split.pieces);
  }
  wipe(shared);
  report(errors, bits);
}

template <uint32_t P, class S>
void launch_matmul(const uint32_t* a, const uint32_t* b, int64_t m, int64_t k, int64_t n,
                   uint32_t* out, int* errors, void* stream) {
  const int64_t tiles = ceil_div(m, S::kRows) * ceil_div(n, S::kColumns);
  const Split split(k, tiles);
  if (split.pieces > 1) clear(out, m * n, stream);
  launch(field_matmul_kernel<P, S>, tiles * split.pieces, stream, a, b, m, k, n, split, out,
         errors);
}

template <uint32_t P>
void launch_dot(const uint32_t* a, const uint32_t* b, int64_t m, int64_t k, int64_t n,
                uint32_t* out, int* errors, void* stream) {
  const int64_t tiles = ceil_div(m, kDotTile) * ceil_div(n, kDotTile);
  const Split split(k, tiles);
  if (split.pieces > 1) clear(out, m * n, stream);
  launch(field_dot_kernel<P>, tiles * split.pieces, stream, a, b, m, k, n, split, out, errors);
}

struct SumPlan {
  bool wide;   // rows and `out` allow 16-byte accesses
  int groups;  // of threads, each with its own clients: a power of two, at most kThreads
  Split split;
};

struct Partials {
  uint32_t at[4][kThreads];
};

// A thread has four neighbouring columns, and every (groups · pieces)-th client: one group where
// the columns alone keep the device busy, up to a whole block for four columns.
template <uint32_t P>
__global__ void __launch_bounds__(kThreads)
    field_sum_kernel(const uint32_t* __restrict__ x, const uint32_t* __restrict__ weights,
                     int64_t clients, int64_t count, SumPlan plan, uint32_t* __restrict__ out,
                     int* errors) {
  PYFED_SHARED(Partials, shared);
  const int lanes = kThreads / plan.groups;
  const int group = threadIdx.x / lanes;
  const int64_t pieces = plan.split.pieces;
  const int64_t piece = blockIdx.x % pieces, tile = blockIdx.x / pieces;
  const int64_t column = 4 * (tile * lanes + threadIdx.x % lanes);
  const int columns = count - column < 4 ? int(count - column) : 4;  // 0 or less: beyond the end
  const int64_t end = (piece + 1) * plan.split.length;
  const int64_t last = end < clients ? end : clients;
  int bits = 0;
  uint64_t sums[4] = {};
  for (int64_t base = piece * plan.split.length + group; base < last; base += 4 * plan.groups) {
    Quad quads[4];
    uint32_t factors[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t client = base + i * plan.groups;
      quads[i] = {};
      factors[i] = 0;
      if (client >= last || columns <= 0) continue;
      const uint32_t* row = x + client * count + column;
      factors[i] = weights ? weights[client] : 1;
      if (plan.wide) {
        quads[i] = *reinterpret_cast<const Quad*>(row);
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) quads[i].v[j] = j < columns ? row[j] : 0;
      }
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {  // between folds: the bound beside Field::fold
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        bits |= quads[i].v[j] >= P || factors[i] >= P ? kBadResidue : 0;
        sums[j] += uint64_t(factors[i]) * quads[i].v[j];
      }
      sums[j] = Field<P>::fold(sums[j]);
    }
  }
  if (plan.groups > 1) {
#pragma unroll
    for (int j = 0; j < 4; ++j) shared.at[j][threadIdx.x] = Field<P>::reduce(sums[j]);
    __syncthreads();
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      sums[j] = 0;
      for (int i = threadIdx.x; group == 0 && i < kThreads; i += lanes) sums[j] += shared.at[j][i];
    }
    wipe(shared);
  }
  if (group == 0 && columns > 0) {
    Quad result;
#pragma unroll
    for (int j = 0; j < 4; ++j) result.v[j] = Field<P>::reduce(sums[j]);
    if (plan.wide && pieces == 1) {
      *reinterpret_cast<Quad*>(out + column) = result;
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (j < columns) put_residue<P>(out + column + j, result.v[j], pieces);
      }
    }
  }
  report(errors, bits);
}

template <uint32_t P>
void launch_sum(const uint32_t* x, const uint32_t* weights, int64_t clients, int64_t count,
                uint32_t* out, int* errors, void* stream) {
  const int64_t quads = ceil_div(count, 4);
  int groups = 1;
  while (groups < kThreads && groups < clients && quads * groups < kEnoughBlocks * kThreads / 4 &&
         (quads < kThreads / groups || groups < 8)) {
    groups *=
        2;  // beyond 8 only where threads would have no columns: 512 bytes of a row stay whole
  }
  const int64_t tiles = ceil_div(quads, kThreads / groups);
  const Split split(clients, tiles);
  const bool wide = count % 4 == 0 && is_aligned16(x) && is_aligned16(out);
  if (split.pieces > 1) clear(out, count, stream);
  launch(field_sum_kernel<P>, tiles * split.pieces, stream, x, weights, clients, count,
         SumPlan{wide, groups, split}, out, errors);
}

}  // namespace

void field_matmul_cuda(const uint32_t* a, const uint32_t* b, int64_t m, int64_t k, int64_t n,
                       uint32_t modulus, uint32_t* out, int32_t* scratch, int* errors, int device,
                       void* stream_handle) {
  const DeviceGuard guard(device);
  for_field(modulus, [&](auto field) {
    constexpr uint32_t P = decltype(field)::kModulus;
    if (m == 0 || n == 0) return;
    if (k == 0) {
      clear(out, m * n, stream_handle);
    } else if (scratch) {
      digit_matmul(a, b, m, k, n, modulus, out, scratch, errors, stream_handle);
    } else if (n <= 2 * kDotTile && k >= kLeastDepth / 4) {
      launch_dot<P>(a, b, m, k, n, out, errors, stream_handle);
    } else if (m <= Rows16::kRows) {
      launch_matmul<P, Rows16>(a, b, m, k, n, out, errors, stream_handle);
    } else {
      launch_matmul<P, Rows64>(a, b, m, k, n, out, errors, stream_handle);
    }
  });
}

void field_sum_cuda(const uint32_t* x, const uint32_t* weights, int64_t clients, int64_t count,
                    uint32_t modulus, uint32_t* out, int* errors, int device, void* stream_handle) {
  const DeviceGuard guard(device);
  for_field(modulus, [&](auto field) {
    if (count == 0) return;
    if (clients == 0) {
      clear(out, count, stream_handle);
    } else {
      launch_sum<decltype(field)::kModulus>(x, weights, clients, count, out, errors, stream_handle);
    }
  });
}

}  // namespace pyfed
