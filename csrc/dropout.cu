// Dropout by counter on CUDA devices: a thread takes a run of elements and makes the Philox words
// that decide on them.
#include "kernels.h"
#include "philox.h"
#include "runs.cuh"

namespace pyfed {
namespace {

constexpr int kRun = 8;  // elements of a thread: two blocks of Philox where a client's begin at one

struct Dropout {
  const void* x;  // (rows, features)
  int64_t count, features, clients;
  const int64_t* starts;  // (clients + 1)
  const uint32_t* key;
  const int64_t* streams;  // (clients)
  uint32_t threshold;
  float keep_scale;
  void* out;
  bool vector;  // x and out may be accessed 16 bytes at a time

  // Unsigned on the way: starts that are out of order, which the glue tells of, may overflow.
  __device__ __forceinline__ int64_t first_of(int64_t client) const {
    return int64_t(uint64_t(starts[client]) * uint64_t(features));
  }
  __device__ __forceinline__ uint64_t element_at(int64_t place, int64_t client) const {
    return uint64_t(place) - uint64_t(first_of(client));
  }
  // The last client that begins at this element or before. Whatever the starts hold, it is one.
  __device__ __forceinline__ int64_t client_at(int64_t place) const {
    int64_t low = 0, high = clients;
    while (high - low > 1) {
      const int64_t middle = low + (high - low) / 2;
      if (first_of(middle) <= place) {
        low = middle;
      } else {
        high = middle;
      }
    }
    return low;
  }
  template <class Format>
  __device__ __forceinline__ typename Format::Stored dropped(typename Format::Stored value,
                                                             uint32_t word) const {
    if (word < threshold) return 0;
    return narrowed<Format>(__fmul_rn(widened<Format>(value), keep_scale));
  }
};

__device__ __forceinline__ uint32_t picked(const uint32_t (&words)[4], uint64_t element) {
  const uint32_t low = element & 1 ? words[1] : words[0];
  const uint32_t high = element & 1 ? words[3] : words[2];
  return element & 2 ? high : low;
}

// Five blocks of threads on a multiprocessor leave each thread the registers that it needs.
template <class Format>
__global__ void __launch_bounds__(kThreads, 5) counter_dropout_kernel(Dropout dropout) {
  using Stored = typename Format::Stored;
  const int64_t place = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * kRun;
  if (place >= dropout.count) return;
  const int64_t end = place + kRun < dropout.count ? place + kRun : dropout.count;
  const PhiloxKey key = {dropout.key[0], dropout.key[1]};
  int64_t client = dropout.client_at(place);
  uint64_t element = dropout.element_at(place, client);
  uint32_t words[4];
  if (element % 4 == 0 && end == place + kRun && dropout.first_of(client + 1) >= end) {
    const uint64_t stream = uint64_t(dropout.streams[client]);
    Stored run[kRun];
    read_run(dropout.x, place, kWholeRun<kRun>, dropout.vector, run);
#pragma unroll
    for (int half = 0; half < kRun; half += 4) {
      philox_block(key, (element + half) / 4, stream, words);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        run[half + j] = dropout.template dropped<Format>(run[half + j], words[j]);
      }
    }
    write_run(dropout.out, place, kWholeRun<kRun>, dropout.vector, run);
    return;
  }
  const Stored* x = static_cast<const Stored*>(dropout.x);
  Stored* out = static_cast<Stored*>(dropout.out);
#pragma unroll 1
  for (int64_t at = place; at < end; ++at, ++element) {
    while (client + 1 < dropout.clients && dropout.first_of(client + 1) <= at) {
      element = dropout.element_at(at, ++client);
    }
    if (at == place || element % 4 == 0) {
      philox_block(key, element / 4, uint64_t(dropout.streams[client]), words);
    }
    out[at] = dropout.template dropped<Format>(x[at], picked(words, element));
  }
}

}  // namespace

void counter_dropout_cuda(const void* x, int kind, int64_t rows, int64_t features, int64_t clients,
                          const int64_t* starts, const uint32_t* key, const int64_t* streams,
                          uint32_t threshold, float keep_scale, void* out, int* errors, int device,
                          void* stream_handle) {
  (void)errors;
  if (rows * features == 0) return;
  const DeviceGuard guard(device);
  const bool vector = is_aligned16(x) && is_aligned16(out);
  const Dropout dropout = {x,       rows * features, features,   clients, starts, key,
                           streams, threshold,       keep_scale, out,     vector};
  with_kind(kind, [&](auto format) {
    launch(counter_dropout_kernel<decltype(format)>, ceil_div(rows * features, kRun * kThreads),
           stream_handle, dropout);
  });
}

}  // namespace pyfed
