// Large pages for large results: the first write to each page of 4 KiB otherwise costs a fault,
// which takes longer than many a kernel does for the 1024 elements on it.
#pragma once
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#ifndef PYFED_SIMD
#define PYFED_SIMD plain
#endif

namespace pyfed {
namespace PYFED_SIMD {

// A hint for memory that is about to be written, which the system may ignore. Only pages that lie
// in it as a whole are meant, so that it takes no more memory than it would.
inline void prefer_large_pages([[maybe_unused]] void* start, [[maybe_unused]] int64_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = uintptr_t(1) << 21;
  const uintptr_t address = reinterpret_cast<uintptr_t>(start);
  const uintptr_t first = (address + kPage - 1) / kPage * kPage;
  const uintptr_t end = (address + uintptr_t(bytes)) / kPage * kPage;
  if (first < end) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#endif
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
