// Sums of packed masks on CUDA devices. A thread owns the 32 elements of a word: it adds the
// clients' words into bit planes in registers, so that 8 clients cost 7 full adders and a ripple.
#include "bits.cuh"
#include "kernels.h"
#include "votes.h"

namespace pyfed {
namespace {

constexpr int kBatch = 8;  // clients whose words are read before the first is added

// Adds 8 words to the planes; what is carried out of the last one is lost.
template <int kPlanes>
__device__ __forceinline__ void add8(uint32_t (&planes)[kPlanes], const uint32_t (&w)[kBatch]) {
  static_assert(kPlanes >= 3, "eight words carry into plane 3");
  const uint32_t two0 = full_add(planes[0], w[0], w[1]), two1 = full_add(planes[0], w[2], w[3]);
  const uint32_t two2 = full_add(planes[0], w[4], w[5]), two3 = full_add(planes[0], w[6], w[7]);
  const uint32_t four0 = full_add(planes[1], two0, two1);
  const uint32_t four1 = full_add(planes[1], two2, two3);
  uint32_t carry = full_add(planes[2], four0, four1);
#pragma unroll
  for (int b = 3; b < kPlanes; ++b) {
    const uint32_t next = planes[b] & carry;
    planes[b] ^= carry;
    carry = next;
  }
}

// Packed rows of equal length. Where kAligned, every row begins and ends at a whole word.
template <bool kAligned>
struct Packed {
  const uint8_t* rows;
  int64_t count, bytes;

  __device__ __forceinline__ uint32_t word(int64_t row, int64_t column) const {
    const uint8_t* at = rows + row * bytes + column * 4;
    if (kAligned) return *reinterpret_cast<const uint32_t*>(at);
    return word_at(at, rows, rows + count * bytes);
  }
};

// Adds the words of all clients to the planes, and gives their disjunction.
template <int kPlanes, bool kAligned>
__device__ __forceinline__ uint32_t add_clients(uint32_t (&planes)[kPlanes],
                                                const Packed<kAligned>& from, int64_t column) {
  uint32_t words[kBatch], seen = 0;
  int64_t client = 0;
#pragma unroll 1
  for (; client + kBatch <= from.count; client += kBatch) {
#pragma unroll
    for (int i = 0; i < kBatch; ++i) words[i] = from.word(client + i, column);
#pragma unroll
    for (int i = 0; i < kBatch; ++i) seen |= words[i];
    add8(planes, words);
  }
  if (client == from.count) return seen;
#pragma unroll
  for (int i = 0; i < kBatch; ++i) {
    words[i] = client + i < from.count ? from.word(client + i, column) : 0;
  }
#pragma unroll
  for (int i = 0; i < kBatch; ++i) seen |= words[i];
  add8(planes, words);
  return seen;
}

// Bytes of 4 elements from bit 4 · quad on: in each the number that 8 planes from `low` on hold.
template <int kPlanes>
__device__ __forceinline__ uint32_t four_bytes(const uint32_t (&planes)[kPlanes], int low,
                                               int quad) {
  uint32_t bytes = 0;
#pragma unroll
  for (int b = 0; b < 8; ++b) {
    if (low + b < kPlanes) bytes |= spread4(planes[low + b] >> (4 * quad)) << b;
  }
  return bytes;
}

// Stores the numbers of 32 elements, or of the first `live`: bytes up to 8 planes, else int32.
template <int kPlanes>
__device__ __forceinline__ void put_totals(const uint32_t (&planes)[kPlanes], void* out,
                                           int64_t first, int64_t live, bool wide) {
  uint32_t low[8];
#pragma unroll
  for (int q = 0; q < 8; ++q) low[q] = four_bytes(planes, 0, q);
  if (kPlanes <= 8) {
    put_bytes(static_cast<uint8_t*>(out) + first, low, live, wide);
    return;
  }
  uint32_t* target = static_cast<uint32_t*>(out) + first;
#pragma unroll
  for (int q = 0; q < 8; ++q) {
    const uint32_t high = four_bytes(planes, 8, q);
    Quad quad;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      quad.v[j] = (low[q] >> (8 * j) & 255) | (high >> (8 * j) & 255) << 8;
    }
    if (wide && live >= kWordBits) {
      reinterpret_cast<Quad*>(target)[q] = quad;
      continue;
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (4 * q + j < live) target[4 * q + j] = quad.v[j];
    }
  }
}

template <int kPlanes, bool kAligned>
__global__ void __launch_bounds__(kThreads, kAligned ? 4 : 2)
    mask_count_kernel(Packed<kAligned> packed, int64_t length, bool wide, void* __restrict__ out,
                      int* errors) {
  const int64_t column = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t live = length - column * kWordBits;
  if (live <= 0) return;
  uint32_t planes[kPlanes] = {};
  const uint32_t seen = add_clients(planes, packed, column);
  put_totals(planes, out, column * kWordBits, live, wide);
  report(errors, seen & padding_bits(column, length) ? kBadPadding : 0);
}

// kPlanes hold the largest total that can be; it must then fit in `out_planes`.
template <int kPlanes, bool kAligned>
__global__ void __launch_bounds__(kThreads, kAligned ? 4 : 2)
    mask_add_kernel(Packed<kAligned> given, Packed<kAligned> packed, int64_t length, int out_planes,
                    bool wide, uint8_t* __restrict__ out, int* errors) {
  const int64_t column = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t live = length - column * kWordBits;
  if (live <= 0) return;
  uint32_t planes[kPlanes], seen = 0, over = 0;
#pragma unroll
  for (int b = 0; b < kPlanes; ++b) {
    planes[b] = b < given.count ? given.word(b, column) : 0;
    seen |= planes[b];
  }
  seen |= add_clients(planes, packed, column);
  const int64_t bytes = packed.bytes;
  uint8_t* target = out + column * 4;
#pragma unroll
  for (int b = 0; b < (kPlanes > kMostPlanes ? kPlanes : kMostPlanes); ++b) {
    const uint32_t plane = (b < kPlanes ? planes[b < kPlanes ? b : 0] : 0) & first_bits(live);
    if (b < out_planes) {
      put_word(target + b * bytes, plane, bytes - column * 4, wide);
    } else {
      over |= plane;
    }
  }
  report(errors, (over ? kTooMany : 0) | (seen & padding_bits(column, length) ? kBadPadding : 0));
}

template <int kPlanes, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    mask_totals_kernel(Packed<kAligned> given, int64_t length, bool wide, void* __restrict__ out,
                       int* errors) {
  const int64_t column = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t live = length - column * kWordBits;
  if (live <= 0) return;
  uint32_t planes[kPlanes], seen = 0;
#pragma unroll
  for (int b = 0; b < kPlanes; ++b) {
    planes[b] = b < given.count ? given.word(b, column) : 0;
    seen |= planes[b];
  }
  put_totals(planes, out, column * kWordBits, live, wide);
  report(errors, seen & padding_bits(column, length) ? kBadPadding : 0);
}

template <int kValue>
struct Constant {
  static constexpr int kPlanes = kValue;
};

// Calls body with as many planes as a total needs, rounded up to one of these.
template <int kFirst, int... kRest, class Body>
void with_planes(int planes, Body body) {
  if constexpr (sizeof...(kRest) > 0) {
    if (planes > kFirst) return with_planes<kRest...>(planes, body);
  }
  body(Constant<kFirst>{});
}

// Calls body(std::true_type) where rows of these bytes, from these addresses on, are whole words.
template <class Body>
void with_alignment(int64_t length, std::initializer_list<const void*> rows, Body body) {
  bool aligned = ceil_div(length, 8) % 4 == 0;
  for (const void* row : rows) aligned = aligned && is_aligned4(row);
  if (aligned) {
    body(std::true_type{});
  } else {
    body(std::false_type{});
  }
}

int64_t blocks_for(int64_t length) { return ceil_div(length, int64_t(kWordBits) * kThreads); }

}  // namespace

