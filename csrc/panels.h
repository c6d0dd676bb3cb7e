// The loop over column panels that matmul, encode and decode share.
#pragma once
#include <omp.h>

#include "product.h"

namespace pyfed {
namespace PYFED_SIMD {

// Words of scratch of one thread: panel, strip, and kept_rows rows of finished columns.
inline int64_t thread_words(int64_t kept_rows) {
  return kPanelWords + kStripWords + kept_rows * kPanel;
}

// Copies depth rows of `columns` residues (`pitch` apart) into a panel from inner element l on.
template <uint32_t P>
inline int pack_rows(const uint32_t* source, int64_t pitch, int64_t l, int64_t depth,
                     int64_t columns, int32_t* panel) {
  uint32_t bad = 0;
  for (int64_t row = 0; row < depth; ++row) {
    for (int64_t c = 0; c < columns; c += kTileColumns) {
      int32_t* target = panel + panel_at(l + row, c);
      const uint32_t* values = source + row * pitch + c;
      if (columns - c >= kTileColumns) {
        for (int i = 0; i < kTileColumns; ++i) {
          bad |= uint32_t(values[i] >= P);
          target[i] = centred(values[i], P);
        }
      } else {
        for (int i = 0; i < kTileColumns; ++i) {
          const uint32_t v = i < columns - c ? values[i] : 0;
          bad |= uint32_t(v >= P);
          target[i] = centred(v, P);
        }
      }
    }
  }
  return bad ? kBadResidue : 0;
}

struct Target {
  uint32_t* out;
  int64_t stride;
};

// Runs the product of a (rows, inner) with a right operand of `columns` columns, panel by panel:
//   pack(l0, depth, c0, width, panel, spare) fills a panel and gives error bits (spare:
//   kStripWords), where(c0, kept) tells where columns c0 … of the product go, done(c0, width, kept)
//   is called when they are complete.
// Every word of scratch that was used is overwritten at the end.
template <uint32_t P, class Pack, class Where, class Done>
int over_panels(const uint32_t* a, int64_t rows, int64_t inner, int64_t columns, int threads,
                int64_t kept_rows, int32_t* scratch, Pack pack, Where where, Done done) {
  if (double(rows) * double(inner) * double(columns) < kSerial) threads = 1;
  // Narrower panels when there are too few for the threads.
  const int64_t share = (columns + threads - 1) / threads;
  const int64_t tiles = (share + kTileColumns - 1) / kTileColumns;
  const int64_t width = tiles * kTileColumns < kPanel ? tiles * kTileColumns : kPanel;
  const int64_t panels = columns ? (columns + width - 1) / width : 0;
  int errors = 0;
#pragma omp parallel num_threads(threads) reduction(| : errors) if (threads > 1)
  {
    int32_t* panel = scratch + omp_get_thread_num() * thread_words(kept_rows);
    int32_t* strip = panel + kPanelWords;
    uint32_t* kept = reinterpret_cast<uint32_t*>(strip + kStripWords);
#pragma omp for schedule(dynamic)
    for (int64_t number = 0; number < panels; ++number) {
      const int64_t c0 = number * width;
      const int64_t live = columns - c0 < width ? columns - c0 : width;
      const Target target = where(c0, kept);
      for (int64_t l0 = 0; l0 < inner || l0 == 0; l0 += kDepth) {
        const int64_t depth = inner - l0 < kDepth ? inner - l0 : kDepth;
        errors |= pack(l0, depth, c0, live, panel, reinterpret_cast<uint32_t*>(strip));
        errors |= panel_product<P>(a, inner, rows, l0, depth, panel, live, strip, target.out,
                                   target.stride);
      }
      done(c0, live, kept);
    }
    const int64_t deepest = inner < kDepth ? inner : kDepth;
    for (int64_t c = 0; c < width; c += kTileColumns) {
      std::memset(panel + panel_at(0, c), 0, size_t(deepest * kTileColumns) * 4);
    }
    std::memset(strip, 0, size_t(kStripWords + kept_rows * kPanel) * 4);
  }
  return errors;
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
