// Centred lifts on CUDA devices: an element a thread, coalesced.
#include "kernels.h"
#include "launch.h"
#include "lift.h"

namespace pyfed {
namespace {

struct Lifting {
  const uint32_t* __restrict__ residues;  // (count,), or (2, count) of a pair
  int64_t count;
  uint32_t modulus;
  bool pair;

  // The integer of element i; of residues that are none, any.
  __device__ __forceinline__ int64_t at(int64_t i, int& bits) const {
    const uint32_t low = residues[i];
    if (pair) {
      const uint32_t high = residues[count + i];
      const bool bad = low >= Pair::kFirst || high >= Pair::kSecond;
      bits |= bad ? kBadResidue : 0;
      return bad ? 0 : Pair::lift(low, high);
    }
    bits |= low >= modulus ? kBadResidue : 0;
    return low >= modulus ? 0 : centred(low, modulus);
  }
};

constexpr int kEach = 4;  // elements of a thread

template <class Out, class Turn>
__device__ __forceinline__ void each_lift(const Lifting& from, Out* __restrict__ out, int* errors,
                                          Turn turn) {
  int bits = 0;
  const int64_t first = int64_t(blockIdx.x) * kEach * kThreads + threadIdx.x;
#pragma unroll
  for (int e = 0; e < kEach; ++e) {
    const int64_t i = first + e * kThreads;
    if (i < from.count) out[i] = turn(from.at(i, bits));
  }
  report(errors, bits);
}

__global__ void __launch_bounds__(kThreads)
    field_lift_kernel(Lifting from, int64_t* __restrict__ out, int* errors) {
  each_lift(from, out, errors, [](int64_t integer) { return integer; });
}

__global__ void __launch_bounds__(kThreads)
    dequantize_wide_kernel(Lifting from, float step, float* __restrict__ out, int* errors) {
  each_lift(from, out, errors, [=](int64_t integer) { return float(integer) * step; });
}

}  // namespace

void field_lift_cuda(const uint32_t* residues, int64_t count, uint32_t first, uint32_t second,
                     int64_t* out, int* errors, int device, void* stream_handle) {
  if (count == 0) return;
  const DeviceGuard guard(device);
  const Lifting from = {residues, count, first, second != 0};
  launch(field_lift_kernel, ceil_div(count, kEach * kThreads), stream_handle, from, out, errors);
}

void dequantize_wide_cuda(const uint32_t* residues, int64_t count, float scale, uint32_t first,
                          uint32_t second, float* out, int* errors, int device,
                          void* stream_handle) {
  if (count == 0) return;
  const DeviceGuard guard(device);
  const Lifting from = {residues, count, first, second != 0};
  const float step = 1.0f / scale;  // exact: scale is a power of two within 2^±100
  launch(dequantize_wide_kernel, ceil_div(count, kEach * kThreads), stream_handle, from, step, out,
         errors);
}

}  // namespace pyfed
