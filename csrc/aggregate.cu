// What a server does with uploads on CUDA devices: the mask is decoded into the result's memory,
// and one pass over the uploads puts the result in its place.
#include "field.h"
#include "kernels.h"
#include "launch.h"

namespace pyfed {
namespace {

constexpr int kRows = 4;  // of uploads, all read before the first use

// out[i] = Σ_c uploads[c · length + i] - out[i] mod P, or, with a step, its centred lift in steps
// as a float. A thread has four neighbours. Sums of 64 bits take 2^33 residues.
template <uint32_t P>
__global__ void __launch_bounds__(kThreads)
    unmask_kernel(const uint32_t* __restrict__ uploads, int64_t clients, int64_t length, float step,
                  bool wide, uint32_t* __restrict__ out, int* errors) {
  const int64_t column = 4 * (int64_t(blockIdx.x) * kThreads + threadIdx.x);
  const int live = length - column < 4 ? int(length - column) : 4;  // 0 or less: beyond the end
  if (live <= 0) return;
  uint64_t sums[4] = {};
  uint32_t most = 0;
  for (int64_t base = 0; base < clients; base += kRows) {
    Quad quads[kRows] = {};
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (base + r >= clients) continue;
      const uint32_t* row = uploads + (base + r) * length + column;
      if (wide) {
        quads[r] = *reinterpret_cast<const Quad*>(row);
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) quads[r].v[j] = j < live ? row[j] : 0;
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        most = most > quads[r].v[j] ? most : quads[r].v[j];
        sums[j] += quads[r].v[j];
      }
    }
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (j >= live) continue;
    const uint32_t residue = Field<P>::add(Field<P>::reduce(sums[j]), P - out[column + j]);
    union {
      float value;
      uint32_t bits;
    } lifted = {float(centred(residue, P)) * step};
    out[column + j] = step == 0 ? residue : lifted.bits;
  }
  report(errors, most >= P ? kBadResidue : 0);
}

}  // namespace

void decode_sum_cuda(const uint32_t* uploads, int64_t clients, int64_t length, const uint32_t* rows,
                     int64_t columns, const uint32_t* matrix, int64_t blocks, int64_t threshold,
                     float scale, uint32_t modulus, int32_t* scratch, uint32_t* out, int* errors,
                     int device, void* stream_handle) {
  if (length == 0) return;
  lagrange_decode_cuda(rows, columns, matrix, blocks, threshold, length, modulus, out, scratch,
                       errors, device, stream_handle);
  const DeviceGuard guard(device);
  const float step = scale == 0 ? 0 : 1 / scale;  // exact: a power of two within 2^±100
  const bool wide = length % 4 == 0 && is_aligned16(uploads);
  with_field(modulus, [&](auto field) {
    launch(unmask_kernel<decltype(field)::kModulus>, ceil_div(length, 4 * kThreads), stream_handle,
           uploads, clients, length, step, wide, out, errors);
  });
}

}  // namespace pyfed
