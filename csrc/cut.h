// Where one group is cut, on the CPU: the last count of which elements are selected, and among
// those the last tie key. Exact, without a sort, in a few passes.
#pragma once
#include "blocks.h"
#include "tiekeys.h"

namespace pyfed {
namespace PYFED_SIMD {

// One group: `segments` runs of `width` neighbours, `pitch` apart, from flat index `first` on.
struct Group {
  int64_t first, segments, width, pitch;

  int64_t size() const { return segments * width; }

  // Runs body(flat index, n) over the elements [from, to), in order and at most kRun at a time.
  template <class Body>
  void over(int64_t from, int64_t to, Body body) const {
    int64_t segment = from ? from / width : 0, at = from - segment * width;
    while (from < to) {
      const int64_t n = std::min({width - at, kRun, to - from});
      body(first + segment * pitch + at, n);
      from += n, at += n;
      if (at == width) at = 0, ++segment;
    }
  }
};

// How the elements of a group are dealt to threads: parts of a multiple of kRun elements.
struct Parts {
  static constexpr int64_t kMost = 128;
  int64_t size, share;
  int count = 1, threads;

  Parts(int64_t size, int threads) : size(size), share(size), threads(threads) {
    if (threads == 1 || size <= kParallel) return;
    share = ((size + kMost - 1) / kMost + kRun - 1) / kRun * kRun;
    count = int((size + share - 1) / share);
  }

  // Runs body(part, from, to), by all threads where there are parts.
  template <class Body>
  void over(Body body) const {
    if (count == 1) {
      body(0, int64_t(0), size);
      return;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int part = 0; part < count; ++part) {
      body(part, part * share, std::min(size, (part + 1) * share));
    }
  }

  // Runs body() for one part at a time.
  template <class Body>
  void in_turn(Body body) const {
    if (count == 1) {
      body();
      return;
    }
#pragma omp critical(pyfed_parts)
    body();
  }
};

constexpr int kLimits = 8;  // thresholds that one pass compares with

// How many counts are above each of kLimits >= 0: added up in lanes, so that short runs are cheap.
template <class Count>
class Above {
 public:
  explicit Above(const int32_t* limits) {
    for (int j = 0; j < kLimits; ++j) limits_[j] = Vector{} + Count(limits[j]);
  }

  void add(const Count* x, int64_t n) {
    for (; n >= Lanes::kSize; n -= Lanes::kSize, x += Lanes::kSize) add(Lanes::load(x));
    if (n == 0) return;
    Count rest[Lanes::kSize] = {};  // 0 is above no limit
    std::memcpy(rest, x, size_t(n) * sizeof(Count));
    add(Lanes::load(rest));
  }

  const int64_t* sums() {
    flush();
    return sums_;
  }

 private:
  using Lanes = Counts<Count>;
  using Vector = typename Lanes::Vector;

  void add(Vector v) {
    if (added_++ == Lanes::kMost) flush();
#pragma GCC unroll 8
    for (int j = 0; j < kLimits; ++j) found_[j] -= Vector(v > limits_[j]);
  }

  void flush() {
    for (int j = 0; j < kLimits; ++j) {
      sums_[j] += Lanes::sum(found_[j]);
      found_[j] = Vector{};
    }
    added_ = 1;
  }

  Vector limits_[kLimits], found_[kLimits] = {};
  int64_t sums_[kLimits] = {}, added_ = 0;
};

// Where the search for the last count begins: a guess, which changes no result.
struct Guess {
  int32_t from, to;
};

// The last count that is selected: `wanted` > 0 of the `tied` elements that have it are.
struct CountCut {
  int32_t last;
  int64_t wanted, tied;
};

// Finds max{t : G(t) >= k} for 0 < k <= size, where G(t) elements of a group have t votes or more:
// a bracket [low, high) with G(low) >= k > G(high), narrowed by passes that count for kLimits t.
struct Bracket {
  int32_t low = 0, high;
  int64_t at_low, at_high = 0;

  Bracket() = default;
  Bracket(int64_t size, int32_t most) : high(most + 1), at_low(size) {}

  bool open() const { return high - low > 1; }

  // Limits spread from the first to the last t of the guess, so far as they are inside the bracket,
  // else over all of it. t votes or more are more than t - 1.
  void ask(Guess guess, int32_t* limits) const {
    int32_t from = std::max(guess.from, low + 1), to = std::min(guess.to, high - 1);
    if (from > to) from = low + 1, to = high - 1;
    const int32_t span = std::max(to - from, 0);  // a closed bracket asks for high again
    for (int j = 0; j < kLimits; ++j) {
      limits[j] = from - 1 + (span < kLimits ? std::min(j, span) : span * j / (kLimits - 1));
    }
  }

