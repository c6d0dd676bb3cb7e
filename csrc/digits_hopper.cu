// The products of digits.cu on the matrix units of Hopper.
#include <atomic>
#include <cstdlib>
#include <type_traits>

#include "digit_factors.cuh"
#include "digits_hopper.cuh"
#include "digits_hopper.h"
#include "kernels.h"

namespace pyfed {
namespace {

// On a multiprocessor: 128 registers of sums leave room for one block, at most 64 for two, but for
// 64 beside the rounding of floats, which would spill 20 bytes.
template <int kRows, class Data = Residues>
constexpr int kHopperBlocks =
    kRows == 64 || (kRows == 32 && !std::is_same_v<Data, Residues>) ? 1 : 2;

// The tiles of a block: one of rows, so that its digits may stay in shared memory, and of columns
// every `column_step`th.
struct Tiles {
  int row_tiles, column_step;
  int64_t column_tiles;
};

__global__ void __launch_bounds__(kThreads)
    hopper_digits_kernel(Left left, Prime prime, uint32_t* __restrict__ out, int* errors) {
  const int64_t place = int64_t(blockIdx.x) * (kThreads / kWarp) + warp_of_thread();
  if (place >= left.row_octets * left.octets) return;
  int bits = 0;
  Quad quads[2] = {};
  make_digits(left, prime, place, quads, bits);
  // With lane = 4g + t, word k is of row g, digit k / 2 and element t + 4 (k % 2): a word of core
  // matrix k, whose words lanes have in order.
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    out[place * 4 * kPlaceQuads + k * kWarp + lane_of_thread()] = quads[k / 4].v[k % 4];
  }
  report(errors, bits);
}

#if defined(PYFED_HAS_WGMMA)
// Calls right(tiling, first_column) for what fills panels, and body(row, column, residue) for each
// output, counted from the beginning.
template <int kRows, class MakeRight, class Body>
__device__ __forceinline__ void hopper_tiles(const Quad* digits, const Left& left,
                                             const Tiles& tiles, const Prime& prime, int* errors,
                                             MakeRight right, Body body) {
  PYFED_DYNAMIC_SHARED(HopperShared<kRows>, shared);
  const Tiling tiling(kPanelDepth);
  const int64_t row_tile = blockIdx.x % unsigned(tiles.row_tiles),
                row_octet = row_tile * (kRows / kOctet);
  const int64_t live = left.row_octets - row_octet;
  const RowDigits mine = {digits + row_octet * left.octets * kPlaceQuads, int(left.octets),
                          int(live < kRows / kOctet ? live : kRows / kOctet)};
  DigitRing ring;
  int panel = 0, bits = 0;
#pragma unroll 1
  for (int64_t tile = blockIdx.x / unsigned(tiles.row_tiles); tile < tiles.column_tiles;
       tile += tiles.column_step) {
    int32_t sums[2 * kRows];
    const int64_t column = tile * tiling.columns;
    hopper_product<kRows>(shared, panel, ring, mine, right(tiling, column), int(left.inner), sums,
                          bits);
    each_hopper_output(sums, prime, [&](int r, int c, uint32_t v) {
      if (row_tile * kRows + r < left.rows) body(row_tile * kRows + r, column + c, v);
    });
  }
  wipe(shared);
  report(errors, bits);
}
#endif

template <int kRows>
__global__ void __launch_bounds__(kThreads, kHopperBlocks<kRows>)
    hopper_matmul_kernel(const Quad* __restrict__ digits, Left left, Tiles tiles, Prime prime,
                         const uint32_t* __restrict__ b, int64_t n, uint32_t* __restrict__ out,
                         int* errors) {
#if defined(PYFED_HAS_WGMMA)
  hopper_tiles<kRows>(
      digits, left, tiles, prime, errors,
      [&](const Tiling& tiling, int64_t column) {
        return MatrixRight{b, left.inner, n, column, tiling, prime.p};
      },
      [&](int64_t row, int64_t column, uint32_t v) {
        if (column < n) out[row * n + column] = v;
      });
#else
  __trap();
#endif
}

template <int kRows, class Data>
__global__ void __launch_bounds__(kThreads, kHopperBlocks<kRows, Data>)
    hopper_encode_kernel(const Quad* __restrict__ digits, Left left, Tiles tiles, Prime prime,
                         ColumnsOf<Data> from, uint32_t domain, uint32_t* __restrict__ out,
                         int* errors) {
#if defined(PYFED_HAS_WGMMA)
  const int before = from.start_column % kBlock;  // tiles begin at blocks of ChaCha20
  hopper_tiles<kRows>(
      digits, left, tiles, prime, errors,
      [&](const Tiling& tiling, int64_t column) {
        return EncodeRight<Data>{from, column - before, tiling, prime.p, domain};
      },
      [&](int64_t row, int64_t column, uint32_t v) {
        const int64_t at = column - before;
        if (at >= 0 && at < from.columns) out[row * from.columns + at] = v;
      });
#else
  __trap();
#endif
}

template <int kRows>
__global__ void __launch_bounds__(kThreads, kHopperBlocks<kRows>)
    hopper_decode_kernel(const Quad* __restrict__ digits, Left left, Tiles tiles, Prime prime,
                         const uint32_t* __restrict__ rows, int64_t columns, int64_t length,
                         uint32_t* __restrict__ out, int* errors) {
#if defined(PYFED_HAS_WGMMA)
  hopper_tiles<kRows>(
      digits, left, tiles, prime, errors,
      [&](const Tiling& tiling, int64_t column) {
        return MatrixRight{rows, left.inner, columns, column, tiling, prime.p};
      },
      [&](int64_t row, int64_t column, uint32_t v) {
        const int64_t index = column * left.rows + row;
        if (index < length) out[index] = v;
      });
#else
  __trap();
#endif
}

// Enough blocks to fill the device, and of each tile of rows as many as of any other.
template <int kRows, class Data = Residues>
struct Grid {
  Tiles tiles;
  int64_t blocks;

