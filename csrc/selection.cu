// Selection by votes on CUDA devices.
#include "kernels.h"
#include "select_launch.cuh"

namespace pyfed {
namespace {

// Writes the mask, and looks at every tie element.
struct MaskAlone {
  uint8_t* out;
  bool vector;

  template <int kRun>
  __device__ __forceinline__ void put(const Votes& votes, int64_t place, uint32_t live,
                                      uint32_t taken, const uint32_t (&)[kRun], int& bits) const {
    if (votes.tie) check_finite<kRun>(votes.tie, votes.kind, place, live, votes.vector, bits);
    write_mask<kRun>(out, place, live, vector, taken);
  }
};

}  // namespace

void mask_select_cuda(const void* counts, int wide, const void* tie, int tie_kind,
                      const uint32_t* key, int64_t rows, int64_t columns, int64_t tile_rows,
                      int64_t tile_columns, int64_t k, int ties, uint32_t stream, int64_t* scratch,
                      int64_t scratch_words, uint8_t* out, int* errors, int device,
                      void* stream_handle) {
  if (rows == 0 || columns == 0) return;
  const DeviceGuard guard(device);
  const Votes votes = votes_of(counts, wide, kMostClients, tie, tie_kind, ties, key, stream);
  select_tiles(votes, {rows, columns, tile_rows, tile_columns}, k,
               MaskAlone{out, is_aligned16(out)}, scratch, scratch_words, errors, stream_handle);
}

}  // namespace pyfed
