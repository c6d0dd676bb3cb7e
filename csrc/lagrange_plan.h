// The polynomial behind the shares of a Lagrange code whose points are a subgroup and a coset of
// it: its coefficients, from the data and the random residues of each column of a batch.
#pragma once
#include "ntt.h"

namespace pyfed {
namespace PYFED_SIMD {

// f = d + Z · r, deg d < K with d(g · α_k) = block k, and Z = ∏ (x - g · α_k). The blocks are taken
// in groups of n = 2^h blocks, one for each bit of K, largest first. A group that starts at block o
// is node j = o / n: its points are the roots of x^n = c with c = g^n · α_j, so Z is the product of
// these binomials. With e_1, e_2, … of degrees below n_1, n_2, …
//   d = e_1 + (x^n_1 - c_1) (e_2 + (x^n_2 - c_2) (e_3 + …)),
// where modulo x^n - c of a later group each binomial before it is a constant, c^(n_i / n) - c_i.
struct CodeGroup {
  int64_t first, count;   // o, n
  Factor minus_constant;  // -c
  const Factor* scale;    // count: what makes coefficients of what `interpolate` leaves,
                          // and divides them by the constants of the binomials before
  const Factor* earlier;  // first / count: of row m · n + r of the groups before, in e[r]
};

constexpr int kMostGroups = 13;  // bits of K <= 4096

struct CodePlan {
  CodeGroup groups[kMostGroups];
  int count;
  int64_t blocks, privacy;
};

// Factors that a plan wants room for: K scales, and fewer than 2 K for all groups' earlier rows,
// because o / n < 2^(h' - h + 1) for the bit h' before h.
inline int64_t plan_factors(int64_t blocks) { return 3 * blocks; }

template <uint32_t P>
inline CodePlan make_plan(int64_t blocks, int64_t privacy, Factor* room) {
  constexpr uint32_t kGenerator = Group<P>::kGenerator;
  CodePlan plan = {};
  plan.blocks = blocks, plan.privacy = privacy;
  const uint32_t step = inverse(kGenerator, P);
  uint32_t constants[kMostGroups];
  for (int64_t first = 0; first < blocks;) {
    const int64_t n = int64_t(1) << (63 - __builtin_clzll(blocks - first));
    const int64_t node = first / n;  // even, as all groups before are of 2n or more
    const Factor root = kRoots<P>.of[node / 2];
    const uint32_t c = times(power(kGenerator, n, P), root.value, P);
    constants[plan.count] = c;
    CodeGroup& group = plan.groups[plan.count];
    group.first = first, group.count = n, group.minus_constant = factor_of(P - c, P);

    Factor* earlier = room;
    uint32_t before = 1;  // the product of the binomials before, modulo x^n - c
    for (int i = 0; i < plan.count; ++i) {
      uint32_t part = P - before;
      for (int64_t m = 0; m < plan.groups[i].count / n; ++m, part = times(part, c, P)) {
        *room++ = {part, 0};
      }
      // part is now -before · c^(n_i / n).
      before = uint32_t((uint64_t(P - part) + times(before, P - constants[i], P)) % P);
    }
    const uint32_t divided = inverse(before, P);
    for (Factor* f = earlier; f < room; ++f) *f = factor_of(times(f->value, divided, P), P);
    group.earlier = earlier;

    group.scale = room;
    uint32_t scale = times(divided, inverse(uint32_t(n), P), P);
    for (int64_t i = 0; i < n; ++i, scale = times(scale, step, P)) {
      if (n > 1 && i == n / 2) scale = times(scale, inverse(kRoots<P>.of[node].value, P), P);
      *room++ = factor_of(scale, P);
    }
    ++plan.count;
    first += n;
  }
  return plan;
}

// Rows 0 … K - 1, the blocks, and K … K + T - 1, the random residues, of a vector of columns become
// the coefficients of f, in place.
template <uint32_t P>
inline void coefficients_of(const CodePlan& plan, uint32_t* rows) {
  const Residues<P> mod;
  for (int g = 0; g < plan.count; ++g) {
    const CodeGroup& group = plan.groups[g];
    const int64_t n = group.count;
    uint32_t* const own = rows + group.first * kBatch;
    interpolate<P>(own, n, group.first / n, group.scale);
    for (int64_t r = 0; group.first > 0 && r < n; ++r) {
      Words sum = words_load(own + r * kBatch);
      for (int64_t m = 0; m < group.first / n; ++m) {
        const Words before = words_load(rows + (m * n + r) * kBatch);
        sum = mod.sum(sum, mod.product(before, group.earlier[m]));
      }
      words_store(own + r * kBatch, sum);
    }
  }
  // Horner's rule, from the last binomial to the first. Row i takes -c times the row n further on,
  // which the step has not changed yet.
  int64_t length = plan.privacy;
  for (int g = plan.count - 1; g >= 0; --g) {
    const CodeGroup& group = plan.groups[g];
    uint32_t* row = rows + group.first * kBatch;
    for (int64_t i = 0; i < length; ++i, row += kBatch) {
      const Words above = words_load(row + group.count * kBatch);
      words_store(row, mod.sum(words_load(row), mod.product(above, group.minus_constant)));
    }
    length += group.count;
  }
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
