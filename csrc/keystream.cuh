// A block's share of a stream of ChaCha20 words, in shared memory.
#pragma once
#include "chacha.h"
#include "launch.h"

namespace pyfed {

// Words of kThreads consecutive ChaCha20 blocks. Each is 17 words from the next: then threads that
// write the same word of neighbouring blocks meet different banks.
struct Keystream {
  static constexpr int kBlock = 16;
  static constexpr int kPitch = 17;
  uint32_t words[kThreads * kPitch];

  __device__ __forceinline__ uint32_t operator[](int i) const { return words[i + i / kBlock]; }
};

// How `count` elements from index `start` on are dealt to thread blocks, of which each makes
// `chunks` ChaCha20 blocks. When the first element is not at the start of a ChaCha20 block, the
// first words serve the thread block before, and 16 fewer are left: so that each begins 16 elements
// aligned in the output.
struct Portions {
  int64_t start, count;
  int skip;      // words before the first element
  int elements;  // of a thread block

  Portions(int64_t start, int64_t count, int chunks = kThreads)
      : start(start),
        count(count),
        skip(int(start % Keystream::kBlock)),
        elements((chunks - (skip ? 1 : 0)) * Keystream::kBlock) {}

  int64_t blocks() const { return ceil_div(count, elements); }
  __device__ __forceinline__ int64_t first() const { return int64_t(blockIdx.x) * elements; }
  __device__ __forceinline__ int live() const {  // elements of this thread block
    const int64_t left = count - first();
    return left < elements ? int(left) : elements;
  }
};

// Makes the words of this thread block, one ChaCha20 block per thread in registers. Element i of
// the portion then has word `portions.skip + i`. Whole block.
__device__ __forceinline__ void fill_keystream(Keystream& shared, const uint32_t* key,
                                               const Portions& portions, Nonce nonce) {
  if (int(threadIdx.x) * Keystream::kBlock < portions.skip + portions.live()) {
    uint32_t block[Keystream::kBlock];
    const int64_t counter = (portions.start + portions.first()) / Keystream::kBlock + threadIdx.x;
    chacha_block(key, uint32_t(counter), nonce, block);
#pragma unroll
    for (int i = 0; i < Keystream::kBlock; ++i) {
      shared.words[threadIdx.x * Keystream::kPitch + i] = block[i];
    }
  }
  __syncthreads();
}

}  // namespace pyfed
