// Lagrange encoding on CUDA devices by number-theoretic transforms, for codes whose points are a
// subgroup and a coset of it: the shares are those of the product with the coding matrix. A block
// owns a tile of columns, from the data to the shares; what is between is in shared memory alone.
#include "columns.cuh"
#include "kernels.h"
#include "transform_plan.cuh"

namespace pyfed {
namespace {

constexpr int kTileWords = 8192;    // 32 KiB, whatever the size of the transforms
constexpr int kMostColumnBits = 8;  // as many columns as threads
constexpr int kManyTiles = 512;     // below so many, tiles get narrower, down to 16 columns

// How an encoding is cut.
struct Cut {
  int shares, blocks, privacy;
  int bits;         // transforms have 2^bits rows; f has no more coefficients
  int nodes;        // of them, for all shares
  int column_bits;  // a tile has 2^column_bits columns
  int skip;         // columns of the first tile before the first: tiles are aligned in the stream

  Cut(int64_t n, int64_t k, int64_t t, int64_t columns, int64_t start_column)
      : shares(int(n)), blocks(int(k)), privacy(int(t)), bits(0), column_bits(kMostColumnBits) {
    while (1 << bits < blocks + privacy) ++bits;
    nodes = ((shares - 1) >> bits) + 1;
    const int rows = (nodes > 1 ? 2 : 1) << bits;
    while (rows << column_bits > kTileWords) --column_bits;
    while (column_bits > 4 && (columns >> column_bits) < kManyTiles) --column_bits;
    skip = int(start_column % (column_bits < 4 ? 1 << column_bits : kBlock));
  }
};

// Rows 0 … K - 1, the blocks. Threads read runs of eight elements of a column, whole sectors. Where
// values are rounded, it is by words that first stand in the places of the residues.
template <uint32_t P, class Data>
__device__ __forceinline__ void load_blocks(const ColumnsOf<Data>& from, int64_t first, Rows rows,
                                            int blocks, int& bits) {
  int run_bits = 0;
  while (run_bits < 3 && 1 << run_bits < blocks) ++run_bits;
  const int runs = ((blocks - 1) >> run_bits) + 1;
  make_rounding_words(from, first, 1 << rows.column_bits, 0, blocks,
                      [&](int c, int k, uint32_t word) { rows.at(k, c) = word; });
  const Data data = from.data.from(first * blocks);
  const int before = first < 0 ? int(-first) * blocks : 0;
  const int64_t left = from.length - first * blocks;
  const int live = left < 0x7fffffff ? int(left) : 0x7fffffff;
  each_of(runs, rows.column_bits + run_bits, [&](int run, int e) {
    const int k = (run << run_bits) + (e & ((1 << run_bits) - 1)), c = e >> run_bits;
    if (k >= blocks) return;
    const int place = c * blocks + k;
    uint32_t v = 0;
    if (place >= before && place < live) v = data.residue(place, rows.at(k, c), P, bits);
    bits |= v >= P ? kBadResidue : 0;
    rows.at(k, c) = v;  // of a number outside the field no pass makes more than wrong shares
  });
}

// Rows K … K + T - 1, the random residues: one block of ChaCha20 a thread, 16 columns of a row, of
// which a narrower tile keeps its own. `index` is the place of column 0 in the stream.
template <uint32_t P, class Data>
__device__ __forceinline__ void make_random(const ColumnsOf<Data>& from, int64_t index, Rows rows,
                                            int privacy, int& bits) {
  const int wide = rows.column_bits < 4 ? 0 : rows.column_bits - 4;
  const int columns = 1 << rows.column_bits;
  each_of(privacy, wide, [&](int row, int across) {
    const int first = across * kBlock - int(index % kBlock);  // column of the block's first word
    const uint32_t counter = uint32_t(index / kBlock) + uint32_t(across);
    const Nonce nonce = {uint32_t(row), from.stream, domain_word(kPadding, P)};
    uint32_t words[kBlock];
    chacha_block(from.key, counter, nonce, words);
    uint32_t rejected = 0;  // bit j: candidate j
#pragma unroll
    for (int j = 0; j < kBlock; ++j) {
      const uint32_t v = words[j] & candidate_mask(P);
      if (unsigned(first + j) < unsigned(columns)) {
        rejected |= uint32_t(v >= P) << j;
        rows.at(row, first + j) = v;
      }
    }
#pragma unroll 1
    for (int j = 0; rejected; ++j, rejected >>= 1) {
      if (rejected & 1) {
        const int64_t at = int64_t(counter) * kBlock + j;
        rows.at(row, first + j) = retry_residue(from.key, at, nonce, P, &bits);
      }
    }
  });
}

// Blocks and random residues become the coefficients of f, in place, as coefficients_of in
// csrc/lagrange_plan.h has it. Whole block; ends with a barrier.
template <uint32_t P>
__device__ __forceinline__ void make_coefficients(const Plan& plan, const Factor* factors,
                                                  Rows rows, int privacy) {
  using R = Residue<P>;
  for (int g = 0; g < plan.count; ++g) {
    const Group& group = plan.groups[g];
    const int n = 1 << group.bits, node = group.first >> group.bits;
    const Factor* const earlier = factors + group.factors;
    const Rows own = rows.from(group.first);
    interpolate<P>(own, group.bits, node, earlier + node);
    if (node == 0) continue;
    each_of(n, rows.column_bits, [&](int r, int c) {
      uint32_t sum = own.at(r, c);
      for (int m = 0; m < node; ++m) {
        sum = R::sum(sum, R::product(rows.at((m << group.bits) + r, c), earlier[m]));
      }
      own.at(r, c) = sum;
    });
    __syncthreads();
  }
  // Horner's rule, from the last binomial to the first: row i takes -c times the row n further on,
  // as it was before. The block does so many rows at once, all read before the first is written.
  constexpr int kEach = 4;
  int length = privacy;
  for (int g = plan.count - 1; g >= 0; --g) {
    const Group& group = plan.groups[g];
    uint32_t* const own = rows.from(group.first).words;
    const int above = 1 << (group.bits + rows.column_bits), count = length << rows.column_bits;
    for (int base = threadIdx.x; base - int(threadIdx.x) < count; base += kEach * kThreads) {
      uint32_t v[kEach];
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int e = base + i * kThreads;
        v[i] = e < count ? R::sum(own[e], R::product(own[e + above], group.minus_constant)) : 0;
      }
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        if (base + i * kThreads < count) own[base + i * kThreads] = v[i];
      }
      __syncthreads();
    }
    length += 1 << group.bits;
  }
}

