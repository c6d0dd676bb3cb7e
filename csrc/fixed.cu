// Fixed point on CUDA devices.
#include <cmath>

#include "field.h"
#include "kernels.h"
#include "keystream.cuh"
#include "rounding.h"

namespace pyfed {
namespace {

constexpr int kQuads = 4;  // of a thread, all read before the first use
constexpr int64_t kPortion = 4 * int64_t(kQuads) * kThreads;  // elements of a block

// out[i] = turn(in[i]) on elements i of this block, four at a time, by 16-byte accesses when
// `wide`. In and Out are 4 bytes wide.
template <class In, class Out, class Turn>
__device__ __forceinline__ void each_quad(const In* in, int64_t count, bool wide, Out* out,
                                          Turn turn) {
  struct alignas(16) Ins {
    In v[4];
  };
  struct alignas(16) Outs {
    Out v[4];
  };
  const int64_t first = int64_t(blockIdx.x) * kPortion + 4 * int(threadIdx.x);
  if (wide && int64_t(blockIdx.x + 1) * kPortion <= count) {
    Ins quads[kQuads];
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
      quads[q] = *reinterpret_cast<const Ins*>(in + first + q * 4 * kThreads);
    }
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
      Outs result;
#pragma unroll
      for (int j = 0; j < 4; ++j) result.v[j] = turn(quads[q].v[j]);
      *reinterpret_cast<Outs*>(out + first + q * 4 * kThreads) = result;
    }
    return;
  }
  const int64_t end = int64_t(blockIdx.x + 1) * kPortion;
  const int64_t last = end < count ? end : count;
  for (int64_t i = int64_t(blockIdx.x) * kPortion + threadIdx.x; i < last; i += kThreads) {
    out[i] = turn(in[i]);
  }
}

__device__ __forceinline__ uint32_t nearest(float value, float scale, float clip,
                                            uint32_t modulus) {
  return uint32_t(residue_of(int32_t(rintf(scaled(value, scale, clip))), modulus));
}

__global__ void __launch_bounds__(kThreads)
    quantize_nearest_kernel(const float* __restrict__ values, int64_t count, float scale,
                            float clip, uint32_t modulus, bool wide, uint32_t* __restrict__ out,
                            int* errors) {
  int bits = 0;
  each_quad(values, count, wide, out, [&](float value) {
    bits |= is_finite(value) ? 0 : kNotFinite;
    return nearest(value, scale, clip, modulus);
  });
  report(errors, bits);
}

// Each word is used once, so ChaCha20 sets the pace (about 1000 operations for 16 values), and
// reads and writes need no more than to be coalesced.
__global__ void __launch_bounds__(kThreads)
    quantize_random_kernel(const float* __restrict__ values, Portions portions, float scale,
                           float clip, uint32_t modulus, const uint32_t* __restrict__ key,
                           uint32_t stream, uint32_t* __restrict__ out, int* errors) {
  PYFED_SHARED(Keystream, words);
  fill_keystream(words, key, portions, {0, stream, domain_word(kRounding, 0)});
  const int64_t first = portions.first();
  const int live = portions.live();
  int bits = 0;
#pragma unroll 4
  for (int i = threadIdx.x; i < live; i += kThreads) {
    const float value = values[first + i];
    bits |= is_finite(value) ? 0 : kNotFinite;
    const float y = scaled(value, scale, clip);
    out[first + i] = uint32_t(residue_of(rounded_at_random(y, words[portions.skip + i]), modulus));
  }
  wipe(words);
  report(errors, bits);
}

__global__ void __launch_bounds__(kThreads)
    dequantize_kernel(const uint32_t* __restrict__ residues, int64_t count, float step,
                      uint32_t modulus, bool wide, float* __restrict__ out, int* errors) {
  int bits = 0;
  each_quad(residues, count, wide, out, [&](uint32_t residue) {
    const bool bad = residue >= modulus;
    bits |= bad ? kBadResidue : 0;
    return float(centred(bad ? 0 : residue, modulus)) * step;
  });
  report(errors, bits);
}

}  // namespace

void quantize_cuda(const float* values, int64_t count, float scale, float clip, uint32_t modulus,
                   const uint32_t* key, uint32_t stream, int64_t start, uint32_t* out, int* errors,
                   int device, void* stream_handle) {
  if (count == 0) return;
  const DeviceGuard guard(device);
  if (key) {
    const Portions portions(start, count);
    launch(quantize_random_kernel, portions.blocks(), stream_handle, values, portions, scale, clip,
           modulus, key, stream, out, errors);
  } else {
    const bool wide = is_aligned16(values) && is_aligned16(out);
    launch(quantize_nearest_kernel, ceil_div(count, kPortion), stream_handle, values, count, scale,
           clip, modulus, wide, out, errors);
  }
}

void dequantize_cuda(const uint32_t* residues, int64_t count, float scale, uint32_t modulus,
                     float* out, int* errors, int device, void* stream_handle) {
  if (count == 0) return;
  const DeviceGuard guard(device);
  const bool wide = is_aligned16(residues) && is_aligned16(out);
  const float step = 1.0f / scale;  // exact: scale is a power of two within 2^±100
  launch(dequantize_kernel, ceil_div(count, kPortion), stream_handle, residues, count, step,
         modulus, wide, out, errors);
}

}  // namespace pyfed
