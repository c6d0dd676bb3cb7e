// Adapters of many clients on the CPU. Rows are cut into chunks, a thread each; a chunk's part of a
// client is done in blocks of rows that stay in the second cache.
#include <omp.h>

#include "clients.h"
#include "kernels.h"
#include "lora_rows.h"

namespace pyfed {
namespace PYFED_SIMD {
namespace {

// Rows of a chunk: it depends on nothing else, so that neither do the sums of the gradient.
int64_t chunk_rows(int64_t rows) {
  const int64_t least = std::clamp<int64_t>((rows + 7) / 8, 32, 128);
  return std::max(least, (rows + 31) / 32);
}

int64_t chunk_count(int64_t rows) { return (rows + chunk_rows(rows) - 1) / chunk_rows(rows); }

struct Adapters {
  Layer layer;
  int64_t rows, clients;
  const int64_t* starts;
  const float* a;
  int64_t a_stride;
  const float* b;
  int64_t b_stride;
  const float* scale;
  Drops drops;

  void pack(int64_t client, float* out) const {
    pack_factors(layer, a + client * a_stride, b + client * b_stride, out);
  }
  int threads(int most) const {
    const double work = double(rows) * double(layer.in + layer.outs) * double(layer.rank + 1);
    return work < 1 << 18 ? 1 : most;
  }
  // Calls body(client, first, last) for the parts of clients in a chunk.
  template <class Body>
  void over_parts(int64_t chunk, Body body) const {
    const int64_t begin = chunk * chunk_rows(rows);
    over_clients(starts, clients, begin, std::min(begin + chunk_rows(rows), rows), body);
  }
  // Which elements of rows first … first + n - 1 are kept.
  Kept kept(int64_t client, int64_t first, int64_t n, float* words) const {
    if (!drops.key) return {nullptr, 0};
    return make_kept(drops.of(client), (first - starts[client]) * layer.in, n * layer.in,
                     reinterpret_cast<uint64_t*>(words));
  }
};

int64_t forward_floats(const Layer& layer) {
  return layer.kept_floats() + layer.factors() +
         layer.block() * (layer.in_pitch() + layer.ranks()) + layer.ranks() * kStrip;
}

template <class Number>
void forward_part(const Adapters& all, int64_t client, int64_t first, int64_t last,
                  const typename Number::Stored* x, const typename Number::Stored* base,
                  typename Number::Stored* out, float* hidden, float* scratch) {
  const Layer& layer = all.layer;
  const int64_t ranks = layer.ranks();
  float* words = scratch;
  float* factors = words + layer.kept_floats();
  const float* turned = factors + ranks * layer.in_pitch();
  float* inner = factors + layer.factors();
  float* strip = inner + layer.block() * ranks;
  float* wide = strip + ranks * kStrip;
  all.pack(client, factors);
  for (int64_t row = first; row < last; row += layer.block()) {
    const int64_t n = std::min(layer.block(), last - row);
    const Kept kept = all.kept(client, row, n, words);
    const Rows inputs =
        wide_rows<Number>(x + row * layer.in, n, layer.in, kept, all.drops.scale, wide);
    shrink(inputs, n, layer.in, factors, layer.in_pitch(), ranks, inner);
    for (int64_t m = 0; m < n; ++m) {
      std::copy(inner + m * ranks, inner + m * ranks + layer.rank, hidden + (row + m) * layer.rank);
    }
    for (int64_t i = 0; i < n * ranks; ++i) inner[i] *= all.scale[client];
    expand(inner, n, ranks, layer.rank, turned, layer.out_pitch(), layer.outs, strip,
           [=](int64_t m, int64_t column, int64_t live, Floats sums) {
             const int64_t place = (row + m) * layer.outs + column;
             __builtin_prefetch(base + place + kStrip * layer.outs, 0, 2);
             __builtin_prefetch(out + place + kStrip * layer.outs, 1, 2);
             store_part<Number>(out + place, load_part<Number>(base + place, live) + sums, live);
           });
  }
}

int64_t backward_floats(const Layer& layer) {
  return layer.kept_floats() + 2 * layer.factors() +
         layer.block() * (layer.in_pitch() + layer.out_pitch() + 2 * layer.ranks()) +
         layer.ranks() * kStrip;
}

// Sums (ranks, in_pitch) of the gradient of a, and behind them of bᵀ (ranks, out_pitch), over a
// part of a client's rows; and the gradient of those rows of x.
template <class Number>
void backward_part(const Adapters& all, int64_t client, int64_t first, int64_t last,
                   const typename Number::Stored* grad, const typename Number::Stored* x,
                   const float* hidden, typename Number::Stored* dx, float* sums, float* scratch) {
  const Layer& layer = all.layer;
  const int64_t ranks = layer.ranks();
  float* words = scratch;
  float* factors = words + layer.kept_floats();
  const float* turned = factors + ranks * layer.in_pitch();
  float* inner = factors + layer.factors();  // gradient of hidden (block, ranks)
  float* forward = inner + layer.block() * ranks;
  float* strip = forward + layer.block() * ranks;
  float* wide = strip + ranks * kStrip;
  float* wide_grad = wide + layer.block() * layer.in_pitch();
  const float scale = all.drops.scale;
  all.pack(client, factors);
  std::fill(sums, sums + layer.factors(), 0.0f);
  for (int64_t row = first; row < last; row += layer.block()) {
    const int64_t n = std::min(layer.block(), last - row);
    const Kept kept = all.kept(client, row, n, words);
    const Rows above =
        wide_rows<Number>(grad + row * layer.outs, n, layer.outs, {nullptr, 0}, 1.0f, wide_grad);
    const Rows inputs = wide_rows<Number>(x + row * layer.in, n, layer.in, kept, scale, wide);
    shrink(above, n, layer.outs, turned, layer.out_pitch(), ranks, inner);
    for (int64_t i = 0; i < n * ranks; ++i) inner[i] *= all.scale[client];
    for (int64_t m = 0; m < n; ++m) {
      const float* from = hidden + (row + m) * layer.rank;
      std::copy(from, from + layer.rank, forward + m * ranks);
      std::fill(forward + m * ranks + layer.rank, forward + (m + 1) * ranks, 0.0f);
    }
    outer(inner, ranks, inputs, n, layer.in, sums, layer.in_pitch());
    outer(forward, ranks, above, n, layer.outs, sums + ranks * layer.in_pitch(), layer.out_pitch());
    expand(inner, n, ranks, layer.rank, factors, layer.in_pitch(), layer.in, strip,
           [=](int64_t m, int64_t column, int64_t live, Floats v) {
             if (kept.words) v = floats_held(v * scale, kept.at(m * layer.in + column));
             store_part<Number>(dx + (row + m) * layer.in + column, v, live);
           });
  }
}

// The sums of a client as its gradients da (rank, in) and db (outs, rank).
void write_gradients(const Layer& layer, float scale, float* sums, float* da, float* db) {
  for (int64_t j = 0; j < layer.rank; ++j) {
    std::copy(sums + j * layer.in_pitch(), sums + j * layer.in_pitch() + layer.in,
              da + j * layer.in);
  }
  float* turned = sums + layer.ranks() * layer.in_pitch();
  for (int64_t j = 0; j < layer.rank; ++j) {
    float* row = turned + j * layer.out_pitch();
    for (int64_t o = 0; o < layer.outs; ++o) row[o] *= scale;
  }
  transpose(turned, layer.out_pitch(), layer.rank, layer.outs, db, layer.rank, layer.rank);
}

// Adds up what the chunks of a client have, in their order, in the first of their slots: two for
// each chunk, for the client that began before it and for the one that goes on behind it.
float* gathered(const Adapters& all, int64_t client, float* slots) {
  const int64_t size = all.layer.factors(), chunk = chunk_rows(all.rows);
  const int64_t begin = all.starts[client] / chunk, end = (all.starts[client + 1] - 1) / chunk;
  float* sums = slots + (2 * begin + 1) * size;
  for (int64_t c = begin + 1; c <= end; ++c) {
    const float* more = slots + 2 * c * size;
    for (int64_t i = 0; i < size; ++i) sums[i] += more[i];
  }
  return sums;
}

}  // namespace

int64_t lora_workspace(int64_t rows, int64_t in, int64_t outs, int64_t rank, int backward,
                       int threads) {
  const Layer layer = {in, outs, rank};
  if (!backward) return threads * forward_floats(layer);
  const int64_t chunks = rows ? chunk_count(rows) : 0;
  return threads * backward_floats(layer) + (chunks > 1 ? 2 * chunks * layer.factors() : 0);
}

int lora_linear_cpu(const void* x, int kind, int64_t rows, int64_t in, int64_t outs, int64_t rank,
                    int64_t clients, const int64_t* starts, const float* a, int64_t a_stride,
                    const float* b, int64_t b_stride, const float* scale, const uint32_t* key,
                    const int64_t* streams, uint32_t threshold, float keep_scale, const void* base,
                    void* out, float* hidden, float* scratch, int threads) {
  const Adapters all = {
      {in, outs, rank}, rows, clients,  starts, a,
      a_stride,         b,    b_stride, scale,  {key, streams, threshold, keep_scale}};
  if (!starts_fit(starts, clients, rows)) return kBadPlace;
  if (rows == 0) return 0;
  const int64_t chunks = chunk_count(rows), room = forward_floats(all.layer);
  threads = all.threads(threads);
  with_kind(kind, [&](auto real) {
    using Number = decltype(real);
    using Stored = typename Number::Stored;
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (threads > 1)
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      float* own = scratch + omp_get_thread_num() * room;
      all.over_parts(chunk, [&](int64_t client, int64_t first, int64_t last) {
        forward_part<Number>(all, client, first, last, static_cast<const Stored*>(x),
                             static_cast<const Stored*>(base), static_cast<Stored*>(out), hidden,
                             own);
      });
    }
  });
  return 0;
}

int lora_linear_backward_cpu(const void* grad, const void* x, int kind, int64_t rows, int64_t in,
                             int64_t outs, int64_t rank, int64_t clients, const int64_t* starts,
                             const float* a, int64_t a_stride, const float* b, int64_t b_stride,
                             const float* hidden, const float* scale, const uint32_t* key,
                             const int64_t* streams, uint32_t threshold, float keep_scale, void* dx,
                             float* da, float* db, float* scratch, int threads) {
  const Adapters all = {
      {in, outs, rank}, rows, clients,  starts, a,
      a_stride,         b,    b_stride, scale,  {key, streams, threshold, keep_scale}};
  if (!starts_fit(starts, clients, rows)) return kBadPlace;
  const Layer& layer = all.layer;
  const int64_t chunks = rows ? chunk_count(rows) : 0, room = backward_floats(layer);
  const int64_t chunk_size = chunk_rows(rows), size = layer.factors();
  const int64_t a_size = rank * in, b_size = outs * rank;
  float* slots = scratch + threads * room;
  threads = all.threads(threads);
  with_kind(kind, [&](auto real) {
    using Number = decltype(real);
    using Stored = typename Number::Stored;
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (threads > 1)
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      float* own = scratch + omp_get_thread_num() * room;
      all.over_parts(chunk, [&](int64_t client, int64_t first, int64_t last) {
        const bool whole = first == starts[client] && last == starts[client + 1];
        const bool began_before = starts[client] < chunk * chunk_size;
        float* sums = whole ? own + room - size : slots + (2 * chunk + !began_before) * size;
        backward_part<Number>(all, client, first, last, static_cast<const Stored*>(grad),
                              static_cast<const Stored*>(x), hidden, static_cast<Stored*>(dx), sums,
                              own);
        if (whole) {
          write_gradients(layer, scale[client], sums, da + client * a_size, db + client * b_size);
        }
      });
    }
  });
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (threads > 1)
  for (int64_t client = 0; client < clients; ++client) {
    const int64_t first = starts[client], last = starts[client + 1];
    if (first == last) {
      std::fill(da + client * a_size, da + (client + 1) * a_size, 0.0f);
      std::fill(db + client * b_size, db + (client + 1) * b_size, 0.0f);
    } else if (first / chunk_size != (last - 1) / chunk_size) {
      write_gradients(layer, scale[client], gathered(all, client, slots), da + client * a_size,
                      db + client * b_size);
    }
  }
  return 0;
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
