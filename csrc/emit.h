// Writing a group that is cut, on the CPU: which elements are selected, 64 at a time.
#pragma once
#include "cut.h"

namespace pyfed {
namespace PYFED_SIMD {

// Which elements of a group are selected: all above the last count, and at it, when keys tell, all
// below the last key; of the `tied` others there the first `wanted`.
template <class Count>
struct Rule {
  Limits<Count> last;
  bool keyed;
  uint32_t last_key;
  int64_t wanted, tied;
};

// Of elements at the last count, moves those below the last key to those above, and leaves those
// at the last key.
inline void settle(Sides& sides, const uint32_t* keys, uint32_t last_key) {
  uint64_t at_key = 0;
  for (uint64_t left = sides.equal; left; left &= left - 1) {
    const int i = __builtin_ctzll(left);
    sides.above |= uint64_t(keys[i] < last_key) << i;
    at_key |= uint64_t(keys[i] == last_key) << i;
  }
  sides.equal = at_key;
}

// Runs body(sides, flat index, n) over the elements [from, to) of a group, 64 at a time.
template <class Count, class Body>
inline void over_sides(const Count* counts, const Group& group, const TieKeys& keys,
                       const Rule<Count>& rule, int64_t from, int64_t to, Body body) {
  group.over(from, to, [&](int64_t first, int64_t size) {
    if (!rule.keyed) {
      for (int64_t i = 0; i < size; i += kBlock) {
        const int64_t n = std::min(size - i, kBlock);
        body(compared(counts + first + i, rule.last.each, n), first + i, n);
      }
      return;
    }
    Sides sides[kRun / kBlock];
    uint64_t any = 0;
    for (int64_t i = 0; i < size; i += kBlock) {
      const int64_t n = std::min(size - i, kBlock);
      any |= (sides[i / kBlock] = compared(counts + first + i, rule.last.each, n)).equal;
    }
    alignas(64) uint32_t made[kRun];
    if (any) keys.fill(first, size, made);
    for (int64_t i = 0; i < size; i += kBlock) {
      settle(sides[i / kBlock], made + i, rule.last_key);
      body(sides[i / kBlock], first + i, std::min(size - i, kBlock));
    }
  });
}

// Writes the elements of a group by sink.put(flat index, n, selected bits).
template <class Count, class Sink>
inline void write_group(const Count* counts, const Group& group, const TieKeys& keys,
                        const Rule<Count>& rule, const Sink& sink, int threads) {
  const Parts parts(group.size(), threads);
  int64_t before[Parts::kMost];  // of the tied, those in earlier parts
  before[0] = 0;
  if (parts.count > 1 && rule.wanted < rule.tied) {
    int64_t found[Parts::kMost];
    parts.over([&](int part, int64_t begin, int64_t end) {
      int64_t sum = 0;
      over_sides(counts, group, keys, rule, begin, end,
                 [&](Sides sides, int64_t, int64_t) { sum += ones(sides.equal); });
      found[part] = sum;
    });
    for (int part = 1; part < parts.count; ++part) {
      before[part] = before[part - 1] + found[part - 1];
    }
  }
  parts.over([&](int part, int64_t begin, int64_t end) {
    int64_t left = rule.wanted;  // when that is all that are tied, the first wanted of each part
    if (rule.wanted < rule.tied) left = std::max<int64_t>(0, rule.wanted - before[part]);
    over_sides(counts, group, keys, rule, begin, end, [&](Sides sides, int64_t first, int64_t n) {
      const int64_t found = ones(sides.equal);
      if (found <= left) {
        left -= found;
      } else {
        sides.equal = left ? lowest_ones(sides.equal, left) : 0;
        left = 0;
      }
      sink.put(first, n, sides.above | sides.equal);
    });
  });
}

// Cuts and writes one group. The guess is where the search begins, and then where it ended.
template <class Count, class Sink>
inline void do_group(const Count* counts, const Group& group, int64_t k, const TieKeys& keys,
                     Guess& guess, const Sink& sink, uint32_t* scratch, int threads) {
  const CountCut cut = cut_counts(counts, group, k, guess, threads);
  guess = around(cut.last);
  Rule<Count> rule = {Limits<Count>(cut.last), false, 0, cut.wanted, cut.tied};
  if (!keys.by_index() && cut.wanted < cut.tied) {
    const KeyCut end = cut_keys(counts, group, keys, cut, scratch, threads);
    rule = {Limits<Count>(cut.last), true, end.last, end.wanted, end.tied};
  }
  write_group(counts, group, keys, rule, sink, threads);
}

// Where to begin in a large group: from a sample of its counts, at even distances.
template <class Count>
inline Guess guess_from_sample(const Count* counts, const Group& group, int64_t k) {
  constexpr int64_t kSample = 4096;
  const int64_t size = group.size();
  int32_t sample[kSample];
  for (int64_t i = 0; i < kSample; ++i) {
    const int64_t at = int64_t(double(i) * double(size) / kSample);
    sample[i] = counts[group.first + at / group.width * group.pitch + at % group.width];
  }
  const int64_t rank = int64_t(double(k) / double(size) * kSample), spread = kSample / 50;
  int32_t ends[2];
  for (int side = 0; side < 2; ++side) {  // the counts at ranks around k from the top
    const int64_t place = kSample - rank + (side ? spread : -spread);
    int32_t* nth = sample + std::min(std::max(place, int64_t(0)), kSample - 1);
    std::nth_element(sample, nth, sample + kSample);
    ends[side] = *nth;
  }
  if (ends[1] - ends[0] < kLimits) return around((ends[0] + ends[1]) / 2);
  return {ends[0], ends[1] + 1};
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
