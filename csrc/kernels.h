// All kernels: the table of contents of csrc. Pointers are raw, counts are 64-bit, tensors are
// contiguous and row-major, words and residues are 32 bits wide, keys are 8 words.
#pragma once
#include <cstddef>
#include <cstdint>

namespace pyfed {

// Each CPU file is compiled once per SIMD level, into a namespace of that name. A CPU kernel gives
// the error bits of common.h; `threads` is the most that it may use.
#define PYFED_DECLARE_CPU_KERNELS                                                                  \
  int random_words_cpu(const uint32_t* key, int64_t start, int64_t count, uint32_t stream,         \
                       uint32_t* out, int threads);                                                \
  int random_residues_cpu(const uint32_t* key, int64_t start, int64_t count, uint32_t stream,      \
                          uint32_t modulus, uint32_t* out, int threads);                           \
  int add_masks_cpu(uint32_t* residues, int64_t length, const uint32_t* keys,                      \
                    const int32_t* signs, int64_t masks, uint32_t modulus, uint32_t stream,        \
                    int64_t start, int threads);                                                   \
  /* table: (3, entries), highest words first. */                                                  \
  int discrete_gaussian_cpu(const uint32_t* key, const uint32_t* table, int64_t entries,           \
                            const int32_t* coefficients, int64_t terms, int64_t start,             \
                            int64_t count, uint32_t stream, uint32_t* out, int threads);           \
  int field_matmul_cpu(const uint32_t* a, const uint32_t* b, int64_t m, int64_t k, int64_t n,      \
                       uint32_t modulus, uint32_t* out, int32_t* scratch, int threads);            \
  int field_sum_cpu(const uint32_t* x, const uint32_t* weights, int64_t clients, int64_t count,    \
                    uint32_t modulus, uint32_t* out, int threads);                                 \
  int quantize_cpu(const float* values, int64_t count, float scale, float clip, uint32_t modulus,  \
                   const uint32_t* key, uint32_t stream, int64_t start, uint32_t* out,             \
                   int threads);                                                                   \
  int dequantize_cpu(const uint32_t* residues, int64_t count, float scale, uint32_t modulus,       \
                     float* out, int threads);                                                     \
  /* residues: (count,) of the prime `first`; where `second` is not 0, (2, count) of WIDE. */      \
  int field_lift_cpu(const uint32_t* residues, int64_t count, uint32_t first, uint32_t second,     \
                     int64_t* out, int threads);                                                   \
  int dequantize_wide_cpu(const uint32_t* residues, int64_t count, float scale, uint32_t first,    \
                          uint32_t second, float* out, int threads);                               \
  /* The bits of quantize, times the weight, and then of add_masks. */                             \
  int quantize_mask_cpu(const float* values, int64_t length, float scale, float clip,              \
                        uint32_t modulus, const uint32_t* key, const uint32_t* keys,               \
                        const int32_t* signs, int64_t masks, int32_t weight, uint32_t stream,      \
                        int64_t start, uint32_t* out, int threads);                                \
  /* The sum of the uploads minus the decoded rows: residues when the scale is 0, else floats. */  \
  int decode_sum_cpu(const uint32_t* uploads, int64_t clients, int64_t length,                     \
                     const uint32_t* rows, int64_t columns, const uint32_t* matrix,                \
                     int64_t blocks, int64_t threshold, float scale, uint32_t modulus,             \
                     int32_t* scratch, uint32_t* out, int threads);                                \
  int lagrange_encode_cpu(const uint32_t* data, int64_t length, const uint32_t* matrix,            \
                          int64_t shares, int64_t blocks, int64_t privacy, const uint32_t* key,    \
                          uint32_t stream, int64_t start_column, uint32_t modulus, uint32_t* out,  \
                          int32_t* scratch, int threads);                                          \
  /* The same shares, by transforms: the matrix must be that of a code whose points are a subgroup \
     and a coset of it. */                                                                         \
  int lagrange_transform_cpu(const uint32_t* data, int64_t length, const uint32_t* matrix,         \
                             int64_t shares, int64_t blocks, int64_t privacy, const uint32_t* key, \
                             uint32_t stream, int64_t start_column, uint32_t modulus,              \
                             uint32_t* out, int32_t* scratch, int threads);                        \
  /* Floats to shares, quantize and then lagrange_encode, in one pass: by products, transforms. */ \
  int quantize_encode_cpu(const float* values, int64_t length, float scale, float clip,            \
                          const uint32_t* matrix, int64_t shares, int64_t blocks, int64_t privacy, \
                          const uint32_t* key, uint32_t stream, int64_t start_column,              \
                          uint32_t modulus, uint32_t* out, int32_t* scratch, int threads);         \
  int quantize_transform_cpu(                                                                      \
      const float* values, int64_t length, float scale, float clip, const uint32_t* matrix,        \
      int64_t shares, int64_t blocks, int64_t privacy, const uint32_t* key, uint32_t stream,       \
      int64_t start_column, uint32_t modulus, uint32_t* out, int32_t* scratch, int threads);       \
  /* Words of scratch that the transforms want. */                                                 \
  int64_t transform_workspace(int64_t shares, int64_t blocks, int64_t privacy, int threads);       \
  int lagrange_decode_cpu(const uint32_t* rows, int64_t columns, const uint32_t* matrix,           \
                          int64_t blocks, int64_t threshold, int64_t length, uint32_t modulus,     \
                          uint32_t* out, int32_t* scratch, int threads);                           \
  int mask_pack_cpu(const uint8_t* mask, int64_t rows, int64_t length, uint8_t* out, int threads); \
  int mask_unpack_cpu(const uint8_t* packed, int64_t rows, int64_t length, uint8_t* out,           \
                      int threads);                                                                \
  int mask_popcount_cpu(const uint8_t* packed, int64_t rows, int64_t length, int64_t* out,         \
                        int threads);                                                              \
  int mask_count_cpu(const uint8_t* packed, int64_t clients, int64_t length, void* out,            \
                     int threads);                                                                 \
  int mask_add_cpu(const uint8_t* planes, int64_t planes_n, const uint8_t* packed,                 \
                   int64_t clients, int64_t length, int64_t out_planes, uint8_t* out,              \
                   int threads);                                                                   \
  int mask_totals_cpu(const uint8_t* planes, int64_t planes_n, int64_t length, void* out,          \
                      int threads);                                                                \
  int mask_select_cpu(const void* counts, int wide, const void* tie, int tie_kind,                 \
                      const uint32_t* key, int64_t rows, int64_t columns, int64_t tile_rows,       \
                      int64_t tile_columns, int64_t k, int ties, uint32_t stream,                  \
                      uint32_t* scratch, uint8_t* out, int threads);                               \
  int mask_prune_cpu(void* weight, int weight_kind, const void* counts, int wide, const void* tie, \
                     int tie_kind, const uint32_t* key, const float* factors,                      \
                     int64_t factor_count, int64_t rows, int64_t columns, int64_t tile_rows,       \
                     int64_t tile_columns, int64_t k, int ties, uint32_t stream,                   \
                     uint32_t* scratch, uint8_t* out, int threads);                                \
  /* Words of scratch that both of them want. */                                                   \
  int64_t selection_workspace(int threads);                                                        \
  int masked_mean_cpu(const void* values, int kind, int64_t clients, int64_t length,               \
                      int64_t columns, int form, const uint8_t* masks, const int64_t* places,      \
                      const int64_t* starts, int64_t total, const int32_t* weights,                \
                      const void* server, int denominator, int64_t min_votes, void* out,           \
                      int threads);                                                                \
  /* table: addresses (clients, tensors) and of the means, then of the means sizes and kinds, then \
     chunks (chunk_count, 2): a tensor and its first element there. */                             \
  int weighted_mean_cpu(const int64_t* table, int64_t clients, int64_t tensors,                    \
                        int64_t chunk_count, int64_t chunk_size, const float* weights,             \
                        int threads);                                                              \
  int segment_clip_cpu(float* grads, int64_t clients, int64_t length, const float* max_norm,       \
                       float* norms, double* partials, int threads);                               \
  int bank_adamw_cpu(float* params, const float* grads, float* exp_avg, float* exp_avg_sq,         \
                     int64_t clients, int64_t length, const float* factors, int threads);          \
  int bank_sgd_cpu(float* params, const float* grads, float* momentum, int64_t clients,            \
                   int64_t length, const float* factors, int threads);                             \
  int counter_dropout_cpu(const void* x, int kind, int64_t rows, int64_t features,                 \
                          int64_t clients, const int64_t* starts, const uint32_t* key,             \
                          const int64_t* streams, uint32_t threshold, float keep_scale, void* out, \
                          int threads);                                                            \
  /* base[m, n] += Σ_k left[m · left_row + k · left_k] · scale[k] · right[k · right_k + n · …]. */ \
  int lora_merge_cpu(void* base, int kind, int64_t rows, int64_t columns, int64_t rank,            \
                     const float* left, int64_t left_row, int64_t left_k, const float* right,      \
                     int64_t right_k, int64_t right_column, const float* scale, float* scratch,    \
                     int threads);                                                                 \
  int lora_linear_cpu(const void* x, int kind, int64_t rows, int64_t in, int64_t outs,             \
                      int64_t rank, int64_t clients, const int64_t* starts, const float* a,        \
                      int64_t a_stride, const float* b, int64_t b_stride, const float* scale,      \
                      const uint32_t* key, const int64_t* streams, uint32_t threshold,             \
                      float keep_scale, const void* base, void* out, float* hidden,                \
                      float* scratch, int threads);                                                \
  int lora_linear_backward_cpu(                                                                    \
      const void* grad, const void* x, int kind, int64_t rows, int64_t in, int64_t outs,           \
      int64_t rank, int64_t clients, const int64_t* starts, const float* a, int64_t a_stride,      \
      const float* b, int64_t b_stride, const float* hidden, const float* scale,                   \
      const uint32_t* key, const int64_t* streams, uint32_t threshold, float keep_scale, void* dx, \
      float* da, float* db, float* scratch, int threads);                                          \
  /* Floats of scratch that lora_merge wants, and lora_linear or its backward. */                  \
  int64_t merge_workspace(int64_t rows, int64_t columns, int64_t rank);                            \
  int64_t lora_workspace(int64_t rows, int64_t in, int64_t outs, int64_t rank, int backward,       \
                         int threads);                                                             \
  /* x: (samples, features) or, to transpose, (clients, rows, features). G is made from the seed   \
     or, without one, from the key, which makes the noise too. */                                  \
  int sketch_cpu(const float* x, const int64_t* starts, int64_t clients, int64_t samples,          \
                 int64_t features, int64_t rows, int kind, const uint32_t* seed,                   \
                 const uint32_t* key, float noise_std, uint32_t stream, int transpose, float* out, \
                 float* scratch, int threads);                                                     \
  /* Floats of scratch that it wants. */                                                           \
  int64_t sketch_workspace(int64_t clients, int64_t samples, int64_t features, int64_t rows,       \
                           int kind, int secret, int transpose, int threads);                      \
  /* Words of scratch that the products want; kept_rows is the blocks of a decode, else 0. */      \
  int64_t product_workspace(int64_t kept_rows, int threads);

namespace plain {
PYFED_DECLARE_CPU_KERNELS
}
namespace avx2 {
PYFED_DECLARE_CPU_KERNELS
}
namespace avx512 {
PYFED_DECLARE_CPU_KERNELS
}
#undef PYFED_DECLARE_CPU_KERNELS

// CUDA launchers: they enqueue on `stream_handle` (a cudaStream_t) of `device`, set the error bits
// in the device word `errors` with atomicOr, and throw std::runtime_error when a launch fails.
void random_words_cuda(const uint32_t* key, int64_t start, int64_t count, uint32_t stream,
                       uint32_t* out, int* errors, int device, void* stream_handle);
void random_residues_cuda(const uint32_t* key, int64_t start, int64_t count, uint32_t stream,
                          uint32_t modulus, uint32_t* out, int* errors, int device,
                          void* stream_handle);
// residues[i] += Σ_m signs[m] · residue start + i of key m; signs are 1 or -1.
void add_masks_cuda(uint32_t* residues, int64_t length, const uint32_t* keys, const int32_t* signs,
                    int64_t masks, uint32_t modulus, uint32_t stream, int64_t start, int* errors,
                    int device, void* stream_handle);
void field_matmul_cuda(const uint32_t* a, const uint32_t* b, int64_t m, int64_t k, int64_t n,
                       uint32_t modulus, uint32_t* out, int32_t* scratch, int* errors, int device,
                       void* stream_handle);
void field_sum_cuda(const uint32_t* x, const uint32_t* weights, int64_t clients, int64_t count,
                    uint32_t modulus, uint32_t* out, int* errors, int device, void* stream_handle);
void quantize_cuda(const float* values, int64_t count, float scale, float clip, uint32_t modulus,
                   const uint32_t* key, uint32_t stream, int64_t start, uint32_t* out, int* errors,
                   int device, void* stream_handle);
void dequantize_cuda(const uint32_t* residues, int64_t count, float scale, uint32_t modulus,
                     float* out, int* errors, int device, void* stream_handle);
void field_lift_cuda(const uint32_t* residues, int64_t count, uint32_t first, uint32_t second,
                     int64_t* out, int* errors, int device, void* stream_handle);
void dequantize_wide_cuda(const uint32_t* residues, int64_t count, float scale, uint32_t first,
                          uint32_t second, float* out, int* errors, int device,
                          void* stream_handle);
void quantize_mask_cuda(const float* values, int64_t length, float scale, float clip,
                        uint32_t modulus, const uint32_t* key, const uint32_t* keys,
                        const int32_t* signs, int64_t masks, int32_t weight, uint32_t stream,
                        int64_t start, uint32_t* out, int* errors, int device, void* stream_handle);
void decode_sum_cuda(const uint32_t* uploads, int64_t clients, int64_t length, const uint32_t* rows,
                     int64_t columns, const uint32_t* matrix, int64_t blocks, int64_t threshold,
                     float scale, uint32_t modulus, int32_t* scratch, uint32_t* out, int* errors,
                     int device, void* stream_handle);
// Whether products on int8 matrix units take the instruction of Hopper where it serves; gives what
// held before. The environment variable PYFED_WGMMA=1 wants it from the start. And whether it
// serves: wanted, on a current device of compute capability 9.0, in a build with code for sm_90a.
bool set_wgmma(bool wanted);
bool wgmma_serves();
void lagrange_encode_cuda(const uint32_t* data, int64_t length, const uint32_t* matrix,
                          int64_t shares, int64_t blocks, int64_t privacy, const uint32_t* key,
                          uint32_t stream, int64_t start_column, uint32_t modulus, uint32_t* out,
                          int32_t* scratch, int* errors, int device, void* stream_handle);
void lagrange_transform_cuda(const uint32_t* data, int64_t length, const uint32_t* matrix,
                             int64_t shares, int64_t blocks, int64_t privacy, const uint32_t* key,
                             uint32_t stream, int64_t start_column, uint32_t modulus, uint32_t* out,
                             int32_t* scratch, int* errors, int device, void* stream_handle);
void quantize_encode_cuda(const float* values, int64_t length, float scale, float clip,
                          const uint32_t* matrix, int64_t shares, int64_t blocks, int64_t privacy,
                          const uint32_t* key, uint32_t stream, int64_t start_column,
                          uint32_t modulus, uint32_t* out, int32_t* scratch, int* errors,
                          int device, void* stream_handle);
void quantize_transform_cuda(const float* values, int64_t length, float scale, float clip,
                             const uint32_t* matrix, int64_t shares, int64_t blocks,
                             int64_t privacy, const uint32_t* key, uint32_t stream,
                             int64_t start_column, uint32_t modulus, uint32_t* out,
                             int32_t* scratch, int* errors, int device, void* stream_handle);
void lagrange_decode_cuda(const uint32_t* rows, int64_t columns, const uint32_t* matrix,
                          int64_t blocks, int64_t threshold, int64_t length, uint32_t modulus,
                          uint32_t* out, int32_t* scratch, int* errors, int device,
                          void* stream_handle);
void mask_pack_cuda(const uint8_t* mask01, int64_t rows, int64_t length, uint8_t* out, int* errors,
                    int device, void* stream_handle);
void mask_unpack_cuda(const uint8_t* packed, int64_t rows, int64_t length, uint8_t* out01,
                      int* errors, int device, void* stream_handle);
void mask_popcount_cuda(const uint8_t* packed, int64_t rows, int64_t length, int64_t* out,
                        int* errors, int device, void* stream_handle);
void mask_count_cuda(const uint8_t* packed, int64_t clients, int64_t length, void* out, int* errors,
                     int device, void* stream_handle);
void mask_add_cuda(const uint8_t* planes, int64_t planes_n, const uint8_t* packed, int64_t clients,
                   int64_t length, int64_t out_planes, uint8_t* out, int* errors, int device,
                   void* stream_handle);
void mask_totals_cuda(const uint8_t* planes, int64_t planes_n, int64_t length, void* out,
                      int* errors, int device, void* stream_handle);
// `scratch` has `scratch_words` words: see selection_scratch in pyfed/ops/selection.py.
void mask_select_cuda(const void* counts, int wide, const void* tie, int tie_kind,
                      const uint32_t* key, int64_t rows, int64_t columns, int64_t tile_rows,
                      int64_t tile_columns, int64_t k, int ties, uint32_t stream, int64_t* scratch,
                      int64_t scratch_words, uint8_t* out, int* errors, int device,
                      void* stream_handle);
void mask_prune_cuda(void* weight, int weight_kind, const void* counts, int wide, const void* tie,
                     int tie_kind, const uint32_t* key, const float* factors, int64_t factor_count,
                     int64_t rows, int64_t columns, int64_t tile_rows, int64_t tile_columns,
                     int64_t k, int ties, uint32_t stream, int64_t* scratch, int64_t scratch_words,
                     uint8_t* out, int* errors, int device, void* stream_handle);
void masked_mean_cuda(const void* values, int kind, int64_t clients, int64_t length,
                      int64_t columns, int form, const uint8_t* masks, const int64_t* places,
                      const int64_t* starts, int64_t total, const int32_t* weights,
                      const void* server, int denominator, int64_t min_votes, void* out,
                      int* errors, int device, void* stream_handle);
void counter_dropout_cuda(const void* x, int kind, int64_t rows, int64_t features, int64_t clients,
                          const int64_t* starts, const uint32_t* key, const int64_t* streams,
                          uint32_t threshold, float keep_scale, void* out, int* errors, int device,
                          void* stream_handle);
// The table is in the host's memory; `room`, as many words, is the device's.
void weighted_mean_cuda(const int64_t* table, int64_t clients, int64_t tensors, int64_t chunk_count,
                        int64_t chunk_size, const float* weights, int64_t* room, int* errors,
                        int device, void* stream_handle);
void segment_clip_cuda(float* grads, int64_t clients, int64_t length, const float* max_norm,
                       float* norms, double* partials, int* errors, int device,
                       void* stream_handle);
void bank_adamw_cuda(float* params, const float* grads, float* exp_avg, float* exp_avg_sq,
                     int64_t clients, int64_t length, const float* factors, int* errors, int device,
                     void* stream_handle);
void bank_sgd_cuda(float* params, const float* grads, float* momentum, int64_t clients,
                   int64_t length, const float* factors, int* errors, int device,
                   void* stream_handle);

}  // namespace pyfed
