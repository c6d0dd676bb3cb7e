// Philox4x32-10 (Salmon, Moraes, Dror and Shaw, SC'11) addressed by word, on host and device.
#pragma once
#include "common.h"

namespace pyfed {

constexpr uint32_t kPhiloxFactor0 = 0xd2511f53u, kPhiloxFactor1 = 0xcd9e8d57u;
constexpr uint32_t kPhiloxStep0 = 0x9e3779b9u, kPhiloxStep1 = 0xbb67ae85u;
constexpr int kPhiloxRounds = 10;

// The first round's; each round adds a step to both words.
struct PhiloxKey {
  uint32_t low, high;
};

// Words 4 · counter … 4 · counter + 3 of a stream.
PYFED_HD void philox_block(PhiloxKey key, uint64_t counter, uint64_t stream, uint32_t out[4]) {
  uint32_t x0 = uint32_t(counter), x1 = uint32_t(counter >> 32);
  uint32_t x2 = uint32_t(stream), x3 = uint32_t(stream >> 32);
#if defined(__CUDACC__)
#pragma unroll
#endif
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t first = uint64_t(kPhiloxFactor0) * x0, second = uint64_t(kPhiloxFactor1) * x2;
    x0 = uint32_t(second >> 32) ^ x1 ^ key.low;
    x2 = uint32_t(first >> 32) ^ x3 ^ key.high;
    x1 = uint32_t(second), x3 = uint32_t(first);
    key.low += kPhiloxStep0, key.high += kPhiloxStep1;
  }
  out[0] = x0, out[1] = x1, out[2] = x2, out[3] = x3;
}

}  // namespace pyfed
