// Means over the clients that hold an element, on CUDA devices. Clients are added in their order,
// each product rounded and then each sum, never fused: so every backend gives the same bits.
#include "bits.cuh"
#include "kernels.h"
#include "runs.cuh"

namespace pyfed {
namespace {

enum Form { kDense = 0, kPackedValues = 1, kRectangles = 2, kIndices = 3 };
enum Denominator { kKeepers = 0, kAllClients = 1, kOne = 2 };

struct Mean {
  const void* values;
  int64_t clients, length, columns;
  const uint8_t* masks;  // (clients, bytes), or null
  const int64_t* places;
  const int64_t* starts;
  int64_t total;           // values, where they are not dense
  const int32_t* weights;  // (clients), or null
  const void* server;      // (length), or null
  int denominator;
  int64_t min_votes;
  void* out;
  bool vector;  // rows of values, the server and the output may be read 16 bytes at a time

  __device__ __forceinline__ int weight(int64_t client) const {
    return weights ? weights[client] : 1;
  }
};

// Sums of the clients so far, for a run of elements.
template <int kRun>
struct RunSums {
  float sum[kRun] = {};
  int votes[kRun] = {}, keepers[kRun] = {};
  int all = 0;  // the weights of all clients

  template <class Format>
  __device__ __forceinline__ void add(int j, typename Format::Stored value, int weight) {
    sum[j] = __fadd_rn(sum[j], __fmul_rn(widened<Format>(value), float(weight)));
    ++votes[j];
    keepers[j] += weight;
  }
};

template <class Format>
__device__ __forceinline__ typename Format::Stored mean_of(const Mean& mean, float sum, int votes,
                                                           int keepers, int all,
                                                           typename Format::Stored rest,
                                                           int& bits) {
  const int below = mean.denominator == kKeepers      ? keepers
                    : mean.denominator == kAllClients ? all
                                                      : 1;
  if (votes < mean.min_votes || below <= 0) return rest;
  const typename Format::Stored value = narrowed<Format>(__fdiv_rn(sum, float(below)));
  bits |= Format::finite(value) ? 0 : kNotFinite;
  return value;
}

template <class Format, int kRun>
__device__ __forceinline__ void put_means(const Mean& mean, const RunSums<kRun>& sums,
                                          int64_t place, uint32_t live, int& bits) {
  typename Format::Stored run[kRun] = {};
  if (mean.server) read_run(mean.server, place, live, mean.vector, run);
#pragma unroll
  for (int j = 0; j < kRun; ++j) {
    int found = 0;
    run[j] =
        mean_of<Format>(mean, sums.sum[j], sums.votes[j], sums.keepers[j], sums.all, run[j], found);
    bits |= live >> j & 1 ? found : 0;
  }
  write_run(mean.out, place, live, mean.vector, run);
}

constexpr int kByte = 8;  // elements of a thread: those of a byte of the masks

// A client's mask byte, and its values there; what it leaves out is not looked at.
template <class Format, bool kPacked>
__global__ void __launch_bounds__(kThreads) masked_mean_kernel(Mean mean, int* errors) {
  constexpr int64_t kBlockBits = 512;
  const int64_t place = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * kByte;
  const int64_t left = mean.length - place, bytes = (mean.length + 7) / 8;
  if (left <= 0) return;
  const uint32_t live = first_bits(left) & kWholeRun<kByte>;
  const int64_t block = place / kBlockBits, blocks = (mean.length + kBlockBits - 1) / kBlockBits;
  const int before = int(place % kBlockBits);
  const uint8_t* end = mean.masks + mean.clients * bytes;
  RunSums<kByte> sums;
#pragma unroll 2
  for (int64_t client = 0; client < mean.clients; ++client) {
    const uint8_t* row = mean.masks + client * bytes;
    const int weight = mean.weight(client);
    const uint32_t held = (mean.masks ? row[place / 8] : 0xff) & live;
    typename Format::Stored run[kByte] = {};
    sums.all += weight;
    if (kPacked) {
      const typename Format::Stored* values =
          static_cast<const typename Format::Stored*>(mean.values);
      int64_t at = mean.starts[client * blocks + block];
      for (int bit = 0; bit < before; bit += kWordBits) {
        const uint32_t word = word_at(row + block * (kBlockBits / 8) + bit / 8, mean.masks, end);
        at += __popc(word & first_bits(before - bit));
      }
#pragma unroll
      for (int j = 0; j < kByte; ++j) {
        if ((held >> j & 1) && at < mean.total) run[j] = values[at];
        at += held >> j & 1;
      }
    } else {
      read_run(static_cast<const typename Format::Stored*>(mean.values) + client * mean.length,
               place, live, mean.vector, run);
    }
#pragma unroll
    for (int j = 0; j < kByte; ++j) {
      if (held >> j & 1) sums.template add<Format>(j, run[j], weight);
    }
  }
  int bits = 0;
  put_means<Format>(mean, sums, place, live, bits);
  report(errors, bits);
}

// places (clients, 4): first row, row behind the last, the same of columns; of the matrix
// (length / columns, columns). One element a thread.
template <class Format>
__global__ void __launch_bounds__(kThreads) rectangle_mean_kernel(Mean mean, int* errors) {
  const int64_t place = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (place >= mean.length) return;
  const int64_t row = place / mean.columns, column = place % mean.columns;
  const typename Format::Stored* values = static_cast<const typename Format::Stored*>(mean.values);
  RunSums<1> sums;
#pragma unroll 2
  for (int64_t client = 0; client < mean.clients; ++client) {
    const int64_t* box = mean.places + 4 * client;
    const int weight = mean.weight(client);
    sums.all += weight;
    if (row < box[0] || row >= box[1] || column < box[2] || column >= box[3]) continue;
    const int64_t at = mean.starts[client] + (row - box[0]) * (box[3] - box[2]) + column - box[2];
    sums.template add<Format>(0, values[at], weight);
  }
  int bits = 0;
  put_means<Format>(mean, sums, place, 1, bits);
  report(errors, bits);
}

constexpr int kSpan = 2048;  // elements of a block

struct SpanShared {
  float sum[kSpan];
  int votes[kSpan], keepers[kSpan];
  int64_t begin[kThreads], end[kThreads];
};

// The first index of a client, from `begin` on, that is `bound` or more.
__device__ __forceinline__ int64_t lower_bound(const int64_t* places, int64_t begin, int64_t end,
                                               int64_t bound) {
  while (begin < end) {
    const int64_t middle = begin + (end - begin) / 2;
    if (places[middle] < bound) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

// places (total): ascending within a client, so that those of a span of elements follow each
// other, and no two threads meet in one element. Every thread searches for another client.
template <class Format>
__global__ void __launch_bounds__(kThreads) index_mean_kernel(Mean mean, int* errors) {
  PYFED_SHARED(SpanShared, shared);
  const typename Format::Stored* values = static_cast<const typename Format::Stored*>(mean.values);
  const int64_t first = int64_t(blockIdx.x) * kSpan;
  for (int i = threadIdx.x; i < kSpan; i += kThreads) {
    shared.sum[i] = 0;
    shared.votes[i] = shared.keepers[i] = 0;
  }
  int all = 0;
#pragma unroll 1
  for (int64_t base = 0; base < mean.clients; base += kThreads) {
    const int64_t mine = base + threadIdx.x;
    __syncthreads();
    if (mine < mean.clients) {
      const int64_t end = mean.starts[mine + 1];
      const int64_t begin = lower_bound(mean.places, mean.starts[mine], end, first);
      shared.begin[threadIdx.x] = begin;
      shared.end[threadIdx.x] = lower_bound(mean.places, begin, end, first + kSpan);
    }
    __syncthreads();
    const int count = mean.clients - base < kThreads ? int(mean.clients - base) : kThreads;
#pragma unroll 1
    for (int c = 0; c < count; ++c) {
      const int64_t begin = shared.begin[c], end = shared.end[c];
      const int weight = mean.weight(base + c);
      all += weight;
      for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
        const int64_t at = mean.places[i] - first;
        if (at < 0 || at >= kSpan || i >= mean.total) continue;  // reported before
        const float product = __fmul_rn(widened<Format>(values[i]), float(weight));
        shared.sum[at] = __fadd_rn(shared.sum[at], product);
        ++shared.votes[at];
        shared.keepers[at] += weight;
      }
      if (begin < end) __syncthreads();
    }
  }
  int bits = 0;
  for (int i = threadIdx.x; i < kSpan && first + i < mean.length; i += kThreads) {
    RunSums<1> sums;
    sums.sum[0] = shared.sum[i];
    sums.votes[0] = shared.votes[i];
    sums.keepers[0] = shared.keepers[i];
    sums.all = all;
    put_means<Format>(mean, sums, first + i, 1, bits);
  }
  wipe(shared);
  report(errors, bits);
}

template <class Format>
void launch_mean(const Mean& mean, int form, int* errors, void* stream) {
  const int64_t bytes = ceil_div(mean.length, kThreads * kByte);
  if (form == kDense) {
    launch(masked_mean_kernel<Format, false>, bytes, stream, mean, errors);
  } else if (form == kPackedValues) {
    launch(masked_mean_kernel<Format, true>, bytes, stream, mean, errors);
  } else if (form == kRectangles) {
    launch(rectangle_mean_kernel<Format>, ceil_div(mean.length, kThreads), stream, mean, errors);
  } else {
    launch(index_mean_kernel<Format>, ceil_div(mean.length, kSpan), stream, mean, errors);
  }
}

}  // namespace

void masked_mean_cuda(const void* values, int kind, int64_t clients, int64_t length,
                      int64_t columns, int form, const uint8_t* masks, const int64_t* places,
                      const int64_t* starts, int64_t total, const int32_t* weights,
                      const void* server, int denominator, int64_t min_votes, void* out,
                      int* errors, int device, void* stream_handle) {
  if (length == 0) return;
  const DeviceGuard guard(device);
  with_kind(kind, [&](auto format) {
    using Format = decltype(format);
    const bool rows = form != kDense || length * sizeof(typename Format::Stored) % 16 == 0;
    const bool vector = rows && is_aligned16(values) && is_aligned16(server) && is_aligned16(out);
    const Mean mean = {values, clients, length, columns,     masks,     places, starts,
                       total,  weights, server, denominator, min_votes, out,    vector};
    launch_mean<Format>(mean, form, errors, stream_handle);
  });
}

}  // namespace pyfed
