// Number-theoretic transforms on the CPU. A row holds one coefficient, or one value, of each column
// of a batch; every step does a vector of columns, and no step moves a number to another column.
#pragma once
#include <cstring>

#include "roots.h"
#include "words.h"

namespace pyfed {
namespace PYFED_SIMD {

constexpr int64_t kBatch = 16;  // columns of a batch, as many as a block of ChaCha20 has words
static_assert(kBatch % kBlocks == 0, "a row is whole vectors");

// 1 / α_2j = -α_2i for i = mirrored(j), j > 0: within each range from 2^b to 2^(b+1) the exponents
// of ω run backwards.
inline int64_t mirrored(int64_t j) { return (int64_t(3) << (63 - __builtin_clzll(j))) - 1 - j; }

inline Words words_load(const uint32_t* p) {
  Words v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void words_store(uint32_t* p, Words v) { std::memcpy(p, &v, sizeof v); }

// ⌊a · b / 2^32⌋, where all lanes of b are equal.
inline Words high_products(Words a, Words b) {
#if defined(__AVX512F__)
  const __m512i even = _mm512_mul_epu32(__m512i(a), __m512i(b));
  const __m512i shifted = _mm512_shuffle_epi32(__m512i(a), _MM_PERM_DDBB);
  const __m512i odd = _mm512_mul_epu32(shifted, __m512i(b));
  return Words(_mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_DDBB));
#elif defined(__AVX2__)
  const __m256i even = _mm256_mul_epu32(__m256i(a), __m256i(b));
  const __m256i odd = _mm256_mul_epu32(_mm256_shuffle_epi32(__m256i(a), 0xf5), __m256i(b));
  return Words(_mm256_blend_epi32(_mm256_shuffle_epi32(even, 0xf5), odd, 0xaa));
#else
  Words high;
  for (int i = 0; i < kBlocks; ++i) high[i] = uint32_t(uint64_t(a[i]) * b[i] >> 32);
  return high;
#endif
}

// Arithmetic on vectors of residues. What is canonical is below p, what is loose below 2p < 2^32.
template <uint32_t P>
class Residues {
 public:
  Residues() : p(Words{} + P) {
#if defined(__AVX2__)
    asm(""
        : "+v"(p));  // a factor that the compiler knows becomes shifts and sums,
                     // which are slower
#endif
  }
  Words reduced(Words loose) const { return words_min(loose, loose - p); }
  Words sum(Words a, Words b) const { return reduced(a + b); }
  Words difference(Words a,
                   Words b) const {  // a - b when negative is huge, and + p wraps
    const Words v = a - b;
    return words_min(v, v + p);
  }
  Words loose_difference(Words a, Words b) const { return a + p - b; }

  // Any a < 2^32 times w < p -> loose, by one estimated quotient: with w' = w · 2^32 / p - δ, 0 <=
  // δ < 1, the true quotient a · w / p exceeds a · w' / 2^32 by a · δ / 2^32 < 1, and that its
  // floor by less than 1; so what remains is from 0 to below 2p.
  Words loose_product(Words a, Factor w) const {
    return a * (Words{} + w.value) - high_products(a, Words{} + w.quotient) * p;
  }
  Words product(Words a, Factor w) const { return reduced(loose_product(a, w)); }

 private:
  Words p;
};

// The rows i, i + q, i + 2q, i + 3q of a node, of which those from `filled` on are 0.
template <bool kFull>
inline void load_four(const uint32_t* rows, int64_t i, int64_t q, int64_t filled, Words (&x)[4]) {
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
    x[r] = kFull || i + r * q < filled ? words_load(rows + (i + r * q) * kBatch) : Words{};
  }
}

inline void store_four(uint32_t* rows, int64_t i, int64_t q, int64_t stride, const Words (&x)[4]) {
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) words_store(rows + (i + r * q) * stride, x[r]);
}

// Splits a node, a polynomial of 4q coefficients modulo x^4q - α_j, in its parts modulo x^q - α_(4j
// + 0 … 3). kFirst: j is 0, and the first two roots are 1.
template <uint32_t P, bool kFirst, bool kFull>
inline void split(const Residues<P>& mod, const uint32_t* rows, int64_t filled, int64_t q,
                  int64_t j, uint32_t* out, int64_t stride) {
  const Factor* const roots = kRoots<P>.of;
  const Factor outer = roots[j], even = roots[2 * j], odd = roots[2 * j + 1];
  for (int64_t i = 0; i < q; ++i) {
    Words x[4];
    load_four<kFull>(rows, i, q, filled, x);
    if (!kFirst) x[2] = mod.product(x[2], outer), x[3] = mod.product(x[3], outer);
    const Words a = mod.sum(x[0], x[2]), c = mod.difference(x[0], x[2]);
    const Words b = kFirst ? mod.sum(x[1], x[3]) : mod.product(x[1] + x[3], even);
    const Words d = mod.product(mod.loose_difference(x[1], x[3]), odd);
    x[0] = mod.sum(a, b), x[1] = mod.difference(a, b);
    x[2] = mod.sum(c, d), x[3] = mod.difference(c, d);
    store_four(out, i, q, stride, x);
  }
}

