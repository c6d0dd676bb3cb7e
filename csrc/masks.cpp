// Packing, unpacking and counting the bits of masks on the CPU.
#include "blocks.h"
#include "kernels.h"

namespace pyfed {
namespace PYFED_SIMD {
namespace {

constexpr int64_t kChunk = 1 << 16;  // elements: a thread's share at a time

struct Chunks {
  int64_t length;
  int64_t in_row = (length + kChunk - 1) / kChunk;

  int64_t first(int64_t chunk) const { return chunk % in_row * kChunk; }
  int64_t size(int64_t chunk) const {
    const int64_t left = length - first(chunk);
    return left < kChunk ? left : kChunk;
  }
};

inline void pack(const uint8_t* mask, int64_t n, uint8_t* out) {
  int64_t i = 0;
  for (; i + kBlock <= n; i += kBlock) {
    const uint64_t word = nonzero(mask + i);
    std::memcpy(out + i / 8, &word, 8);
  }
  if (i == n) return;
  uint8_t block[kBlock] = {};
  std::memcpy(block, mask + i, size_t(n - i));
  const uint64_t word = nonzero(block);
  std::memcpy(out + i / 8, &word, size_t((n - i + 7) / 8));
}

inline void unpack(const uint8_t* packed, int64_t n, uint8_t* out) {
  int64_t i = 0;
  for (; i + kBlock <= n; i += kBlock) spread(load_word(packed + i / 8), out + i);
  if (i < n) spread(load_word(packed + i / 8, (n - i + 7) / 8), out + i, n - i);
}

inline int64_t popcount(const uint8_t* packed, int64_t bytes) {
  int64_t sums[4] = {};
  int64_t i = 0;
  for (; i + 32 <= bytes; i += 32) {
    for (int j = 0; j < 4; ++j) sums[j] += ones(load_word(packed + i + 8 * j));
  }
  for (; i < bytes; i += 8) sums[0] += ones(load_word(packed + i, bytes - i));
  return sums[0] + sums[1] + sums[2] + sums[3];
}

}  // namespace

int mask_pack_cpu(const uint8_t* mask, int64_t rows, int64_t length, uint8_t* out, int threads) {
  if (length % 8 == 0) length *= rows, rows = 1;
  const Chunks chunks{length};
  const int64_t bytes = (length + 7) / 8, count = rows * chunks.in_row;
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * length > kChunk)
  for (int64_t chunk = 0; chunk < count; ++chunk) {
    const int64_t row = chunk / chunks.in_row, first = chunks.first(chunk);
    pack(mask + row * length + first, chunks.size(chunk), out + row * bytes + first / 8);
  }
  return 0;
}

int mask_unpack_cpu(const uint8_t* packed, int64_t rows, int64_t length, uint8_t* out,
                    int threads) {
  const int errors = padding_errors(packed, rows, length);
  if (length % 8 == 0) length *= rows, rows = 1;
  const Chunks chunks{length};
  const int64_t bytes = (length + 7) / 8, count = rows * chunks.in_row;
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * length > kChunk)
  for (int64_t chunk = 0; chunk < count; ++chunk) {
    const int64_t row = chunk / chunks.in_row, first = chunks.first(chunk);
    unpack(packed + row * bytes + first / 8, chunks.size(chunk), out + row * length + first);
  }
  return errors;
}

int mask_popcount_cpu(const uint8_t* packed, int64_t rows, int64_t length, int64_t* out,
                      int threads) {
  const Chunks chunks{length};
  const int64_t bytes = (length + 7) / 8, count = rows * chunks.in_row;
  std::memset(out, 0, size_t(rows) * sizeof *out);
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * length > 8 * kChunk)
  for (int64_t chunk = 0; chunk < count; ++chunk) {
    const int64_t row = chunk / chunks.in_row, first = chunks.first(chunk);
    const int64_t sum = popcount(packed + row * bytes + first / 8, (chunks.size(chunk) + 7) / 8);
#pragma omp atomic
    out[row] += sum;
  }
  return padding_errors(packed, rows, length);
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
