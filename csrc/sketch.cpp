// Sketches on the CPU: products of a random matrix, which exists in panels alone, with x.
#include <omp.h>

#include "kernels.h"
#include "sketch_count.h"
#include "sketch_plan.h"
#include "wipe.h"

namespace pyfed {
namespace PYFED_SIMD {
namespace {

struct Sketch {
  const float* x;
  const int64_t* starts;
  int64_t clients, features, rows;
  int kind;
  bool transpose;
  WordSource matrix, noise;  // of the first client
  float noise_std;
  float* out;

  int64_t samples(int64_t client) const { return starts[client + 1] - starts[client]; }
  int64_t outers(int64_t client) const { return transpose ? samples(client) : rows; }
  int64_t inners(int64_t client) const { return transpose ? rows : samples(client); }
  // Where the client's x begins, or its result: by samples or by rows of G.
  int64_t first(int64_t client, bool by_samples) const {
    return (by_samples ? starts[client] : client * rows) * features;
  }
  WordSource matrix_of(int64_t client) const { return moved(matrix, client); }
  WordSource noise_of(int64_t client) const { return moved(noise, client); }
  static WordSource moved(WordSource source, int64_t client) {
    source.stream += uint32_t(client);
    return source;
  }
};

// A block of a client's result; `x` and `out` begin at its columns, `out` at its rows too.
struct Task {
  int64_t client, outer, outers, inners, column, columns, pitch;
  const float* x;
  float* out;

  Task(const Sketch& sketch, const SketchPlan& plan, int64_t number) {
    const int64_t block = number / plan.columns.count(), blocks = plan.rows.count();
    client = block / blocks, outer = block % blocks * plan.rows.size;
    outers = std::min(plan.rows.size, sketch.outers(client) - outer);
    inners = sketch.inners(client);
    column = number % plan.columns.count() * plan.columns.size;
    columns = std::min(plan.columns.size, sketch.features - column);
    pitch = sketch.features;
    x = sketch.x + sketch.first(client, !sketch.transpose) + column;
    out = sketch.out + sketch.first(client, sketch.transpose) + outer * pitch + column;
  }
};

// By tables of signed sums. This and the next give the floats of scratch that they used.
int64_t sign_task(const WordSource& matrix, const Task& task, bool transpose, float* scratch) {
  const int64_t bits_pitch = rounded_up(task.outers, transpose ? kUnitBits : kRowStep);
  uint32_t* bits = reinterpret_cast<uint32_t*>(scratch);
  Floats* tables = reinterpret_cast<Floats*>(scratch + kUnit * bits_pitch);
  Floats* sums = tables + kTables * kTableSize;
  const int64_t vectors = (task.columns + kFloats - 1) / kFloats;
  std::fill(sums, sums + vectors * task.outers, Floats{});
  for (int64_t k = 0; k < task.inners; k += kUnitBits) {
    const int64_t depth = std::min(kUnitBits, task.inners - k);
    fill_signs(matrix, {task.outer, task.outers, k, depth, transpose}, bits, bits_pitch);
    add_signed(bits, bits_pitch, task.outers, task.x + k * task.pitch, task.pitch, depth,
               task.columns, tables, sums);
  }
  for (int64_t m = 0; m < task.outers; ++m) {
    for (int64_t v = 0; v < vectors; ++v) {
      const int64_t f = v * kFloats;
      store_part(task.out + m * task.pitch + f, sums[v * task.outers + m], task.columns - f);
    }
  }
  return reinterpret_cast<float*>(sums + vectors * task.outers) - scratch;
}

// By panels of the matrix: normals, or signs where there are few rows.
int64_t panel_task(const WordSource& matrix, const Task& task, int kind, bool transpose,
                   float* scratch) {
  const bool signs = kind == kRademacher;
  const int64_t deepest = signs ? kUnitBits : kPanelDepth;
  const int64_t pitch = rounded_up(task.outers, kRowStep);
  const int64_t bits_pitch = transpose ? kUnitBits : pitch;
  float* right = scratch;
  float* panel = right + kPanelDepth * kSpan;
  uint32_t* bits = reinterpret_cast<uint32_t*>(panel + (deepest + kRowGroup) * pitch + kSpan);
  for (int64_t k = 0; k < task.inners; k += deepest) {
    const int64_t depth = std::min(deepest, task.inners - k);
    const Part part = {task.outer, task.outers, k, depth, transpose};
    if (signs) {
      fill_signs(matrix, part, bits, bits_pitch);
      signs_of_bits(bits, bits_pitch, depth, panel, pitch);
    } else {
      fill_normals(matrix, part, panel, pitch);
    }
    panel_product(panel, pitch, task.outers, task.x + k * task.pitch, task.pitch, depth,
                  task.columns, k > 0, right, task.out, task.pitch);
  }
  return reinterpret_cast<float*>(bits) - scratch + (signs ? kUnit * bits_pitch : 0);
}

void add_noise(const WordSource& source, const Task& task, float noise_std) {
  Words unit[2][16];
  float normals[kRowGroup * kUnit];
  for (int64_t m = 0; m < task.outers; m += kRowGroup) {
    for (int64_t f = 0; f < task.columns; f += kUnit) {
      normal_unit(source, task.outer + m, (task.column + f) / kUnit, unit);
      put_rows(unit, normals, kUnit);
      for (int64_t r = 0; r < kRowGroup && m + r < task.outers; ++r) {
        for (int64_t i = 0; i < kUnit; i += kFloats) {
          const int64_t live = task.columns - f - i;
          float* place = task.out + (m + r) * task.pitch + f + i;
          if (live <= 0) break;
          const Floats noise = vector_at<Floats>(normals + r * kUnit + i) * noise_std;
          store_part(place, load_part(place, live) + noise, live);
        }
      }
    }
  }
}

int not_finite(const float* x, int64_t rows, int64_t columns, int64_t pitch) {
  Ints bad = {};
  for (int64_t row = 0; row < rows; ++row, x += pitch) {
    for (int64_t f = 0; f < columns; f += kFloats) {
      bad |= (Ints(load_part(x + f, columns - f)) & 0x7f800000) == 0x7f800000;
    }
  }
  for (int l = 0; l < kFloats; ++l) {
    if (bad[l]) return kNotFinite;
  }
  return 0;
}

// The floats of scratch that were used.
int64_t do_task(const Sketch& sketch, const Task& task, float* scratch) {
  const WordSource matrix = sketch.matrix_of(task.client);
  int64_t used = 0;
  if (sketch.kind == kCountSketch && sketch.transpose) {
    count_back(matrix, task.x, sketch.rows, task.outer, task.outers, task.columns, task.pitch,
               task.out);
  } else if (sketch.kind == kCountSketch) {
    count_into(matrix, task.x, task.inners, task.outers, task.columns, task.pitch, task.out);
  } else if (task.inners == 0) {
    for (int64_t m = 0; m < task.outers; ++m) {
      std::fill(task.out + m * task.pitch, task.out + m * task.pitch + task.columns, 0.0f);
    }
  } else if (sketch.kind == kRademacher && sketch.outers(task.client) >= kFewRows) {
    used = sign_task(matrix, task, sketch.transpose, scratch);
  } else {
    used = panel_task(matrix, task, sketch.kind, sketch.transpose, scratch);
  }
  if (sketch.noise_std > 0) add_noise(sketch.noise_of(task.client), task, sketch.noise_std);
  return used;
}

float* aligned(float* scratch) {
  return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(scratch) + 63) & ~uintptr_t(63));
}

}  // namespace

