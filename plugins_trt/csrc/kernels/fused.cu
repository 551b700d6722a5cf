// Memory-bound helpers around the matrix products (plugins_trt/spec.py): one warp a row, each row read once.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kVector = 8;       // numbers of a 16-byte access
constexpr int kMostVectors = 8;  // of one lane: rows of up to 2048 numbers
constexpr int kMostVectorsOfSilu = 12;
constexpr unsigned kAll = ~0u;
constexpr float kEps = 1e-6f;

struct Half {
  using Pair = __half2;
  __device__ static float2 widen(Pair pair) { return __half22float2(pair); }
  __device__ static Pair narrow(float2 pair) { return __float22half2_rn(pair); }
};

struct BFloat16 {
  using Pair = __nv_bfloat162;
  __device__ static float2 widen(Pair pair) { return __bfloat1622float2(pair); }
  __device__ static Pair narrow(float2 pair) { return __float22bfloat162_rn(pair); }
};

// One row in a warp's registers: vector i of a lane is the row's vector 32 i + lane.
template <class T, int kVectors = kMostVectors>
struct Row {
  uint4 vectors[kVectors];

  __device__ __forceinline__ void load(const uint4* source, int count) {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int at = 32 * i + threadIdx.x % 32;
      vectors[i] = at < count ? __ldg(source + at) : make_uint4(0, 0, 0, 0);
    }
  }

  // Sum of (x - centre)^kPower over the row; what lies behind it is 0, so `count` only matters where the centre is not.
  template <int kPower>
  __device__ __forceinline__ float sum(float centre = 0.0f, int count = 32 * kVectors) const {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      if (static_cast<int>(32 * i + threadIdx.x % 32) >= count) break;
      const auto* pairs = reinterpret_cast<const typename T::Pair*>(&vectors[i]);
#pragma unroll
      for (int j = 0; j < kVector / 2; ++j) {
        const float2 two = T::widen(pairs[j]);
        const float x = two.x - centre, y = two.y - centre;
        sum += kPower == 2 ? x * x + y * y : x + y;
      }
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(kAll, sum, distance);
    return sum;
  }

  // Row with every four numbers changed: change(which four, the four).
  template <class Change>
  __device__ __forceinline__ void store(uint4* target, int count, Change change) const {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int at = 32 * i + threadIdx.x % 32;
      if (at >= count) return;
      const auto* pairs = reinterpret_cast<const typename T::Pair*>(&vectors[i]);
      uint4 packed;
      auto* out = reinterpret_cast<typename T::Pair*>(&packed);
#pragma unroll
      for (int j = 0; j < kVector / 4; ++j) {
        const float2 first = T::widen(pairs[2 * j]), second = T::widen(pairs[2 * j + 1]);
        const float4 four = change(at * (kVector / 4) + j, make_float4(first.x, first.y, second.x, second.y));
        out[2 * j] = T::narrow(make_float2(four.x, four.y));
        out[2 * j + 1] = T::narrow(make_float2(four.z, four.w));
      }
      target[at] = packed;
    }
  }

  __device__ __forceinline__ void copy(uint4* target, int count) const {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int at = 32 * i + threadIdx.x % 32;
      if (at < count) target[at] = vectors[i];
    }
  }
};

__device__ __forceinline__ int64_t token_of_warp() {
  return static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
}

__device__ __forceinline__ float4 scaled(float4 x, float factor, float4 gain) {
  return make_float4(x.x * factor * gain.x, x.y * factor * gain.y, x.z * factor * gain.z, x.w * factor * gain.w);
}

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
  const float4 *gain = part == 0 ? gain_q : gain_k, *own = table + token * 32;  // (cos, sin) of the 64 pairs of a head
  row.store((part == 0 ? q : k) + token * count, count, [=](int at, float4 x) {
    x = scaled(x, factor, __ldg(gain + at));
    const float4 turn = __ldg(own + at % 32);
    return make_float4(x.x * turn.x - x.y * turn.y, x.x * turn.y + x.y * turn.x,  //
                       x.z * turn.z - x.w * turn.w, x.z * turn.w + x.w * turn.z);
  });
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
  const int count = dim / kVector;
  Row<T> row;
  row.load(x + token * count, count);
  const float mean = row.template sum<1>() / dim;
  const float factor = rsqrtf(row.template sum<2>(mean, count) / dim + kEps);
  row.store(out + token * count, count, [=](int, float4 x) {
    return make_float4((x.x - mean) * factor, (x.y - mean) * factor, (x.z - mean) * factor, (x.w - mean) * factor);
  });
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
