// Memory-bound helpers around the matrix products (plugins_trt/spec.py): one warp a row, each row read once.

#include "rows.cuh"

namespace {

using namespace rows;

constexpr int kMostVectorsOfSilu = 12;

__device__ __forceinline__ float silu(float x) { return x / (1.0f + expf(-x)); }

// Warps of block row y: 0 makes q, 1 makes k, 2 copies v. Grid (tokens / 8 rounded up, 3).
template <class T>
__device__ __forceinline__ void norm_rotate(const uint4* qkv, const float4* gain_q, const float4* gain_k,
                                            const float4* table, uint4* q, uint4* k, uint4* v, int tokens, int dim) {
  const int64_t token = token_of_warp();
  if (token >= tokens) return;
  const int count = dim / kVector, part = blockIdx.y;
  Row<T> row;
  row.load(qkv + (token * 3 + part) * count, count);
  if (part == 2) return row.copy(v + token * count, count);
  const float factor = rsqrtf(row.template sum<2>() / dim + kEps);
  const float4 *gain = part == 0 ? gain_q : gain_k, *own = table + token * 32;
  row.store((part == 0 ? q : k) + token * count, count,
            [=](int at, float4 x) { return turned(at, x, factor, gain, own); });
}

// Grid of this and what follows: (tokens / 8 rounded up).
template <class T>
__device__ __forceinline__ void norm_rows(const uint4* x, const float4* gain, uint4* out, int tokens, int dim) {
  const int64_t token = token_of_warp();
  if (token >= tokens) return;
  const int count = dim / kVector;
  Row<T> row;
  row.load(x + token * count, count);
  const float factor = rsqrtf(row.template sum<2>() / dim + kEps);
  row.store(out + token * count, count, [=](int at, float4 x) { return scaled(x, factor, __ldg(gain + at)); });
}

template <class T>
__device__ __forceinline__ void layer_norm(const uint4* x, uint4* out, int tokens, int dim) {
  const int64_t token = token_of_warp();
  if (token >= tokens) return;
  const int64_t begin = token * (dim / kVector);
  standardise<T>(x + begin, out + begin, dim);
}

template <class T>
__device__ __forceinline__ void norm_silu(const uint4* x, const float4* gain, uint4* out, int tokens, int dim) {
  const int64_t token = token_of_warp();
  if (token >= tokens) return;
  const int count = dim / kVector;
  Row<T, kMostVectorsOfSilu> row;
  row.load(x + token * count, count);
  const float factor = sqrtf(dim / fmaxf(row.template sum<2>(), 1e-24f));
  row.store(out + token * count, count, [=](int at, float4 x) {
    x = scaled(x, factor, __ldg(gain + at));
    return make_float4(silu(x.x), silu(x.y), silu(x.z), silu(x.w));
  });
}

}  // namespace

#define FLASHVSR_NORMS(element, type)                                                                                \
  extern "C" __global__ void __launch_bounds__(kThreads, 3)                                                           \
      norm_rotate_##element(const uint4* qkv, const float4* gain_q, const float4* gain_k, const float4* table,       \
                            uint4* q, uint4* k, uint4* v, int tokens, int dim) {                                     \
    norm_rotate<type>(qkv, gain_q, gain_k, table, q, k, v, tokens, dim);                                             \
  }                                                                                                                  \
  extern "C" __global__ void __launch_bounds__(kThreads, 3)                                                           \
      norm_rows_##element(const uint4* x, const float4* gain, uint4* out, int tokens, int dim) {                     \
    norm_rows<type>(x, gain, out, tokens, dim);                                                                      \
  }                                                                                                                  \
  extern "C" __global__ void __launch_bounds__(kThreads, 3)                                                           \
      layer_norm_##element(const uint4* x, uint4* out, int tokens, int dim) {                                        \
    layer_norm<type>(x, out, tokens, dim);                                                                           \
  }                                                                                                                 \
  extern "C" __global__ void __launch_bounds__(kThreads, 2)                                                           \
      norm_silu_##element(const uint4* x, const float4* gain, uint4* out, int tokens, int dim) {                     \
    norm_silu<type>(x, gain, out, tokens, dim);                                                                      \
  }

FLASHVSR_NORMS(float16, Half)
FLASHVSR_NORMS(bfloat16, BFloat16)

// Every item (head, query window) attends to all key windows, in any order. Grid (items).
extern "C" __global__ void list_all(int* lists, int* counts, int* order, int* ticket, int k_windows) {
  const int item = blockIdx.x;
  for (int j = threadIdx.x; j < k_windows; j += blockDim.x) lists[static_cast<int64_t>(item) * k_windows + j] = j;
  if (threadIdx.x != 0) return;
  counts[item] = k_windows;
  order[item] = item;
  if (item == 0) *ticket = 0;
}
