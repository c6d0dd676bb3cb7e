// The factors of a Lagrange code whose points are a subgroup and a coset of it, for CUDA devices: a
// few numbers from the host, and their powers from a kernel. csrc/lagrange_plan.h explains them.
#pragma once
#include "transform.cuh"

namespace pyfed {
namespace {

constexpr int kMostGroups = 13;        // bits of K <= 4096
constexpr int kMatrixElements = 4096;  // that a block looks at

// CodePlan of csrc/lagrange_plan.h, but for the powers that stand in its factors: the kernel below
// makes those. A group of n = 2^bits blocks from `first` on:
struct Group {
  int first, bits;
  int factors;           // where its own begin: first / n earlier ones, then n scales
  uint32_t constant;     // c
  uint32_t scale, turn;  // scale[i] = scale · g^-i, and · turn from i = n / 2 on
  Factor minus_constant;
  uint32_t parts[kMostGroups];  // earlier[m] = parts[i] · c^(m - first_i / n) for m of group i
};

struct Plan {
  Group groups[kMostGroups];
  int count, factors;
};

template <uint32_t P>
Plan make_plan(int blocks) {
  using namespace PYFED_SIMD;
  Plan plan = {};
  for (int first = 0; first < blocks; ++plan.count) {
    Group& group = plan.groups[plan.count];
    while (2 << group.bits <= blocks - first) ++group.bits;
    const int n = 1 << group.bits, node = first / n;  // even
    group.first = first, group.factors = plan.factors;
    const uint32_t g = PYFED_SIMD::Group<P>::kGenerator;
    const uint32_t c = times(power(g, uint64_t(n), P), kRoots<P>.of[node / 2].value, P);
    group.constant = c, group.minus_constant = factor_of(P - c, P);
    uint32_t before = 1;  // the product of the binomials before, modulo x^n - c
    for (int i = 0; i < plan.count; ++i) {
      const Group& other = plan.groups[i];
      group.parts[i] = P - before;
      const uint32_t there = power(c, uint64_t(1) << (other.bits - group.bits), P);
      before = times(before, uint32_t((uint64_t(there) + P - other.constant) % P), P);
    }
    const uint32_t divided = inverse(before, P);
    for (int i = 0; i < plan.count; ++i) group.parts[i] = times(group.parts[i], divided, P);
    group.scale = times(divided, inverse(uint32_t(n), P), P);
    group.turn = n > 1 ? inverse(kRoots<P>.of[node].value, P) : 1;
    plan.factors += node + n;
    first += n;
  }
  return plan;
}

template <uint32_t P>
__device__ __forceinline__ uint32_t product_power(uint32_t v, uint32_t base, int exponent) {
  for (; exponent; exponent >>= 1, base = Field<P>::reduce(uint64_t(base) * base)) {
    if (exponent & 1) v = Field<P>::reduce(uint64_t(v) * base);
  }
  return v;
}

// Makes the factors of a plan, one a thread, and looks whether the matrix has residues alone, as
// its product would.
template <uint32_t P>
__global__ void __launch_bounds__(kThreads)
    transform_plan_kernel(const __grid_constant__ Plan plan, uint32_t inverse_generator,
                          const uint32_t* __restrict__ matrix, int64_t elements,
                          Factor* __restrict__ factors, int* errors) {
  int bits = 0;
  const int64_t from = int64_t(blockIdx.x) * kMatrixElements;
  for (int64_t i = from + threadIdx.x; i < elements && i < from + kMatrixElements; i += kThreads) {
    bits |= matrix[i] >= P ? kBadResidue : 0;
  }
  report(errors, bits);
  const int64_t at = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= plan.factors) return;
  int g = plan.count - 1;
  while (at < plan.groups[g].factors) --g;
  const Group& group = plan.groups[g];
  const int m = int(at) - group.factors, node = group.first >> group.bits;
  uint32_t v;
  if (m < node) {
    int i = g - 1;
    while (m << group.bits < plan.groups[i].first) --i;
    const int begin = plan.groups[i].first >> group.bits;
    v = product_power<P>(group.parts[i], group.constant, m - begin);
  } else {
    const int i = m - node;
    v = product_power<P>(group.scale, inverse_generator, i);
    if (2 * i >= 1 << group.bits) v = Field<P>::reduce(uint64_t(v) * group.turn);
  }
  factors[at] = {v, uint32_t((uint64_t(v) << 32) / P)};
}

}  // namespace
}  // namespace pyfed
