// Pairwise masks on CUDA devices: every key's residues are made and added up in registers, and the
// vector is read and written once.
#include "kernels.h"
#include "mask_sums.cuh"

namespace pyfed {
namespace {

template <uint32_t P>
__global__ void __launch_bounds__(kThreads, 2)
    add_masks_kernel(uint32_t* __restrict__ residues, Portions portions, Masks masks, int* errors) {
  PYFED_SHARED(Keystream, shared);
  const int64_t first = portions.first();
  const int live = portions.live();
  const uint32_t modulus = P ? P : masks.modulus;
  int bits = 0;
  sum_masks<P>(shared, portions, masks, bits);
  __syncthreads();
#pragma unroll 4
  for (int i = threadIdx.x; i < live; i += kThreads) {
    const uint32_t value = residues[first + i];
    const bool bad = value >= modulus;
    bits |= bad ? kBadResidue : 0;  // masked all the same
    residues[first + i] = with_masks(shared, masks, portions.skip + i, modulus, bad ? 0 : value);
  }
  wipe(shared);
  report(errors, bits);
}

}  // namespace

void add_masks_cuda(uint32_t* residues, int64_t length, const uint32_t* keys, const int32_t* signs,
                    int64_t masks, uint32_t modulus, uint32_t stream, int64_t start, int* errors,
                    int device, void* stream_handle) {
  if (length == 0) return;
  const DeviceGuard guard(device);
  Masks all = {keys, signs, masks, modulus, stream};
  all.spread(start, length);
  const Portions portions = all.portions(start, length);
  const auto run = [&](auto kernel) {
    launch(kernel, portions.blocks(), stream_handle, residues, portions, all, errors);
  };
  if (!with_field(modulus, [&](auto field) { run(add_masks_kernel<decltype(field)::kModulus>); })) {
    run(add_masks_kernel<0>);
  }
}

}  // namespace pyfed
