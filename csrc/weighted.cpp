// Weighted means of lists of tensors on the CPU: every client's piece of a tensor streams by once,
// while the sums stay in the first cache.
#include <algorithm>

#include "floats.h"
#include "kernels.h"

namespace pyfed {
namespace PYFED_SIMD {
namespace {

constexpr int64_t kPiece = 8192;        // elements: their sums are 32 KiB
constexpr int kAtOnce = 8;              // a sum is loaded and stored once for so many clients
constexpr int64_t kParallel = 1 << 15;  // products below which one thread does it all

struct Lists {
  const int64_t* sources;  // (clients, tensors): addresses
  const int64_t* outs;     // (tensors): addresses
  int64_t clients, tensors;
  const float* weights;

  const void* source(int64_t client, int64_t tensor) const {
    return reinterpret_cast<const void*>(uintptr_t(sources[client * tensors + tensor]));
  }
};

// Adds kRows clients' n values in their order, each product rounded and then each sum. So long
// runs of so few clients are what processors fetch ahead by themselves.
template <class Number, int kRows>
void add_rows(const Lists& lists, int64_t client, int64_t tensor, int64_t first, int64_t n,
              float* sums) {
  using Stored = typename Number::Stored;
  const Stored* rows[kRows];
  float factors[kRows];
  for (int r = 0; r < kRows; ++r) {
    rows[r] = static_cast<const Stored*>(lists.source(client + r, tensor)) + first;
    factors[r] = lists.weights[client + r];
  }
  int64_t i = 0;
  for (; i + kFloats <= n; i += kFloats) {
    Floats sum = vector_at<Floats>(sums + i);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      sum = sum + load_floats(rows[r] + i, Number{}) * factors[r];
    }
    put_vector(sums + i, sum);
  }
  for (; i < n; ++i) {
    for (int r = 0; r < kRows; ++r) sums[i] += float_of(Number::wide(rows[r][i])) * factors[r];
  }
}

template <class Number>
int mean_piece(const Lists& lists, int64_t tensor, int64_t first, int64_t n) {
  alignas(64) float sums[kPiece];
  std::fill(sums, sums + n, 0.0f);
  int64_t client = 0;
  for (; client + kAtOnce <= lists.clients; client += kAtOnce) {
    add_rows<Number, kAtOnce>(lists, client, tensor, first, n, sums);
  }
  for (; client + 2 <= lists.clients; client += 2) {
    add_rows<Number, 2>(lists, client, tensor, first, n, sums);
  }
  if (client < lists.clients) {
    add_rows<Number, 1>(lists, client, tensor, first, n, sums);
  }
  auto* out = reinterpret_cast<typename Number::Stored*>(uintptr_t(lists.outs[tensor])) + first;
  int64_t i = 0;
  for (; i + kFloats <= n; i += kFloats) {
    store_floats(out + i, vector_at<Floats>(sums + i), Number{});
  }
  for (; i < n; ++i) out[i] = typename Number::Stored(Number::narrow(bits_of(sums[i])));
  uint32_t bad = 0;
  for (i = 0; i < n; ++i) bad |= uint32_t(!Number::finite(out[i]));
  return bad ? kNotFinite : 0;
}

}  // namespace

int weighted_mean_cpu(const int64_t* table, int64_t clients, int64_t tensors, int64_t chunk_count,
                      int64_t chunk_size, const float* weights, int threads) {
  const int64_t* outs = table + clients * tensors;
  const int64_t *sizes = outs + tensors, *kinds = sizes + tensors, *chunks = kinds + tensors;
  const Lists lists = {table, outs, clients, tensors, weights};
  double products = 0;
  for (int64_t tensor = 0; tensor < tensors; ++tensor) products += double(sizes[tensor] * clients);
  int errors = 0;
#pragma omp parallel for num_threads(threads) reduction(| : errors) \
    schedule(static) if (products > kParallel)
  for (int64_t chunk = 0; chunk < chunk_count; ++chunk) {
    const int64_t tensor = chunks[2 * chunk], begin = chunks[2 * chunk + 1];
    const int64_t end = std::min(begin + chunk_size, sizes[tensor]);
    with_kind(int(kinds[tensor]), [&](auto real) {
      for (int64_t first = begin; first < end; first += kPiece) {
        errors |= mean_piece<decltype(real)>(lists, tensor, first, std::min(kPiece, end - first));
      }
    });
  }
  return errors;
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
