// Weighted means of lists of tensors on CUDA devices: a block takes a chunk of one tensor from
// every client, in their order, each product rounded and then each sum, never fused.
#include <algorithm>

#include "kernels.h"
#include "runs.cuh"

namespace pyfed {
namespace {

// Words of the table that travel as one launch's arguments: no copy from the host, so that nothing
// waits, and a captured graph keeps them. Larger arguments came with CUDA 12.1.
#if defined(CUDART_VERSION) && CUDART_VERSION >= 12010
constexpr int kWords = 4000;
#else
constexpr int kWords = 480;
#endif

struct Words {
  int64_t v[kWords];
};

__global__ void __launch_bounds__(kThreads)
    put_words_kernel(const __grid_constant__ Words words, int count, int64_t* to) {
  const int i = int(blockIdx.x) * kThreads + int(threadIdx.x);
  if (i < count) to[i] = words.v[i];
}

// The table of weighted_mean_cpu, on the device.
struct Lists {
  const int64_t* sources;  // (clients, tensors): addresses
  const int64_t* outs;     // (tensors): addresses
  const int64_t* sizes;    // (tensors)
  const int64_t* kinds;    // (tensors)
  const int64_t* chunks;   // (count, 2): tensor, first element
  int64_t clients, tensors, chunk_size;
  const float* weights;

  __device__ __forceinline__ const void* source(int64_t client, int64_t tensor) const {
    return reinterpret_cast<const void*>(uintptr_t(sources[client * tensors + tensor]));
  }
};

constexpr int kRun = 8;  // elements of a thread

template <class Format, bool kWhole>
__device__ __forceinline__ void add_clients(const Lists& lists, int64_t tensor, int64_t place,
                                            uint32_t live, float (&sum)[kRun]) {
#pragma unroll 4
  for (int64_t client = 0; client < lists.clients; ++client) {
    typename Format::Stored run[kRun];
    read_run(lists.source(client, tensor), place, kWhole ? kWholeRun<kRun> : live, kWhole, run);
    const float weight = lists.weights[client];
#pragma unroll
    for (int j = 0; j < kRun; ++j) {
      sum[j] = __fadd_rn(sum[j], __fmul_rn(widened<Format>(run[j]), weight));
    }
  }
}

template <class Format>
__device__ __forceinline__ void mean_of_chunk(const Lists& lists, int64_t tensor, int64_t first,
                                              int* errors) {
  using Stored = typename Format::Stored;
  const int64_t size = lists.sizes[tensor];
  const int64_t end = first + lists.chunk_size < size ? first + lists.chunk_size : size;
  void* out = reinterpret_cast<void*>(uintptr_t(lists.outs[tensor]));
  int64_t skew = lists.outs[tensor] | first * int64_t(sizeof(Stored));
#pragma unroll 4
  for (int64_t c = 0; c < lists.clients; ++c) skew |= lists.sources[c * lists.tensors + tensor];
  const bool vector = skew % 16 == 0;
  int bits = 0;
  for (int64_t place = first + kRun * int(threadIdx.x); place < end; place += kRun * kThreads) {
    const uint32_t live = end - place >= kRun ? kWholeRun<kRun> : (1u << int(end - place)) - 1;
    const bool whole = vector && live == kWholeRun<kRun>;
    float sum[kRun] = {};
    if (whole) {
      add_clients<Format, true>(lists, tensor, place, live, sum);
    } else {
      add_clients<Format, false>(lists, tensor, place, live, sum);
    }
    Stored run[kRun];
#pragma unroll
    for (int j = 0; j < kRun; ++j) {
      run[j] = narrowed<Format>(sum[j]);
      bits |= (live >> j & 1) && !Format::finite(run[j]) ? kNotFinite : 0;
    }
    write_run(out, place, live, whole, run);
  }
  report(errors, bits);
}

__global__ void __launch_bounds__(kThreads) weighted_mean_kernel(Lists lists, int* errors) {
  const int64_t* chunk = lists.chunks + 2 * int64_t(blockIdx.x);
  const int64_t tensor = chunk[0], first = chunk[1], kind = lists.kinds[tensor];
  if (kind == kFloat32) {
    mean_of_chunk<Real<kFloat32>>(lists, tensor, first, errors);
  } else if (kind == kFloat16) {
    mean_of_chunk<Real<kFloat16>>(lists, tensor, first, errors);
  } else {
    mean_of_chunk<Real<kBfloat16>>(lists, tensor, first, errors);
  }
}

}  // namespace

void weighted_mean_cuda(const int64_t* table, int64_t clients, int64_t tensors, int64_t chunk_count,
                        int64_t chunk_size, const float* weights, int64_t* room, int* errors,
                        int device, void* stream_handle) {
  if (chunk_count == 0) return;
  const DeviceGuard guard(device);
  const int64_t total = (clients + 3) * tensors + 2 * chunk_count;
  for (int64_t first = 0; first < total; first += kWords) {
    const int count = int(std::min<int64_t>(kWords, total - first));
    Words words = {};
    std::copy(table + first, table + first + count, words.v);
    launch(put_words_kernel, ceil_div(count, kThreads), stream_handle, words, count, room + first);
  }
  const int64_t* outs = room + clients * tensors;
  const Lists lists = {
      room,    outs,       outs + tensors, outs + 2 * tensors, outs + 3 * tensors, clients,
      tensors, chunk_size, weights};
  launch(weighted_mean_kernel, chunk_count, stream_handle, lists, errors);
}

}  // namespace pyfed
