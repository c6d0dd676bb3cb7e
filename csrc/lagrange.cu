// Lagrange encoding and decoding on CUDA devices: products whose right operand, or output, has the
// layout of a flat vector, and whose random rows never leave a multiprocessor.
#include "digits.h"
#include "kernels.h"
#include "product.cuh"

namespace pyfed {
namespace {

template <uint32_t P, class Data>
struct EncodeRight {
  const ColumnsOf<Data>& from;
  int64_t first_column;  // start_column + first_column is a multiple of kBlock; may be negative

  // Panels end where the data rows do, so that each is all data or all random.
  template <class S>
  __device__ __forceinline__ int fill(Panels<S>& shared, int64_t l, int64_t limit,
                                      int& bits) const {
    const int64_t end = l < from.blocks ? from.blocks : limit;
    const int depth = end - l < S::kDepth ? int(end - l) : S::kDepth;
    if (l < from.blocks) {
      fill_data(shared, l, depth, bits);
    } else {
      fill_random(shared, l - from.blocks, depth, bits);
    }
    const int missing = rounded_up4(depth) - depth;
    for (int e = threadIdx.x; e < missing * S::kColumns; e += kThreads) {
      shared.right[depth + e / S::kColumns][e % S::kColumns] = 0;
    }
    return depth;
  }

  // Neighbouring threads read along a column's elements: for depth = K that is the flat vector.
  // Where values are rounded, it is by words that first stand in the places of the residues.
  template <class S>
  __device__ __forceinline__ void fill_data(Panels<S>& shared, int64_t l, int depth,
                                            int& bits) const {
    make_rounding_words(from, first_column, S::kColumns, l, depth,
                        [&](int c, int i, uint32_t word) { shared.right[i][c] = int32_t(word); });
#pragma unroll 4
    for (int e = threadIdx.x; e < depth * S::kColumns; e += kThreads) {
      const int i = e % depth, c = e / depth;
      const int64_t column = first_column + c;
      const int64_t index = column * from.blocks + l + i;
      uint32_t v = 0;
      if (column >= 0 && index < from.length) {
        v = from.data.residue(index, uint32_t(shared.right[i][c]), P, bits);
      }
      shared.right[i][c] = checked<P>(v, bits);
    }
  }

