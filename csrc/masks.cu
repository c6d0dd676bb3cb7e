// Packing and unpacking of masks, and their set bits, on CUDA devices.
#include "bits.cuh"
#include "kernels.h"

namespace pyfed {
namespace {

// A mask as rows; one row where no row has padding, or there is one.
struct MaskRows {
  int64_t rows, length, bytes, words;

  MaskRows(int64_t all_rows, int64_t row_length) {
    const bool flat = row_length % 8 == 0;
    rows = flat ? 1 : all_rows;
    length = flat ? all_rows * row_length : row_length;
    bytes = ceil_div(length, 8);
    words = ceil_div(length, kWordBits);
  }
};

// One word of a packed row a thread.
__global__ void __launch_bounds__(kThreads)
    mask_pack_kernel(const uint8_t* __restrict__ mask, MaskRows shape, bool wide,
                     uint8_t* __restrict__ out) {
  const int64_t index = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= shape.rows * shape.words) return;
  const int64_t row = index / shape.words, word = index % shape.words;
  const int64_t live = shape.length - word * kWordBits;
  const uint8_t* from = mask + row * shape.length + word * kWordBits;
  const uint8_t* end = mask + shape.rows * shape.length;
  uint32_t bytes[8];
  if (wide && live >= kWordBits) {
    const Quad* quads = reinterpret_cast<const Quad*>(from);
    const Quad low = quads[0], high = quads[1];
#pragma unroll
    for (int i = 0; i < 4; ++i) bytes[i] = low.v[i], bytes[4 + i] = high.v[i];
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) bytes[i] = 4 * i < live ? word_at(from + 4 * i, mask, end) : 0;
  }
  uint32_t bits = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) bits |= gathered4(bytes[i]) << (4 * i);
  put_word(out + row * shape.bytes + word * 4, bits & first_bits(live), shape.bytes - word * 4,
           wide);
}

// One word of a packed row a thread: for one row.
__global__ void __launch_bounds__(kThreads)
    mask_unpack_kernel(const uint8_t* __restrict__ packed, MaskRows shape, bool wide,
                       uint8_t* __restrict__ out, int* errors) {
  const int64_t word = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (word >= shape.words) return;
  const uint32_t bits = word_at(packed + word * 4, packed, packed + shape.bytes);
  uint32_t bytes[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) bytes[i] = spread4(bits >> (4 * i));
  put_bytes(out + word * kWordBits, bytes, shape.length - word * kWordBits, wide);
  report(errors, bits & padding_bits(word, shape.length) ? kBadPadding : 0);
}

// One element a thread, so that rows of any length are written whole.
__global__ void __launch_bounds__(kThreads)
    mask_unpack_rows_kernel(const uint8_t* __restrict__ packed, MaskRows shape,
                            uint8_t* __restrict__ out, int* errors) {
  const int64_t index = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= shape.rows * shape.length) return;
  const int64_t row = index / shape.length, i = index % shape.length;
  const uint32_t bits = packed[row * shape.bytes + i / 8] >> (i % 8);
  out[index] = uint8_t(bits & 1);
  report(errors, i == shape.length - 1 && bits > 1 ? kBadPadding : 0);
}

// What rows hold is read by whole words; the last one goes up to the end of the row.
struct RowBits {
  const uint8_t* packed;
  int64_t rows, length, bytes, words;

  __device__ __forceinline__ int ones(int64_t row, int64_t word, int& bits) const {
    const uint8_t* at = packed + row * bytes + word * 4;
    const uint32_t found = word_at(at, packed, packed + rows * bytes);
    bits |= found & padding_bits(word, length) ? kBadPadding : 0;
    return __popc(found & first_bits(length - word * kWordBits));
  }
};

constexpr int64_t kShortRow = 64;      // words that one thread counts
constexpr int64_t kPortion = 1 << 14;  // words of a block, of a longer row

__global__ void __launch_bounds__(kThreads)
    mask_popcount_short_kernel(RowBits mask, int64_t* __restrict__ out, int* errors) {
  const int64_t row = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= mask.rows) return;
  int bits = 0, sum = 0;
#pragma unroll 4
  for (int word = 0; word < int(mask.words); ++word) sum += mask.ones(row, word, bits);
  out[row] = sum;
  report(errors, bits);
}

struct Sums {
  int at[kThreads];
};

__global__ void __launch_bounds__(kThreads)
    mask_popcount_kernel(RowBits mask, int64_t portions, int64_t* __restrict__ out, int* errors) {
  PYFED_SHARED(Sums, shared);
  const int64_t row = blockIdx.x / portions, first = blockIdx.x % portions * kPortion;
  const int64_t last = first + kPortion < mask.words ? first + kPortion : mask.words;
  int bits = 0, sum = 0;
#pragma unroll 8
  for (int64_t word = first + threadIdx.x; word < last; word += kThreads) {
    sum += mask.ones(row, word, bits);
  }
  shared.at[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    sum = 0;
    for (int i = 0; i < kThreads; ++i) sum += shared.at[i];
    atomicAdd(reinterpret_cast<unsigned long long*>(out + row), (unsigned long long)(sum));
  }
  wipe(shared);
  report(errors, bits);
}

}  // namespace

void mask_pack_cuda(const uint8_t* mask01, int64_t rows, int64_t length, uint8_t* out,
                    int* /*errors*/, int device, void* stream_handle) {
  if (rows == 0 || length == 0) return;
  const DeviceGuard guard(device);
  const MaskRows shape(rows, length);
  const bool wide = shape.rows == 1 && is_aligned16(mask01) && is_aligned4(out);
  launch(mask_pack_kernel, ceil_div(shape.rows * shape.words, kThreads), stream_handle, mask01,
         shape, wide, out);
}

void mask_unpack_cuda(const uint8_t* packed, int64_t rows, int64_t length, uint8_t* out01,
                      int* errors, int device, void* stream_handle) {
  if (rows == 0 || length == 0) return;
  const DeviceGuard guard(device);
  const MaskRows shape(rows, length);
  if (shape.rows == 1) {
    launch(mask_unpack_kernel, ceil_div(shape.words, kThreads), stream_handle, packed, shape,
           is_aligned16(out01), out01, errors);
  } else {
    launch(mask_unpack_rows_kernel, ceil_div(rows * length, kThreads), stream_handle, packed, shape,
           out01, errors);
  }
}

void mask_popcount_cuda(const uint8_t* packed, int64_t rows, int64_t length, int64_t* out,
                        int* errors, int device, void* stream_handle) {
  if (rows == 0) return;
  const DeviceGuard guard(device);
  const RowBits mask = {packed, rows, length, ceil_div(length, 8), ceil_div(length, kWordBits)};
  if (mask.words <= kShortRow) {
    launch(mask_popcount_short_kernel, ceil_div(rows, kThreads), stream_handle, mask, out, errors);
    return;
  }
  const int64_t portions = ceil_div(mask.words, kPortion);
  check(cudaMemsetAsync(out, 0, size_t(rows) * 8, static_cast<cudaStream_t>(stream_handle)));
  launch(mask_popcount_kernel, rows * portions, stream_handle, mask, portions, out, errors);
}

}  // namespace pyfed