void mask_count_cuda(const uint8_t* packed, int64_t clients, int64_t length, void* out, int* errors,
                     int device, void* stream_handle) {
  if (length == 0) return;
  const DeviceGuard guard(device);
  const int64_t bytes = ceil_div(length, 8);
  with_alignment(length, {packed}, [&](auto aligned) {
    const Packed<aligned.value> from = {packed, clients, bytes};
    with_planes<4, 8, kMostPlanes>(planes_for(clients), [&](auto planes) {
      launch(mask_count_kernel<planes.kPlanes, aligned.value>, blocks_for(length), stream_handle,
             from, length, is_aligned16(out), out, errors);
    });
  });
}

void mask_add_cuda(const uint8_t* planes, int64_t planes_n, const uint8_t* packed, int64_t clients,
                   int64_t length, int64_t out_planes, uint8_t* out, int* errors, int device,
                   void* stream_handle) {
  if (length == 0) return;
  const DeviceGuard guard(device);
  const int64_t bytes = ceil_div(length, 8), most = (int64_t(1) << planes_n) - 1 + clients;
  with_alignment(length, {planes, packed, out}, [&](auto aligned) {
    const Packed<aligned.value> given = {planes, planes_n, bytes}, from = {packed, clients, bytes};
    with_planes<4, 8, kMostPlanes + 1>(planes_for(most), [&](auto wanted) {
      launch(mask_add_kernel<wanted.kPlanes, aligned.value>, blocks_for(length), stream_handle,
             given, from, length, int(out_planes), is_aligned4(out) && aligned.value, out, errors);
    });
  });
}

void mask_totals_cuda(const uint8_t* planes, int64_t planes_n, int64_t length, void* out,
                      int* errors, int device, void* stream_handle) {
  if (length == 0) return;
  const DeviceGuard guard(device);
  with_alignment(length, {planes}, [&](auto aligned) {
    const Packed<aligned.value> given = {planes, planes_n, ceil_div(length, 8)};
    with_planes<8, kMostPlanes>(int(planes_n), [&](auto wanted) {
      launch(mask_totals_kernel<wanted.kPlanes, aligned.value>, blocks_for(length), stream_handle,
             given, length, is_aligned16(out), out, errors);
    });
  });
}

}  // namespace pyfed