  // One ChaCha20 block a thread: 16 columns of one random row. A panel has as many as the block
  // has threads.
  template <class S>
  __device__ __forceinline__ void fill_random(Panels<S>& shared, int64_t row, int depth,
                                              int& bits) const {
    constexpr int kAcross = S::kColumns / kBlock;
    static_assert(S::kDepth * kAcross == kThreads, "a panel is one ChaCha20 block a thread");
    const int i = int(threadIdx.x) / kAcross, c = int(threadIdx.x) % kAcross * kBlock;
    if (i >= depth) return;
    const Nonce nonce = {uint32_t(row + i), from.stream, domain_word(kPadding, P)};
    const int64_t index = from.start_column + first_column + c;
    uint32_t words[kBlock];
    chacha_block(from.key, uint32_t(index / kBlock), nonce, words);
    uint32_t rejected = 0;  // bit j: candidate j
#pragma unroll
    for (int j = 0; j < kBlock; ++j) {
      words[j] &= candidate_mask(P);
      rejected |= uint32_t(words[j] >= P) << j;
      shared.right[i][c + j] = centred(words[j], P);
    }
#pragma unroll 1
    for (int j = 0; rejected; ++j, rejected >>= 1) {
      if (rejected & 1) {
        shared.right[i][c + j] = centred(retry_residue(from.key, index + j, nonce, P, &bits), P);
      }
    }
  }
};

// A block owns a tile of columns and up to kRows shares, and makes the random rows of these columns
// for itself: 16 residues take about 1000 operations, and 16 or 64 products each.
template <uint32_t P, class S, class Data>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    lagrange_encode_kernel(ColumnsOf<Data> from, const uint32_t* __restrict__ matrix,
                           int64_t shares, uint32_t* __restrict__ out, int* errors) {
  PYFED_SHARED(Panels<S>, shared);
  const int64_t tiles = (shares + S::kRows - 1) / S::kRows;
  const int64_t row = blockIdx.x % tiles * S::kRows;
  const int64_t column = blockIdx.x / tiles * S::kColumns - from.start_column % kBlock;
  const int64_t inner = from.blocks + from.privacy;
  int bits = 0;
  Sums<S> sums;
  tile_product<P>(shared, matrix, inner, row, shares, EncodeRight<P, Data>{from, column}, 0, inner,
                  sums, bits);
  each_residue<P>(sums, [&](int r, int c, uint32_t v) {
    const int64_t at = column + c;
    if (row + r < shares && at >= 0 && at < from.columns) out[(row + r) * from.columns + at] = v;
  });
  wipe(shared);
  report(errors, bits);
}

template <uint32_t P, class S, class Data>
void launch_encode(const ColumnsOf<Data>& from, const uint32_t* matrix, int64_t shares,
                   uint32_t* out, int* errors, void* stream) {
  const int64_t across = ceil_div(from.columns + from.start_column % kBlock, S::kColumns);
  launch(lagrange_encode_kernel<P, S, Data>, across * ceil_div(shares, S::kRows), stream, from,
         matrix, shares, out, errors);
}

template <class Data>
void encode(const ColumnsOf<Data>& from, const uint32_t* matrix, int64_t shares, uint32_t modulus,
            uint32_t* out, int32_t* scratch, int* errors, int device, void* stream) {
  const DeviceGuard guard(device);
  for_field(modulus, [&](auto field) {
    constexpr uint32_t P = decltype(field)::kModulus;
    if (from.length == 0 || shares == 0) return;
    if (scratch) {
      digit_encode(from, matrix, shares, modulus, out, scratch, errors, stream);
    } else if (shares <= Rows16::kRows) {
      launch_encode<P, Rows16>(from, matrix, shares, out, errors, stream);
    } else {
      launch_encode<P, Rows64>(from, matrix, shares, out, errors, stream);
    }
  });
}

// Outputs go through shared memory, transposed, so that a tile of whole columns (blocks <= kRows)
// is written as one run of the flat vector, and else kRows elements at a time.
template <uint32_t P, class S>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    lagrange_decode_kernel(const uint32_t* __restrict__ rows, int64_t columns,
                           const uint32_t* __restrict__ matrix, int64_t blocks, int64_t threshold,
                           int64_t length, uint32_t* __restrict__ out, int* errors) {
  constexpr int kPitch = S::kRows + 1;
  union Shared {
    Panels<S> panels;
    uint32_t flat[S::kColumns * kPitch];
  };
  PYFED_SHARED(Shared, shared);
  const int64_t tiles = (blocks + S::kRows - 1) / S::kRows;
  const int64_t row = blockIdx.x % tiles * S::kRows;
  const int64_t column = blockIdx.x / tiles * S::kColumns;
  int bits = 0;
  Sums<S> sums;
  tile_product<P>(shared.panels, matrix, threshold, row, blocks,
                  MatrixRight<P>{rows, columns, column}, 0, threshold, sums, bits);
  each_residue<P>(sums, [&](int r, int c, uint32_t v) { shared.flat[c * kPitch + r] = v; });
  __syncthreads();
  const int live = blocks - row < S::kRows ? int(blocks - row) : S::kRows;
  for (int e = threadIdx.x; e < live * S::kColumns; e += kThreads) {
    const int r = e % live, c = e / live;
    const int64_t index = (column + c) * blocks + row + r;
    if (index < length) out[index] = shared.flat[c * kPitch + r];
  }
  wipe(shared);
  report(errors, bits);
}

template <uint32_t P, class S>
void launch_decode(const uint32_t* rows, int64_t columns, const uint32_t* matrix, int64_t blocks,
                   int64_t threshold, int64_t length, uint32_t* out, int* errors, void* stream) {
  launch(lagrange_decode_kernel<P, S>, ceil_div(columns, S::kColumns) * ceil_div(blocks, S::kRows),
         stream, rows, columns, matrix, blocks, threshold, length, out, errors);
}

}  // namespace

void lagrange_encode_cuda(const uint32_t* data, int64_t length, const uint32_t* matrix,
                          int64_t shares, int64_t blocks, int64_t privacy, const uint32_t* key,
                          uint32_t stream, int64_t start_column, uint32_t modulus, uint32_t* out,
                          int32_t* scratch, int* errors, int device, void* stream_handle) {
  const Columns from = {{data}, length,      ceil_div(length, blocks), blocks, privacy, key,
                        stream, start_column};
  encode(from, matrix, shares, modulus, out, scratch, errors, device, stream_handle);
}

void quantize_encode_cuda(const float* values, int64_t length, float scale, float clip,
                          const uint32_t* matrix, int64_t shares, int64_t blocks, int64_t privacy,
                          const uint32_t* key, uint32_t stream, int64_t start_column,
                          uint32_t modulus, uint32_t* out, int32_t* scratch, int* errors,
                          int device, void* stream_handle) {
  const Floats data = {values, scale, clip};
  const ColumnsOf<Floats> from = {
      data, length, ceil_div(length, blocks), blocks, privacy, key, stream, start_column};
  encode(from, matrix, shares, modulus, out, scratch, errors, device, stream_handle);
}

void lagrange_decode_cuda(const uint32_t* rows, int64_t columns, const uint32_t* matrix,
                          int64_t blocks, int64_t threshold, int64_t length, uint32_t modulus,
                          uint32_t* out, int32_t* scratch, int* errors, int device,
                          void* stream_handle) {
  const DeviceGuard guard(device);
  for_field(modulus, [&](auto field) {
    constexpr uint32_t P = decltype(field)::kModulus;
    if (length == 0) return;
    if (scratch) {
      digit_decode(rows, columns, matrix, blocks, threshold, length, modulus, out, scratch, errors,
                   stream_handle);
    } else if (blocks <= Rows16::kRows) {
      launch_decode<P, Rows16>(rows, columns, matrix, blocks, threshold, length, out, errors,
                               stream_handle);
    } else {
      launch_decode<P, Rows64>(rows, columns, matrix, blocks, threshold, length, out, errors,
                               stream_handle);
    }
  });
}

}  // namespace pyfed
