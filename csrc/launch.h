// What every .cu file shares: checked launches, the device for their time, and clean shared memory.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>

#include "common.h"

#if defined(PYFED_EMULATE)
#include "emulate.h"  // runs kernels on the CPU, thread by thread, where there is no GPU to test on
#else
#include <cuda_runtime.h>
#define PYFED_SHARED(type, name) __shared__ type name
// Of launch_large: more than the 48 KiB that a kernel can declare.
#define PYFED_DYNAMIC_SHARED(type, name)                          \
  extern __shared__ __align__(128) unsigned char pyfed_dynamic[]; \
  type& name = *reinterpret_cast<type*>(pyfed_dynamic)
#endif

namespace pyfed {

constexpr int kThreads = 256;  // of every block

inline void check(cudaError_t status) {
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(status));
  }
}

// Makes a device current, and gives the one before it back.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&before_));
    if (device != before_) check(cudaSetDevice(device));
  }
  ~DeviceGuard() { cudaSetDevice(before_); }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_ = 0;
};

// Kernels take their share of the work from blockIdx.x alone, which goes to 2^31 - 1: with 2^10 or
// more elements a block that is 2^41 elements, more than any device holds.
template <class... Params, class... Args>
void launch(void (*kernel)(Params...), int64_t blocks, void* stream, Args... args) {
  if (blocks > 0x7fffffff) throw std::runtime_error("CUDA: a grid has more than 2^31 - 1 blocks");
#if defined(PYFED_EMULATE)
  (void)stream;
  emulate::run(blocks, kThreads, [=] { kernel(args...); });
#else
  kernel<<<unsigned(blocks), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(args...);
#endif
  check(cudaGetLastError());
}

// With `bytes` of shared memory, for a kernel that declares it as PYFED_DYNAMIC_SHARED.
template <class... Params, class... Args>
void launch_large(void (*kernel)(Params...), int64_t blocks, size_t bytes, void* stream,
                  Args... args) {
#if defined(PYFED_EMULATE)
  (void)bytes;
  launch(kernel, blocks, stream, args...);
#else
  if (blocks > 0x7fffffff) throw std::runtime_error("CUDA: a grid has more than 2^31 - 1 blocks");
  check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)));
  kernel<<<unsigned(blocks), kThreads, bytes, static_cast<cudaStream_t>(stream)>>>(args...);
  check(cudaGetLastError());
#endif
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The end of every kernel that puts keys' output or clients' data in shared memory, which the next
// kernel on the multiprocessor could read. The stores are volatile, so that they are not dropped
// for having no reader. Whole block.
template <class Shared>
__device__ __forceinline__ void wipe(Shared& shared) {
  static_assert(sizeof(Shared) % 4 == 0, "whole words");
  __syncthreads();
  volatile uint32_t* words = reinterpret_cast<volatile uint32_t*>(&shared);
  for (int i = threadIdx.x; i < int(sizeof(Shared) / 4); i += kThreads) words[i] = 0;
}

__device__ __forceinline__ void report(int* errors, int bits) {
  if (bits) atomicOr(errors, bits);
}

// Four neighbours at once where the pointer allows 16-byte accesses.
struct alignas(16) Quad {
  uint32_t v[4];
};

inline bool is_aligned16(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

}  // namespace pyfed
