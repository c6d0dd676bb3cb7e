// Runs CUDA kernels on the CPU: what csrc/launch.h and the kernels use of CUDA, for plain g++.
// Each thread of a block is a fiber; a barrier switches to the next one, and so does an instruction
// that the threads of a warp run together. Shared memory is allocated block by block, filled with
// rubbish before, and looked at after.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <stdexcept>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict
#define PYFED_SHARED(type, name) \
  type& name = *static_cast<type*>(pyfed::emulate::shared_memory(sizeof(type)))
#define PYFED_DYNAMIC_SHARED(type, name) PYFED_SHARED(type, name)

using cudaStream_t = void*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
constexpr int cudaDevAttrMultiProcessorCount = 16;
constexpr int cudaDevAttrComputeCapabilityMajor = 75, cudaDevAttrComputeCapabilityMinor = 76;
struct cudaFuncAttributes {
  int numRegs;
};

namespace pyfed {
namespace emulate {

constexpr int kDevices = 2;
constexpr size_t kStack = (128 << 10) + 320;  // ends that do not fall into the same cache lines
constexpr unsigned char kRubbish = 0xa5;

// What a test sets and reads.
struct Control {
  int64_t last_blocks = 0;  // run only so many blocks, the last of the grid; 0: all
  int backwards = 0;        // threads run in this order between barriers
  int fail = 0;             // the next launch reports this error
  int launches = 0;         // kernels run
  int64_t blocks_run = 0;
  int dirty_blocks = 0;     // blocks that left something in shared memory
  int multiprocessors = 0;  // 0: so many that each block has one tile
  int capability = 0;       // of the device; 0: 9.0, 80: 8.0
  int lacks_code = 0;       // the build has none for sm_90a
};
inline Control control;
inline int current_device = 0;

constexpr int kWarp = 32, kWarpgroup = 128;

enum State { kReady, kWaitingForWarp, kWaitingForWarpgroup, kWaiting, kDone };

// What a thread brings to a matrix instruction. The next one goes beside it: a thread may bring
// that while others still read the first, and no thread is further ahead.
struct Fragments {
  int count = 0;
  uint32_t a[2][4], b[2][2];
};

// Where a fiber, or who runs it, goes on. A context is entered once alone: to change it takes two
// system calls, and to jump takes none. AddressSanitizer knows contexts, but no such jumps.
struct Place {
  ucontext_t context;
  jmp_buf jump;
  bool entered = false;
};

#ifdef __SANITIZE_ADDRESS__
inline void leave(Place& from, Place& to) { swapcontext(&from.context, &to.context); }
#else
__attribute__((noinline)) inline void leave(Place& from, Place& to) {
  if (_setjmp(from.jump)) return;
  if (std::exchange(to.entered, true)) _longjmp(to.jump, 1);
  setcontext(&to.context);
}
#endif

struct Block {
  Place home;
  std::vector<Place> fibers;
  std::vector<State> states;
  std::vector<Fragments> fragments;
  std::vector<char> stacks;
  std::function<void()> body;
  int current = 0, number = 0;  // of the thread; of the kernel
  std::exception_ptr error;
  void* shared = nullptr;
  size_t shared_size = 0;
};
inline Block block;

inline void* shared_memory(size_t size) {  // one object a kernel
  if (!block.shared) {
    block.shared = std::aligned_alloc(128, (size + 127) / 128 * 128);
    std::memset(block.shared, kRubbish, size);
    block.shared_size = size;
  }
  if (block.shared_size != size) std::abort();
  return block.shared;
}

inline void check_shared_memory() {
  const unsigned char* bytes = static_cast<const unsigned char*>(block.shared);
  bool dirty = false;
  for (size_t i = 0; i < block.shared_size; ++i) {  // wiped, or never written
    dirty = dirty || (bytes[i] != 0 && bytes[i] != kRubbish);
  }
  control.dirty_blocks += dirty;
  std::free(block.shared);
  block.shared = nullptr;
  block.shared_size = 0;
}

}  // namespace emulate
}  // namespace pyfed

struct EmulatedIndex {
  unsigned x;
};
inline EmulatedIndex threadIdx, blockIdx;

namespace pyfed {
namespace emulate {

inline void wait_in(State state) {
  block.states[block.current] = state;
  leave(block.fibers[block.current], block.home);
}

// mma.sync.m16n8k32 with unsigned bytes in a and signed ones in b: each thread brings its words,
// and computes its four sums from what all have brought. Who holds what: PTX ISA, "Matrix Fragments
// for mma.m16n8k32".
inline void multiply_bytes(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const int lane = block.current % kWarp;
  const Fragments* warp = block.fragments.data() + (block.current - lane);
  Fragments& mine = block.fragments[block.current];
  const int turn = mine.count++ % 2;
  for (int i = 0; i < 4; ++i) mine.a[turn][i] = a[i];
  mine.b[turn][0] = b0, mine.b[turn][1] = b1;
  wait_in(kWaitingForWarp);
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + (i < 2 ? 0 : 8), column = lane % 4 * 2 + i % 2;
    int64_t sum = d[i];
    for (int word = 0; word < 8; ++word) {  // four bytes along the inner dimension, of 32
      uint32_t left = warp[row % 8 * 4 + word % 4].a[turn][row / 8 + word / 4 * 2];
      uint32_t right = warp[column * 4 + word % 4].b[turn][word / 4];
      for (int j = 0; j < 4; ++j, left >>= 8, right >>= 8) {
        sum += int(uint8_t(left)) * int(int8_t(right));
      }
    }
    if (sum != int32_t(sum)) throw std::runtime_error("emulated CUDA: a matrix sum overflows");
    d[i] = int32_t(sum);
  }
}

}  // namespace emulate
}  // namespace pyfed

