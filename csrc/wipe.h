// Overwriting what a kernel leaves on the stack: buffers, and registers that the compiler put there
// for want of room, such as a key's words.
#pragma once
#include <cstddef>
#include <cstring>

#ifndef PYFED_SIMD
#define PYFED_SIMD plain
#endif

namespace pyfed {
namespace PYFED_SIMD {

// Overwrites memory that goes out of scope, which a plain memset would not survive.
inline void wipe(void* p, size_t size) {
  std::memset(p, 0, size);
  asm volatile("" : : "r"(p) : "memory");
}

constexpr size_t kStackBytes = 24 << 10;  // more than the frames below wiped_after take

__attribute__((noinline)) inline void wipe_stack() {
  alignas(64) unsigned char below[kStackBytes];
  wipe(below, sizeof below);
}

// Clears the vector registers. Whatever saves them next would put what a kernel left in them on the
// stack: the dynamic linker when a function is called for the first time, or a signal.
inline void wipe_registers() {
#if defined(__x86_64__)
#if defined(__AVX2__)
  asm volatile("vzeroall"
#else
  asm volatile(
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n\t"
      "pxor %%xmm\\r, %%xmm\\r\n\t"
      ".endr"
#endif
               ::
                   : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                     "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
#endif
#if defined(__AVX512F__)
  asm volatile(
      ".irp r,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n\t"
      "vpxord %%zmm\\r, %%zmm\\r, %%zmm\\r\n\t"
      ".endr" ::
          : "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24",
            "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31");
#endif
}

template <class Body>
__attribute__((noinline)) int run_apart(const Body& body) {
  return body();
}

// Runs a thread's part of a kernel in a frame of its own, then overwrites the stack where that
// frame was; registers come first, since the overwriting may be a call as well. Not for what stands
// in the frame that calls this.
template <class Body>
inline int wiped_after(const Body& body) {
  const int errors = run_apart(body);
  wipe_registers();
  wipe_stack();
  return errors;
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
