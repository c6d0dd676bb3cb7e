// Fixed point on the CPU: plain loops, which the compiler turns into vectors of the SIMD level.
#include "kernels.h"
#include "keystream.h"
#include "pages.h"
#include "rounding.h"

namespace pyfed {
namespace PYFED_SIMD {
namespace {

constexpr int64_t kChunk = 1 << 10;
constexpr int64_t kParallel = 1 << 15;  // values below which one thread does it all

inline int round_chunk(const float* values, int64_t count, float scale, float clip,
                       uint32_t modulus, const uint32_t* words, uint32_t* out) {
  uint32_t bad = 0;
  for (int64_t i = 0; i < count; ++i) {
    bad |= uint32_t(!is_finite(values[i]));
    const float y = scaled(values[i], scale, clip);
    out[i] = uint32_t(residue_of(rounded_at_random(y, words[i]), modulus));
  }
  return bad ? kNotFinite : 0;
}

inline int nearest_chunk(const float* values, int64_t count, float scale, float clip,
                         uint32_t modulus, uint32_t* out) {
  uint32_t bad = 0;
  for (int64_t i = 0; i < count; ++i) {
    bad |= uint32_t(!is_finite(values[i]));
    // Half to even: the rounding mode that every thread starts with, and torch leaves alone.
    const float y = __builtin_rintf(scaled(values[i], scale, clip));
    out[i] = uint32_t(residue_of(int32_t(y), modulus));
  }
  return bad ? kNotFinite : 0;
}

}  // namespace

int quantize_cpu(const float* values, int64_t count, float scale, float clip, uint32_t modulus,
                 const uint32_t* key, uint32_t stream, int64_t start, uint32_t* out, int threads) {
  const Nonce nonce = {0, stream, domain_word(kRounding, 0)};
  const int64_t chunks = (count + kChunk - 1) / kChunk;
  prefer_large_pages(out, count * 4);
  int errors = 0;
#pragma omp parallel num_threads(threads) reduction(| : errors) if (count > kParallel)
  errors |= wiped_after([&] {
    int found = 0;
#pragma omp for schedule(static) nowait
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const int64_t first = chunk * kChunk;
      const int64_t length = count - first < kChunk ? count - first : kChunk;
      if (key) {
        alignas(64) uint32_t words[kChunk];
        fill_words(key, start + first, length, nonce, words);
        found |= round_chunk(values + first, length, scale, clip, modulus, words, out + first);
      } else {
        found |= nearest_chunk(values + first, length, scale, clip, modulus, out + first);
      }
    }
    return found;
  });
  return errors;
}

int dequantize_cpu(const uint32_t* residues, int64_t count, float scale, uint32_t modulus,
                   float* out, int threads) {
  const float step = 1.0f / scale;  // exact: scale is a power of two within 2^±100
  uint32_t bad = 0;
  prefer_large_pages(out, count * 4);
#pragma omp parallel for simd num_threads(threads) reduction(| : bad) \
    schedule(static) if (parallel : count > kParallel)
  for (int64_t i = 0; i < count; ++i) {
    bad |= uint32_t(residues[i] >= modulus);
    out[i] = float(centred(residues[i], modulus)) * step;
  }
  return bad ? kBadResidue : 0;
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
