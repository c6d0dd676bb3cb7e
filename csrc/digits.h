// Products of residues on the int8 matrix units of CUDA devices: what field.cu and lagrange.cu call
// when they are given room for digits (digit_room in pyfed/native.py says when that is).
#pragma once
#include "columns.cuh"

namespace pyfed {

// The same arguments as the launchers of kernels.h, the device being current. `room` takes the
// digits of the left factor, 16 bytes for each of its elements (rows in eights, and each kind of
// columns in eights), and holds zeros afterwards: a matrix may be secret.
void digit_matmul(const uint32_t* a, const uint32_t* b, int64_t m, int64_t k, int64_t n,
                  uint32_t modulus, uint32_t* out, int32_t* room, int* errors, void* stream);
void digit_encode(const Columns& from, const uint32_t* matrix, int64_t shares, uint32_t modulus,
                  uint32_t* out, int32_t* room, int* errors, void* stream);
void digit_encode(const ColumnsOf<Floats>& from, const uint32_t* matrix, int64_t shares,
                  uint32_t modulus, uint32_t* out, int32_t* room, int* errors, void* stream);
void digit_decode(const uint32_t* rows, int64_t columns, const uint32_t* matrix, int64_t blocks,
                  int64_t threshold, int64_t length, uint32_t modulus, uint32_t* out, int32_t* room,
                  int* errors, void* stream);

}  // namespace pyfed
