// Pairwise masks on CUDA devices: every key's residues are made and added up in registers, and the
// vector is read and written once.
#include "field.h"
#include "kernels.h"
#include "keystream.cuh"

namespace pyfed {
namespace {

constexpr int kBlock = Keystream::kBlock;
constexpr int64_t kEnoughBlocks = 256;  // about two for each multiprocessor of a large device
constexpr int kMostGroups = 16;

// One ChaCha20 block of residues of each key, with its sign. The sum of up to 2^31 masks is above
// -2^31 p and below 2^31 p, so that 2^31 p more makes it positive and below 2^32 p < 2^63.
struct Sums {
  int64_t at[kBlock] = {};
};

// The residue of a positive sum, below 2^32 P.
template <uint32_t P>
struct Reduced {
  static __device__ __forceinline__ uint32_t of(int64_t sum, uint32_t) {
    return Field<P>::reduce(uint64_t(sum));
  }
};
// Any other prime, bit by bit: after step k the sum is below 2^k p.
template <>
struct Reduced<0> {
  static __device__ __forceinline__ uint32_t of(int64_t sum, uint32_t modulus) {
#pragma unroll 1
    for (int k = 31; k >= 0; --k) {
      const int64_t left = sum - (int64_t(modulus) << k);
      sum = left < 0 ? sum : left;
    }
    return uint32_t(sum);
  }
};

// Puts accepted residues in the place of rejected candidates. A candidate outside the words `from`
// to `to` - 1 belongs to nobody, and may stay without.
__device__ __forceinline__ void redraw(const uint32_t* key, uint32_t counter, Nonce nonce,
                                       uint32_t modulus, int from, int to,
                                       uint32_t (&words)[kBlock], int& bits) {
#pragma unroll 1  // one copy of the retry
  for (int i = 0; i < kBlock; ++i) {
    uint32_t candidate = 0;  // selected without an index, which registers cannot have
#pragma unroll
    for (int j = 0; j < kBlock; ++j) candidate |= i == j ? words[j] : 0;
    if (candidate < modulus) continue;
    int failed = 0;
    const int64_t index = int64_t(counter) * kBlock + i;
    const uint32_t residue = retry_residue(key, index, nonce, modulus, &failed);
#pragma unroll
    for (int j = 0; j < kBlock; ++j) words[j] = i == j ? residue : words[j];
    bits |= i >= from && i < to ? failed : 0;
  }
}

struct Masks {
  const uint32_t* __restrict__ keys;  // (count, 8)
  const int32_t* __restrict__ signs;  // (count), 1 or -1
  int64_t count;
  uint32_t modulus, stream;
  int groups;  // of threads, each with its own masks: a power of two
};

// A thread has one ChaCha20 block of the stream, and every groups-th mask. Nothing depends on a
// secret but the redraw of rejected candidates, which are not among the masks.
template <uint32_t P>
__global__ void __launch_bounds__(kThreads, 2)
    add_masks_kernel(uint32_t* __restrict__ residues, Portions portions, Masks masks, int* errors) {
  PYFED_SHARED(Keystream, shared);
  const int lanes = kThreads / masks.groups, lane = int(threadIdx.x) % lanes;
  const int64_t first = portions.first();
  const int live = portions.live();
  const uint32_t modulus = P ? P : masks.modulus;
  const uint32_t low_bits = candidate_mask(modulus), excess = low_bits + 1 - modulus;
  const Nonce nonce = {0, masks.stream, domain_word(kResidues, modulus)};
  const uint32_t counter = uint32_t((portions.start + first) / kBlock + lane);
  const int from = portions.skip - lane * kBlock, to = from + live;
  int bits = 0;
  Sums sums;
  const int64_t end = to > 0 ? masks.count : 0;  // 0: this ChaCha20 block has nothing to add to
#pragma unroll 1
  for (int64_t m = int(threadIdx.x) / lanes; m < end; m += masks.groups) {
    const uint32_t* key = masks.keys + 8 * m;
    const int32_t sign = masks.signs[m];
    uint32_t words[kBlock];
    chacha_block(key, counter, nonce, words);
    uint32_t above = 0;  // beyond low_bits when a candidate is the modulus or more
#pragma unroll
    for (int i = 0; i < kBlock; ++i) {
      words[i] &= low_bits;
      above |= words[i] + excess;
    }
    if (above > low_bits) redraw(key, counter, nonce, modulus, from, to, words, bits);
#pragma unroll
    for (int i = 0; i < kBlock; ++i) sums.at[i] += int64_t(sign) * int32_t(words[i]);
  }
#pragma unroll
  for (int i = 0; i < kBlock; ++i) {
    shared.words[threadIdx.x * Keystream::kPitch + i] =
        Reduced<P>::of(sums.at[i] + (int64_t(modulus) << 31), modulus);
  }
  __syncthreads();
#pragma unroll 4
  for (int i = threadIdx.x; i < live; i += kThreads) {
    const uint32_t value = residues[first + i];
    bits |= value >= modulus ? kBadResidue : 0;
    uint32_t sum = value >= modulus ? 0 : value;  // masked all the same
    for (int group = 0; group < masks.groups; ++group) {
      sum += shared[group * lanes * kBlock + portions.skip + i];
      sum = sum >= modulus ? sum - modulus : sum;
    }
    residues[first + i] = sum;
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
  int groups = 1;  // more where the vector alone gives too few blocks
  while (groups < kMostGroups && 2 * groups <= masks &&
         Portions(start, length, kThreads / groups).blocks() < kEnoughBlocks) {
    groups *= 2;
  }
  const Portions portions(start, length, kThreads / groups);
  const Masks all = {keys, signs, masks, modulus, stream, groups};
  const auto run = [&](auto kernel) {
    launch(kernel, portions.blocks(), stream_handle, residues, portions, all, errors);
  };
  if (!with_field(modulus, [&](auto field) { run(add_masks_kernel<decltype(field)::kModulus>); })) {
    run(add_masks_kernel<0>);
  }
}

}  // namespace pyfed
