// Sums of packed masks on the CPU, tile by tile of elements: totals grow in bit planes.
#include "blocks.h"
#include "kernels.h"
#include "planes.h"

namespace pyfed {
namespace PYFED_SIMD {
namespace {

using Tile = Planes<kTileBytes>;

constexpr int64_t kSerialBytes = 1 << 15;  // packed bytes below which one thread does it all

inline void write_totals(const Tile& total, int planes, bool wide, int64_t first, int64_t elements,
                         void* out) {
  if (wide) {
    write_wide(total, planes, elements, static_cast<int32_t*>(out) + first);
  } else {
    write_narrow(total, planes, elements, static_cast<uint8_t*>(out) + first);
  }
}

inline void load(const uint8_t* planes, int64_t count, int64_t stride, int64_t bytes, Tile& total) {
  total.clear(0, int(count), bytes);
  for (int64_t b = 0; b < count; ++b)
    std::memcpy(total.bits[b], planes + b * stride, size_t(bytes));
}

}  // namespace

int mask_count_cpu(const uint8_t* packed, int64_t clients, int64_t length, void* out, int threads) {
  const int64_t bytes = (length + 7) / 8, tiles = (bytes + kTileBytes - 1) / kTileBytes;
  const int planes = planes_for(clients);
#pragma omp parallel for num_threads(threads) schedule(static) if (clients * bytes > kSerialBytes)
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t first = tile * kTileBytes;
    const int64_t size = bytes - first < kTileBytes ? bytes - first : kTileBytes;
    const int64_t left = length - 8 * first;
    Tile total;
    total.clear(0, planes, size);
    add_clients(packed + first, clients, bytes, size, 0, total);
    write_totals(total, planes, clients > 255, 8 * first, left < 8 * size ? left : 8 * size, out);
  }
  return padding_errors(packed, clients, length);
}

int mask_add_cpu(const uint8_t* planes, int64_t planes_n, const uint8_t* packed, int64_t clients,
                 int64_t length, int64_t out_planes, uint8_t* out, int threads) {
  const int64_t bytes = (length + 7) / 8, tiles = (bytes + kTileBytes - 1) / kTileBytes;
  const int64_t most = (int64_t(1) << planes_n) - 1;
  const int needed = planes_for(most + clients);
  const int kept = needed > out_planes ? needed : int(out_planes);
  uint32_t over = 0;
#pragma omp parallel for num_threads(threads) reduction(| : over) \
    schedule(static) if ((planes_n + clients) * bytes > kSerialBytes)
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t first = tile * kTileBytes;
    const int64_t size = bytes - first < kTileBytes ? bytes - first : kTileBytes;
    Tile total;
    load(planes + first, planes_n, bytes, size, total);
    total.clear(int(planes_n), kept, size);
    add_clients(packed + first, clients, bytes, size, most, total);
    for (int64_t b = 0; b < out_planes; ++b) {
      std::memcpy(out + b * bytes + first, total.bits[b], size_t(size));
    }
    for (int64_t b = out_planes; b < needed; ++b) {
      for (int64_t i = 0; i < size; ++i) over |= total.bits[b][i];
    }
  }
  return padding_errors(planes, planes_n, length) | padding_errors(packed, clients, length) |
         (over ? kTooMany : 0);
}

int mask_totals_cpu(const uint8_t* planes, int64_t planes_n, int64_t length, void* out,
                    int threads) {
  const int64_t bytes = (length + 7) / 8, tiles = (bytes + kTileBytes - 1) / kTileBytes;
#pragma omp parallel for num_threads(threads) schedule(static) if (length > kSerialBytes)
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t first = tile * kTileBytes;
    const int64_t size = bytes - first < kTileBytes ? bytes - first : kTileBytes;
    const int64_t left = length - 8 * first;
    Tile total;
    load(planes + first, planes_n, bytes, size, total);
    write_totals(total, int(planes_n), planes_n > 8, 8 * first, left < 8 * size ? left : 8 * size,
                 out);
  }
  return padding_errors(planes, planes_n, length);
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
