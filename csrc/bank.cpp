// Many clients' parameters in one tensor, on the CPU: norms, clipping and optimiser steps, a row a
// client. Products and sums are rounded one by one, roots and quotients correctly.
#include <algorithm>

#include "floats.h"
#include "kernels.h"

namespace pyfed {
namespace PYFED_SIMD {
namespace {

constexpr int64_t kChunk = 4096;        // elements; segment_clip's partial sums are of so many
constexpr int64_t kParallel = 1 << 15;  // elements below which one thread does it all
constexpr int kSums = 16;               // of a chunk, so that every SIMD level adds alike

// Calls body(row, chunk of it, first element of all, elements) for every chunk of every row.
template <class Body>
inline int each_chunk(int64_t rows, int64_t length, int threads, const Body& body) {
  const int64_t across = (length + kChunk - 1) / kChunk;
  int errors = 0;
#pragma omp parallel for num_threads(threads) reduction(| : errors) \
    schedule(static) if (rows * length > kParallel)
  for (int64_t number = 0; number < rows * across; ++number) {
    const int64_t row = number / across, chunk = number % across, first = chunk * kChunk;
    errors |= body(row, chunk, row * length + first, std::min(kChunk, length - first));
  }
  return errors;
}

// Squares of float32 are exact in float64. Element i goes to sum i mod kSums.
double sum_of_squares(const float* x, int64_t n) {
  alignas(64) double sums[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= n; i += kSums) {
#pragma GCC unroll 16
    for (int l = 0; l < kSums; ++l) sums[l] += double(x[i + l]) * double(x[i + l]);
  }
  for (int l = 0; i < n; ++i, ++l) sums[l] += double(x[i]) * double(x[i]);
  for (int half = kSums / 2; half; half /= 2) {
    for (int l = 0; l < half; ++l) sums[l] += sums[l + half];
  }
  return sums[0];
}

// What a row is multiplied by; below 1 where it is clipped.
float clip_factor(float max_norm, float norm) { return max_norm / (norm + 1e-6f); }

}  // namespace

int segment_clip_cpu(float* grads, int64_t clients, int64_t length, const float* max_norm,
                     float* norms, double* partials, int threads) {
  const int64_t across = (length + kChunk - 1) / kChunk;
  each_chunk(clients, length, threads, [&](int64_t row, int64_t chunk, int64_t first, int64_t n) {
    partials[row * across + chunk] = sum_of_squares(grads + first, n);
    return 0;
  });
  int errors = 0;
  for (int64_t row = 0; row < clients; ++row) {
    double sum = 0;
    for (int64_t chunk = 0; chunk < across; ++chunk) sum += partials[row * across + chunk];
    norms[row] = float(__builtin_sqrt(sum));
    errors |= __builtin_isfinite(norms[row]) ? 0 : kNotFinite;
  }
  if (errors) return errors;
  return each_chunk(clients, length, threads, [&](int64_t row, int64_t, int64_t first, int64_t n) {
    const float factor = clip_factor(max_norm[row], norms[row]);
    if (!(factor < 1)) return 0;
    for (int64_t i = first; i < first + n; ++i) grads[i] *= factor;
    return 0;
  });
}

// factors (clients, 8): active, 1 - lr·wd, 1 - β1, β2, 1 - β2, lr / (1 - β1^t), √(1 - β2^t), ε.
int bank_adamw_cpu(float* params, const float* grads, float* exp_avg, float* exp_avg_sq,
                   int64_t clients, int64_t length, const float* factors, int threads) {
  return each_chunk(clients, length, threads, [=](int64_t row, int64_t, int64_t first, int64_t n) {
    const float* f = factors + 8 * row;
    if (f[0] == 0) return 0;
    const float decay = f[1], first_rate = f[2], keep = f[3], second_rate = f[4];
    const float step = f[5], root = f[6], eps = f[7];
#pragma omp simd
    for (int64_t i = first; i < first + n; ++i) {
      const float g = grads[i];
      const float m = exp_avg[i] + (g - exp_avg[i]) * first_rate;
      const float v = exp_avg_sq[i] * keep + (second_rate * g) * g;
      exp_avg[i] = m;
      exp_avg_sq[i] = v;
      params[i] = params[i] * decay - step * (m / (__builtin_sqrtf(v) / root + eps));
    }
    return 0;
  });
}

// factors (clients, 8): active, lr, momentum, 1 - dampening, weight decay, nesterov, first, 0.
int bank_sgd_cpu(float* params, const float* grads, float* momentum, int64_t clients,
                 int64_t length, const float* factors, int threads) {
  return each_chunk(clients, length, threads, [=](int64_t row, int64_t, int64_t first, int64_t n) {
    const float* f = factors + 8 * row;
    if (f[0] == 0) return 0;
    const float lr = f[1], keep = f[2], rate = f[3], decay = f[4];
    const bool nesterov = f[5] != 0, begins = f[6] != 0;
    if (!momentum) {
#pragma omp simd
      for (int64_t i = first; i < first + n; ++i) {
        const float d = decay != 0 ? grads[i] + decay * params[i] : grads[i];
        params[i] = params[i] - lr * d;
      }
      return 0;
    }
#pragma omp simd
    for (int64_t i = first; i < first + n; ++i) {
      const float d = decay != 0 ? grads[i] + decay * params[i] : grads[i];
      const float buffer = begins ? d : momentum[i] * keep + rate * d;
      momentum[i] = buffer;
      params[i] = params[i] - lr * (nesterov ? d + keep * buffer : buffer);
    }
    return 0;
  });
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
