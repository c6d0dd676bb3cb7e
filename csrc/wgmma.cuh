// The matrix instruction of Hopper, for sm_90a alone: warpgroups of 128 threads, the left operand
// from registers, the right one from shared memory, sums that arrive later. PTX ISA, "Asynchronous
// Warpgroup Level Matrix Instructions".
#pragma once
#include "launch.h"

#if defined(PYFED_EMULATE)
#include "emulate_wgmma.h"
#endif

// Whether this pass of the compiler has the instruction. A build for several architectures compiles
// every kernel for each of them.
#if defined(PYFED_EMULATE) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define PYFED_HAS_WGMMA
#endif

namespace pyfed {

constexpr int kCoreMatrix = 128;  // bytes: eight columns of 16 inner bytes each, one after another

#if defined(PYFED_HAS_WGMMA)

__device__ __forceinline__ uint32_t shared_address(const void* at) {
#if defined(PYFED_EMULATE)
  return emulate::shared_address(at);
#else
  return uint32_t(__cvta_generic_to_shared(at));
#endif
}

// Where a matrix of n columns by 32 bytes of the inner dimension lies, in units of 16 bytes: where
// it begins in bits 0 to 13, in bits 16 to 29 the way from the core matrix of a column's first 16
// bytes to that of the other 16 (the "leading dimension" of a K-major matrix that is not swizzled),
// in bits 32 to 45 the way from eight columns to the next eight (the "stride dimension"); zeros in
// bits 62 and 63 say that it is not swizzled.
__device__ __forceinline__ uint64_t describe_matrix(const void* at, int to_next_bytes,
                                                    int to_next_columns) {
  return uint64_t((shared_address(at) & 0x3ffff) >> 4) | uint64_t(to_next_bytes >> 4) << 16 |
         uint64_t(to_next_columns >> 4) << 32;
}

// clang-format off
#define PYFED_NAMES_32 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15" \
  ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define PYFED_NAMES_64 \
  PYFED_NAMES_32 \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
  ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define PYFED_NAMES_128 \
  PYFED_NAMES_64 \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79" \
  ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95" \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" \
  ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
// clang-format on
#define PYFED_OPERANDS_4(i) "+r"(sums[i]), "+r"(sums[i + 1]), "+r"(sums[i + 2]), "+r"(sums[i + 3])
#define PYFED_OPERANDS_16(i) \
  PYFED_OPERANDS_4(i), PYFED_OPERANDS_4(i + 4), PYFED_OPERANDS_4(i + 8), PYFED_OPERANDS_4(i + 12)
#define PYFED_OPERANDS_32 PYFED_OPERANDS_16(0), PYFED_OPERANDS_16(16)
#define PYFED_OPERANDS_64 PYFED_OPERANDS_32, PYFED_OPERANDS_16(32), PYFED_OPERANDS_16(48)
#define PYFED_OPERANDS_128                                                                \
  PYFED_OPERANDS_64, PYFED_OPERANDS_16(64), PYFED_OPERANDS_16(80), PYFED_OPERANDS_16(96), \
      PYFED_OPERANDS_16(112)
#define PYFED_MULTIPLY(columns, names, operands, a0, a1, a2, a3, b)                          \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" columns "k32.s32.u8.s8 {" names "}, {" a0 \
               ", " a1 ", " a2 ", " a3 "}, " b ", 1;"                                        \
               : operands                                                                    \
               : "r"(a.v[0]), "r"(a.v[1]), "r"(a.v[2]), "r"(a.v[3]), "l"(described))

// sums (64 x 2 kSums, int32) += a (64 x 32, unsigned bytes) times the described matrix (32 x
// 2 kSums, signed bytes), by the 128 threads of a warpgroup together. Warp w of it has rows 16w …
// 16w + 15 of a and of the sums. With g = lane / 4 and t = lane % 4 a thread holds
//   a: as for multiply_bytes in mma.cuh, of its warp's 16 rows;
//   sums: of columns 8j … 8j + 7 what it holds there of its one block, from place 4j on.
// PTX ISA, "Matrix Fragments for wgmma.mma_async.m64nNk32". Neither a nor sums may be touched
// before wait_for_products, nor what is described be written.
template <int kSums>
__device__ __forceinline__ void multiply_bytes_async(int32_t (&sums)[kSums], const Quad& a,
                                                     uint64_t described) {
  static_assert(kSums == 32 || kSums == 64 || kSums == 128, "of 64, 128 or 256 columns");
#if defined(PYFED_EMULATE)
  emulate::multiply_bytes_async(sums, kSums, a.v, described);
#else
  if constexpr (kSums == 32) {
    PYFED_MULTIPLY("64", PYFED_NAMES_32, PYFED_OPERANDS_32, "%32", "%33", "%34", "%35", "%36");
  } else if constexpr (kSums == 64) {
    PYFED_MULTIPLY("128", PYFED_NAMES_64, PYFED_OPERANDS_64, "%64", "%65", "%66", "%67", "%68");
  } else {
    PYFED_MULTIPLY("256", PYFED_NAMES_128, PYFED_OPERANDS_128, "%128", "%129", "%130", "%131",
                   "%132");
  }
#endif
}

// Before the first multiply_bytes_async after other instructions wrote its registers.
__device__ __forceinline__ void open_products() {
#if defined(PYFED_EMULATE)
  emulate::open_products();
#else
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

__device__ __forceinline__ void close_products() {
#if defined(PYFED_EMULATE)
  emulate::close_products();
#else
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

#define PYFED_QUAD(q) "+r"(q.v[0]), "+r"(q.v[1]), "+r"(q.v[2]), "+r"(q.v[3])
#define PYFED_WAIT(operands)                                                                      \
  asm volatile("wgmma.wait_group.sync.aligned 0;"                                                 \
               : operands, PYFED_QUAD(a[0]), PYFED_QUAD(a[1]), PYFED_QUAD(a[2]), PYFED_QUAD(a[3]) \
               :                                                                                  \
               : "memory")

// Until then the sums, and the left operands, are the matrix units': as arguments they are neither
// read nor given to other values before.
template <int kSums>
__device__ __forceinline__ void wait_for_products(int32_t (&sums)[kSums], Quad (&a)[4]) {
#if defined(PYFED_EMULATE)
  (void)sums, (void)a;
  emulate::wait_for_products();
#else
  if constexpr (kSums == 32) {
    PYFED_WAIT(PYFED_OPERANDS_32);
  } else if constexpr (kSums == 64) {
    PYFED_WAIT(PYFED_OPERANDS_64);
  } else {
    PYFED_WAIT(PYFED_OPERANDS_128);
  }
#endif
}

// 16 bytes from memory to shared memory, or zeros where they are not live; later.
__device__ __forceinline__ void copy_async(Quad* to, const Quad* from, bool live) {
#if defined(PYFED_EMULATE)
  emulate::copy_async(to, from, live ? sizeof(Quad) : 0, sizeof(Quad));
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(live ? 16 : 0)
               : "memory");
#endif
}

// This thread's copies are there, and after a barrier for the matrix units too, which read shared
// memory on a way of their own ("async proxy").
__device__ __forceinline__ void wait_for_copies() {
#if defined(PYFED_EMULATE)
  emulate::wait_for_copies();
  emulate::fence_writes();
#else
  asm volatile("cp.async.wait_all;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

#endif

}  // namespace pyfed
