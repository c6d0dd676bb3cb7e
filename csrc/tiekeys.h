// The 32-bit keys of ties on the CPU, made a run of elements at a time where they are needed.
#pragma once
#include <algorithm>

#include "keystream.h"
#include "votes.h"

namespace pyfed {
namespace PYFED_SIMD {

constexpr int64_t kRun = 1024;             // elements whose keys are made at once
constexpr int64_t kScratchKeys = 1 << 17;  // words of scratch of one thread
constexpr int64_t kParallel = 1 << 16;     // elements below which one thread does it all

// The rule for ties of one call, and what it reads.
struct TieKeys {
  int ties;
  const void* values;  // of kind `kind`, for magnitudes and scores
  int kind;
  const uint32_t* key;  // for random words
  uint32_t stream;

  bool by_index() const { return ties == kByIndex; }

  // Keys of n <= kRun elements from flat index `first` on.
  void fill(int64_t first, int64_t n, uint32_t* out) const {
    if (ties == kByWord) {
      fill_words(key, first, n, Nonce{0, stream, domain_word(kSelection, 0)}, out);
      return;
    }
    with_kind(kind, [=](auto real) {
      using Number = decltype(real);
      const auto* x = static_cast<const typename Number::Stored*>(values) + first;
      if (ties == kByMagnitude) {
        for (int64_t i = 0; i < n; ++i) out[i] = magnitude_key(Number::wide(x[i]));
      } else {
        for (int64_t i = 0; i < n; ++i) out[i] = score_key(Number::wide(x[i]));
      }
    });
  }
};

// Of the elements of a group at its last count, by key: `wanted` of the `tied` that have the last
// key are selected, all below it, and none above it.
struct KeyCut {
  uint32_t last;
  int64_t wanted, tied;
};

// Finds the last key of `count` keys of which `wanted` > 0 are selected; reorders them.
inline KeyCut cut_list(uint32_t* keys, int64_t count, int64_t wanted) {
  std::nth_element(keys, keys + wanted - 1, keys + count);
  const uint32_t last = keys[wanted - 1];
  int64_t before = 0, same = 0;
  for (int64_t i = 0; i < count; ++i) {
    before += keys[i] < last;
    same += keys[i] == last;
  }
  return {last, wanted - before, same};
}

// Whether all of `count` numbers are finite.
inline int finite_errors(const void* values, int kind, int64_t count, int threads) {
  uint32_t bad = 0;
  with_kind(kind, [&](auto real) {
    using Number = decltype(real);
    const auto* x = static_cast<const typename Number::Stored*>(values);
#pragma omp parallel for simd num_threads(threads) reduction(| : bad) \
    schedule(static) if (parallel : count > kParallel)
    for (int64_t i = 0; i < count; ++i) bad |= uint32_t(!Number::finite(x[i]));
  });
  return bad ? kNotFinite : 0;
}

// Whether all counts are in [0, most].
template <class Count>
inline int count_errors(const Count* counts, int64_t size, uint32_t most, int threads) {
  uint32_t bad = 0;
#pragma omp parallel for simd num_threads(threads) reduction(| : bad) \
    schedule(static) if (parallel : size > kParallel)
  for (int64_t i = 0; i < size; ++i) bad |= uint32_t(uint32_t(counts[i]) > most);
  return bad ? kBadCount : 0;
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
