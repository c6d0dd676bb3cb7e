// Selection by votes, and the weights set to zero in place, on CUDA devices.
#include "kernels.h"
#include "select_launch.cuh"

namespace pyfed {
namespace {

// Writes the mask, and the weights: 0 where selected, else scaled by the factor of the count.
struct Pruned {
  void* weight;
  int kind;
  const float* factors;  // (factor_count), or null
  int64_t factor_count;
  uint8_t* out;
  bool vector;

  template <class Format, int kRun>
  __device__ __forceinline__ void weights(const Votes& votes, int64_t place, uint32_t live,
                                          uint32_t taken, const uint32_t (&down)[kRun],
                                          int& bits) const {
    typename Format::Stored run[kRun];
    read_run(weight, place, live, vector, run);
#pragma unroll
    for (int j = 0; j < kRun; ++j) {
      bits |= Format::finite(run[j]) ? 0 : kNotFinite;
      if (factors) {
        const int64_t count = votes.most_count() - down[j];
        const float factor = factors[count < factor_count ? count : factor_count - 1];
        run[j] = narrowed<Format>(__fmul_rn(widened<Format>(run[j]), factor));
      }
      if (taken >> j & 1) run[j] = 0;
    }
    write_run(weight, place, live, vector, run);
  }

  template <int kRun>
  __device__ __forceinline__ void put(const Votes& votes, int64_t place, uint32_t live,
                                      uint32_t taken, const uint32_t (&down)[kRun],
                                      int& bits) const {
    if (votes.tie && votes.tie != weight) {
      check_finite<kRun>(votes.tie, votes.kind, place, live, votes.vector, bits);
    }
    if (kind == kFloat32) {
      weights<Real<kFloat32>>(votes, place, live, taken, down, bits);
    } else if (kind == kFloat16) {
      weights<Real<kFloat16>>(votes, place, live, taken, down, bits);
    } else {
      weights<Real<kBfloat16>>(votes, place, live, taken, down, bits);
    }
    write_mask<kRun>(out, place, live, vector, taken);
  }
};

}  // namespace

void mask_prune_cuda(void* weight, int weight_kind, const void* counts, int wide, const void* tie,
                     int tie_kind, const uint32_t* key, const float* factors, int64_t factor_count,
                     int64_t rows, int64_t columns, int64_t tile_rows, int64_t tile_columns,
                     int64_t k, int ties, uint32_t stream, int64_t* scratch, int64_t scratch_words,
                     uint8_t* out, int* errors, int device, void* stream_handle) {
  if (rows == 0 || columns == 0) return;
  const DeviceGuard guard(device);
  if (ties == kByMagnitude) tie = weight, tie_kind = weight_kind;
  const int64_t most = factors ? factor_count - 1 : kMostClients;
  const Votes votes = votes_of(counts, wide, most, tie, tie_kind, ties, key, stream);
  const Pruned emit = {weight,       weight_kind, factors,
                       factor_count, out,         is_aligned16(weight) && is_aligned16(out)};
  select_tiles(votes, {rows, columns, tile_rows, tile_columns}, k, emit, scratch, scratch_words,
               errors, stream_handle);
}

}  // namespace pyfed
