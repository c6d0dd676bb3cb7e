// The loop over column panels that matmul, encode and decode share.
#pragma once
#include <omp.h>

#include "product.h"
#include "wipe.h"

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
        std::memset(target, 0, kTileColumns * 4);
        const int64_t live = columns - c, step = column_step(live);
        for (int64_t i = 0; i < live; ++i) {
          bad |= uint32_t(values[i] >= P);
          target[i * step] = centred(values[i], P);
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
// Where there are fewer panels than threads, rows are shared out in up to most_bands bands, each of
// which packs the panels for itself. Every word of scratch and of stack that was used is
// overwritten at the end.
template <uint32_t P, class Pack, class Where, class Done>
int over_panels(const uint32_t* a, int64_t rows, int64_t inner, int64_t columns, int threads,
                int64_t most_bands, int64_t kept_rows, int32_t* scratch, Pack pack, Where where,
                Done done) {
  if (double(rows) * double(inner) * double(columns) < kSerial) threads = 1;
  const int64_t fewest = (columns + kPanel - 1) / kPanel;  // panels
  int64_t bands = fewest ? threads / fewest : 1;
  bands = bands > most_bands ? most_bands : bands;
  bands = bands < 1 ? 1 : bands;
  const int64_t band_rows = ((rows + bands - 1) / bands + kTileRows - 1) / kTileRows * kTileRows;
  // Narrower panels when there are still too few for the threads.
  const int64_t parts = (threads + bands - 1) / bands;
  const int64_t tiles = ((columns + parts - 1) / parts + kTileColumns - 1) / kTileColumns;
  const int64_t width = tiles * kTileColumns < kPanel ? tiles * kTileColumns : kPanel;
  const int64_t panels = columns ? (columns + width - 1) / width : 0;
  int errors = 0;
#pragma omp parallel num_threads(threads) reduction(| : errors) if (threads > 1)
  errors |= wiped_after([&] {
    int found = 0;
    int32_t* panel = scratch + omp_get_thread_num() * thread_words(kept_rows);
    int32_t* strip = panel + kPanelWords;
    uint32_t* kept = reinterpret_cast<uint32_t*>(strip + kStripWords);
#pragma omp for schedule(dynamic)
    for (int64_t number = 0; number < panels * bands; ++number) {
      const int64_t c0 = number / bands * width, row = number % bands * band_rows;
      const int64_t live = columns - c0 < width ? columns - c0 : width;
      const int64_t live_rows = rows - row < band_rows ? rows - row : band_rows;
      const Target target = where(c0, kept);
      for (int64_t l0 = 0; l0 < inner || l0 == 0; l0 += kDepth) {
        const int64_t depth = inner - l0 < kDepth ? inner - l0 : kDepth;
        found |= pack(l0, depth, c0, live, panel, reinterpret_cast<uint32_t*>(strip));
        found |= panel_product<P>(a + row * inner, inner, live_rows, l0, depth, panel, live, strip,
                                  target.out + row * target.stride, target.stride);
      }
      done(c0, live, kept);
    }
    const int64_t deepest = inner < kDepth ? inner : kDepth;
    for (int64_t c = 0; c < width; c += kTileColumns) {
      std::memset(panel + panel_at(0, c), 0, size_t(deepest * kTileColumns) * 4);
    }
    std::memset(strip, 0, size_t(kStripWords + kept_rows * kPanel) * 4);
    return found;
  });
  return errors;
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
