// A client's upload in one pass: floats are clipped, rounded, weighted and masked for every key.
#include "kernels.h"
#include "key_masks.h"
#include "pages.h"
#include "rounding.h"

namespace pyfed {
namespace PYFED_SIMD {
namespace {

constexpr int64_t kParallel = 1 << 14;  // streams · values below which one thread does it all

struct Uploading {
  const Masks& masks;
  const uint32_t* key;  // makes the rounding random; null: to nearest
  Nonce rounding;
  float scale, clip;
  int32_t weight;
  const float* values;
  uint32_t* out;

  // |y| <= ⌈clip · scale⌉, and that times the weight is at most (p - 1) / 2 < 2^30.
  uint32_t masked(int32_t rounded, uint32_t mask) const {
    const uint32_t v = uint32_t(residue_of(rounded * weight, masks.modulus)) + mask;
    return std::min(v, v - masks.modulus);
  }

  template <int kGroups>
  int run(int64_t index, int64_t low, int64_t high, int64_t first) const {
    alignas(64) uint32_t total[kGroups * kGroup], words[kGroups * kGroup];
    // The next values come while the masks of these are made.
    for (int64_t i = 0; i < kGroups * kGroup; i += 16)
      __builtin_prefetch(values + first + high + i);
    const int errors = sum_masks<kGroups>(masks, index, low, high, total);
    uint32_t bad = 0;
    if (key) {
      chacha_blocks<kGroups>(key, uint32_t(index >> 4), rounding, words);
      for (int64_t i = low; i < high; ++i) {
        const float value = values[first + i];
        bad |= uint32_t(!is_finite(value));
        const int32_t rounded = rounded_at_random(scaled(value, scale, clip), words[i]);
        out[first + i] = masked(rounded, total[i]);
      }
    } else {
      for (int64_t i = low; i < high; ++i) {
        const float value = values[first + i];
        bad |= uint32_t(!is_finite(value));
        const float y = __builtin_rintf(scaled(value, scale, clip));  // half to even
        out[first + i] = masked(int32_t(y), total[i]);
      }
    }
    return errors | (bad ? kNotFinite : 0);
  }
};

}  // namespace

int quantize_mask_cpu(const float* values, int64_t length, float scale, float clip,
                      uint32_t modulus, const uint32_t* key, const uint32_t* keys,
                      const int32_t* signs, int64_t masks, int32_t weight, uint32_t stream,
                      int64_t start, uint32_t* out, int threads) {
  const int64_t spans = mask_spans(start, length);
  const Masks all(keys, signs, masks, modulus, stream);
  const Nonce rounding = {0, stream, domain_word(kRounding, 0)};
  const Uploading upload = {all, key, rounding, scale, clip, weight, values, out};
  const bool parallel = double(length) * double(masks + 1) > kParallel;
  prefer_large_pages(out, length * 4);
  int errors = 0;
#pragma omp parallel num_threads(threads) reduction(| : errors) if (parallel)
  errors |= wiped_after([&] {
    int found = 0;
#pragma omp for schedule(static) nowait
    for (int64_t span = 0; span < spans; ++span) found |= over_span(span, start, length, upload);
    return found;
  });
  return errors;
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
