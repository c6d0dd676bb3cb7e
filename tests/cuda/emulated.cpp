// The CUDA launchers, emulated, as C functions for ctypes: they give null, or what was thrown.
#include <cstring>
#include <exception>
#include <string>

#include "kernels.h"
#include "mma.cuh"

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
  PYFED_NAMED("lonely_thread", lonely_thread);
  PYFED_NAMED("bad_barrier", bad_barrier);
  PYFED_NAMED("dirty_memory", dirty_memory);
  return nullptr;
}

extern "C" pyfed::emulate::Control* emulated_control() { return &pyfed::emulate::control; }
extern "C" int* emulated_device() { return &pyfed::emulate::current_device; }
