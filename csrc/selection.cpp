// Selection by votes on the CPU: the mask alone.
#include "groups.h"
#include "kernels.h"

namespace pyfed {
namespace PYFED_SIMD {
namespace {

struct Marks {
  uint8_t* out;

  void put(int64_t first, int64_t n, uint64_t selected) const { spread(selected, out + first, n); }
};

}  // namespace

int mask_select_cpu(const void* counts, int wide, const void* tie, int tie_kind,
                    const uint32_t* key, int64_t rows, int64_t columns, int64_t tile_rows,
                    int64_t tile_columns, int64_t k, int ties, uint32_t stream, uint32_t* scratch,
                    uint8_t* out, int threads) {
  const int64_t size = rows * columns;
  const Tiling tiling = {rows, columns, tile_rows, tile_columns, k};
  const TieKeys keys = {ties, tie, tie_kind, key, stream};
  int errors = tie ? finite_errors(tie, tie_kind, size, threads) : 0;
  const auto* narrow = static_cast<const uint8_t*>(counts);
  const auto* broad = static_cast<const int32_t*>(counts);
  if (wide) errors |= count_errors(broad, size, kMostClients, threads);
  if (errors) return errors;
  if (wide) {
    select_groups(broad, tiling, keys, Marks{out}, scratch, threads);
  } else {
    select_groups(narrow, tiling, keys, Marks{out}, scratch, threads);
  }
  return 0;
}

int64_t selection_workspace(int threads) { return threads * kScratchKeys; }

}  // namespace PYFED_SIMD
}  // namespace pyfed
