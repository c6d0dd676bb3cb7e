// The extension pyfed._C: the one file that knows pybind11. Tensors come as addresses; Python has
// checked device, dtype, shape and contiguity, and keeps them alive until the call returns.
#include <pybind11/pybind11.h>

#include <atomic>
#include <stdexcept>
#include <string>

#include "exchange.h"
#include "kernels.h"

namespace py = pybind11;

namespace {

enum Level { kPlain = 0, kAvx2 = 1, kAvx512 = 2 };
const char* const kLevelNames[] = {"plain", "avx2", "avx512"};

Level best_level() {
#if defined(PYFED_ONLY_PLAIN)
  return kPlain;
#else
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("f16c") &&
                    __builtin_cpu_supports("popcnt");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return avx2 && avx512 ? kAvx512 : avx2 ? kAvx2 : kPlain;
#endif
}

std::atomic<int> level{best_level()};

std::string simd() { return kLevelNames[level.load()]; }

std::string set_simd(const std::string& name) {
  for (int wanted = kPlain; wanted <= best_level(); ++wanted) {
    if (name == kLevelNames[wanted]) return kLevelNames[level.exchange(wanted)];
  }
  throw py::value_error("simd level is '" + name + "'; it must be 'plain', 'avx2' or 'avx512', " +
                        "and this processor goes up to '" + kLevelNames[best_level()] + "'");
}

// Passes one argument of a kernel on: addresses come as integers.
template <class T>
struct Passed {
  using Type = T;
  static T get(T value) { return value; }
};
template <class T>
struct Passed<T*> {
  using Type = uintptr_t;
  static T* get(uintptr_t address) { return reinterpret_cast<T*>(address); }
};

// Wraps the three builds of a CPU kernel as one function that picks by level, without the GIL.
template <class R, class... A>
auto by_level(R (*plain)(A...), R (*avx2)(A...), R (*avx512)(A...)) {
  return [=](typename Passed<A>::Type... args) -> R {
    R (*const builds[])(A...) = {plain, avx2, avx512};
    py::gil_scoped_release release;
    return builds[level.load()](Passed<A>::get(args)...);
  };
}

#if defined(PYFED_ONLY_PLAIN)
#define PYFED_CPU(name) \
  m.def(#name, by_level(&pyfed::plain::name, &pyfed::plain::name, &pyfed::plain::name))
#else
#define PYFED_CPU(name) \
  m.def(#name, by_level(&pyfed::plain::name, &pyfed::avx2::name, &pyfed::avx512::name))
#endif

#if defined(PYFED_CUDA)
template <class R, class... A>
auto without_gil(R (*kernel)(A...)) {
  return [=](typename Passed<A>::Type... args) -> R {
    py::gil_scoped_release release;
    return kernel(Passed<A>::get(args)...);
  };
}
#define PYFED_BOTH(name) \
  PYFED_CPU(name##_cpu); \
  m.def(#name "_cuda", without_gil(&pyfed::name##_cuda))
#else
#define PYFED_BOTH(name) PYFED_CPU(name##_cpu)
#endif

bool addresses(const py::list& tensors, int64_t each, const py::capsule& exchange,
               const py::tuple& types, uintptr_t out) {
  return pyfed::addresses_of_alike(tensors.ptr(), each, exchange.ptr(), types.ptr(),
                                   reinterpret_cast<int64_t*>(out));
}

py::dict build_info() {
  py::dict info;
#if defined(PYFED_CUDA)
  info["cuda"] = true;
#else
  info["cuda"] = false;
#endif
  info["cuda_architectures"] = PYFED_BUILD_CUDA_ARCHS;
  info["compiler"] = PYFED_BUILD_COMPILER;
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of pyfed. Addresses are integers; use pyfed.ops instead.";
  m.def("simd", &simd);
  m.def("set_simd", &set_simd);
  m.def("build_info", &build_info);
#if defined(PYFED_CUDA)
  m.def("set_wgmma", &pyfed::set_wgmma);
  m.def("wgmma_serves", &pyfed::wgmma_serves);
#endif
  m.def("addresses", &addresses);
  PYFED_CPU(product_workspace);
  PYFED_CPU(transform_workspace);
  PYFED_CPU(selection_workspace);
  PYFED_CPU(merge_workspace);
  PYFED_CPU(lora_workspace);
  PYFED_CPU(sketch_workspace);
  PYFED_BOTH(random_words);
  PYFED_BOTH(random_residues);
  PYFED_BOTH(add_masks);
  PYFED_CPU(discrete_gaussian_cpu);
  PYFED_BOTH(field_matmul);
  PYFED_BOTH(field_sum);
  PYFED_BOTH(quantize);
  PYFED_BOTH(dequantize);
  PYFED_BOTH(dequantize_wide);
  PYFED_BOTH(field_lift);
  PYFED_BOTH(quantize_mask);
  PYFED_BOTH(decode_sum);
  PYFED_BOTH(lagrange_encode);
  PYFED_BOTH(lagrange_transform);
  PYFED_BOTH(quantize_encode);
  PYFED_BOTH(quantize_transform);
  PYFED_BOTH(lagrange_decode);
  PYFED_BOTH(mask_pack);
  PYFED_BOTH(mask_unpack);
  PYFED_BOTH(mask_popcount);
  PYFED_BOTH(mask_count);
  PYFED_BOTH(mask_add);
  PYFED_BOTH(mask_totals);
  PYFED_BOTH(mask_select);
  PYFED_BOTH(mask_prune);
  PYFED_BOTH(masked_mean);
  PYFED_BOTH(counter_dropout);
  PYFED_CPU(lora_merge_cpu);
  PYFED_CPU(lora_linear_cpu);
  PYFED_CPU(lora_linear_backward_cpu);
  PYFED_CPU(sketch_cpu);
  PYFED_BOTH(weighted_mean);
  PYFED_BOTH(segment_clip);
  PYFED_BOTH(bank_adamw);
  PYFED_BOTH(bank_sgd);
}
