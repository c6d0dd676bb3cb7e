// Dropout by counter on the CPU: every chunk of elements makes its own bits.
#include <algorithm>

#include "clients.h"
#include "floats.h"
#include "kernels.h"
#include "philox_lanes.h"

namespace pyfed {
namespace PYFED_SIMD {
namespace {

constexpr int64_t kChunk = 1 << 14;  // elements a thread does at a time: a few µs

// 64 elements: kept ones times the scale, rounded once; +0 for the others.
template <class Number>
inline void drop_group(const typename Number::Stored* x, uint64_t kept, float scale,
                       typename Number::Stored* out) {
#pragma GCC unroll 16
  for (int64_t l = 0; l < kGroup; l += kFloats) {
    const Floats value = load_floats(x + l, Number{}) * scale;
    store_floats(out + l, floats_held(value, held_by(kept >> l)), Number{});
  }
}

// Elements [first, last) of a client, of which x and out hold the element `first` first.
template <class Number>
void drop_run(const typename Number::Stored* x, int64_t first, int64_t last, const Dropout& dropout,
              float scale, typename Number::Stored* out) {
  using Stored = typename Number::Stored;
  for (int64_t e = first; e < last;) {
    const int64_t skip = e % kGroup, n = std::min(kGroup - skip, last - e);
    const uint64_t kept = kept_bits(dropout, uint64_t(e / kGroup));
    if (n == kGroup) {
      drop_group<Number>(x, kept, scale, out);
    } else {
      Stored edge[kGroup] = {}, found[kGroup];
      std::memcpy(edge, x, size_t(n) * sizeof(Stored));
      drop_group<Number>(edge, kept >> skip, scale, found);
      std::memcpy(out, found, size_t(n) * sizeof(Stored));
    }
    x += n, out += n, e += n;
  }
}

}  // namespace

int counter_dropout_cpu(const void* x, int kind, int64_t rows, int64_t features, int64_t clients,
                        const int64_t* starts, const uint32_t* key, const int64_t* streams,
                        uint32_t threshold, float keep_scale, void* out, int threads) {
  if (!starts_fit(starts, clients, rows)) return kBadPlace;
  const int64_t total = rows * features, chunks = (total + kChunk - 1) / kChunk;
  with_kind(kind, [&](auto real) {
    using Number = decltype(real);
    using Stored = typename Number::Stored;
    const Stored* from = static_cast<const Stored*>(x);
    Stored* to = static_cast<Stored*>(out);
#pragma omp parallel for num_threads(threads) schedule(static) if (chunks > 1)
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const int64_t begin = chunk * kChunk, end = std::min(begin + kChunk, total);
      const int64_t first_row = begin / features, last_row = (end - 1) / features;
      over_clients(starts, clients, first_row, last_row + 1, [&](int64_t c, int64_t, int64_t) {
        const int64_t base = starts[c] * features;
        const int64_t low = std::max(begin, base), high = std::min(end, starts[c + 1] * features);
        const Dropout dropout = {{key[0], key[1]}, uint64_t(streams[c]), threshold};
        drop_run<Number>(from + low, low - base, high - base, dropout, keep_scale, to + low);
      });
    }
  });
  return 0;
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
