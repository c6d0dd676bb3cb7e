// The asynchronous instructions of csrc/wgmma.cuh, emulated: what is under way takes effect as soon
// or as late as it may. With threads in forward order copies come at the wait and products at once;
// backwards it is the other way round. So both a wait that is missing and a write that comes too
// soon give a wrong result in one of the two.
#pragma once
#include "emulate.h"

namespace pyfed {
namespace emulate {

struct Product {
  int32_t* sums;
  int columns;
  uint32_t a[4];
  uint64_t described;
};

struct Copy {
  void* to;
  const void* from;
  size_t live, size;
};

// What each thread has under way.
struct Asynchronous {
  std::vector<Product> products;
  std::vector<Copy> copies;
  bool open = false, closed = true, unfenced = false;
};
inline std::vector<Asynchronous> under_way;
inline int kernel_under_way = 0;

inline Asynchronous& mine() {
  if (kernel_under_way != block.number) {
    under_way.assign(block.states.size(), {});  // after a block that ended with an exception too
    kernel_under_way = block.number;
  }
  return under_way[size_t(block.current)];
}

constexpr uint32_t kSharedStart = 1024;  // of a block's shared memory, which begins nowhere at 0

inline uint32_t shared_address(const void* at) {
  return kSharedStart +
         uint32_t(static_cast<const char*>(at) - static_cast<const char*>(block.shared));
}

// 16 bytes of shared memory that a matrix descriptor leads to: those of column n from byte k of the
// inner dimension. PTX ISA, "Matrix Descriptor" and "Strides": K-major, not swizzled.
inline const int8_t* described_bytes(uint64_t described, int n, int k) {
  const uint64_t start = (described & 0x3fff) << 4, leading = (described >> 16 & 0x3fff) << 4;
  const uint64_t stride = (described >> 32 & 0x3fff) << 4;
  if (described >> 49) throw std::runtime_error("emulated CUDA: a descriptor tells of a swizzle");
  const uint64_t at = start + uint64_t(n / 8) * stride + uint64_t(k / 16) * leading + n % 8 * 16;
  if (at < kSharedStart || at + 16 > kSharedStart + block.shared_size) {
    throw std::runtime_error("emulated CUDA: a descriptor leads out of shared memory");
  }
  return static_cast<const int8_t*>(block.shared) + (at - kSharedStart);
}

// This thread's sums of the product that it and the others of its warpgroup brought as number `at`.
inline void compute(size_t at) {
  const int lane = block.current % kWarp;
  const Asynchronous* warp = under_way.data() + (block.current - lane);
  const Product& product = mine().products[at];
  for (int t = 0; t < kWarpgroup; ++t) {
    const Product& other =
        under_way[size_t(block.current / kWarpgroup * kWarpgroup + t)].products[at];
    if (other.described != product.described || other.columns != product.columns) {
      throw std::runtime_error("emulated CUDA: threads of a warpgroup want different products");
    }
  }
  uint8_t rows[2][32];  // lane / 4 and that + 8: word i of lane 4g + t is row g + 8 (i % 2)
  for (int half = 0; half < 2; ++half) {
    for (int word = 0; word < 8; ++word) {
      const Product& from = warp[lane / 4 * 4 + word % 4].products[at];
      std::memcpy(rows[half] + 4 * word, &from.a[word / 4 * 2 + half], 4);
    }
  }
  for (int i = 0; i < product.columns / 2; ++i) {
    const int column = i / 4 * 8 + lane % 4 * 2 + i % 2;
    const uint8_t* row = rows[i / 2 % 2];
    int64_t sum = product.sums[i];
    for (int k = 0; k < 32; k += 16) {
      const int8_t* bytes = described_bytes(product.described, column, k);
      for (int j = 0; j < 16; ++j) sum += int(row[k + j]) * int(bytes[j]);
    }
    if (sum != int32_t(sum)) throw std::runtime_error("emulated CUDA: a matrix sum overflows");
    product.sums[i] = int32_t(sum);
  }
}

inline void open_products() { mine().open = true; }
inline void close_products() { mine().closed = true; }

inline void multiply_bytes_async(int32_t* sums, int count, const uint32_t (&a)[4],
                                 uint64_t described) {
  if (!mine().open) throw std::runtime_error("emulated CUDA: products without a fence before");
  for (const Asynchronous& thread : under_way) {
    if (thread.unfenced) throw std::runtime_error("emulated CUDA: copies without a proxy fence");
  }
  mine().closed = false;
  mine().products.push_back({sums, 2 * count, {a[0], a[1], a[2], a[3]}, described});
  if (control.backwards) return;
  const size_t at = mine().products.size() - 1;
  wait_in(kWaitingForWarpgroup);
  compute(at);
}

inline void wait_for_products() {
  if (!mine().closed) throw std::runtime_error("emulated CUDA: a wait for products in no group");
  wait_in(kWaitingForWarpgroup);
  if (control.backwards) {
    for (size_t at = 0; at < mine().products.size(); ++at) compute(at);
  }
  wait_in(kWaitingForWarpgroup);
  mine().products.clear();
  mine().open = false;
}

inline void perform(const Copy& copy) {
  std::memset(copy.to, 0, copy.size);
  std::memcpy(copy.to, copy.from, copy.live);
}

inline void copy_async(void* to, const void* from, size_t live, size_t size) {
  if ((uintptr_t(to) | uintptr_t(from)) % size) {
    throw std::runtime_error("emulated CUDA: a copy is not aligned");
  }
  mine().copies.push_back({to, from, live, size});
  if (control.backwards) perform(mine().copies.back());
}

inline void wait_for_copies() {
  if (mine().copies.empty()) return;
  if (!control.backwards) {
    for (const Copy& copy : mine().copies) perform(copy);
  }
  mine().copies.clear();
  mine().unfenced = true;
}

inline void fence_writes() { mine().unfenced = false; }

}  // namespace emulate
}  // namespace pyfed
