// Matrix products and sums of residues on the CPU.
#include "field.h"

#include "kernels.h"
#include "pages.h"
#include "panels.h"
#include "row_sums.h"
#include "wipe.h"

namespace pyfed {
namespace PYFED_SIMD {
namespace {

constexpr int64_t kBandRows = 2 * kDepth;  // that repay a panel packed for them alone
// The sum of `length` columns of x times weights. A folded sum is below 2^52, and a product below
// 2^62.
template <uint32_t P>
int sum_weighted(const uint32_t* x, const uint32_t* weights, int64_t clients, int64_t count,
                 int64_t length, uint32_t* out) {
  uint64_t sums[kSumWidth] = {};
  uint32_t bad = 0;
  for (int64_t client = 0; client < clients; ++client) {
    const uint32_t* row = x + client * count;
    const uint64_t weight = weights[client];
    bad |= uint32_t(weight >= P);
    for (int64_t i = 0; i < length; ++i) {
      bad |= uint32_t(row[i] >= P);
      sums[i] = Field<P>::fold(sums[i]) + weight * row[i];
    }
  }
  for (int64_t i = 0; i < length; ++i) out[i] = Field<P>::reduce(sums[i]);
  return bad ? kBadResidue : 0;
}

}  // namespace

int field_matmul_cpu(const uint32_t* a, const uint32_t* b, int64_t m, int64_t k, int64_t n,
                     uint32_t modulus, uint32_t* out, int32_t* scratch, int threads) {
  prefer_large_pages(out, m * n * 4);
  int errors = 0;
  with_field(modulus, [&](auto field) {
    constexpr uint32_t P = decltype(field)::kModulus;
    errors = over_panels<P>(
        a, m, k, n, threads, m / kBandRows, 0, scratch,
        [=](int64_t l0, int64_t depth, int64_t c0, int64_t width, int32_t* panel, uint32_t*) {
          return pack_rows<P>(b + l0 * n + c0, n, 0, depth, width, panel);
        },
        [=](int64_t c0, uint32_t*) { return Target{out + c0, n}; },
        [](int64_t, int64_t, uint32_t*) {});
  });
  return errors;
}

int field_sum_cpu(const uint32_t* x, const uint32_t* weights, int64_t clients, int64_t count,
                  uint32_t modulus, uint32_t* out, int threads) {
  prefer_large_pages(out, count * 4);
  int errors = 0;
  with_field(modulus, [&](auto field) {
    constexpr uint32_t P = decltype(field)::kModulus;
    const int64_t chunks = (count + kSumWidth - 1) / kSumWidth;
#pragma omp parallel num_threads(threads) \
    reduction(| : errors) if (double(clients) * double(count) > kSerial)
    errors |= wiped_after([&] {
      int found = 0;
#pragma omp for schedule(static) nowait
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const int64_t first = chunk * kSumWidth;
        const int64_t length = count - first < kSumWidth ? count - first : kSumWidth;
        found |= weights ? sum_weighted<P>(x + first, weights, clients, count, length, out + first)
                         : sum_rows<P>(x + first, clients, count, length, out + first);
      }
      return found;
    });
  });
  return errors;
}

int64_t product_workspace(int64_t kept_rows, int threads) {
  return threads * thread_words(kept_rows);
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
