// Small groups on the CPU, such as 2 of every 4: each element's rank in its group by comparing all
// pairs, many groups at a time.
#pragma once
#include "emit.h"

namespace pyfed {
namespace PYFED_SIMD {

constexpr int64_t kSmall = 32;  // elements of the largest such group

// What an element is ordered by, lowest first: its count alone, or its count and its key.
inline uint8_t order_of(uint8_t count, uint32_t, uint8_t) { return uint8_t(~count); }
inline uint16_t order_of(int32_t count, uint32_t, uint16_t) { return uint16_t(~count); }
template <class Count>
inline uint64_t order_of(Count count, uint32_t key, uint64_t) {
  return uint64_t(uint16_t(~count)) << 32 | key;
}

// Neighbouring groups, each `tall` rows of `wide` columns, from flat index `first` on; together at
// most kRun elements.
struct Small {
  int64_t first, pitch, tall, wide, groups;
};

template <class Order, class Count, class Sink>
inline void do_small(const Count* counts, const Small& small, int64_t k, const TieKeys& keys,
                     const Sink& sink) {
  const int64_t size = small.tall * small.wide, groups = small.groups, width = groups * small.wide;
  alignas(64) uint32_t made[kRun] = {};
  alignas(64) Order order[kRun], rank[kRun];  // element i of group g at i · groups + g
  for (int64_t r = 0; r < small.tall; ++r) {
    const int64_t row = small.first + r * small.pitch;
    if (sizeof(Order) == 8) keys.fill(row, width, made);
    for (int64_t c = 0; c < small.wide; ++c) {
      Order* own = order + (r * small.wide + c) * groups;
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t at = g * small.wide + c;
        own[g] = order_of(counts[row + at], made[at], Order());
      }
    }
  }
  std::fill(rank, rank + size * groups, Order(0));
  for (int64_t i = 1; i < size; ++i) {
    for (int64_t j = 0; j < i; ++j) {  // j goes first where they are equal
      const Order *x = order + i * groups, *y = order + j * groups;
      Order *rank_x = rank + i * groups, *rank_y = rank + j * groups;
      for (int64_t g = 0; g < groups; ++g) {
        const Order before = x[g] < y[g];
        rank_y[g] = Order(rank_y[g] + before);
        rank_x[g] = Order(rank_x[g] + (before ^ 1));
      }
    }
  }
  uint8_t marks[kRun + kBlock] = {};  // of a row, and as much as a block reads behind it
  for (int64_t r = 0; r < small.tall; ++r) {
    for (int64_t c = 0; c < small.wide; ++c) {
      const Order* own = rank + (r * small.wide + c) * groups;
      for (int64_t g = 0; g < groups; ++g) marks[g * small.wide + c] = own[g] < Order(k);
    }
    for (int64_t at = 0; at < width; at += kBlock) {
      const int64_t n = std::min(width - at, kBlock);
      sink.put(small.first + r * small.pitch + at, n, nonzero(marks + at) & first_bits(n));
    }
  }
}

template <class Count, class Sink>
inline void do_smalls(const Count* counts, const Small& small, int64_t k, const TieKeys& keys,
                      const Sink& sink) {
  using Narrow = std::conditional_t<sizeof(Count) == 1, uint8_t, uint16_t>;
  if (keys.by_index()) {
    do_small<Narrow>(counts, small, k, keys, sink);
  } else {
    do_small<uint64_t>(counts, small, k, keys, sink);
  }
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