  // Takes how many are above each limit.
  void hear(const int32_t* limits, const int64_t* above, int64_t k) {
    for (int j = 0; j < kLimits; ++j) {
      const int32_t t = limits[j] + 1;
      if (above[j] >= k && t > low) low = t, at_low = above[j];
      if (above[j] < k && t < high) high = t, at_high = above[j];
    }
  }

  CountCut cut(int64_t k) const { return {low, k - at_high, at_low - at_high}; }
};

template <class Count>
constexpr int32_t kMostVotes = sizeof(Count) == 1 ? 255 : int32_t(kMostClients);

constexpr Guess kNoGuess = {1, int32_t(kMostClients)};

// The kLimits counts around one: where to look in a group that is like another.
inline Guess around(int32_t count) { return {count - kLimits / 2 + 1, count + kLimits / 2}; }

template <class Count>
inline CountCut cut_counts(const Count* counts, const Group& group, int64_t k, Guess guess,
                           int threads) {
  const Parts parts(group.size(), threads);
  Bracket bracket(group.size(), kMostVotes<Count>);
  for (; bracket.open(); guess = kNoGuess) {
    int32_t limits[kLimits];
    bracket.ask(guess, limits);
    int64_t sums[kLimits] = {};
    parts.over([&](int, int64_t begin, int64_t end) {
      Above<Count> above(limits);
      group.over(begin, end, [&](int64_t i, int64_t n) { above.add(counts + i, n); });
      const int64_t* found = above.sums();
      parts.in_turn([&] {
        for (int j = 0; j < kLimits; ++j) sums[j] += found[j];
      });
    });
    bracket.hear(limits, sums, k);
  }
  return bracket.cut(k);
}

// The same limit for all elements of a block.
template <class Count>
struct Limits {
  Count each[kBlock];
  explicit Limits(int32_t limit) { std::fill(each, each + kBlock, Count(limit)); }
};

// Runs body(keys, n) over the keys of the elements of count `last` among [from, to) of a group, at
// most kRun at a time.
template <class Count, class Body>
inline void over_ties(const Count* counts, const Group& group, const TieKeys& keys, int32_t last,
                      int64_t from, int64_t to, Body body) {
  const Limits<Count> limits(last);
  group.over(from, to, [&](int64_t first, int64_t size) {
    uint64_t equal[kRun / kBlock], any = 0;
    for (int64_t i = 0; i < size; i += kBlock) {
      const int64_t n = std::min(size - i, kBlock);
      any |= equal[i / kBlock] = compared(counts + first + i, limits.each, n).equal;
    }
    if (!any) return;
    alignas(64) uint32_t made[kRun];
    keys.fill(first, size, made);
    int64_t found = 0;  // keys of ties move to the front
    for (int64_t i = 0; i < size; i += kBlock) {
      for (uint64_t left = equal[i / kBlock]; left; left &= left - 1) {
        made[found++] = made[i + __builtin_ctzll(left)];
      }
    }
    body(made, found);
  });
}

constexpr int kDigit = 11;
constexpr int kBins = 1 << kDigit;

// Finds the last key among the elements at the cut: by histograms of digits until the keys that
// are left fit in the scratch.
template <class Count>
inline KeyCut cut_keys(const Count* counts, const Group& group, const TieKeys& keys,
                       const CountCut& cut, uint32_t* scratch, int threads) {
  const Parts parts(group.size(), threads);
  uint32_t prefix = 0;
  int known = 0;  // leading bits of the last key
  int64_t wanted = cut.wanted, tied = cut.tied;
  while (tied > kScratchKeys && known < 32) {
    const int digit = std::min(32 - known, kDigit), shift = 32 - known - digit;
    int64_t bins[kBins] = {};
    parts.over([&](int, int64_t begin, int64_t end) {
      int64_t own[kBins] = {};
      over_ties(counts, group, keys, cut.last, begin, end, [&](const uint32_t* made, int64_t n) {
        for (int64_t i = 0; i < n; ++i) {
          const uint64_t key = made[i];
          own[key >> shift & ((1u << digit) - 1)] += key >> (32 - known) == prefix;
        }
      });
      parts.in_turn([&] {
        for (int bin = 0; bin < kBins; ++bin) bins[bin] += own[bin];
      });
    });
    uint32_t bin = 0;
    while (bins[bin] < wanted) wanted -= bins[bin++];
    tied = bins[bin];
    prefix = prefix << digit | bin;
    known += digit;
  }
  if (known == 32) return {prefix, wanted, tied};
  int64_t filled = 0;
  parts.over([&](int, int64_t begin, int64_t end) {
    over_ties(counts, group, keys, cut.last, begin, end, [&](uint32_t* made, int64_t n) {
      uint32_t* last = std::remove_if(made, made + n,
                                      [&](uint64_t key) { return key >> (32 - known) != prefix; });
      parts.in_turn([&] {
        std::copy(made, last, scratch + filled);
        filled += last - made;
      });
    });
  });
  return cut_list(scratch, tied, wanted);
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