  Grid(int64_t rows, int64_t columns) {
    int device = 0, multiprocessors = 0;
    check(cudaGetDevice(&device));
    check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
    tiles.row_tiles = int(ceil_div(rows, kRows));
    tiles.column_tiles = ceil_div(columns, 4096 / kPanelDepth);
    const int64_t wanted =
        ceil_div(int64_t(multiprocessors) * kHopperBlocks<kRows, Data>, tiles.row_tiles);
    tiles.column_step = int(wanted < tiles.column_tiles ? wanted : tiles.column_tiles);
    blocks = int64_t(tiles.row_tiles) * tiles.column_step;
  }
};

template <int kRows>
struct Rows {
  static constexpr int kCount = kRows;
};

// Makes the digits, runs body(Rows<16, 32 or 64>, digits, prime), and clears the digits.
template <class Body>
void with_hopper_digits(const Left& left, uint32_t modulus, int32_t* room, int* errors,
                        void* stream, Body body) {
  const int64_t places = left.row_octets * left.octets;
  const Prime prime(modulus);
  launch(hopper_digits_kernel, ceil_div(places, kThreads / kWarp), stream, left, prime,
         reinterpret_cast<uint32_t*>(room), errors);
  const Quad* digits = reinterpret_cast<const Quad*>(room);
  if (left.rows <= 16) {
    body(Rows<16>{}, digits, prime);
  } else if (left.rows <= 32) {
    body(Rows<32>{}, digits, prime);
  } else {
    body(Rows<64>{}, digits, prime);
  }
  check(cudaMemsetAsync(room, 0, size_t(places) * kPlaceQuads * sizeof(Quad),
                        static_cast<cudaStream_t>(stream)));
}

template <class Data>
void encode(const ColumnsOf<Data>& from, const uint32_t* matrix, int64_t shares, uint32_t modulus,
            uint32_t* out, int32_t* room, int* errors, void* stream) {
  const Left left(matrix, shares, from.blocks + from.privacy, from.blocks);
  with_hopper_digits(left, modulus, room, errors, stream, [&](auto rows, auto* digits, Prime p) {
    constexpr int kRows = decltype(rows)::kCount;
    const Grid<kRows, Data> grid(shares, from.columns + from.start_column % kBlock);
    launch_large(hopper_encode_kernel<kRows, Data>, grid.blocks, sizeof(HopperShared<kRows>),
                 stream, digits, left, grid.tiles, p, from, domain_word(kPadding, modulus), out,
                 errors);
  });
}

std::atomic<bool>& wgmma_wanted() {
  static std::atomic<bool> wanted([] {
    const char* text = std::getenv("PYFED_WGMMA");
    return text && text[0] == '1' && text[1] == 0;
  }());
  return wanted;
}

}  // namespace

bool set_wgmma(bool wanted) { return wgmma_wanted().exchange(wanted); }

// What the device would run of this build is asked of the runtime: code for sm_90a, or the trap
// that other architectures (and PTX for newer ones) have in its place, which wants hardly a
// register.
bool wgmma_serves() {
  if (!wgmma_wanted()) return false;
  int device = 0, major = 0, minor = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  if (major != 9 || minor != 0) return false;
  cudaFuncAttributes found;
  check(cudaFuncGetAttributes(&found, reinterpret_cast<const void*>(hopper_matmul_kernel<64>)));
  return found.numRegs >= 128;  // its sums
}

void hopper_matmul(const uint32_t* a, const uint32_t* b, int64_t m, int64_t k, int64_t n,
                   uint32_t modulus, uint32_t* out, int32_t* room, int* errors, void* stream) {
  const Left left(a, m, k, k);
  with_hopper_digits(left, modulus, room, errors, stream, [&](auto rows, auto* digits, Prime p) {
    constexpr int kRows = decltype(rows)::kCount;
    const Grid<kRows> grid(m, n);
    launch_large(hopper_matmul_kernel<kRows>, grid.blocks, sizeof(HopperShared<kRows>), stream,
                 digits, left, grid.tiles, p, b, n, out, errors);
  });
}

void hopper_encode(const Columns& from, const uint32_t* matrix, int64_t shares, uint32_t modulus,
                   uint32_t* out, int32_t* room, int* errors, void* stream) {
  encode(from, matrix, shares, modulus, out, room, errors, stream);
}

void hopper_encode(const ColumnsOf<Floats>& from, const uint32_t* matrix, int64_t shares,
                   uint32_t modulus, uint32_t* out, int32_t* room, int* errors, void* stream) {
  encode(from, matrix, shares, modulus, out, room, errors, stream);
}

void hopper_decode(const uint32_t* rows, int64_t columns, const uint32_t* matrix, int64_t blocks,
                   int64_t threshold, int64_t length, uint32_t modulus, uint32_t* out,
                   int32_t* room, int* errors, void* stream) {
  const Left left(matrix, blocks, threshold, threshold);
  with_hopper_digits(left, modulus, room, errors, stream, [&](auto tile, auto* digits, Prime p) {
    constexpr int kRows = decltype(tile)::kCount;
    const Grid<kRows> grid(blocks, columns);
    launch_large(hopper_decode_kernel<kRows>, grid.blocks, sizeof(HopperShared<kRows>), stream,
                 digits, left, grid.tiles, p, rows, columns, length, out, errors);
  });
}

}  // namespace pyfed
