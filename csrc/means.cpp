// Means over the clients that hold an element, on the CPU: a chunk of elements at a time, so that
// its sums stay in the first cache while every client's values stream by once.
#include <algorithm>

#include "floats.h"
#include "kernels.h"
#include "planes.h"

namespace pyfed {
namespace PYFED_SIMD {
namespace {

constexpr int64_t kChunk = 4096;      // elements: a multiple of kStartBlock
constexpr int64_t kStartBlock = 512;  // of packed values, by whose start they are found
enum Form { kDense = 0, kPacked = 1, kRectangles = 2, kIndices = 3 };
enum Denominator { kKeepers = 0, kAll = 1, kOne = 2 };

struct Mean {
  const void* values;
  int64_t clients, length, columns;
  int form;
  const uint8_t* masks;
  const int64_t* places;
  const int64_t* starts;
  int64_t total;
  const int32_t* weights;  // null: all 1
  const void* server;
  int denominator;
  int64_t min_votes;
  void* out;

  int32_t weight(int64_t client) const { return weights ? weights[client] : 1; }
  int64_t bytes() const { return (length + 7) / 8; }
};

// Sums of a chunk over the clients that hold an element: values, clients, weights.
struct Sums {
  alignas(64) float total[kChunk];
  alignas(64) int32_t votes[kChunk], below[kChunk];
};

// Adds rows of n values, a multiple of kBlock, to the totals and, when kWeighted, to the weights;
// fetches those `ahead` into the cache, the next chunk's of these clients.
template <class Number, int kRows, bool kMasked, bool kWeighted>
void add_blocks(Sums& sums, int64_t at, int64_t n, const typename Number::Stored* values,
                int64_t stride, int64_t ahead, const uint8_t* bits, int64_t bytes,
                const int32_t* weights) {
  float factor[kRows];
  for (int r = 0; r < kRows; ++r) factor[r] = weights ? float(weights[r]) : 1.0f;
  for (int64_t i = 0; i < n; i += kBlock) {
    uint64_t words[kRows];
    for (int r = 0; r < kRows; ++r) words[r] = kMasked ? load_word(bits + r * bytes + i / 8) : 0;
    for (int64_t l = 0; l < kBlock; l += kFloats) {
      const int64_t place = at + i + l;
      Floats total = vector_at<Floats>(sums.total + place);
      Ints below = kWeighted ? vector_at<Ints>(sums.below + place) : Ints{};
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const auto* value = values + r * stride + i + l;
        __builtin_prefetch(value + ahead, 0, 2);
        const Floats x = load_floats(value, Number{});
        const Held held = kMasked ? held_by(words[r] >> l) : all_held();
        total = add_held(total, x * factor[r], held);
        if (kWeighted) below = add_held(below, Ints{} + weights[r], held);
      }
      put_vector(sums.total + place, total);
      if (kWeighted) put_vector(sums.below + place, below);
    }
  }
}

// Adds kRows clients' dense values of the elements [first, first + n).
template <class Number, int kRows, bool kMasked, bool kWeighted>
void add_rows(const Mean& mean, int64_t client, int64_t first, int64_t n, Sums& sums) {
  using Stored = typename Number::Stored;
  const Stored* values = static_cast<const Stored*>(mean.values) + client * mean.length + first;
  const int64_t bytes = mean.bytes(), whole = n / kBlock * kBlock;
  const uint8_t* bits = kMasked ? mean.masks + client * bytes + first / 8 : nullptr;
  const int32_t* weights = mean.weights ? mean.weights + client : nullptr;
  add_blocks<Number, kRows, kMasked, kWeighted>(sums, 0, whole, values, mean.length, kChunk, bits,
                                                bytes, weights);
  if (whole == n) return;
  const int64_t left = n - whole;
  Stored edge[kRows * kBlock] = {};  // never reads past a row
  uint8_t edge_bits[kRows * 8] = {};
  for (int r = 0; r < kRows; ++r) {
    const Stored* row = values + r * mean.length + whole;
    std::memcpy(edge + r * kBlock, row, size_t(left) * sizeof(Stored));
    if (kMasked) std::memcpy(edge_bits + r * 8, bits + r * bytes + whole / 8, size_t(left + 7) / 8);
  }
  add_blocks<Number, kRows, kMasked, kWeighted>(sums, whole, kBlock, edge, kBlock, 0, edge_bits, 8,
                                                weights);
}

template <class Number, bool kMasked, bool kWeighted>
void add_dense(const Mean& mean, int64_t first, int64_t n, Sums& sums) {
  constexpr int kAtOnce = 4;  // a sum is loaded and stored once for so many clients
  int64_t client = 0;
  for (; client + kAtOnce <= mean.clients; client += kAtOnce) {
    add_rows<Number, kAtOnce, kMasked, kWeighted>(mean, client, first, n, sums);
  }
  for (; client < mean.clients; ++client) {
    add_rows<Number, 1, kMasked, kWeighted>(mean, client, first, n, sums);
  }
}

// Adds a client's values that are packed by its bits.
template <class Number, bool kWeighted>
void add_packed(const Mean& mean, int64_t client, int64_t first, int64_t n, Sums& sums) {
  using Stored = typename Number::Stored;
  const uint8_t* bits = mean.masks + client * mean.bytes() + first / 8;
  const int64_t blocks = (mean.length + kStartBlock - 1) / kStartBlock;
  const Stored* all = static_cast<const Stored*>(mean.values);
  const Stored* end = all + mean.total;
  const int64_t* start = mean.starts + client * blocks + first / kStartBlock;
  const Stored* next = all + *start;
  const int64_t ahead = first + kChunk < mean.length ? start[kChunk / kStartBlock] - *start : 0;
  const int32_t weight = mean.weight(client);
  for (int64_t i = 0; i < n; i += kBlock) {
    const uint64_t word = load_word(bits + i / 8, (n - i + 7) / 8);
    __builtin_prefetch(next + ahead, 0, 2);  // the next chunk's, of this client
    __builtin_prefetch(next + ahead + kFloats, 0, 2);
    const Stored* values = next;
    Stored edge[2 * kBlock];
    if (end - next < kBlock + kFloats) {  // never reads past the values
      std::memset(edge, 0, sizeof edge);
      std::memcpy(edge, next, size_t(std::min(end - next, kBlock)) * sizeof(Stored));
      values = edge;
    }
#pragma GCC unroll 4
    for (int64_t l = 0; l < kBlock; l += kFloats) {
      const Floats x = load_floats(values + ones(word & first_bits(l)), Number{});
      float* total = sums.total + i + l;
      int32_t* below = sums.below + i + l;
      const Held held = held_by(word >> l);
      const Floats own = spread_floats(x, word >> l) * float(weight);
      put_vector(total, add_held(vector_at<Floats>(total), own, held));
      if (kWeighted) put_vector(below, add_held(vector_at<Ints>(below), Ints{} + weight, held));
    }
    next += ones(word);
  }
}

// How many clients' bits are set for each element.
void count_votes(const Mean& mean, int64_t first, int64_t n, Sums& sums) {
  const int planes = planes_for(mean.clients);
  const int64_t bytes = (n + 7) / 8;
  Planes<kChunk / 8> total;
  total.clear(0, planes, bytes);
  add_clients(mean.masks + first / 8, mean.clients, mean.bytes(), bytes, 0, total);
  write_wide(total, planes, n, sums.votes);
  for (int64_t client = 0; client < mean.clients; ++client) {
    const uint8_t* next = mean.masks + client * mean.bytes() + (first + kChunk) / 8;
    for (int64_t i = 0; i < kChunk / 8; i += 64) __builtin_prefetch(next + i, 0, 2);
  }
}

// Adds a client's values of n neighbours, all of which it holds.
template <class Number>
void add_run(Sums& sums, int64_t at, int64_t n, const typename Number::Stored* values,
             int32_t weight) {
  for (int64_t i = 0; i < n; ++i) {
    sums.total[at + i] += float_of(Number::wide(values[i])) * float(weight);
  }
  for (int64_t i = 0; i < n; ++i) sums.votes[at + i] += 1;
  for (int64_t i = 0; i < n; ++i) sums.below[at + i] += weight;
}

// Adds a client's values in its rectangle, a run for each row of it.
template <class Number>
void add_rectangle(const Mean& mean, int64_t client, int64_t first, int64_t n, Sums& sums) {
  const int64_t* box = mean.places + 4 * client;
  const int64_t width = box[3] - box[2], last = (first + n - 1) / mean.columns;
  const auto* values =
      static_cast<const typename Number::Stored*>(mean.values) + mean.starts[client];
  for (int64_t row = std::max(box[0], first / mean.columns); row < box[1] && row <= last; ++row) {
    const int64_t begin = std::max(row * mean.columns + box[2], first);
    const int64_t end = std::min(row * mean.columns + box[3], first + n);
    const int64_t column = begin - row * mean.columns - box[2];
    if (begin >= end) continue;
    add_run<Number>(sums, begin - first, end - begin, values + (row - box[0]) * width + column,
                    mean.weight(client));
  }
}

// Adds a client's values at its indices, which ascend.
template <class Number>
void add_indices(const Mean& mean, int64_t client, int64_t first, int64_t n, Sums& sums) {
  const auto* values = static_cast<const typename Number::Stored*>(mean.values);
  const int64_t* end = mean.places + mean.starts[client + 1];
  const int64_t* place = std::lower_bound(mean.places + mean.starts[client], end, first);
  const int32_t weight = mean.weight(client);
  for (; place < end && *place < first + n; ++place) {
    const int64_t at = *place - first;
    sums.total[at] += float_of(Number::wide(values[place - mean.places])) * float(weight);
    sums.votes[at] += 1;
    sums.below[at] += weight;
  }
}

// Fills the sums of a chunk. `all` is the sum of all weights.
template <class Number, bool kWeighted>
void add_clients(const Mean& mean, int64_t first, int64_t n, int32_t all, Sums& sums) {
  const int64_t padded = (n + kBlock - 1) / kBlock * kBlock;
  std::fill(sums.total, sums.total + padded, 0.0f);
  std::fill(sums.below, sums.below + padded, 0);
  if (mean.form == kDense && !mean.masks) {
    add_dense<Number, false, false>(mean, first, n, sums);
    std::fill(sums.votes, sums.votes + n, int32_t(mean.clients));
    std::fill(sums.below, sums.below + n, all);
  } else if (mean.form == kDense || mean.form == kPacked) {
    count_votes(mean, first, n, sums);
    if (mean.form == kDense) add_dense<Number, true, kWeighted>(mean, first, n, sums);
    for (int64_t client = 0; mean.form == kPacked && client < mean.clients; ++client) {
      add_packed<Number, kWeighted>(mean, client, first, n, sums);
    }
    if (!kWeighted) std::copy(sums.votes, sums.votes + n, sums.below);
  } else {
    std::fill(sums.votes, sums.votes + n, 0);
    for (int64_t client = 0; client < mean.clients; ++client) {
      if (mean.form == kRectangles) {
        add_rectangle<Number>(mean, client, first, n, sums);
      } else {
        add_indices<Number>(mean, client, first, n, sums);
      }
    }
  }
}

template <class Number>
int write_chunk(const Mean& mean, int64_t first, int64_t n, int32_t all, Sums& sums) {
  using Stored = typename Number::Stored;
  Stored rest[kChunk];
  std::fill(rest, rest + n, Stored(0));
  if (mean.server) {
    std::memcpy(rest, static_cast<const Stored*>(mean.server) + first, size_t(n) * sizeof(Stored));
  }
  if (mean.denominator != kKeepers) {
    std::fill(sums.below, sums.below + n, mean.denominator == kAll ? all : 1);
  }
  const int32_t least = int32_t(mean.min_votes);
  Stored found[kChunk];
  for (int64_t i = 0; i < n; i += kFloats) {  // what comes behind the last is not looked at
    Ints below = vector_at<Ints>(sums.below + i);
    below = below > 0 ? below : Ints{} + 1;
    const Floats total = vector_at<Floats>(sums.total + i);
    store_floats(found + i, total / __builtin_convertvector(below, Floats), Number{});
  }
  uint32_t bad = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t used = uint32_t(sums.votes[i] >= least) & uint32_t(sums.below[i] > 0);
    bad |= used & uint32_t(!Number::finite(found[i]));
    rest[i] = used ? found[i] : rest[i];
  }
  std::memcpy(static_cast<Stored*>(mean.out) + first, rest, size_t(n) * sizeof(Stored));
  return bad ? kNotFinite : 0;
}

template <class Number>
int run(const Mean& mean, int threads) {
  int64_t sum = 0;
  for (int64_t client = 0; client < mean.clients; ++client) sum += mean.weight(client);
  const int32_t all = int32_t(sum);
  const bool weighted = mean.weights && mean.denominator == kKeepers;
  const int64_t chunks = (mean.length + kChunk - 1) / kChunk;
  int errors = 0;
#pragma omp parallel for num_threads(threads) reduction(| : errors) \
    schedule(static) if (double(mean.clients) * double(mean.length) > 1 << 15)
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const int64_t first = chunk * kChunk, n = std::min(kChunk, mean.length - first);
    Sums sums;
    if (weighted) {
      add_clients<Number, true>(mean, first, n, all, sums);
    } else {
      add_clients<Number, false>(mean, first, n, all, sums);
    }
    errors |= write_chunk<Number>(mean, first, n, all, sums);
  }
  return errors;
}

}  // namespace

int masked_mean_cpu(const void* values, int kind, int64_t clients, int64_t length, int64_t columns,
                    int form, const uint8_t* masks, const int64_t* places, const int64_t* starts,
                    int64_t total, const int32_t* weights, const void* server, int denominator,
                    int64_t min_votes, void* out, int threads) {
  const Mean mean = {values, clients, length,  columns, form,        masks,     places,
                     starts, total,   weights, server,  denominator, min_votes, out};
  int errors = 0;
  with_kind(kind, [&](auto real) { errors = run<decltype(real)>(mean, threads); });
  return errors;
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