int64_t sketch_workspace(int64_t, int64_t, int64_t, int64_t, int kind, int, int, int threads) {
  return sketch_floats(kind) * threads + 16;  // to align it
}

int sketch_cpu(const float* x, const int64_t* starts, int64_t clients, int64_t samples,
               int64_t features, int64_t rows, int kind, const uint32_t* seed, const uint32_t* key,
               float noise_std, uint32_t stream, int transpose, float* out, float* scratch,
               int threads) {
  const uint32_t* secret = seed ? nullptr : key;
  WordSource matrix = {secret, {0, 0}, stream, uint32_t(kind)};
  if (seed) matrix.seed = {seed[0], seed[1]};
  if (secret) matrix.domain = domain_word(kSketch, 0) | uint32_t(kind);
  const WordSource noise = {key, {0, 0}, stream, domain_word(kNoise, 0)};
  const Sketch sketch = {x,      starts, clients,   features, rows, kind, transpose != 0,
                         matrix, noise,  noise_std, out};
  int64_t most = transpose ? 0 : rows;
  for (int64_t c = 0; transpose && c < clients; ++c) most = std::max(most, sketch.samples(c));
  if (double(rows) * double(samples) * double(features + kUnit) < 1 << 20) threads = 1;
  const SketchPlan plan = sketch_plan(kind, transpose != 0, clients, most, features, threads);
  const int64_t tasks = plan.tasks(clients);
  const bool wiped = key != nullptr;  // what it makes, and sums that noise is to hide
  int errors = 0;
#pragma omp parallel num_threads(threads) reduction(| : errors) if (threads > 1)
  errors |= wiped_after([&] {
    int found = 0;
    int64_t used = 0;
    float* own = aligned(scratch) + omp_get_thread_num() * sketch_floats(kind);
#pragma omp for schedule(dynamic)
    for (int64_t number = 0; number < tasks; ++number) {
      const Task task(sketch, plan, number);
      if (task.outers <= 0) continue;
      used = std::max(used, do_task(sketch, task, own));
      // What is not finite in x is not finite in the result, where each sample goes somewhere.
      if (!transpose) found |= not_finite(task.out, task.outers, task.columns, task.pitch);
    }
    if (wiped) wipe(own, size_t(used) * sizeof(float));
    return found;
  });
  if (transpose) return not_finite(x, clients * rows, features, features);
  return errors ? not_finite(x, samples, features, features) : 0;
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