// Splits nodes of 4q rows that stand one behind the other, as many as hold the first `live` rows; j
// is the number of the first. Only the first row of all may be followed by too few filled ones.
template <uint32_t P>
inline void split_all(const uint32_t* rows, int64_t filled, int64_t q, int64_t j, int64_t live,
                      uint32_t* out, int64_t stride) {
  const Residues<P> mod;
  int64_t first = 0;
  if (filled < 4 * q) {
    if (j == 0) {
      split<P, true, false>(mod, rows, filled, q, j, out, stride);
    } else {
      split<P, false, false>(mod, rows, filled, q, j, out, stride);
    }
    return;
  }
  if (j == 0) {
    split<P, true, true>(mod, rows, filled, q, j++, out, stride);
    first = 4 * q;
  }
  for (; first < live; first += 4 * q, ++j) {
    split<P, false, true>(mod, rows + first * kBatch, filled, q, j, out + first * stride, stride);
  }
}

// The values at α_(node · size + 0 … live - 1) of polynomials of `filled` coefficients, `filled`
// and live at most `size`, which is a power of two: row l of `out`, rows `stride` words apart.
// `work` has `size` rows and may be where the coefficients are. Writes rows up to a multiple of 4
// (of size, where that is less).
template <uint32_t P>
inline void evaluate(const uint32_t* coefficients, int64_t filled, int64_t size, int64_t node,
                     int64_t live, uint32_t* work, uint32_t* out, int64_t stride) {
  const uint32_t* rows = coefficients;
  if (size == 1) {
    words_store(out, words_load(rows));
    return;
  }
  int64_t span = size;
  if (__builtin_ctzll(size) % 2) {
    const Residues<P> mod;
    span /= 2;
    uint32_t* const target = span == 1 ? out : work;
    const int64_t step = span == 1 ? stride : kBatch;
    for (int64_t i = 0; i < span; ++i) {
      const Words low = i < filled ? words_load(rows + i * kBatch) : Words{};
      Words high = i + span < filled ? words_load(rows + (i + span) * kBatch) : Words{};
      if (node) high = mod.product(high, kRoots<P>.of[node]);
      words_store(target + i * step, mod.sum(low, high));
      words_store(target + (i + span) * step, mod.difference(low, high));
    }
    rows = work, filled = size;
  }
  for (; span > 1; span /= 4) {
    const bool last = span == 4;
    split_all<P>(rows, filled, span / 4, node * (size / span), live, last ? out : work,
                 last ? stride : kBatch);
    rows = work, filled = size;
  }
}

// (low - high) / α_2j, canonical.
template <uint32_t P>
inline Words turned(const Residues<P>& mod, Words low, Words high, int64_t j) {
  if (j == 0) return mod.difference(low, high);
  return mod.product(mod.loose_difference(high, low), kRoots<P>.of[mirrored(j)]);
}

// The way back of split, for four times the coefficients. With kLast they are multiplied by scale[0
// … 4q - 1] instead of the last two roots.
template <uint32_t P, bool kLast>
inline void join(const Residues<P>& mod, uint32_t* rows, int64_t q, int64_t j,
                 const Factor* scale) {
  for (int64_t i = 0; i < q; ++i) {
    Words x[4];
    load_four<true>(rows, i, q, 0, x);
    const Words a = mod.sum(x[0], x[1]), b = turned(mod, x[0], x[1], 2 * j);
    const Words c = mod.sum(x[2], x[3]), d = turned(mod, x[2], x[3], 2 * j + 1);
    if (kLast) {
      x[0] = mod.product(a + c, scale[i]), x[1] = mod.product(b + d, scale[i + q]);
      x[2] = mod.product(mod.loose_difference(a, c), scale[i + 2 * q]);
      x[3] = mod.product(mod.loose_difference(b, d), scale[i + 3 * q]);
    } else {
      x[0] = mod.sum(a, c), x[1] = mod.sum(b, d);
      x[2] = turned(mod, a, c, j), x[3] = turned(mod, b, d, j);
    }
    store_four(rows, i, q, kBatch, x);
  }
}

// The coefficients of the polynomials of degree below n that have given values at α_(node · n + 0 …
// n - 1), times n, and from coefficient n / 2 on times the root α_2node; then coefficient i times
// scale[i]: in place, canonical.
template <uint32_t P>
inline void interpolate(uint32_t* rows, int64_t n, int64_t node, const Factor* scale) {
  const Residues<P> mod;
  int64_t q = 1;
  for (; 4 * q < n; q *= 4) {
    int64_t j = node * (n / (4 * q));
    for (int64_t first = 0; first < n; first += 4 * q, ++j) {
      join<P, false>(mod, rows + first * kBatch, q, j, scale);
    }
  }
  if (n == 4 * q) {
    join<P, true>(mod, rows, q, node, scale);
  } else if (n == 1) {
    words_store(rows, mod.product(words_load(rows), scale[0]));
  } else {
    for (int64_t i = 0; i < q; ++i) {
      uint32_t *const near = rows + i * kBatch, *const far = rows + (i + q) * kBatch;
      const Words low = words_load(near), high = words_load(far);
      words_store(near, mod.product(low + high, scale[i]));
      words_store(far, mod.product(mod.loose_difference(low, high), scale[i + q]));
    }
  }
}

}  // namespace PYFED_SIMD
}  // namespace pyfed