struct Tile {
  uint32_t words[kTileWords];
};

template <uint32_t P, class Data>
__global__ void __launch_bounds__(kThreads, 5)
    lagrange_transform_kernel(ColumnsOf<Data> from, Cut cut, const __grid_constant__ Plan plan,
                              const Factor* __restrict__ factors, uint32_t* __restrict__ out,
                              int* errors) {
  PYFED_SHARED(Tile, shared);
  const int64_t first = (int64_t(blockIdx.x) << cut.column_bits) - cut.skip;
  const Rows rows = {shared.words, cut.column_bits};
  int bits = 0;
  load_blocks<P>(from, first, rows, cut.blocks, bits);
  make_random<P>(from, from.start_column + first, rows.from(cut.blocks), cut.privacy, bits);
  __syncthreads();
  make_coefficients<P>(plan, factors, rows, cut.privacy);
  const Rows work = cut.nodes > 1 ? rows.from(1 << cut.bits) : rows;
  for (int node = 0; node < cut.nodes; ++node) {
    const int share = node << cut.bits, left = cut.shares - share;
    const int live = left < 1 << cut.bits ? left : 1 << cut.bits;
    evaluate<P>(rows, cut.blocks + cut.privacy, cut.bits, node, live, work,
                [&](int row, int c, uint32_t v) {
                  const int64_t at = first + c;
                  if (row < live && at >= 0 && at < from.columns) {
                    out[(share + row) * from.columns + at] = v;
                  }
                });
  }
  wipe(shared);
  report(errors, bits);
}

template <uint32_t P, class Data>
void transform(const ColumnsOf<Data>& from, const uint32_t* matrix, int64_t shares, uint32_t* out,
               int32_t* scratch, int* errors, void* stream) {
  const Cut cut(shares, from.blocks, from.privacy, from.columns, from.start_column);
  const Plan plan = make_plan<P>(cut.blocks);
  Factor* const factors = reinterpret_cast<Factor*>(scratch);
  const int64_t elements = shares * (from.blocks + from.privacy);
  const uint32_t step = PYFED_SIMD::inverse(PYFED_SIMD::Group<P>::kGenerator, P);
  // Enough for fewer than 3 K factors too: 256 threads for 4096 of N (K + T) >= K^2 elements are
  // more than 3 K from K = 48 on, and up to there one block's.
  launch(transform_plan_kernel<P>, ceil_div(elements, kMatrixElements), stream, plan, step, matrix,
         elements, factors, errors);
  launch(lagrange_transform_kernel<P, Data>,
         ceil_div(from.columns + cut.skip, 1 << cut.column_bits), stream, from, cut, plan, factors,
         out, errors);
}

template <class Data>
void encode(const ColumnsOf<Data>& from, const uint32_t* matrix, int64_t shares, uint32_t modulus,
            uint32_t* out, int32_t* scratch, int* errors, int device, void* stream) {
  const DeviceGuard guard(device);
  constexpr int64_t kMost = int64_t(1) << PYFED_SIMD::kSubgroupBits;
  bool served = shares <= kMost && from.blocks + from.privacy <= shares;
  if (served && from.length > 0 && shares > 0) {
    served = false;
    PYFED_SIMD::with_subgroup(modulus, [&](auto field) {
      constexpr uint32_t P = decltype(field)::kModulus;
      transform<P>(from, matrix, shares, out, scratch, errors, stream);
      served = true;
    });
  }
  if (!served) throw std::runtime_error("CUDA: there are no transforms for this code");
}

}  // namespace

void lagrange_transform_cuda(const uint32_t* data, int64_t length, const uint32_t* matrix,
                             int64_t shares, int64_t blocks, int64_t privacy, const uint32_t* key,
                             uint32_t stream, int64_t start_column, uint32_t modulus, uint32_t* out,
                             int32_t* scratch, int* errors, int device, void* stream_handle) {
  const Columns from = {{data}, length,      ceil_div(length, blocks), blocks, privacy, key,
                        stream, start_column};
  encode(from, matrix, shares, modulus, out, scratch, errors, device, stream_handle);
}

void quantize_transform_cuda(const float* values, int64_t length, float scale, float clip,
                             const uint32_t* matrix, int64_t shares, int64_t blocks,
                             int64_t privacy, const uint32_t* key, uint32_t stream,
                             int64_t start_column, uint32_t modulus, uint32_t* out,
                             int32_t* scratch, int* errors, int device, void* stream_handle) {
  const Floats data = {values, scale, clip};
  const ColumnsOf<Floats> from = {
      data, length, ceil_div(length, blocks), blocks, privacy, key, stream, start_column};
  encode(from, matrix, shares, modulus, out, scratch, errors, device, stream_handle);
}

}  // namespace pyfed
