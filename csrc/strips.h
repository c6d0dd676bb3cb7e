// Narrow groups on the CPU, such as columns: neighbouring groups side by side in the 64 lanes of a
// strip, so that memory is read row by row.
#pragma once
#include "emit.h"

namespace pyfed {
namespace PYFED_SIMD {

// `groups` neighbours, each `tall` rows of `wide` columns, from flat index `first` on. Together
// they are at most kBlock columns wide; lanes behind them hold what is there, and count nowhere.
template <class Count>
struct Strip {
  const Count* counts;
  int64_t size;  // of the whole matrix
  int64_t first, pitch, tall, wide;
  int groups;

  int64_t width() const { return groups * wide; }
  int64_t row(int64_t r) const { return first + r * pitch; }
  Group group(int g) const { return {first + g * wide, tall, wide, pitch}; }

  // A row's kBlock counts, in `spare` where the matrix ends before.
  const Count* lanes(int64_t r, Count* spare) const {
    const int64_t left = size - row(r);
    if (left >= kBlock) return counts + row(r);
    std::memcpy(spare, counts + row(r), size_t(left) * sizeof(Count));
    return spare;
  }
};

// Of each group of a strip: the last count, and how many at it are wanted and tied.
struct StripCut {
  int32_t last[kBlock];
  int64_t wanted[kBlock], tied[kBlock];
};

// How many counts of each group are above each of its kLimits limits.
template <class Count>
inline void strip_above(const Strip<Count>& strip, const int32_t (*limits)[kLimits],
                        int64_t (*sums)[kLimits]) {
  using Lanes = Counts<Count>;
  using Vector = typename Lanes::Vector;
  constexpr int kInLine = 64 / sizeof(Count), kVectors = int(kInLine / Lanes::kSize);
  Count each[kLimits][kBlock] = {};
  for (int g = 0, l = 0; g < strip.groups; ++g) {
    for (const int64_t end = l + strip.wide; l < end; ++l) {
      for (int j = 0; j < kLimits; ++j) each[j][l] = Count(limits[g][j]);
    }
  }
  int32_t lanes[kLimits][kBlock] = {};                     // a group has below 2^31 rows
  for (int first = 0; first < kBlock; first += kInLine) {  // a cache line of each row at a time
    Vector limit[kLimits][kVectors];
    for (int j = 0; j < kLimits; ++j) std::memcpy(limit[j], each[j] + first, sizeof limit[j]);
    Count spare[kBlock] = {};
    for (int64_t r = 0; r < strip.tall;) {
      Vector found[kLimits][kVectors] = {};
      const int64_t stop = std::min(strip.tall, r + Lanes::kMost);
      for (; r < stop; ++r) {
        const Count* x = strip.lanes(r, spare) + first;
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          const Vector votes = Lanes::load(x + v * Lanes::kSize);
#pragma GCC unroll 8
          for (int j = 0; j < kLimits; ++j) found[j][v] -= Vector(votes > limit[j][v]);
        }
      }
      Count counted[kLimits][kInLine];
      std::memcpy(counted, found, sizeof counted);
      for (int j = 0; j < kLimits; ++j) {
        for (int l = 0; l < kInLine; ++l) lanes[j][first + l] += counted[j][l];
      }
    }
  }
  for (int g = 0; g < strip.groups; ++g) {
    for (int j = 0; j < kLimits; ++j) {
      sums[g][j] = 0;
      for (int64_t l = g * strip.wide; l < (g + 1) * strip.wide; ++l) sums[g][j] += lanes[j][l];
    }
  }
}

// cut_counts for all groups of a strip.
template <class Count>
inline void cut_strip(const Strip<Count>& strip, int64_t k, Guess guess, StripCut& cut) {
  Bracket brackets[kBlock];
  for (int g = 0; g < strip.groups; ++g) {
    brackets[g] = Bracket(strip.tall * strip.wide, kMostVotes<Count>);
  }
  for (bool open = true; open; guess = kNoGuess) {
    int32_t limits[kBlock][kLimits];
    int64_t sums[kBlock][kLimits];
    for (int g = 0; g < strip.groups; ++g) brackets[g].ask(guess, limits[g]);
    strip_above(strip, limits, sums);
    open = false;
    for (int g = 0; g < strip.groups; ++g) {
      brackets[g].hear(limits[g], sums[g], k);
      open |= brackets[g].open();
    }
  }
  for (int g = 0; g < strip.groups; ++g) {
    const CountCut own = brackets[g].cut(k);
    cut.last[g] = own.last, cut.wanted[g] = own.wanted, cut.tied[g] = own.tied;
  }
}

// The last key of groups [from, to) of a strip, whose ties fit the scratch: gathered row by row
// into one list a group.
template <class Count>
inline void cut_lists(const Strip<Count>& strip, const TieKeys& keys, const Count* last, int from,
                      int to, StripCut& cut, uint32_t* last_keys, uint32_t* scratch) {
  uint32_t *list[kBlock], *lane_end[kBlock];
  uint64_t live = 0;
  uint32_t* free = scratch;
  for (int g = from; g < to; ++g) {
    list[g] = lane_end[g] = free;
    if (cut.wanted[g] == cut.tied[g]) continue;
    free += cut.tied[g];
    live |= first_bits(strip.wide) << (g * strip.wide);
  }
  if (!live) return;
  int group_of[kBlock];
  for (int l = 0; l < strip.width(); ++l) group_of[l] = int(l / strip.wide);
  Count spare[kBlock] = {};
  for (int64_t r = 0; r < strip.tall; ++r) {
    uint64_t ties = compared(strip.lanes(r, spare), last).equal & live;
    if (!ties) continue;
    alignas(64) uint32_t made[kBlock];
    keys.fill(strip.row(r), strip.width(), made);
    for (; ties; ties &= ties - 1) {
      const int l = __builtin_ctzll(ties);
      *lane_end[group_of[l]]++ = made[l];
    }
  }
  for (int g = from; g < to; ++g) {
    if (cut.wanted[g] == cut.tied[g]) continue;
    const KeyCut end = cut_list(list[g], cut.tied[g], cut.wanted[g]);
    last_keys[g] = end.last, cut.wanted[g] = end.wanted, cut.tied[g] = end.tied;
  }
}

template <class Count>
inline void cut_strip_keys(const Strip<Count>& strip, const TieKeys& keys, const Count* last,
                           StripCut& cut, uint32_t* last_keys, uint32_t* scratch) {
  for (int from = 0, to = 0; from < strip.groups; from = to) {
    int64_t ties = 0;
    for (; to < strip.groups; ++to) {
      const int64_t more = cut.wanted[to] < cut.tied[to] ? cut.tied[to] : 0;
      if (ties + more > kScratchKeys) break;
      ties += more;
    }
    if (to > from) {
      cut_lists(strip, keys, last, from, to, cut, last_keys, scratch);
      continue;
    }
    const CountCut whole = {cut.last[to], cut.wanted[to], cut.tied[to]};
    const KeyCut end = cut_keys(strip.counts, strip.group(to), keys, whole, scratch, 1);
    last_keys[to] = end.last, cut.wanted[to] = end.wanted, cut.tied[to] = end.tied;
    ++to;
  }
}

// Cuts and writes all groups of a strip, for 0 < k < the size of a group.
template <class Count, class Sink>
inline void do_strip(const Strip<Count>& strip, int64_t k, const TieKeys& keys, Guess& guess,
                     const Sink& sink, uint32_t* scratch) {
  StripCut cut;
  cut_strip(strip, k, guess, cut);
  guess = around(cut.last[strip.groups / 2]);
  Count last[kBlock] = {};
  int group_of[kBlock];
  uint64_t keyed = 0;  // lanes of groups whose ties are told apart by key
  for (int l = 0; l < strip.width(); ++l) {
    const int g = int(l / strip.wide);
    group_of[l] = g, last[l] = Count(cut.last[g]);
    keyed |= uint64_t(!keys.by_index() && cut.wanted[g] < cut.tied[g]) << l;
  }
  uint32_t last_keys[kBlock];
  if (keyed) cut_strip_keys(strip, keys, last, cut, last_keys, scratch);
  const uint64_t inside = first_bits(strip.width());
  Count spare[kBlock] = {};
  for (int64_t r = 0; r < strip.tall; ++r) {
    const Sides sides = compared(strip.lanes(r, spare), last);
    uint64_t selected = sides.above & inside, ties = sides.equal & inside;
    alignas(64) uint32_t made[kBlock];
    if (ties & keyed) keys.fill(strip.row(r), strip.width(), made);
    for (; ties; ties &= ties - 1) {
      const int l = __builtin_ctzll(ties), g = group_of[l];
      const uint64_t bit = uint64_t(1) << l;
      if (keyed & bit && made[l] != last_keys[g]) {
        selected |= made[l] < last_keys[g] ? bit : 0;
      } else if (cut.wanted[g] > 0) {
        selected |= bit;
        --cut.wanted[g];
      }
    }
    sink.put(strip.row(r), strip.width(), selected);
  }
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
