// Selection by votes on the CPU that zeroes the selected weights, and may scale the others.
#include "floats.h"
#include "groups.h"
#include "kernels.h"

namespace pyfed {
namespace PYFED_SIMD {
namespace {

template <class Number, class Count>
struct Pruned {
  typename Number::Stored* weight;
  const Count* counts;
  const float* factors;  // of each count; null leaves the survivors as they are
  uint8_t* out;

  void put(int64_t first, int64_t n, uint64_t selected) const {
    uint8_t marks[kBlock];
    spread(selected, marks);
    std::memcpy(out + first, marks, size_t(n));
    typename Number::Stored* held = weight + first;
    typename Number::Stored w[kBlock] = {};
    std::memcpy(w, held, size_t(n) * sizeof *w);
    if (factors) scale(counts + first, n, w);
    for (int i = 0; i < kBlock; ++i) w[i] = marks[i] ? 0 : w[i];
    std::memcpy(held, w, size_t(n) * sizeof *w);
  }

  void scale(const Count* count, int64_t n, typename Number::Stored* w) const {
    float factor[kBlock] = {};
    for (int64_t i = 0; i < n; ++i) factor[i] = factors[count[i]];
    for (int i = 0; i < kBlock; i += kFloats) {
      store_floats(w + i, load_floats(w + i, Number{}) * vector_at<Floats>(factor + i), Number{});
    }
  }
};

template <class Count>
int prune(void* weight, int weight_kind, const Count* counts, const TieKeys& keys,
          const float* factors, int64_t factor_count, const Tiling& tiling, uint32_t* scratch,
          uint8_t* out, int threads) {
  const int64_t size = tiling.rows * tiling.columns;
  const int64_t most = factors ? factor_count - 1 : kMostClients;
  int errors = finite_errors(weight, weight_kind, size, threads);
  if (keys.values && keys.values != weight) {
    errors |= finite_errors(keys.values, keys.kind, size, threads);
  }
  if (sizeof(Count) > 1 || most < 255) {
    errors |= count_errors(counts, size, uint32_t(most), threads);
  }
  if (errors) return errors;  // before anything is written
  with_kind(weight_kind, [&](auto real) {
    using Number = decltype(real);
    using Stored = typename Number::Stored;
    const Pruned<Number, Count> sink = {static_cast<Stored*>(weight), counts, factors, out};
    select_groups(counts, tiling, keys, sink, scratch, threads);
  });
  return 0;
}

}  // namespace

int mask_prune_cpu(void* weight, int weight_kind, const void* counts, int wide, const void* tie,
                   int tie_kind, const uint32_t* key, const float* factors, int64_t factor_count,
                   int64_t rows, int64_t columns, int64_t tile_rows, int64_t tile_columns,
                   int64_t k, int ties, uint32_t stream, uint32_t* scratch, uint8_t* out,
                   int threads) {
  const Tiling tiling = {rows, columns, tile_rows, tile_columns, k};
  if (ties == kByMagnitude) tie = weight, tie_kind = weight_kind;
  const TieKeys keys = {ties, tie, tie_kind, key, stream};
  if (wide) {
    return prune(weight, weight_kind, static_cast<const int32_t*>(counts), keys, factors,
                 factor_count, tiling, scratch, out, threads);
  }
  return prune(weight, weight_kind, static_cast<const uint8_t*>(counts), keys, factors,
               factor_count, tiling, scratch, out, threads);
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
