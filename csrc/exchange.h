// What the tensors of a Python list are like, and where they begin, through DLPack's C exchange
// interface: nanoseconds a tensor, where asking Python takes a microsecond.
#pragma once
#include <Python.h>

#include <cstdint>
#include <vector>

namespace pyfed {

// The parts of DLPack 1.3's binary interface that are used here.
struct ExchangedTensor {
  void* data;
  int32_t device_type, device_number, dimensions;
  uint8_t type_code, type_bits;
  uint16_t type_lanes;
  const int64_t* shape;
  const int64_t* strides;  // in elements
  uint64_t byte_offset;
};

struct ExchangeInterface {
  uint32_t major, minor;
  void* previous;
  void (*other[3])();  // allocation, and the way from and to owned tensors
  int (*describe)(void* object, ExchangedTensor* out);  // 0, or -1 with a Python exception
};

inline bool same_device(const ExchangedTensor& a, const ExchangedTensor& b) {
  return a.device_type == b.device_type && a.device_number == b.device_number;
}

inline bool is_like(const ExchangedTensor& a, const ExchangedTensor& b) {
  bool same = a.type_code == b.type_code && a.type_bits == b.type_bits &&
              a.type_lanes == b.type_lanes && a.dimensions == b.dimensions;
  for (int32_t d = 0; same && d < a.dimensions; ++d) same = a.shape[d] == b.shape[d];
  return same;
}

inline bool is_contiguous(const ExchangedTensor& tensor) {
  bool dense = true;
  int64_t step = 1;
  for (int32_t d = tensor.dimensions; d-- > 0; step *= tensor.shape[d]) {
    dense = dense && (tensor.shape[d] == 1 || tensor.strides[d] == step);
  }
  return dense || step == 0;
}

// The addresses of tensors on one device, each of which is contiguous and like the one `each`
// before it: of its shape and type. False when one is not, is no such object, or cannot be
// described.
inline bool addresses_of_alike(PyObject* list, int64_t each, PyObject* exchange, PyObject* types,
                               int64_t* out) {
  const auto* interface =
      static_cast<const ExchangeInterface*>(PyCapsule_GetPointer(exchange, "dlpack_exchange_api"));
  if (!interface || interface->major != 1 || !interface->describe || each < 1) {
    PyErr_Clear();
    return false;
  }
  std::vector<ExchangedTensor> firsts(static_cast<size_t>(each));
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); ++i) {
    PyObject* object = PyList_GET_ITEM(list, i);
    bool known = false;
    for (Py_ssize_t t = 0; t < PyTuple_GET_SIZE(types); ++t) {
      known = known || reinterpret_cast<PyObject*>(Py_TYPE(object)) == PyTuple_GET_ITEM(types, t);
    }
    ExchangedTensor tensor;
    if (!known || interface->describe(object, &tensor) != 0) {
      PyErr_Clear();
      return false;
    }
    ExchangedTensor& first = firsts[size_t(i % each)];
    if (i < each) first = tensor;
    if (!same_device(tensor, firsts[0]) || !is_like(tensor, first) || !is_contiguous(tensor)) {
      return false;
    }
    out[i] = int64_t(reinterpret_cast<uintptr_t>(tensor.data) + tensor.byte_offset);
  }
  return true;
}

}  // namespace pyfed
