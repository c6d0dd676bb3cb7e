// Products of residues on int8 matrix units: the digits of a left factor, then a plain product, an
// encoding whose random rows never leave a multiprocessor, or a decoding into a flat vector.
#include "digit_factors.cuh"
#include "digits.h"
#include "digits_hopper.h"
#include "kernels.h"

namespace pyfed {
namespace {

constexpr int kBlocksAtOnce = 2;  // on a multiprocessor: at most 128 registers a thread

// The digits of a left factor, in the order in which add_panel wants them: for each eight rows by
// eight columns two Quads a lane.
__global__ void __launch_bounds__(kThreads)
    digits_kernel(Left left, Prime prime, Quad* __restrict__ out, int* errors) {
  const int64_t place = int64_t(blockIdx.x) * (kThreads / kWarp) + warp_of_thread();
  if (place >= left.row_octets * left.octets) return;
  int bits = 0;
  Quad quads[2] = {};
  make_digits(left, prime, place, quads, bits);
  out[place * 2 * kWarp + lane_of_thread()] = quads[0];
  out[(place * 2 + 1) * kWarp + lane_of_thread()] = quads[1];
  report(errors, bits);
}

__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    digit_matmul_kernel(const Quad* __restrict__ digits, Left left, const uint32_t* __restrict__ b,
                        int64_t n, Tiling tiling, Prime prime, uint32_t* __restrict__ out,
                        int* errors) {
  PYFED_SHARED(Panel, shared);
  const int64_t tiles = (left.rows + tiling.rows - 1) / tiling.rows;
  const int64_t tile = blockIdx.x % tiles, row = tile * tiling.rows;
  const int64_t column = blockIdx.x / tiles * tiling.columns;
  int bits = 0;
  DigitSums sums;
  digit_product(shared, tiling, digits, left.row_octets, left.octets, tile,
                MatrixRight{b, left.inner, n, column, tiling, prime.p}, left.inner, sums, bits);
  each_output(sums, tiling, prime, [&](int r, int c, uint32_t v) {
    if (row + r < left.rows && column + c < n) out[(row + r) * n + column + c] = v;
  });
  wipe(shared);
  report(errors, bits);
}

template <class Data>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    digit_encode_kernel(const Quad* __restrict__ digits, Left left, ColumnsOf<Data> from,
                        Tiling tiling, Prime prime, uint32_t domain, uint32_t* __restrict__ out,
                        int* errors) {
  PYFED_SHARED(Panel, shared);
  const int64_t tiles = (left.rows + tiling.rows - 1) / tiling.rows;
  const int64_t tile = blockIdx.x % tiles, row = tile * tiling.rows;
  const int64_t column = blockIdx.x / tiles * tiling.columns - from.start_column % kBlock;
  int bits = 0;
  DigitSums sums;
  digit_product(shared, tiling, digits, left.row_octets, left.octets, tile,
                EncodeRight<Data>{from, column, tiling, prime.p, domain}, left.inner, sums, bits);
  each_output(sums, tiling, prime, [&](int r, int c, uint32_t v) {
    const int64_t at = column + c;
    if (row + r < left.rows && at >= 0 && at < from.columns) out[(row + r) * from.columns + at] = v;
  });
  wipe(shared);
  report(errors, bits);
}

// Outputs need no staging: four threads write eight neighbours of the flat vector, 32 bytes.
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    digit_decode_kernel(const Quad* __restrict__ digits, Left left,
                        const uint32_t* __restrict__ rows, int64_t columns, int64_t length,
                        Tiling tiling, Prime prime, uint32_t* __restrict__ out, int* errors) {
  PYFED_SHARED(Panel, shared);
  const int64_t tiles = (left.rows + tiling.rows - 1) / tiling.rows;
  const int64_t tile = blockIdx.x % tiles, row = tile * tiling.rows;
  const int64_t column = blockIdx.x / tiles * tiling.columns;
  int bits = 0;
  DigitSums sums;
  digit_product(shared, tiling, digits, left.row_octets, left.octets, tile,
                MatrixRight{rows, left.inner, columns, column, tiling, prime.p}, left.inner, sums,
                bits);
  each_output(sums, tiling, prime, [&](int r, int c, uint32_t v) {
    const int64_t index = (column + c) * left.rows + row + r;
    if (row + r < left.rows && index < length) out[index] = v;
  });
  wipe(shared);
  report(errors, bits);
}

// Makes the digits of a left factor, runs body(digits, left, tiling, prime), and clears them.
template <class Body>
void with_digits(const Left& left, uint32_t modulus, int32_t* room, int* errors, void* stream,
                 Body body) {
  const int64_t places = left.row_octets * left.octets;
  Quad* digits = reinterpret_cast<Quad*>(room);
  const Prime prime(modulus);
  launch(digits_kernel, ceil_div(places, kThreads / kWarp), stream, left, prime, digits, errors);
  body(digits, Tiling(left.rows), prime);
  check(cudaMemsetAsync(room, 0, size_t(places) * 2 * kWarp * sizeof(Quad),
                        static_cast<cudaStream_t>(stream)));
}

template <class Data>
void encode(const ColumnsOf<Data>& from, const uint32_t* matrix, int64_t shares, uint32_t modulus,
            uint32_t* out, int32_t* room, int* errors, void* stream) {
  if (wgmma_serves())
    return hopper_encode(from, matrix, shares, modulus, out, room, errors, stream);
  const Left left(matrix, shares, from.blocks + from.privacy, from.blocks);
  const int64_t columns = from.columns + from.start_column % kBlock;
  with_digits(left, modulus, room, errors, stream, [&](auto* digits, Tiling tiling, Prime prime) {
    launch(digit_encode_kernel<Data>,
           ceil_div(shares, tiling.rows) * ceil_div(columns, tiling.columns), stream, digits, left,
           from, tiling, prime, domain_word(kPadding, modulus), out, errors);
  });
}

}  // namespace

void digit_matmul(const uint32_t* a, const uint32_t* b, int64_t m, int64_t k, int64_t n,
                  uint32_t modulus, uint32_t* out, int32_t* room, int* errors, void* stream) {
  if (wgmma_serves()) return hopper_matmul(a, b, m, k, n, modulus, out, room, errors, stream);
  const Left left(a, m, k, k);
  with_digits(left, modulus, room, errors, stream, [&](auto* digits, Tiling tiling, Prime prime) {
    launch(digit_matmul_kernel, ceil_div(m, tiling.rows) * ceil_div(n, tiling.columns), stream,
           digits, left, b, n, tiling, prime, out, errors);
  });
}

void digit_encode(const Columns& from, const uint32_t* matrix, int64_t shares, uint32_t modulus,
                  uint32_t* out, int32_t* room, int* errors, void* stream) {
  encode(from, matrix, shares, modulus, out, room, errors, stream);
}

void digit_encode(const ColumnsOf<Floats>& from, const uint32_t* matrix, int64_t shares,
                  uint32_t modulus, uint32_t* out, int32_t* room, int* errors, void* stream) {
  encode(from, matrix, shares, modulus, out, room, errors, stream);
}

void digit_decode(const uint32_t* rows, int64_t columns, const uint32_t* matrix, int64_t blocks,
                  int64_t threshold, int64_t length, uint32_t modulus, uint32_t* out, int32_t* room,
                  int* errors, void* stream) {
  if (wgmma_serves())
    return hopper_decode(rows, columns, matrix, blocks, threshold, length, modulus, out, room,
                         errors, stream);
  const Left left(matrix, blocks, threshold, threshold);
  with_digits(left, modulus, room, errors, stream, [&](auto* digits, Tiling tiling, Prime prime) {
    launch(digit_decode_kernel, ceil_div(blocks, tiling.rows) * ceil_div(columns, tiling.columns),
           stream, digits, left, rows, columns, length, tiling, prime, out, errors);
  });
}

}  // namespace pyfed