inline void __syncthreads() { pyfed::emulate::wait_in(pyfed::emulate::kWaiting); }

namespace pyfed {
namespace emulate {

// Runs the thread of one block, then that of the next.
inline void fiber() {
  for (;;) {
    try {
      block.body();
    } catch (...) {  // an exception cannot leave a fiber
      block.error = std::current_exception();
    }
    wait_in(kDone);
  }
}

// Starts the fibers of threads whose last block did not come to its end.
inline void start_fibers(int threads) {
  block.home.entered = true;
  for (int t = 0; t < threads; ++t) {
    if (block.states[t] == kDone) continue;
    ucontext_t& context = block.fibers[t].context;
    getcontext(&context);
    context.uc_stack.ss_sp = block.stacks.data() + t * kStack;
    context.uc_stack.ss_size = kStack;
    context.uc_link = nullptr;
    makecontext(&context, fiber, 0);
    block.fibers[t].entered = false;
  }
}

// Lets the threads go on of each warp that waits for none but its own, or of one warpgroup, so that
// warpgroups drift apart as far as barriers let them; whether there is one.
inline bool release(int threads, int together, State state) {
  bool released = false;
  for (int first = 0; first < threads; first += together) {
    const int last = first + together < threads ? first + together : threads;
    int waiting = 0;
    for (int t = first; t < last; ++t) waiting += block.states[t] == state;
    if (waiting == 0) continue;
    if (waiting != together) {
      throw std::runtime_error("emulated CUDA: a matrix instruction lacks threads of its warp");
    }
    for (int t = first; t < last; ++t) block.states[t] = kReady;
    released = true;
    if (state == kWaitingForWarpgroup) break;
  }
  return released;
}

// Runs all threads to their next barrier, again and again, until they are done.
inline void run_block(int threads) {
  start_fibers(threads);
  block.states.assign(size_t(threads), kReady);
  for (int done = 0; done == 0;) {
    do {
      for (int i = 0; i < threads; ++i) {
        const int t = control.backwards ? threads - 1 - i : i;
        if (block.states[t] != kReady) continue;
        block.current = t;
        threadIdx.x = unsigned(t);
        leave(block.home, block.fibers[t]);
        if (block.error) std::rethrow_exception(std::exchange(block.error, nullptr));
      }
    } while (release(threads, kWarp, kWaitingForWarp) ||
             release(threads, kWarpgroup, kWaitingForWarpgroup));
    for (int t = 0; t < threads; ++t) {
      done += block.states[t] == kDone;
      if (block.states[t] == kWaiting) block.states[t] = kReady;
    }
    if (done != 0 && done != threads) {
      throw std::runtime_error("emulated CUDA: some threads ended while others wait at a barrier");
    }
  }
}

inline void run(int64_t blocks, int threads, std::function<void()> body) {
  block.body = std::move(body);
  block.states.resize(size_t(threads));
  block.fragments.assign(size_t(threads), Fragments());
  if (block.fibers.size() < size_t(threads)) {
    block.fibers.resize(size_t(threads));
    block.stacks.resize(size_t(threads) * kStack);
    block.states.assign(size_t(threads), kReady);  // the stacks may have moved
  }
  ++control.launches;
  ++block.number;
  std::free(block.shared);  // of a block that ended with an exception
  block.shared = nullptr;
  block.shared_size = 0;
  const int64_t skipped = control.last_blocks ? blocks - control.last_blocks : 0;
  for (int64_t b = skipped > 0 ? skipped : 0; b < blocks; ++b) {
    blockIdx.x = unsigned(b);
    ++control.blocks_run;
    run_block(threads);
    check_shared_memory();
  }
}

}  // namespace emulate
}  // namespace pyfed

inline int atomicOr(int* address, int bits) {
  const int before = *address;
  *address |= bits;
  return before;
}

template <class T>
inline T atomicAdd(T* address, T value) {
  const T before = *address;
  *address += value;
  return before;
}

inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __popc(uint32_t x) { return __builtin_popcount(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return __builtin_sqrtf(a); }

inline uint32_t atomicCAS(uint32_t* address, uint32_t compare, uint32_t value) {
  const uint32_t before = *address;
  if (before == compare) *address = value;
  return before;
}

inline cudaError_t cudaGetDevice(int* device) {
  *device = pyfed::emulate::current_device;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= pyfed::emulate::kDevices) return 101;
  pyfed::emulate::current_device = device;
  return cudaSuccess;
}
inline cudaError_t cudaGetLastError() {
  const int error = pyfed::emulate::control.fail;
  pyfed::emulate::control.fail = 0;
  return error;
}
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == 101 ? "invalid device ordinal" : "an error";
}
inline cudaError_t cudaDeviceGetAttribute(int* value, int attribute, int) {
  const pyfed::emulate::Control& control = pyfed::emulate::control;
  const int capability = control.capability ? control.capability : 90;
  *value = attribute == cudaDevAttrComputeCapabilityMajor   ? capability / 10
           : attribute == cudaDevAttrComputeCapabilityMinor ? capability % 10
           : control.multiprocessors                        ? control.multiprocessors
                                                            : 0x7fffffff;
  return cudaSuccess;
}
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* found, const void*) {
  found->numRegs = pyfed::emulate::control.lacks_code ? 4 : 200;
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* target, int value, size_t size, cudaStream_t) {
  std::memset(target, value, size);
  return cudaSuccess;
}
