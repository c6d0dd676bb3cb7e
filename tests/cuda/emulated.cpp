// The CUDA launchers, emulated, as C functions for ctypes: they give null, or what was thrown.
#include <cstring>
#include <exception>
#include <string>

#include "kernels.h"
#include "mma.cuh"
#include "wgmma.cuh"

namespace {

template <auto launcher>
struct Caught;
template <class... Args, void (*launcher)(Args...)>
struct Caught<launcher> {
  static const char* call(Args... args) {
    static std::string message;
    try {
      launcher(args...);
      return nullptr;
    } catch (const std::exception& error) {
      message = error.what();
      return message.c_str();
    }
  }
};

// Three kernels with faults, to show that the emulator notices.
void diverge() {
  if (threadIdx.x % 2) __syncthreads();
}
void leak() {
  PYFED_SHARED(int, word);
  word = 1;
}
void lone_thread() {
  int32_t sums[4] = {};
  if (threadIdx.x == 1) pyfed::multiply_bytes(sums, pyfed::Quad{}, 0, 0);
}
void lonely_thread(int) { pyfed::emulate::run(1, 32, lone_thread); }

// One matrix instruction: 16 bytes of a, 8 of b and 4 sums for each of 32 threads.
void multiply_bytes(const pyfed::Quad* a, const uint32_t* b, int32_t* d) {
  pyfed::emulate::run(1, 32, [=] {
    const int lane = threadIdx.x;
    int32_t sums[4];
    std::memcpy(sums, d + 4 * lane, sizeof sums);
    pyfed::multiply_bytes(sums, a[lane], b[2 * lane], b[2 * lane + 1]);
    std::memcpy(d + 4 * lane, sums, sizeof sums);
  });
}

// One asynchronous matrix instruction: 16 bytes of a for each of 128 threads, 16 KiB of shared
// memory, and columns / 2 sums for each thread.
template <int kSums>
void multiply_on_warpgroup(const pyfed::Quad* a, const void* b, int32_t* d, int to_next_bytes,
                           int to_next_columns) {
  pyfed::emulate::run(1, 128, [=] {
    struct Shared {
      char bytes[1 << 14];
    };
    PYFED_SHARED(Shared, shared);
    if (threadIdx.x == 0) std::memcpy(&shared, b, sizeof shared);
    __syncthreads();
    int32_t sums[kSums];
    std::memcpy(sums, d + kSums * threadIdx.x, sizeof sums);
    pyfed::Quad quads[4] = {a[threadIdx.x]};
    pyfed::open_products();
    pyfed::multiply_bytes_async(sums, quads[0],
                                pyfed::describe_matrix(&shared, to_next_bytes, to_next_columns));
    pyfed::close_products();
    pyfed::wait_for_products(sums, quads);
    std::memcpy(d + kSums * threadIdx.x, sums, sizeof sums);
  });
}
void multiply_bytes_async(const pyfed::Quad* a, const void* b, int32_t* d, int columns,
                          int to_next_bytes, int to_next_columns) {
  const auto run = columns == 64    ? multiply_on_warpgroup<32>
                   : columns == 128 ? multiply_on_warpgroup<64>
                                    : multiply_on_warpgroup<128>;
  run(a, b, d, to_next_bytes, to_next_columns);
}

// Kernels with one fault each: a thread alone, no fence before, no group, descriptors that differ,
// copies that the matrix units may not see.
void faulty_products(int fault) {
  using Quads = pyfed::Quad[128];
  static const pyfed::Quad from = {};
  pyfed::emulate::run(1, 128, [=] {
    PYFED_SHARED(Quads, shared);
    int32_t sums[32] = {};
    pyfed::Quad quads[4] = {};
    if (fault == 0 && threadIdx.x) return;
    if (fault == 4) {
      pyfed::emulate::copy_async(&shared[0], &from, sizeof from, sizeof from);
      pyfed::emulate::wait_for_copies();
    }
    if (fault != 1) pyfed::open_products();
    pyfed::multiply_bytes_async(
        sums, quads[0],
        pyfed::describe_matrix(&shared, fault == 3 ? 16 * int(threadIdx.x) : 128, 256));
    if (fault != 2) pyfed::close_products();
    pyfed::wait_for_products(sums, quads);
  });
}

void bad_barrier(int) { pyfed::emulate::run(1, 4, diverge); }
void dirty_memory(int) { pyfed::emulate::run(1, 4, leak); }

}  // namespace

