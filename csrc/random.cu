// Random words and residues from ChaCha20 on CUDA devices.
#include "kernels.h"
#include "keystream.cuh"

namespace pyfed {
namespace {

__global__ void __launch_bounds__(kThreads)
    random_words_kernel(const uint32_t* __restrict__ key, Portions portions, uint32_t stream,
                        uint32_t* __restrict__ out) {
  PYFED_SHARED(Keystream, words);
  fill_keystream(words, key, portions, {0, stream, domain_word(kWords, 0)});
  uint32_t* target = out + portions.first();
  const int live = portions.live();
  for (int i = threadIdx.x; i < live; i += kThreads) target[i] = words[portions.skip + i];
  wipe(words);
}

// A rejected candidate costs its warp one ChaCha20 block per attempt: nothing for the library's
// fields (6e-5 of the candidates, or 2^-31), most of the time for a tiny prime.
__global__ void __launch_bounds__(kThreads)
    random_residues_kernel(const uint32_t* __restrict__ key, Portions portions, uint32_t stream,
                           uint32_t modulus, uint32_t* __restrict__ out, int* errors) {
  PYFED_SHARED(Keystream, words);
  const Nonce nonce = {0, stream, domain_word(kResidues, modulus)};
  fill_keystream(words, key, portions, nonce);
  const uint32_t mask = candidate_mask(modulus);
  const int64_t first = portions.first();
  const int live = portions.live();
  int bits = 0;
#pragma unroll 1  // one copy of the retry
  for (int i = threadIdx.x; i < live; i += kThreads) {
    uint32_t residue = words[portions.skip + i] & mask;
    if (residue >= modulus) {
      residue = retry_residue(key, portions.start + first + i, nonce, modulus, &bits);
    }
    out[first + i] = residue;
  }
  wipe(words);
  report(errors, bits);
}

}  // namespace

void random_words_cuda(const uint32_t* key, int64_t start, int64_t count, uint32_t stream,
                       uint32_t* out, int* /*errors*/, int device, void* stream_handle) {
  if (count == 0) return;
  const DeviceGuard guard(device);
  const Portions portions(start, count);
  launch(random_words_kernel, portions.blocks(), stream_handle, key, portions, stream, out);
}

void random_residues_cuda(const uint32_t* key, int64_t start, int64_t count, uint32_t stream,
                          uint32_t modulus, uint32_t* out, int* errors, int device,
                          void* stream_handle) {
  if (count == 0) return;
  const DeviceGuard guard(device);
  const Portions portions(start, count);
  launch(random_residues_kernel, portions.blocks(), stream_handle, key, portions, stream, modulus,
         out, errors);
}

}  // namespace pyfed
