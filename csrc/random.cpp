// Random words and residues on the CPU.
#include "kernels.h"
#include "keystream.h"
#include "pages.h"

namespace pyfed {
namespace PYFED_SIMD {
namespace {

constexpr int64_t kChunk = 1 << 15;  // words a thread makes at a time: about 20 µs

// Runs body(first, length) over chunks that begin at multiples of 16 of the stream, so that no
// block is made twice; gives the union of its error bits.
template <class Body>
int over_chunks(int64_t start, int64_t count, int threads, Body body) {
  const int64_t aligned = start & ~int64_t(15);
  const int64_t chunks = (start + count - aligned + kChunk - 1) / kChunk;
  int errors = 0;
#pragma omp parallel num_threads(threads) reduction(| : errors) if (chunks > 1)
  errors |= wiped_after([&] {
    int found = 0;
#pragma omp for schedule(static) nowait
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const int64_t low = aligned + chunk * kChunk > start ? aligned + chunk * kChunk : start;
      const int64_t end = aligned + (chunk + 1) * kChunk;
      const int64_t high = end < start + count ? end : start + count;
      found |= body(low, high - low);
    }
    return found;
  });
  return errors;
}

}  // namespace

int random_words_cpu(const uint32_t* key, int64_t start, int64_t count, uint32_t stream,
                     uint32_t* out, int threads) {
  const Nonce nonce = {0, stream, domain_word(kWords, 0)};
  prefer_large_pages(out, count * 4);
  return over_chunks(start, count, threads, [=](int64_t first, int64_t length) {
    fill_words(key, first, length, nonce, out + (first - start));
    return 0;
  });
}

int random_residues_cpu(const uint32_t* key, int64_t start, int64_t count, uint32_t stream,
                        uint32_t modulus, uint32_t* out, int threads) {
  const Nonce nonce = {0, stream, domain_word(kResidues, modulus)};
  prefer_large_pages(out, count * 4);
  return over_chunks(start, count, threads, [=](int64_t first, int64_t length) {
    return fill_residues(key, first, length, nonce, modulus, out + (first - start));
  });
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
