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

template <class Body>
__attribute__((noinline)) int run_apart(const Body& body) {
  return body();
}

// Runs a thread's part of a kernel in a frame of its own, then overwrites the stack where that
// frame was. Not for what stands in the frame that calls this.
template <class Body>
inline int wiped_after(const Body& body) {
  const int errors = run_apart(body);
  wipe_stack();
  return errors;
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
