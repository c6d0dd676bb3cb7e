// Number-theoretic transforms in the shared memory of CUDA devices. A row holds one coefficient, or
// one value, of each column of a tile; a pass does a radix-4 step of all rows, each thread steps of
// its own, in place; no pass moves a number to another column. The CPU's are in csrc/ntt.h.
#pragma once
#include "field.h"
#include "launch.h"
#include "roots.h"

namespace pyfed {
namespace {

// kRoots, where kernels can read it.
#if defined(PYFED_EMULATE)
template <uint32_t P>
constexpr const PYFED_SIMD::Roots<P>& kDeviceRoots = PYFED_SIMD::kRoots<P>;
#else
template <uint32_t P>
__device__ const PYFED_SIMD::Roots<P> kDeviceRoots{};
#endif

using PYFED_SIMD::Factor;

template <uint32_t P>
__device__ __forceinline__ Factor root(int j) {
  return kDeviceRoots<P>.of[j];
}

// Arithmetic on residues. What is canonical is below p, what is loose below 2p < 2^32; bounds as in
// csrc/ntt.h.
template <uint32_t P>
struct Residue {
  static __device__ __forceinline__ uint32_t reduced(uint32_t loose) {
    const uint32_t less = loose - P;  // wraps above loose when that is canonical
    return loose < less ? loose : less;
  }
  static __device__ __forceinline__ uint32_t sum(uint32_t a, uint32_t b) { return reduced(a + b); }
  static __device__ __forceinline__ uint32_t difference(uint32_t a, uint32_t b) {
    return reduced(a + P - b);
  }
  // Any a < 2^32 times w < p, canonical: the estimated quotient is at most 1 too small.
  static __device__ __forceinline__ uint32_t product(uint32_t a, Factor w) {
    const uint32_t quotient = uint32_t(uint64_t(a) * w.quotient >> 32);
    return reduced(a * w.value - quotient * P);
  }
  // (low - high) / α_2j: 1 / α_2j = -α_2i, where within each range from 2^b to 2^(b+1) the
  // exponents of ω run backwards from j to i.
  static __device__ __forceinline__ uint32_t turned(uint32_t low, uint32_t high, int j) {
    const int mirrored = j ? (3 << (31 - __clz(j))) - 1 - j : 0;
    const uint32_t difference = j ? high + P - low : low + P - high;
    return product(difference, root<P>(mirrored));
  }
};

// Rows of 2^column_bits words in shared memory.
struct Rows {
  uint32_t* words;
  int column_bits;

