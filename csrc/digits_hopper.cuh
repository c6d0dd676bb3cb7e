// The products of digits.cuh on the warpgroups' matrix units of Hopper. There the residues are the
// left operand, a warp's 16 columns of a panel as they lie, and the digits the right one, from
// shared memory: a block makes 16, 32 or 64 rows by 128 columns.
#pragma once
#include "digits.cuh"
#include "wgmma.cuh"

namespace pyfed {

constexpr int kPanelDepth = 32;  // elements of a panel, of 128 columns: a ChaCha20 block a thread
constexpr int kPanelOctets = kPanelDepth / kOctet;
constexpr int kPlaceQuads = 64;  // the digits of eight rows by eight inner elements
constexpr int kSlots = 16;       // inner octets whose digits are in shared memory; a power of two

// The digits of a place, as the matrix instruction wants them: 32 of its columns, digit i of row r
// in column 8i + r, and of each column eight inner elements, 32 bytes, in two core matrices.
constexpr int kToNextBytes = kCoreMatrix, kToNextColumns = 2 * kCoreMatrix;

template <int kRows>
struct HopperShared {
  Panel panels[2];
  Quad digits[kSlots][kRows / kOctet * kPlaceQuads];  // place by place, eight rows after eight
};

#if defined(PYFED_HAS_WGMMA)

// The digits of a tile's rows: `at` is its first place, of `octets` for each eight rows.
struct RowDigits {
  const Quad* __restrict__ at;
  int octets, row_octets;  // inner octets, and how many eights of rows there are
};

// Which digits are in shared memory: octets below `copied`, octet o in slot first + o of the ring.
// Where all fit they stay from tile to tile; else each tile goes on in the ring where the last one
// ended, whose last products may still be under way in other warps.
struct DigitRing {
  int first = 0, copied = 0;

  __device__ __forceinline__ int slot(int octet) const { return (first + octet) & (kSlots - 1); }

  __device__ __forceinline__ void next_tile(int octets) {
    if (octets <= kSlots) return;
    first = slot(octets);
    copied = 0;
  }

  template <int kRows>
  __device__ __forceinline__ void copy_until(HopperShared<kRows>& shared, const RowDigits& digits,
                                             int end) {
    constexpr int kQuads = kRows / kOctet * kPlaceQuads;
    end = end < digits.octets ? end : digits.octets;
#pragma unroll 1
    for (int e = threadIdx.x; e < (end - copied) * kQuads; e += kThreads) {
      const int octet = copied + e / kQuads, quad = e % kQuads, row_octet = quad / kPlaceQuads;
      const bool live = row_octet < digits.row_octets;
      const int64_t place = live ? int64_t(row_octet) * digits.octets + octet : 0;
      copy_async(&shared.digits[slot(octet)][quad],
                 digits.at + place * kPlaceQuads + quad % kPlaceQuads, live);
    }
    copied = copied > end ? copied : end;
  }
};

// One tile. A panel is filled and digits are copied while the products of the panel before it are
// under way; one barrier a panel says that both are there, and that the panel and the slots to be
// written next have been read. Sums of an output: 16 places for each eight rows, as DigitSums has
// them for a strip.
template <int kRows, class Right>
__device__ __forceinline__ void hopper_product(HopperShared<kRows>& shared, int& panel,
                                               DigitRing& ring, const RowDigits& digits,
                                               const Right& right, int inner,
                                               int32_t (&sums)[2 * kRows], int& bits) {
  const int lane = lane_of_thread(), strip = warp_of_thread();
#pragma unroll
  for (int i = 0; i < 2 * kRows; ++i) sums[i] = 0;
  Quad residues[kPanelOctets] = {};
  int octet = 0;  // of the panel to come
  for (int l = 0;; panel ^= 1) {
    int depth = 0;
    if (l < inner) {
      ring.copy_until(shared, digits, octet + kPanelOctets);
      depth = right.fill(shared.panels[panel], l, bits);
    }
    wait_for_products(sums, residues);
    if (depth == 0) break;
    wait_for_copies();
    __syncthreads();
    const int octets = (depth + kOctet - 1) / kOctet;
#pragma unroll
    for (int o = 0; o < kPanelOctets; ++o) {
      if (o < octets) {
        residues[o] = shared.panels[panel].fragments[o * (kThreads / kWarp) + strip].lanes[lane];
      }
    }
    open_products();
#pragma unroll
    for (int o = 0; o < kPanelOctets; ++o) {
      if (o < octets) {
        multiply_bytes_async(
            sums, residues[o],
            describe_matrix(shared.digits[ring.slot(octet + o)], kToNextBytes, kToNextColumns));
      }
    }
    close_products();
    l += depth, octet += octets;
  }
  ring.next_tile(digits.octets);
}

// Calls body(row, column, residue) for each of this thread's outputs, counted within the tile.
template <int kSums, class Body>
__device__ __forceinline__ void each_hopper_output(const int32_t (&sums)[kSums], const Prime& prime,
                                                   Body body) {
  const int row = lane_of_thread() % 4 * 2;
  const int column = warp_of_thread() * kStrip + lane_of_thread() / 4;
#pragma unroll
  for (int o = 0; o < kSums / 16; ++o) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int32_t* at = sums + 16 * o + e;
      body(o * kOctet + row + e % 2, column + e / 2 * 8, prime.joined(at[0], at[4], at[8], at[12]));
    }
  }
}

#endif

}  // namespace pyfed
