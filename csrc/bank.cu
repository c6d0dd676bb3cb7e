// Many clients' parameters in one tensor, on CUDA devices: norms, clipping and optimiser steps, a
// row a client. Products and sums are rounded one by one, roots and quotients correctly.
#include <cmath>

#include "kernels.h"
#include "runs.cuh"

namespace pyfed {
namespace {

constexpr int kRun = 4;                    // elements of a thread at a time
constexpr int kPortion = kRun * kThreads;  // elements of a block at a time
constexpr int kChunk = 4096;               // elements of a partial sum of squares
constexpr float kEpsilon = 1e-6f;          // keeps the factor of a row of zeros finite

// Rows of equal length; a block has one piece of one of them. Grids have less than 2^31 blocks.
struct Rows {
  int64_t count, length, piece;
  bool vector;  // any row may be read 16 bytes at a time

  int64_t across() const { return ceil_div(length, piece); }
};

// Where a block is.
struct Spot {
  int64_t row, number, begin, end;  // elements are counted over all rows

  __device__ __forceinline__ Spot(const Rows& rows) {
    const uint32_t across = uint32_t((rows.length + rows.piece - 1) / rows.piece);
    row = blockIdx.x / across;
    number = blockIdx.x - row * across;
    begin = row * rows.length + number * rows.piece;
    const int64_t last = (row + 1) * rows.length;
    end = begin + rows.piece < last ? begin + rows.piece : last;
  }
};

__device__ __forceinline__ uint32_t live_at(int64_t place, int64_t end) {
  const int64_t left = end - place;
  return left >= kRun ? kWholeRun<kRun> : left <= 0 ? 0 : (1u << int(left)) - 1;
}

__device__ __forceinline__ void read_floats(const float* from, int64_t place, uint32_t live,
                                            bool vector, float (&run)[kRun]) {
  read_run(from, place, live, vector, run);
}

struct Sums {
  double sum[kThreads];
};

// The sum of all threads' numbers, in a fixed order; thread 0 has it.
__device__ __forceinline__ double sum_of_block(Sums& shared, double own) {
  const int me = int(threadIdx.x);
  shared.sum[me] = own;
#pragma unroll
  for (int half = kThreads / 2; half; half /= 2) {
    __syncthreads();
    if (me < half) shared.sum[me] += shared.sum[me + half];
  }
  return shared.sum[me];
}

// Squares of float32 are exact in float64, so that fusing them with the sum changes nothing.
__global__ void __launch_bounds__(kThreads)
    sum_squares_kernel(const float* __restrict__ grads, Rows rows, double* __restrict__ partials) {
  PYFED_SHARED(Sums, shared);
  const Spot spot(rows);
  double sum = 0;
#pragma unroll 4
  for (int64_t first = 0; first < kChunk; first += kPortion) {
    const int64_t place = spot.begin + first + kRun * int(threadIdx.x);
    float run[kRun];
    read_floats(grads, place, live_at(place, spot.end), rows.vector, run);
#pragma unroll
    for (int j = 0; j < kRun; ++j) sum += double(run[j]) * double(run[j]);
  }
  const double total = sum_of_block(shared, sum);
  if (threadIdx.x == 0) partials[blockIdx.x] = total;
  wipe(shared);
}

// partials (clients, across) → norms (clients), a block a client.
__global__ void __launch_bounds__(kThreads)
    row_norm_kernel(const double* __restrict__ partials, int64_t across, float* __restrict__ norms,
                    int* errors) {
  PYFED_SHARED(Sums, shared);
  const double* row = partials + int64_t(blockIdx.x) * across;
  double sum = 0;
  for (int64_t i = threadIdx.x; i < across; i += kThreads) sum += row[i];
  const double total = sum_of_block(shared, sum);
  if (threadIdx.x == 0) {
    const float norm = float(sqrt(total));
    norms[blockIdx.x] = norm;
    report(errors, Real<kFloat32>::finite(bits_of(norm)) ? 0 : kNotFinite);
  }
  wipe(shared);
}

// Rows that are short enough keep their bits, and so do those whose norm is not finite.
__global__ void __launch_bounds__(kThreads)
    clip_kernel(float* grads, Rows rows, const float* __restrict__ max_norm,
                const float* __restrict__ norms) {
  const Spot spot(rows);
  const float norm = norms[spot.row];
  const float factor = __fdiv_rn(max_norm[spot.row], __fadd_rn(norm, kEpsilon));
  if (!(factor < 1) || !Real<kFloat32>::finite(bits_of(norm))) return;
#pragma unroll 4
  for (int64_t first = 0; first < kChunk; first += kPortion) {
    const int64_t place = spot.begin + first + kRun * int(threadIdx.x);
    const uint32_t live = live_at(place, spot.end);
    float run[kRun];
    read_floats(grads, place, live, rows.vector, run);
#pragma unroll
    for (int j = 0; j < kRun; ++j) run[j] = __fmul_rn(run[j], factor);
    write_run(grads, place, live, rows.vector, run);
  }
}

__global__ void __launch_bounds__(kThreads)
    adamw_kernel(float* params, const float* __restrict__ grads, float* exp_avg, float* exp_avg_sq,
                 Rows rows, const float* __restrict__ factors) {
  const Spot spot(rows);
  const float* f = factors + 8 * spot.row;
  if (f[0] == 0) return;
  const float decay = f[1], first_rate = f[2], keep = f[3], second_rate = f[4];
  const float step = f[5], root = f[6], eps = f[7];
  const int64_t place = spot.begin + kRun * int(threadIdx.x);
  const uint32_t live = live_at(place, spot.end);
  float p[kRun], g[kRun], m[kRun], v[kRun];
  read_floats(params, place, live, rows.vector, p);
  read_floats(grads, place, live, rows.vector, g);
  read_floats(exp_avg, place, live, rows.vector, m);
  read_floats(exp_avg_sq, place, live, rows.vector, v);
#pragma unroll
  for (int j = 0; j < kRun; ++j) {
    m[j] = __fadd_rn(m[j], __fmul_rn(__fsub_rn(g[j], m[j]), first_rate));
    v[j] = __fadd_rn(__fmul_rn(v[j], keep), __fmul_rn(__fmul_rn(second_rate, g[j]), g[j]));
    const float below = __fadd_rn(__fdiv_rn(__fsqrt_rn(v[j]), root), eps);
    p[j] = __fsub_rn(__fmul_rn(p[j], decay), __fmul_rn(step, __fdiv_rn(m[j], below)));
  }
  write_run(params, place, live, rows.vector, p);
  write_run(exp_avg, place, live, rows.vector, m);
  write_run(exp_avg_sq, place, live, rows.vector, v);
}

template <bool kMomentum>
__global__ void __launch_bounds__(kThreads)
    sgd_kernel(float* params, const float* __restrict__ grads, float* momentum, Rows rows,
               const float* __restrict__ factors) {
  const Spot spot(rows);
  const float* f = factors + 8 * spot.row;
  if (f[0] == 0) return;
  const float lr = f[1], keep = f[2], rate = f[3], decay = f[4];
  const bool nesterov = f[5] != 0, begins = f[6] != 0;
  const int64_t place = spot.begin + kRun * int(threadIdx.x);
  const uint32_t live = live_at(place, spot.end);
  float p[kRun], g[kRun], buffer[kRun] = {};
  read_floats(params, place, live, rows.vector, p);
  read_floats(grads, place, live, rows.vector, g);
  if (kMomentum) read_floats(momentum, place, live, rows.vector, buffer);
#pragma unroll
  for (int j = 0; j < kRun; ++j) {
    float d = decay != 0 ? __fadd_rn(g[j], __fmul_rn(decay, p[j])) : g[j];
    if (kMomentum) {
      buffer[j] = begins ? d : __fadd_rn(__fmul_rn(buffer[j], keep), __fmul_rn(rate, d));
      d = nesterov ? __fadd_rn(d, __fmul_rn(keep, buffer[j])) : buffer[j];
    }
    p[j] = __fsub_rn(p[j], __fmul_rn(lr, d));
  }
  write_run(params, place, live, rows.vector, p);
  if (kMomentum) write_run(momentum, place, live, rows.vector, buffer);
}

}  // namespace

void segment_clip_cuda(float* grads, int64_t clients, int64_t length, const float* max_norm,
                       float* norms, double* partials, int* errors, int device,
                       void* stream_handle) {
  if (clients == 0) return;
  const DeviceGuard guard(device);
  const Rows rows = {clients, length, kChunk, length % kRun == 0 && is_aligned16(grads)};
  const int64_t blocks = clients * rows.across();
  if (blocks) launch(sum_squares_kernel, blocks, stream_handle, grads, rows, partials);
  launch(row_norm_kernel, clients, stream_handle, partials, rows.across(), norms, errors);
  if (blocks) launch(clip_kernel, blocks, stream_handle, grads, rows, max_norm, norms);
}

void bank_adamw_cuda(float* params, const float* grads, float* exp_avg, float* exp_avg_sq,
                     int64_t clients, int64_t length, const float* factors, int* errors, int device,
                     void* stream_handle) {
  (void)errors;
  if (clients * length == 0) return;
  const DeviceGuard guard(device);
  const bool vector = length % kRun == 0 && is_aligned16(params) && is_aligned16(grads) &&
                      is_aligned16(exp_avg) && is_aligned16(exp_avg_sq);
  const Rows rows = {clients, length, kPortion, vector};
  launch(adamw_kernel, clients * rows.across(), stream_handle, params, grads, exp_avg, exp_avg_sq,
         rows, factors);
}

void bank_sgd_cuda(float* params, const float* grads, float* momentum, int64_t clients,
                   int64_t length, const float* factors, int* errors, int device,
                   void* stream_handle) {
  (void)errors;
  if (clients * length == 0) return;
  const DeviceGuard guard(device);
  const bool vector =
      length % kRun == 0 && is_aligned16(params) && is_aligned16(grads) && is_aligned16(momentum);
  const Rows rows = {clients, length, kPortion, vector};
  launch(momentum ? sgd_kernel<true> : sgd_kernel<false>, clients * rows.across(), stream_handle,
         params, grads, momentum, rows, factors);
}

}  // namespace pyfed
