// Lagrange encoding on the CPU by number-theoretic transforms, for codes whose points are a
// subgroup and a coset of it: the shares are those of the product with the coding matrix.
#include <omp.h>

#include "kernels.h"
#include "lagrange_plan.h"
#include "padding.h"
#include "pages.h"
#include "quantizer.h"

namespace pyfed {
namespace PYFED_SIMD {
namespace {

constexpr int64_t kParallel = 1 << 15;     // numbers in and out below which one thread does it all
constexpr int64_t kStreamed = 1 << 20;     // words of shares from which they go past the caches
constexpr int64_t kStagedWords = 1 << 16;  // of a panel's shares: a part of the second-level cache
constexpr int64_t kMostBatches = 16;
constexpr int64_t kSlack = kBlocks;  // words that whole vectors may read past the columns

// How an encoding is cut: panels of a few batches of columns, each with room of its own for the
// columns as they come, for coefficients and for finished shares.
struct Cut {
  int64_t shares, blocks, privacy;
  int64_t size;     // of a transform, a power of two; f has no more coefficients
  int64_t nodes;    // transforms that make all shares
  int64_t batches;  // of a panel

  Cut(int64_t n, int64_t k, int64_t t) : shares(n), blocks(k), privacy(t), size(1), batches(1) {
    while (size < k + t) size *= 2;
    nodes = (n + size - 1) / size;
    while (batches < kMostBatches && 2 * batches * kBatch * n <= kStagedWords) batches *= 2;
  }
  int64_t width() const { return batches * kBatch; }
  int64_t flat_words() const { return (width() * blocks + kSlack + 15) / 16 * 16; }
  int64_t batch_words() const { return size * kBatch; }
  int64_t work_words() const { return nodes > 1 ? batch_words() : 0; }
  int64_t staged_words() const { return (shares + 3) / 4 * 4 * width(); }
  int64_t thread_words() const {
    return flat_words() + batches * batch_words() + work_words() + staged_words() + kBatch;
  }
  int64_t plan_words() const { return (2 * plan_factors(blocks) + 15) / 16 * 16; }
};

// The columns of a batch, one behind the other, become rows, one behind the other; gives the
// largest of the words that were read.
inline Words batch_of(const uint32_t* columns, int64_t blocks, uint32_t* rows) {
  Words most = {};
  const int64_t live = blocks < kBlocks ? blocks : kBlocks;
  for (int64_t side = 0; side < kBatch; side += kBlocks) {
    for (int64_t k = 0; k < blocks; k += kBlocks) {
      const int64_t first = k + live <= blocks ? k : blocks - live;
      Words square[kBlocks];
#pragma GCC unroll 16
      for (int l = 0; l < kBlocks; ++l) {
        square[l] = words_load(columns + (side + l) * blocks + first);
        most = words_max(most, square[l]);
      }
      transpose<kBlocks>(square);
#pragma GCC unroll 16
      for (int i = 0; i < kBlocks; ++i) {
        if (i < live) words_store(rows + (first + i) * kBatch + side, square[i]);
      }
    }
  }
  return most;
}

// Copies a run of shares. Whole cache lines may go past the caches, which spares reading them
// first.
inline void store_run(uint32_t* out, const uint32_t* run, int64_t count, bool streamed) {
  int64_t i = 0;
#if defined(__AVX2__)
  if (streamed) {
    const int64_t head = int64_t((64 - (uintptr_t(out) & 63)) & 63) / 4;
    for (; i < count && i < head; ++i) out[i] = run[i];
    for (; i + 16 <= count; i += 16) {
#if defined(__AVX512F__)
      _mm512_stream_si512(reinterpret_cast<__m512i*>(out + i), _mm512_loadu_si512(run + i));
#else
      for (int half = 0; half < 16; half += 8) {
        const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(run + i + half));
        _mm256_stream_si256(reinterpret_cast<__m256i*>(out + i + half), v);
      }
#endif
    }
  }
#else
  (void)streamed;
#endif
  std::memcpy(out + i, run + i, size_t(count - i) * 4);
}

// make(first, count, flat) makes residues of values first … first + count - 1 of the data, and
// gives error bits; direct(first) gives where residues are already, or null.
template <uint32_t P, class Direct, class Make>
int transform(Cut cut, int64_t length, const uint32_t* matrix, const uint32_t* key, uint32_t stream,
              int64_t start_column, uint32_t* out, int32_t* scratch, int threads, Direct direct,
              Make make) {
  const int64_t columns = (length + cut.blocks - 1) / cut.blocks;
  const int64_t threshold = cut.blocks + cut.privacy;
  // Panels begin at multiples of 16 in the stream's count of columns: their blocks are whole.
  const int64_t skip = start_column % kBatch;
  const bool parallel = double(columns) * double(cut.shares + threshold) > kParallel;
  if (!parallel) threads = 1;
  while (cut.batches > 1 && columns < threads * cut.width()) cut.batches /= 2;
  const int64_t width = cut.width(), panels = (skip + columns + width - 1) / width;
  const bool streamed = columns * cut.shares >= kStreamed;
  prefer_large_pages(out, columns * cut.shares * 4);
  const Nonce nonce = {0, stream, domain_word(kPadding, P)};
  const CodePlan plan = make_plan<P>(cut.blocks, cut.privacy, reinterpret_cast<Factor*>(scratch));
  uint32_t* const shared = reinterpret_cast<uint32_t*>(scratch) + cut.plan_words();
  uint32_t largest = 0;
#pragma omp parallel for simd num_threads(threads) \
    reduction(max : largest) if (parallel : threads > 1)
  for (int64_t i = 0; i < cut.shares * threshold; ++i) {
    largest = matrix[i] > largest ? matrix[i] : largest;
  }
  int errors = largest >= P ? kBadResidue : 0;

#pragma omp parallel num_threads(threads) reduction(| : errors) if (threads > 1)
  errors |= wiped_after([&] {
    int found = 0;
    uint32_t* const flat = shared + omp_get_thread_num() * cut.thread_words();
    uint32_t* const batches = flat + cut.flat_words();
    uint32_t* const work = batches + cut.batches * cut.batch_words();
    uint32_t* const staged = work + cut.work_words();
    uint32_t* const unused = staged + cut.staged_words();
#pragma omp for schedule(dynamic) nowait
    for (int64_t panel = 0; panel < panels; ++panel) {
      const int64_t first = panel * width - skip;  // column; before the first there is nothing
      const int64_t low = first < 0 ? 0 : first;
      const int64_t high = first + width < columns ? first + width : columns;
      const int64_t count = (high - first + kBatch - 1) / kBatch;
      const int64_t from = first * cut.blocks, needed = count * kBatch * cut.blocks;
      const uint32_t* data = nullptr;
      if (from >= 0 && from + needed + kSlack <= length) data = direct(from);
      if (!data) {
        const int64_t begin = low * cut.blocks;
        const int64_t end = from + needed < length ? from + needed : length;
        std::memset(flat, 0, size_t(begin - from) * 4);
        found |= make(begin, end - begin, flat + (begin - from));
        std::memset(flat + (end - from), 0, size_t(needed + kSlack - (end - from)) * 4);
        data = flat;
      }
      Words most = {};
      for (int64_t b = 0; b < count; ++b) {
        const uint32_t* own = data + b * kBatch * cut.blocks;
        most = words_max(most, batch_of(own, cut.blocks, batches + b * cut.batch_words()));
      }
      for (int l = 0; l < kBlocks; ++l) found |= most[l] >= P ? kBadResidue : 0;
      uint32_t* const padding = batches + cut.blocks * kBatch;
      found |= pad_batches(
          key, uint32_t((start_column + first) / kBatch), nonce, P, cut.privacy, count,
          [&](int64_t row, int64_t b) { return padding + b * cut.batch_words() + row * kBatch; },
          unused);
      for (int64_t b = 0; b < count; ++b) {
        for (int64_t side = 0; side < kBatch; side += kBlocks) {
          uint32_t* const rows = batches + b * cut.batch_words() + side;
          coefficients_of<P>(plan, rows);
          for (int64_t node = 0; node < cut.nodes; ++node) {
            const int64_t at = node * cut.size;
            const int64_t live = cut.shares - at < cut.size ? cut.shares - at : cut.size;
            evaluate<P>(rows, threshold, cut.size, node, live, cut.nodes > 1 ? work + side : rows,
                        staged + at * width + b * kBatch + side, width);
          }
        }
      }
      for (int64_t j = 0; j < cut.shares; ++j) {
        store_run(out + j * columns + low, staged + j * width + (low - first), high - low,
                  streamed);
      }
    }
#if defined(__AVX2__)
    if (streamed) _mm_sfence();
#endif
    std::memset(flat, 0, size_t(cut.thread_words()) * 4);
    return found;
  });
  std::memset(scratch, 0, size_t(cut.plan_words()) * 4);
  return errors;
}

}  // namespace

int64_t transform_workspace(int64_t shares, int64_t blocks, int64_t privacy, int threads) {
  const Cut cut(shares, blocks, privacy);
  return cut.plan_words() + threads * cut.thread_words();
}

int lagrange_transform_cpu(const uint32_t* data, int64_t length, const uint32_t* matrix,
                           int64_t shares, int64_t blocks, int64_t privacy, const uint32_t* key,
                           uint32_t stream, int64_t start_column, uint32_t modulus, uint32_t* out,
                           int32_t* scratch, int threads) {
  int errors = 0;
  with_subgroup(modulus, [&](auto field) {
    errors = transform<decltype(field)::kModulus>(
        Cut(shares, blocks, privacy), length, matrix, key, stream, start_column, out, scratch,
        threads, [=](int64_t first) { return data + first; },
        [=](int64_t first, int64_t count, uint32_t* flat) {
          std::memcpy(flat, data + first, size_t(count) * 4);
          return 0;  // batch_of looks at them
        });
  });
  return errors;
}

int quantize_transform_cpu(const float* values, int64_t length, float scale, float clip,
                           const uint32_t* matrix, int64_t shares, int64_t blocks, int64_t privacy,
                           const uint32_t* key, uint32_t stream, int64_t start_column,
                           uint32_t modulus, uint32_t* out, int32_t* scratch, int threads) {
  int errors = 0;
  with_subgroup(modulus, [&](auto field) {
    constexpr uint32_t P = decltype(field)::kModulus;
    const Nonce nonce = {0, stream, domain_word(kRounding, 0)};
    const Quantizer<P> quantizer = {values, scale, clip, key, nonce, start_column * blocks};
    errors = transform<P>(
        Cut(shares, blocks, privacy), length, matrix, key, stream, start_column, out, scratch,
        threads, [](int64_t) { return static_cast<const uint32_t*>(nullptr); }, quantizer);
  });
  return errors;
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
