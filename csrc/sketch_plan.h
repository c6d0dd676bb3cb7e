// How a sketch is cut into tasks. No sum depends on it: a task makes whole entries of the result,
// whose terms are added in the order of the inner dimension.
#pragma once
#include <algorithm>

#include "sketch_panels.h"
#include "sketch_product.h"
#include "sketch_signs.h"

namespace pyfed {
namespace PYFED_SIMD {

enum SketchKind { kRademacher = 1, kGaussian = 2, kCountSketch = 3 };

// Fewer rows of the result than this do not repay the tables of signed sums.
constexpr int64_t kFewRows = 64;
// Most rows of a task: a panel of normals, 256 deep, takes half a MB of cache; bits take little,
// and their tables serve the better the more rows there are.
constexpr int64_t kNormalRows = 448, kSignRows = 2048;
constexpr int64_t kSumFloats = 1 << 17;  // sums that tables are added to: half a MB

// Rows of a panel are a multiple of this: of row groups, and of units where they are columns of G.
constexpr int64_t kRowStep = 32;

// Floats that a panel takes, with what is read behind it, and the copy of x beside it.
constexpr int64_t panel_floats(int64_t pitch, int64_t depth) {
  return (depth + kRowGroup) * pitch + kSpan + kPanelDepth * kSpan;
}
// Floats of scratch of a thread: bits, then tables and sums or, for few rows, a panel.
constexpr int64_t kTableFloats = kTables * kTableSize * kFloats;
constexpr int64_t kSignFloats =
    kUnit * kSignRows + std::max(kTableFloats + kSumFloats, panel_floats(kFewRows, kUnitBits));
constexpr int64_t kNormalFloats = panel_floats(kNormalRows, kPanelDepth);

inline int64_t sketch_floats(int kind) {
  return kind == kRademacher ? kSignFloats : kind == kGaussian ? kNormalFloats : 0;
}

// Blocks of one dimension: multiples of `step`, at most `most`, not halved below `least`.
struct Blocks {
  int64_t total, step, least, size;

  Blocks(int64_t total, int64_t step, int64_t least, int64_t most)
      : total(total), step(step), least(least) {
    most = most / step * step;
    const int64_t pieces = std::max<int64_t>(1, (total + most - 1) / most);
    size = std::max(step, rounded_up((total + pieces - 1) / pieces, step));
  }
  int64_t count() const { return (total + size - 1) / size; }
  bool halve() {
    const int64_t half = rounded_up(size / 2, step);
    if (half < least || half >= size) return false;
    size = half;
    return true;
  }
};

struct SketchPlan {
  Blocks rows, columns;  // of the result

  int64_t tasks(int64_t clients) const { return clients * rows.count() * columns.count(); }
};

// `outers` is the rows of the result, of the client that has the most.
inline SketchPlan sketch_plan(int kind, bool transpose, int64_t clients, int64_t outers,
                              int64_t features, int threads) {
  constexpr int64_t kAny = int64_t(1) << 40;
  SketchPlan plan = {{outers, kRowStep, 2 * kRowStep, kNormalRows}, {features, kUnit, 256, kAny}};
  if (kind == kRademacher) {
    const int64_t step = transpose ? kUnitBits : kRowStep;
    plan.rows = {outers, step, kUnitBits, kSignRows};
    plan.columns = {features, kUnit, 4 * kFloats, kSumFloats / plan.rows.size};
  } else if (kind == kCountSketch) {
    plan.rows = {outers, kUnit, kAny, kAny};
    if (transpose) plan.rows = {outers, kUnitBits, kUnitBits, kUnitBits};
    plan.columns = {features, kUnit, 64, kAny};
  }
  // Several tasks for each thread. Columns are cut first where the entries of G, which are made
  // anew for each block of them, cost little.
  auto cut = [&](Blocks& blocks) {
    while (plan.tasks(clients) < 4 * threads && blocks.halve()) continue;
  };
  if (threads > 1) {
    if (kind != kGaussian) cut(plan.columns);
    cut(plan.rows), cut(plan.columns);
  }
  return plan;
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
