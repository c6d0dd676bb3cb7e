// Centred lifts on the CPU: plain loops, which the compiler turns into vectors of the SIMD level.
#include "lift.h"

#include "kernels.h"

namespace pyfed {
namespace PYFED_SIMD {
namespace {

constexpr int64_t kParallel = 1 << 15;  // elements below which one thread does it all

// write(i, integer) for each of `count` elements; residues of a pair are one plane after the other.
template <class Write>
int each_lift(const uint32_t* residues, int64_t count, uint32_t first, uint32_t second, int threads,
              Write write) {
  uint32_t bad = 0;
  const uint32_t* above = residues + count;
  if (second) {
#pragma omp parallel for simd num_threads(threads) reduction(| : bad) \
    schedule(static) if (parallel : count > kParallel)
    for (int64_t i = 0; i < count; ++i) {
      bad |= uint32_t(residues[i] >= Pair::kFirst) | uint32_t(above[i] >= Pair::kSecond);
      write(i, Pair::lift(residues[i], above[i]));
    }
  } else {
#pragma omp parallel for simd num_threads(threads) reduction(| : bad) \
    schedule(static) if (parallel : count > kParallel)
    for (int64_t i = 0; i < count; ++i) {
      bad |= uint32_t(residues[i] >= first);
      write(i, int64_t(centred(residues[i], first)));
    }
  }
  return bad ? kBadResidue : 0;
}

}  // namespace

int field_lift_cpu(const uint32_t* residues, int64_t count, uint32_t first, uint32_t second,
                   int64_t* out, int threads) {
  return each_lift(residues, count, first, second, threads,
                   [=](int64_t i, int64_t integer) { out[i] = integer; });
}

int dequantize_wide_cpu(const uint32_t* residues, int64_t count, float scale, uint32_t first,
                        uint32_t second, float* out, int threads) {
  const float step = 1.0f / scale;  // exact: scale is a power of two within 2^±100
  return each_lift(residues, count, first, second, threads,
                   [=](int64_t i, int64_t integer) { out[i] = float(integer) * step; });
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
