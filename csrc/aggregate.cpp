// What a server does with uploads, in one pass: their sum, minus the decoded mask, lift and scale.
#include "kernels.h"
#include "pages.h"
#include "panels.h"
#include "row_sums.h"

namespace pyfed {
namespace PYFED_SIMD {
namespace {

// out[c · blocks + k] = decoded[k · kPanel + c] for all that come before `end`: squares go through
// registers. The last square of a column reaches back over blocks that are there already; where a
// column is shorter than a square, what is behind it is written again with the next column.
inline void interleave(const uint32_t* decoded, int64_t blocks, int64_t columns, int64_t end,
                       uint32_t* out) {
  constexpr int64_t kSide = kBlocks;
  for (int64_t c = 0; c < columns; c += kSide) {
    const int64_t live = std::min(kSide, columns - c);
    for (int64_t k = 0; k < blocks; k += kSide) {
      const int64_t from = std::max<int64_t>(0, std::min(k, blocks - kSide));
      Square<kBlocks>::Row square[kBlocks];
      for (int64_t i = 0; i < kSide; ++i) {
        const int64_t block = std::min(from + i, blocks - 1);
        std::memcpy(&square[i], decoded + block * kPanel + c, sizeof square[i]);
      }
      transpose<kBlocks>(square);
      for (int64_t i = 0; i < live; ++i) {
        const int64_t at = (c + i) * blocks + from;
        const int64_t room = std::max<int64_t>(0, std::min(kSide, end - at));
        if (room == kSide) {
          std::memcpy(out + at, &square[i], sizeof square[i]);
        } else {
          std::memcpy(out + at, &square[i], size_t(room) * 4);
        }
      }
    }
  }
}

// out[i] = sums[i] - out[i] mod p, or, with a step, its centred lift in steps as a float.
inline void finish(const uint32_t* sums, int64_t count, float step, uint32_t modulus,
                   uint32_t* out) {
  if (step == 0) {
    for (int64_t i = 0; i < count; ++i) {
      const uint32_t difference = sums[i] - out[i];  // of canonical residues
      out[i] = std::min(difference, difference + modulus);
    }
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t difference = sums[i] - out[i];
    const uint32_t residue = std::min(difference, difference + modulus);
    const float value = float(centred(residue, modulus)) * step;
    std::memcpy(out + i, &value, 4);
  }
}

}  // namespace

int decode_sum_cpu(const uint32_t* uploads, int64_t clients, int64_t length, const uint32_t* rows,
                   int64_t columns, const uint32_t* matrix, int64_t blocks, int64_t threshold,
                   float scale, uint32_t modulus, int32_t* scratch, uint32_t* out, int threads) {
  const float step = scale == 0 ? 0 : 1 / scale;  // exact: a power of two within 2^±100
  int errors = 0, bad_uploads = 0;
  prefer_large_pages(out, length * 4);
  with_field(modulus, [&](auto field) {
    constexpr uint32_t P = decltype(field)::kModulus;
    errors = over_panels<P>(
        matrix, blocks, threshold, columns, threads, 1, blocks, scratch,
        [=](int64_t l0, int64_t depth, int64_t c0, int64_t width, int32_t* panel, uint32_t*) {
          return pack_rows<P>(rows + l0 * columns + c0, columns, 0, depth, width, panel);
        },
        [](int64_t, uint32_t* kept) { return Target{kept, kPanel}; },
        [=, &bad_uploads](int64_t c0, int64_t width, uint32_t* kept) {
          const int64_t first = c0 * blocks, end = std::min(length, (c0 + width) * blocks);
          interleave(kept, blocks, width, end - first, out + first);
          alignas(64) uint32_t sums[kSumWidth];
          int bad = 0;
          for (int64_t at = first; at < end; at += kSumWidth) {
            const int64_t count = std::min(kSumWidth, end - at);
            bad |= sum_rows<P>(uploads + at, clients, length, count, sums);
            finish(sums, count, step, modulus, out + at);
          }
          if (bad) __atomic_fetch_or(&bad_uploads, bad, __ATOMIC_RELAXED);
        });
  });
  return errors | bad_uploads;
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
