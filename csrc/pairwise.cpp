// The masks of many keys, added to residues while they are made.
#include "kernels.h"
#include "key_masks.h"

namespace pyfed {
namespace PYFED_SIMD {
namespace {

constexpr int64_t kParallel = 1 << 15;  // masks · residues below which one thread does it all

struct Adding {
  const Masks& masks;
  uint32_t* residues;

  template <int kGroups>
  int run(int64_t index, int64_t low, int64_t high, int64_t first) const {
    alignas(64) uint32_t total[kGroups * kGroup];
    const int errors = sum_masks<kGroups>(masks, index, low, high, total);
    for (int64_t i = low; i < high; ++i) {
      const uint32_t v = residues[first + i] + total[i];  // below 2^32
      residues[first + i] = std::min(v, v - masks.modulus);
    }
    return errors;
  }
};

uint32_t largest(const uint32_t* values, int64_t count) {
  uint32_t most = 0;
  for (int64_t i = 0; i < count; ++i) most = std::max(most, values[i]);
  return most;
}

}  // namespace

int add_masks_cpu(uint32_t* residues, int64_t length, const uint32_t* keys, const int32_t* signs,
                  int64_t masks, uint32_t modulus, uint32_t stream, int64_t start, int threads) {
  const int64_t spans = mask_spans(start, length);
  const bool parallel = double(length) * double(masks + 1) > kParallel;
  uint32_t most = 0;
  // All residues are looked at before one is written.
#pragma omp parallel for num_threads(threads) reduction(max : most) schedule(static) if (parallel)
  for (int64_t first = 0; first < length; first += kMaskSpan) {
    most = std::max(most, largest(residues + first, std::min(kMaskSpan, length - first)));
  }
  if (most >= modulus) return kBadResidue;
  if (masks == 0) return 0;
  const Masks all(keys, signs, masks, modulus, stream);
  int errors = 0;
#pragma omp parallel num_threads(threads) reduction(| : errors) if (parallel)
  errors |= wiped_after([&] {
    int found = 0;
#pragma omp for schedule(static) nowait
    for (int64_t span = 0; span < spans; ++span) {
      found |= over_span(span, start, length, Adding{all, residues});
    }
    return found;
  });
  return errors;
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
