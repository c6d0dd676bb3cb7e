// A client's upload on CUDA devices: values are read once, and rounded and masked residues written.
#include <cmath>

#include "kernels.h"
#include "mask_sums.cuh"
#include "rounding.h"

namespace pyfed {
namespace {

struct Rounding {
  const uint32_t* __restrict__ key;  // null: to nearest
  float scale, clip;
  int32_t weight;
};

struct Streams {
  Keystream masks, rounding;
};

// Words that round are made by the threads of the first group, a block each, before the masks.
template <uint32_t P>
__global__ void __launch_bounds__(kThreads, 2)
    quantize_mask_kernel(const float* __restrict__ values, Portions portions, Rounding rounding,
                         Masks masks, uint32_t* __restrict__ out, int* errors) {
  PYFED_SHARED(Streams, shared);
  const int64_t first = portions.first();
  const int live = portions.live();
  const uint32_t modulus = P ? P : masks.modulus;
  int bits = 0;
  if (rounding.key) {
    fill_keystream(shared.rounding, rounding.key, portions,
                   {0, masks.stream, domain_word(kRounding, 0)});
  }
  sum_masks<P>(shared.masks, portions, masks, bits);
  __syncthreads();
#pragma unroll 1
  for (int i = threadIdx.x; i < live; i += kThreads) {
    const float value = values[first + i];
    bits |= is_finite(value) ? 0 : kNotFinite;
    const float y = scaled(value, rounding.scale, rounding.clip);
    const int32_t rounded =
        rounding.key ? rounded_at_random(y, shared.rounding[portions.skip + i]) : int32_t(rintf(y));
    // |rounded| <= ⌈clip · scale⌉, and that times the weight is at most (p - 1) / 2 < 2^30.
    const uint32_t residue = uint32_t(residue_of(rounded * rounding.weight, modulus));
    out[first + i] = with_masks(shared.masks, masks, portions.skip + i, modulus, residue);
  }
  wipe(shared);
  report(errors, bits);
}

}  // namespace

void quantize_mask_cuda(const float* values, int64_t length, float scale, float clip,
                        uint32_t modulus, const uint32_t* key, const uint32_t* keys,
                        const int32_t* signs, int64_t masks, int32_t weight, uint32_t stream,
                        int64_t start, uint32_t* out, int* errors, int device,
                        void* stream_handle) {
  if (length == 0) return;
  const DeviceGuard guard(device);
  Masks all = {keys, signs, masks, modulus, stream};
  all.spread(start, length);
  const Portions portions = all.portions(start, length);
  const Rounding rounding = {key, scale, clip, weight};
  const auto run = [&](auto kernel) {
    launch(kernel, portions.blocks(), stream_handle, values, portions, rounding, all, out, errors);
  };
  const auto run_field = [&](auto field) { run(quantize_mask_kernel<decltype(field)::kModulus>); };
  if (!with_field(modulus, run_field)) run(quantize_mask_kernel<0>);
}

}  // namespace pyfed
