// All kernels: the table of contents of csrc. Pointers are raw, counts are 64-bit, tensors are
// contiguous and row-major, words and residues are 32 bits wide, keys are 8 words.
#pragma once
#include <cstddef>
#include <cstdint>

namespace pyfed {

// Each CPU file is compiled once per SIMD level, into a namespace of that name. A CPU kernel gives
// the error bits of common.h; `threads` is the most that it may use.
#define PYFED_DECLARE_CPU_KERNELS                                                                 \
  int random_words_cpu(const uint32_t* key, int64_t start, int64_t count, uint32_t stream,        \
                       uint32_t* out, int threads);                                               \
  int random_residues_cpu(const uint32_t* key, int64_t start, int64_t count, uint32_t stream,     \
                          uint32_t modulus, uint32_t* out, int threads);                          \
  int field_matmul_cpu(const uint32_t* a, const uint32_t* b, int64_t m, int64_t k, int64_t n,     \
                       uint32_t modulus, uint32_t* out, int32_t* scratch, int threads);           \
  int field_sum_cpu(const uint32_t* x, const uint32_t* weights, int64_t clients, int64_t count,   \
                    uint32_t modulus, uint32_t* out, int threads);                                \
  int quantize_cpu(const float* values, int64_t count, float scale, float clip, uint32_t modulus, \
                   const uint32_t* key, uint32_t stream, int64_t start, uint32_t* out,            \
                   int threads);                                                                  \
  int dequantize_cpu(const uint32_t* residues, int64_t count, float scale, uint32_t modulus,      \
                     float* out, int threads);                                                    \
  int lagrange_encode_cpu(const uint32_t* data, int64_t length, const uint32_t* matrix,           \
                          int64_t shares, int64_t blocks, int64_t privacy, const uint32_t* key,   \
                          uint32_t stream, int64_t start_column, uint32_t modulus, uint32_t* out, \
                          int32_t* scratch, int threads);                                         \
  int lagrange_decode_cpu(const uint32_t* rows, int64_t columns, const uint32_t* matrix,          \
                          int64_t blocks, int64_t threshold, int64_t length, uint32_t modulus,    \
                          uint32_t* out, int32_t* scratch, int threads);                          \
  /* Words of scratch that the products want; kept_rows is the blocks of a decode, else 0. */     \
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
void lagrange_encode_cuda(const uint32_t* data, int64_t length, const uint32_t* matrix,
                          int64_t shares, int64_t blocks, int64_t privacy, const uint32_t* key,
                          uint32_t stream, int64_t start_column, uint32_t modulus, uint32_t* out,
                          int32_t* scratch, int* errors, int device, void* stream_handle);
void lagrange_decode_cuda(const uint32_t* rows, int64_t columns, const uint32_t* matrix,
                          int64_t blocks, int64_t threshold, int64_t length, uint32_t modulus,
                          uint32_t* out, int32_t* scratch, int* errors, int device,
                          void* stream_handle);

}  // namespace pyfed
