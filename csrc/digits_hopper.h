// Products of residues on the matrix units of Hopper: what digits.cu calls where wgmma_serves()
// says so.
#pragma once
#include <cstdint>

#include "digits.h"

namespace pyfed {

// The same arguments and room as those of digits.h.
void hopper_matmul(const uint32_t* a, const uint32_t* b, int64_t m, int64_t k, int64_t n,
                   uint32_t modulus, uint32_t* out, int32_t* room, int* errors, void* stream);
void hopper_encode(const Columns& from, const uint32_t* matrix, int64_t shares, uint32_t modulus,
                   uint32_t* out, int32_t* room, int* errors, void* stream);
void hopper_encode(const ColumnsOf<Floats>& from, const uint32_t* matrix, int64_t shares,
                   uint32_t modulus, uint32_t* out, int32_t* room, int* errors, void* stream);
void hopper_decode(const uint32_t* rows, int64_t columns, const uint32_t* matrix, int64_t blocks,
                   int64_t threshold, int64_t length, uint32_t modulus, uint32_t* out,
                   int32_t* room, int* errors, void* stream);

}  // namespace pyfed