  __device__ __forceinline__ uint32_t& at(int row, int column) const {
    return words[(row << column_bits) + column];
  }
  __device__ __forceinline__ Rows from(int row) const {
    return {words + (row << column_bits), column_bits};
  }
};

// Calls body(e / 2^column_bits, e % 2^column_bits) for e < count · 2^column_bits, spread over the
// block: neighbours have neighbouring columns.
template <class Body>
__device__ __forceinline__ void each_of(int count, int column_bits, Body body) {
#pragma unroll 1
  for (int e = threadIdx.x; e < count << column_bits; e += kThreads) {
    body(e >> column_bits, e & ((1 << column_bits) - 1));
  }
}

// Splits nodes of 4q rows, q = 2^q_bits, in their parts modulo x^q - α_(4j + 0 … 3): those that
// hold the first `live` rows, of which the first has number j. load(row, column) gives, and
// store(row, column, value) takes, what stands at a row.
template <uint32_t P, class Load, class Store>
__device__ __forceinline__ void split_pass(int q_bits, int first_j, int live, int column_bits,
                                           Load load, Store store) {
  using R = Residue<P>;
  const int nodes = ((live - 1) >> (q_bits + 2)) + 1;
  each_of(nodes << q_bits, column_bits, [&](int place, int c) {
    const int node = place >> q_bits, j = first_j + node;
    const int row = (node << (q_bits + 2)) + (place & ((1 << q_bits) - 1));
    uint32_t x[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) x[r] = load(row + (r << q_bits), c);
    const Factor outer = root<P>(j);
    x[2] = R::product(x[2], outer), x[3] = R::product(x[3], outer);
    const uint32_t a = R::sum(x[0], x[2]), d = R::difference(x[0], x[2]);
    const uint32_t b = R::product(x[1] + x[3], root<P>(2 * j));
    const uint32_t e = R::product(x[1] + P - x[3], root<P>(2 * j + 1));
    store(row, c, R::sum(a, b)), store(row + (1 << q_bits), c, R::difference(a, b));
    store(row + (2 << q_bits), c, R::sum(d, e)), store(row + (3 << q_bits), c, R::difference(d, e));
  });
}

// The same for one node of 2q rows, number j, in two parts.
template <uint32_t P, class Load, class Store>
__device__ __forceinline__ void halve_pass(int q_bits, int j, int column_bits, Load load,
                                           Store store) {
  using R = Residue<P>;
  each_of(1 << q_bits, column_bits, [&](int row, int c) {
    const uint32_t low = load(row, c);
    const uint32_t high = R::product(load(row + (1 << q_bits), c), root<P>(j));
    store(row, c, R::sum(low, high)), store(row + (1 << q_bits), c, R::difference(low, high));
  });
}

// The values at α_(node · 2^bits + 0 … live - 1) of polynomials of `filled` coefficients, `filled`
// and live at most 2^bits: store(row, column, value) takes them, also rows up to a multiple of 4.
// `work` has 2^bits rows and may be where the coefficients are. Whole block; ends with a barrier,
// but where it has no pass before the last.
template <uint32_t P, class Store>
__device__ __forceinline__ void evaluate(Rows coefficients, int filled, int bits, int node,
                                         int live, Rows work, Store store) {
  const int column_bits = work.column_bits;
  auto first = [&](int row, int c) { return row < filled ? coefficients.at(row, c) : 0; };
  auto later = [&](int row, int c) { return work.at(row, c); };
  auto keep = [&](int row, int c, uint32_t v) { work.at(row, c) = v; };
  if (bits == 0) {
    each_of(1, column_bits, [&](int row, int c) { store(row, c, coefficients.at(row, c)); });
  } else if (bits == 1) {
    halve_pass<P>(0, node, column_bits, first, store);
  } else if (bits == 2) {
    split_pass<P>(0, node, live, column_bits, first, store);
  } else {
    int span = bits - (bits % 2 ? 1 : 2);
    if (bits % 2) {
      halve_pass<P>(span, node, column_bits, first, keep);
    } else {
      split_pass<P>(span, node, live, column_bits, first, keep);
    }
    __syncthreads();
    for (; span > 2; span -= 2) {
      split_pass<P>(span - 2, node << (bits - span), live, column_bits, later, keep);
      __syncthreads();
    }
    split_pass<P>(0, node << (bits - 2), live, column_bits, later, store);
    __syncthreads();
  }
}

// The coefficients of polynomials of degree below n = 2^bits from their values at α_(node · n + 0 …
// n - 1), but for factors: coefficient i is multiplied by scale[i], see CodeGroup in
// csrc/lagrange_plan.h. In place, canonical. Whole block; ends with a barrier.
template <uint32_t P>
__device__ __forceinline__ void interpolate(Rows rows, int bits, int node,
                                            const Factor* __restrict__ scale) {
  using R = Residue<P>;
  int q_bits = 0;
  for (; q_bits + 2 < bits; q_bits += 2) {
    each_of(1 << (bits - 2), rows.column_bits, [&](int place, int c) {
      const int part = place >> q_bits, j = (node << (bits - q_bits - 2)) + part;
      const int row = (part << (q_bits + 2)) + (place & ((1 << q_bits) - 1));
      uint32_t x[4];
#pragma unroll
      for (int r = 0; r < 4; ++r) x[r] = rows.at(row + (r << q_bits), c);
      const uint32_t a = R::sum(x[0], x[1]), b = R::turned(x[0], x[1], 2 * j);
      const uint32_t d = R::sum(x[2], x[3]), e = R::turned(x[2], x[3], 2 * j + 1);
      rows.at(row, c) = R::sum(a, d), rows.at(row + (1 << q_bits), c) = R::sum(b, e);
      rows.at(row + (2 << q_bits), c) = R::turned(a, d, j);
      rows.at(row + (3 << q_bits), c) = R::turned(b, e, j);
    });
    __syncthreads();
  }
  const int q = 1 << q_bits;
  if (bits == q_bits + 2) {  // 4q rows; the last two roots are within scale
    each_of(q, rows.column_bits, [&](int i, int c) {
      uint32_t x[4];
#pragma unroll
      for (int r = 0; r < 4; ++r) x[r] = rows.at(i + r * q, c);
      const uint32_t a = R::sum(x[0], x[1]), b = R::turned(x[0], x[1], 2 * node);
      const uint32_t d = R::sum(x[2], x[3]), e = R::turned(x[2], x[3], 2 * node + 1);
      rows.at(i, c) = R::product(a + d, scale[i]);
      rows.at(i + q, c) = R::product(b + e, scale[i + q]);
      rows.at(i + 2 * q, c) = R::product(a + P - d, scale[i + 2 * q]);
      rows.at(i + 3 * q, c) = R::product(b + P - e, scale[i + 3 * q]);
    });
  } else if (bits == q_bits + 1) {
    each_of(q, rows.column_bits, [&](int i, int c) {
      const uint32_t low = rows.at(i, c), high = rows.at(i + q, c);
      rows.at(i, c) = R::product(low + high, scale[i]);
      rows.at(i + q, c) = R::product(low + P - high, scale[i + q]);
    });
  } else {  // one row
    each_of(1, rows.column_bits,
            [&](int i, int c) { rows.at(i, c) = R::product(rows.at(i, c), scale[i]); });
  }
  __syncthreads();
}

}  // namespace
}  // namespace pyfed
