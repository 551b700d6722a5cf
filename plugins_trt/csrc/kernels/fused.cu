// Memory-bound helpers around the matrix products (plugins_trt/spec.py): one warp a row, each row read once.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kVector = 8;       // numbers of a 16-byte access
constexpr int kMostVectors = 8;  // of one lane: rows of up to 2048 numbers
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
template <class T>
struct Row {
  uint4 vectors[kMostVectors];

  __device__ __forceinline__ void load(const uint4* source, int count) {
#pragma unroll
    for (int i = 0; i < kMostVectors; ++i) {
      const int at = 32 * i + threadIdx.x % 32;
      vectors[i] = at < count ? __ldg(source + at) : make_uint4(0, 0, 0, 0);
    }
  }

  // Sum of (x - centre)^kPower over the row; what lies behind it is 0, so `count` only matters where the centre is not.
  template <int kPower>
  __device__ __forceinline__ float sum(float centre = 0.0f, int count = 32 * kMostVectors) const {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kMostVectors; ++i) {
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

  // Row times `factor` times gain, its pairs turned by the table's (cos, sin) if kRotate: 64 pairs, again and again.
  template <bool kRotate>
  __device__ __forceinline__ void store(uint4* target, int count, float factor, const float4* gain,
                                        const float4* table) const {
#pragma unroll
    for (int i = 0; i < kMostVectors; ++i) {
      const int at = 32 * i + threadIdx.x % 32;
      if (at >= count) return;
      const auto* pairs = reinterpret_cast<const typename T::Pair*>(&vectors[i]);
      uint4 packed;
      auto* out = reinterpret_cast<typename T::Pair*>(&packed);
#pragma unroll
      for (int j = 0; j < kVector / 4; ++j) {
        const float4 gains = __ldg(gain + at * (kVector / 4) + j);
        float2 first = T::widen(pairs[2 * j]), second = T::widen(pairs[2 * j + 1]);
        first = make_float2(first.x * factor * gains.x, first.y * factor * gains.y);
        second = make_float2(second.x * factor * gains.z, second.y * factor * gains.w);
        if constexpr (kRotate) {
          const float4 turn = __ldg(table + at % 16 * (kVector / 4) + j);  // cos, sin of two pairs
          first = make_float2(first.x * turn.x - first.y * turn.y, first.x * turn.y + first.y * turn.x);
          second = make_float2(second.x * turn.z - second.y * turn.w, second.x * turn.w + second.y * turn.z);
        }
        out[2 * j] = T::narrow(first);
        out[2 * j + 1] = T::narrow(second);
      }
      target[at] = packed;
    }
  }

  // (Row - centre) times `factor`.
  __device__ __forceinline__ void store_centred(uint4* target, int count, float centre, float factor) const {
#pragma unroll
    for (int i = 0; i < kMostVectors; ++i) {
      const int at = 32 * i + threadIdx.x % 32;
      if (at >= count) return;
      const auto* pairs = reinterpret_cast<const typename T::Pair*>(&vectors[i]);
      uint4 packed;
      auto* out = reinterpret_cast<typename T::Pair*>(&packed);
#pragma unroll
      for (int j = 0; j < kVector / 2; ++j) {
        const float2 two = T::widen(pairs[j]);
        out[j] = T::narrow(make_float2((two.x - centre) * factor, (two.y - centre) * factor));
      }
      target[at] = packed;
    }
  }

  __device__ __forceinline__ void copy(uint4* target, int count) const {
#pragma unroll
    for (int i = 0; i < kMostVectors; ++i) {
      const int at = 32 * i + threadIdx.x % 32;
      if (at < count) target[at] = vectors[i];
    }
  }
};

// Warps of block row y: 0 makes q, 1 makes k, 2 copies v. Grid (tokens / 8 rounded up, 3).
template <class T>
__device__ __forceinline__ void norm_rotate(const uint4* qkv, const float4* gain_q, const float4* gain_k,
                                            const float4* table, uint4* q, uint4* k, uint4* v, int tokens, int dim) {
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (token >= tokens) return;
  const int count = dim / kVector, part = blockIdx.y;
  Row<T> row;
  row.load(qkv + (token * 3 + part) * count, count);
  if (part == 2) return row.copy(v + token * count, count);
  const float factor = rsqrtf(row.template sum<2>() / dim + kEps);
  row.template store<true>((part == 0 ? q : k) + token * count, count, factor, part == 0 ? gain_q : gain_k,
                           table + token * 32);
}

// Grid (tokens / 8 rounded up).
template <class T>
__device__ __forceinline__ void norm_rows(const uint4* x, const float4* gain, uint4* out, int tokens, int dim) {
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (token >= tokens) return;
  const int count = dim / kVector;
  Row<T> row;
  row.load(x + token * count, count);
  const float factor = rsqrtf(row.template sum<2>() / dim + kEps);
  row.template store<false>(out + token * count, count, factor, gain, nullptr);
}

// Grid (tokens / 8 rounded up).
template <class T>
__device__ __forceinline__ void layer_norm(const uint4* x, uint4* out, int tokens, int dim) {
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (token >= tokens) return;
  const int count = dim / kVector;
  Row<T> row;
  row.load(x + token * count, count);
  const float mean = row.template sum<1>() / dim;
  const float variance = row.template sum<2>(mean, count) / dim;
  row.store_centred(out + token * count, count, mean, rsqrtf(variance + kEps));
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