#define PYFED_NAMED(name, function) \
  if (!std::strcmp(wanted, name)) return reinterpret_cast<void*>(&Caught<&function>::call)

extern "C" void* emulated_launcher(const char* wanted) {
  PYFED_NAMED("random_words", pyfed::random_words_cuda);
  PYFED_NAMED("random_residues", pyfed::random_residues_cuda);
  PYFED_NAMED("add_masks", pyfed::add_masks_cuda);
  PYFED_NAMED("quantize_mask", pyfed::quantize_mask_cuda);
  PYFED_NAMED("decode_sum", pyfed::decode_sum_cuda);
  PYFED_NAMED("field_matmul", pyfed::field_matmul_cuda);
  PYFED_NAMED("field_sum", pyfed::field_sum_cuda);
  PYFED_NAMED("quantize", pyfed::quantize_cuda);
  PYFED_NAMED("dequantize", pyfed::dequantize_cuda);
  PYFED_NAMED("dequantize_wide", pyfed::dequantize_wide_cuda);
  PYFED_NAMED("field_lift", pyfed::field_lift_cuda);
  PYFED_NAMED("lagrange_encode", pyfed::lagrange_encode_cuda);
  PYFED_NAMED("lagrange_transform", pyfed::lagrange_transform_cuda);
  PYFED_NAMED("quantize_encode", pyfed::quantize_encode_cuda);
  PYFED_NAMED("quantize_transform", pyfed::quantize_transform_cuda);
  PYFED_NAMED("lagrange_decode", pyfed::lagrange_decode_cuda);
  PYFED_NAMED("mask_pack", pyfed::mask_pack_cuda);
  PYFED_NAMED("mask_unpack", pyfed::mask_unpack_cuda);
  PYFED_NAMED("mask_popcount", pyfed::mask_popcount_cuda);
  PYFED_NAMED("mask_count", pyfed::mask_count_cuda);
  PYFED_NAMED("mask_add", pyfed::mask_add_cuda);
  PYFED_NAMED("mask_totals", pyfed::mask_totals_cuda);
  PYFED_NAMED("mask_select", pyfed::mask_select_cuda);
  PYFED_NAMED("mask_prune", pyfed::mask_prune_cuda);
  PYFED_NAMED("masked_mean", pyfed::masked_mean_cuda);
  PYFED_NAMED("counter_dropout", pyfed::counter_dropout_cuda);
  PYFED_NAMED("weighted_mean", pyfed::weighted_mean_cuda);
  PYFED_NAMED("segment_clip", pyfed::segment_clip_cuda);
  PYFED_NAMED("bank_adamw", pyfed::bank_adamw_cuda);
  PYFED_NAMED("bank_sgd", pyfed::bank_sgd_cuda);
  PYFED_NAMED("multiply_bytes", multiply_bytes);
  PYFED_NAMED("multiply_bytes_async", multiply_bytes_async);
  PYFED_NAMED("faulty_products", faulty_products);
  PYFED_NAMED("lonely_thread", lonely_thread);
  PYFED_NAMED("bad_barrier", bad_barrier);
  PYFED_NAMED("dirty_memory", dirty_memory);
  return nullptr;
}

extern "C" pyfed::emulate::Control* emulated_control() { return &pyfed::emulate::control; }
extern "C" int* emulated_device() { return &pyfed::emulate::current_device; }
extern "C" bool emulated_set_wgmma(bool wanted) { return pyfed::set_wgmma(wanted); }
