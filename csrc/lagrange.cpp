// Lagrange encoding and decoding on the CPU: the panel product, with panels made on the way in and
// taken apart on the way out.
#include "kernels.h"
#include "pages.h"
#include "panels.h"
#include "quantizer.h"

namespace pyfed {
namespace PYFED_SIMD {
namespace {

// Panel element (l, c) = data[(c0 + c) · blocks + l0 + l], 0 past the end.
template <uint32_t P>
int pack_data(const uint32_t* data, int64_t length, int64_t blocks, int64_t l0, int64_t depth,
              int64_t c0, int64_t width, int32_t* panel) {
  uint32_t bad = 0;
  for (int64_t tile = 0; tile < width; tile += kTileColumns) {
    const int64_t first = (c0 + tile) * blocks + l0;
    int32_t* target = panel + panel_at(0, tile);
    if (first + (kTileColumns - 1) * blocks + depth <= length && tile + kTileColumns <= width) {
      for (int64_t l = 0; l < depth; ++l) {
        for (int i = 0; i < kTileColumns; ++i) {
          const uint32_t v = data[first + i * blocks + l];
          bad |= uint32_t(v >= P);
          target[l * kTileColumns + i] = centred(v, P);
        }
      }
      continue;
    }
    const int64_t live = width - tile < kTileColumns ? width - tile : kTileColumns;
    const int64_t step = column_step(live);
    std::memset(target, 0, size_t(depth * kTileColumns) * 4);
    for (int64_t l = 0; l < depth; ++l) {
      for (int64_t i = 0; i < live; ++i) {
        const int64_t at = first + i * blocks + l;
        const uint32_t v = at < length ? data[at] : 0;
        bad |= uint32_t(v >= P);
        target[l * kTileColumns + i * step] = centred(v, P);
      }
    }
  }
  return bad ? kBadResidue : 0;
}

constexpr int64_t kThin = 1024;  // columns of a chunk: 8 KiB of sums, 4 KiB of a row
static_assert(kThin % kTileColumns == 0, "chunks are whole vectors");

// One share of data in one block: matrix[0] · data + Σ_t matrix[1 + t] · (random row t). A tile of
// kTileRows shares would be wasted on it. Factors are centred, so a product is below 2^61, and
// three of them and what a fold left are below 3 · 2^61 + 2^51 + 2^32 < 2^63.
template <uint32_t P>
int encode_thin(const uint32_t* data, int64_t length, const uint32_t* matrix, int64_t privacy,
                const uint32_t* key, uint32_t stream, int64_t start_column, uint32_t* out) {
  alignas(64) uint32_t row[kThin];
  Lanes even[kThin / kTileColumns] = {}, odd[kThin / kTileColumns] = {};
  const int64_t vectors = (length + kTileColumns - 1) / kTileColumns;
  std::memcpy(row, data, size_t(length) * 4);
  std::memset(row + length, 0, size_t(vectors * kTileColumns - length) * 4);
  uint32_t bad = 0;
  for (int64_t i = 0; i < length; ++i) bad |= uint32_t(row[i] >= P);
  int errors = 0;
  for (int64_t t = 0; t <= privacy; ++t) {
    if (t > 0) {
      const Nonce nonce = {uint32_t(t - 1), stream, domain_word(kPadding, P)};
      errors |= fill_residues(key, start_column, length, nonce, P, row);
    }
    bad |= uint32_t(matrix[t] >= P);
    const Lanes factor = lanes_each(centred(matrix[t], P));
    for (int64_t j = 0; j < vectors; ++j) {
      const Lanes x = lanes_load(reinterpret_cast<const int32_t*>(row) + j * kTileColumns);
      even[j] = lanes_add(even[j], lanes_product(x, factor));
      odd[j] = lanes_add(odd[j], lanes_product(lanes_high(x), factor));
    }
    if (t % 3 == 2) {
      for (int64_t j = 0; j < vectors; ++j) {
        even[j] = folded<P>(even[j]), odd[j] = folded<P>(odd[j]);
      }
    }
  }
  const Lanes p = lanes_each(int32_t(P));
  for (int64_t j = 0; j < vectors; ++j) {
    const Lanes low = nearly_reduced<P>(folded<P>(even[j]));
    const Lanes v = lanes_join(low, nearly_reduced<P>(folded<P>(odd[j])));
    lanes_store(row + j * kTileColumns, halves_reduce(v, p));
  }
  std::memcpy(out, row, size_t(length) * 4);
  return errors | (bad ? kBadResidue : 0);
}

// pack_data of floats, which are rounded to residues a tile of columns at a time. Few columns of
// few blocks lie side by side; of many blocks, the part that the panel wants is made column by
// column.
template <uint32_t P>
int quantize_panel(const Quantizer<P>& quantizer, int64_t length, int64_t blocks, int64_t l0,
                   int64_t depth, int64_t c0, int64_t width, int32_t* panel) {
  alignas(64) uint32_t flat[kTileColumns * kDepth];
  int errors = 0;
  for (int64_t tile = 0; tile < width; tile += kTileColumns) {
    const int64_t live = width - tile < kTileColumns ? width - tile : kTileColumns;
    const int64_t first = (c0 + tile) * blocks + l0;
    const bool whole = depth == blocks;
    int64_t made = 0;
    for (int64_t c = 0; c < (whole ? 1 : live); ++c) {
      const int64_t from = first + c * blocks, wanted = whole ? live * depth : depth;
      const int64_t count = length - from < wanted ? length - from : wanted;
      if (count > 0) errors |= quantizer(from, count, flat + c * depth), made = c * depth + count;
    }
    // Elements past `made` are past the end of the data, and become 0.
    pack_data<P>(flat, made, depth, 0, depth, 0, live, panel + panel_at(0, tile));
  }
  return errors;
}

// The product of the matrix with the data's columns, which pack(l0, depth, c0, width, panel) puts
// into panels, on the random rows.
template <uint32_t P, class Pack>
int encode_panels(int64_t length, const uint32_t* matrix, int64_t shares, int64_t blocks,
                  int64_t privacy, const uint32_t* key, uint32_t stream, int64_t start_column,
                  uint32_t* out, int32_t* scratch, int threads, Pack pack_part) {
  const int64_t columns = (length + blocks - 1) / blocks;
  const uint32_t domain = domain_word(kPadding, P);
  prefer_large_pages(out, columns * shares * 4);
  auto pack = [=](int64_t l0, int64_t depth, int64_t c0, int64_t width, int32_t* panel,
                  uint32_t* spare) {
    int errors = 0;
    const int64_t end = l0 + depth;
    const int64_t data_end = end < blocks ? end : blocks;
    if (l0 < data_end) errors |= pack_part(l0, data_end - l0, c0, width, panel);
    for (int64_t l = l0 > data_end ? l0 : data_end; l < end; ++l) {
      const Nonce nonce = {uint32_t(l - blocks), stream, domain};
      errors |= fill_residues(key, start_column + c0, width, nonce, P, spare);
      errors |= pack_rows<P>(spare, width, l - l0, 1, width, panel);
    }
    return errors;
  };
  return over_panels<P>(
      matrix, shares, blocks + privacy, columns, threads, 1, 0, scratch, pack,
      [=](int64_t c0, uint32_t*) { return Target{out + c0, columns}; },
      [](int64_t, int64_t, uint32_t*) {});
}

}  // namespace

int lagrange_encode_cpu(const uint32_t* data, int64_t length, const uint32_t* matrix,
                        int64_t shares, int64_t blocks, int64_t privacy, const uint32_t* key,
                        uint32_t stream, int64_t start_column, uint32_t modulus, uint32_t* out,
                        int32_t* scratch, int threads) {
  int errors = 0;
  with_field(modulus, [&](auto field) {
    constexpr uint32_t P = decltype(field)::kModulus;
    if (shares == 1 && blocks == 1) {
      const int64_t chunks = (length + kThin - 1) / kThin;
      const bool parallel = double(length) * double(1 + privacy) > kSerial;
#pragma omp parallel num_threads(threads) reduction(| : errors) if (parallel)
      errors |= wiped_after([&] {
        int found = 0;
#pragma omp for schedule(static) nowait
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
          const int64_t first = chunk * kThin;
          const int64_t part = length - first < kThin ? length - first : kThin;
          found |= encode_thin<P>(data + first, part, matrix, privacy, key, stream,
                                  start_column + first, out + first);
        }
        return found;
      });
      return;
    }
    errors = encode_panels<P>(
        length, matrix, shares, blocks, privacy, key, stream, start_column, out, scratch, threads,
        [=](int64_t l0, int64_t depth, int64_t c0, int64_t width, int32_t* panel) {
          return pack_data<P>(data, length, blocks, l0, depth, c0, width, panel);
        });
  });
  return errors;
}

int quantize_encode_cpu(const float* values, int64_t length, float scale, float clip,
                        const uint32_t* matrix, int64_t shares, int64_t blocks, int64_t privacy,
                        const uint32_t* key, uint32_t stream, int64_t start_column,
                        uint32_t modulus, uint32_t* out, int32_t* scratch, int threads) {
  int errors = 0;
  with_field(modulus, [&](auto field) {
    constexpr uint32_t P = decltype(field)::kModulus;
    const Nonce nonce = {0, stream, domain_word(kRounding, 0)};
    const Quantizer<P> quantizer = {values, scale, clip, key, nonce, start_column * blocks};
    errors = encode_panels<P>(
        length, matrix, shares, blocks, privacy, key, stream, start_column, out, scratch, threads,
        [=](int64_t l0, int64_t depth, int64_t c0, int64_t width, int32_t* panel) {
          return quantize_panel<P>(quantizer, length, blocks, l0, depth, c0, width, panel);
        });
  });
  return errors;
}

int lagrange_decode_cpu(const uint32_t* rows, int64_t columns, const uint32_t* matrix,
                        int64_t blocks, int64_t threshold, int64_t length, uint32_t modulus,
                        uint32_t* out, int32_t* scratch, int threads) {
  prefer_large_pages(out, length * 4);
  int errors = 0;
  with_field(modulus, [&](auto field) {
    constexpr uint32_t P = decltype(field)::kModulus;
    errors = over_panels<P>(
        matrix, blocks, threshold, columns, threads, 1, blocks, scratch,
        [=](int64_t l0, int64_t depth, int64_t c0, int64_t width, int32_t* panel, uint32_t*) {
          return pack_rows<P>(rows + l0 * columns + c0, columns, 0, depth, width, panel);
        },
        [](int64_t, uint32_t* kept) { return Target{kept, kPanel}; },
        [=](int64_t c0, int64_t width, uint32_t* kept) {
          for (int64_t c = 0; c < width; ++c) {
            const int64_t first = (c0 + c) * blocks;
            const int64_t live = length - first < blocks ? length - first : blocks;
            for (int64_t k = 0; k < live; ++k) out[first + k] = kept[k * kPanel + c];
          }
        });
  });
  return errors;
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
