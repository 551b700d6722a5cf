// 16-bit numbers to 8 bits (E4M3) for the matrix products and the attention of plugins_trt/spec.py: ToFloat8,
// LayerNorm8, NormRotate8.

#include "rows.cuh"

#ifndef FLASHVSR_SHARED
#define FLASHVSR_SHARED __shared__  // memory of a block
#endif

namespace {

using namespace rows;

constexpr int kNumbers = 16;  // a thread of to_float8: two 16-byte loads, one store

// Vector i of x, divided by unit[0]. Grid (vectors / 256 rounded up).
template <class T>
__device__ __forceinline__ void to_float8(const uint4* x, const float* unit, uint4* out, int vectors) {
  const int at = blockIdx.x * kThreads + threadIdx.x;
  if (at >= vectors) return;
  const uint4 halves[2] = {__ldg(x + 2 * static_cast<int64_t>(at)), __ldg(x + 2 * static_cast<int64_t>(at) + 1)};
  const auto* pairs = reinterpret_cast<const typename T::Pair*>(halves);
  const float divisor = __ldg(unit);
  uint4 packed;
  auto* eighths = reinterpret_cast<Eighth::Pair*>(&packed);
#pragma unroll
  for (int i = 0; i < kNumbers / 2; ++i) {
    const float2 two = T::widen(pairs[i]);
    eighths[i] = Eighth::narrow(make_float2(two.x / divisor, two.y / divisor));
  }
  out[at] = packed;
}

// As layer_norm of fused.cu, divided by unit[0]. Grid (tokens / 8 rounded up).
template <class T>
__device__ __forceinline__ void layer_norm8(const uint4* x, const float* unit, uint2* out, int tokens, int dim) {
  const int64_t token = token_of_warp();
  if (token >= tokens) return;
  const int64_t begin = token * (dim / kVector);
  standardise<T, Eighth>(x + begin, out + begin, dim, __ldg(unit));
}

// q and k of NormRotate8. Warps of block row y: 0 makes q, 1 makes k. Grid (tokens / 8 rounded up, 2).
template <class T>
__device__ __forceinline__ void norm_rotate8(const uint4* qkv, const float4* gain_q, const float4* gain_k,
                                             const float4* table, const float* scales, uint2* q, uint2* k, int tokens,
                                             int dim) {
  const int64_t token = token_of_warp();
  if (token >= tokens) return;
  const int count = dim / kVector, part = blockIdx.y;
  Row<T> row;
  row.load(qkv + (token * 3 + part) * count, count);
  const float factor = rsqrtf(row.template sum<2>() / dim + kEps) / __ldg(scales + part);
  const float4 *gain = part == 0 ? gain_q : gain_k, *own = table + token * 32;
  row.template store<Eighth>((part == 0 ? q : k) + token * count, count,
                             [=](int at, float4 x) { return turned(at, x, factor, gain, own); });
}

constexpr int kTokens = 128;                    // of a window
constexpr int kChannels = 128;                  // of a block
constexpr int kWords = kTokens / 4;             // four tokens each

__device__ __forceinline__ float2 divided(float2 two, float unit) { return make_float2(two.x / unit, two.y / unit); }

// v of NormRotate8: a window's values channel by channel. Number 16g + 4t + 2b + e of a channel, with t in 0..3 and b and
// e in 0..1, is token 16g + 8b + 2t + e: what one thread of csrc/kernels/attention8_sm90.cu has of the weights lies
// together. Grid (windows, dim / 128).
template <class T>
__device__ __forceinline__ void turn_values8(const uint4* qkv, const float* scales, uint4* v, int dim) {
  FLASHVSR_SHARED uint32_t words[kChannels][kWords + 1];
  constexpr int kColumns = kChannels / kVector;
  const int column = threadIdx.x % kColumns;
  const float unit = __ldg(scales + 2);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kTokens;
  const int part = dim / kVector, offset = 2 * part + blockIdx.y * kColumns + column;
#pragma unroll
  for (int word = threadIdx.x / kColumns; word < kWords; word += kThreads / kColumns) {
    const int token = word / 4 * 16 + word % 4 * 2;
    uint4 four[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) four[i] = __ldg(qkv + (first + token + i / 2 * 8 + i % 2) * 3 * part + offset);
#pragma unroll
    for (int pair = 0; pair < kVector / 2; ++pair) {
      float2 two[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) two[i] = divided(T::widen(reinterpret_cast<typename T::Pair*>(&four[i])[pair]), unit);
      uint32_t* target = &words[column * kVector + 2 * pair][word];
      target[0] = Eighth::narrow(make_float2(two[0].x, two[1].x)) |
                  static_cast<uint32_t>(Eighth::narrow(make_float2(two[2].x, two[3].x))) << 16;
      target[kWords + 1] = Eighth::narrow(make_float2(two[0].y, two[1].y)) |
                           static_cast<uint32_t>(Eighth::narrow(make_float2(two[2].y, two[3].y))) << 16;
    }
  }
  __syncthreads();
  v += (static_cast<int64_t>(blockIdx.x) * dim + blockIdx.y * kChannels) * (kTokens / 16);
  for (int i = threadIdx.x; i < kChannels * kTokens / 16; i += kThreads) {
    const uint32_t* four = &words[i / (kTokens / 16)][i % (kTokens / 16) * 4];
    v[i] = make_uint4(four[0], four[1], four[2], four[3]);
  }
}

}  // namespace

#define FLASHVSR_FLOAT8(element, type)                                                                                 \
  extern "C" __global__ void __launch_bounds__(kThreads)                                                               \
      to_float8_##element(const uint4* x, const float* unit, uint4* out, int vectors) {                                \
    to_float8<type>(x, unit, out, vectors);                                                                            \
  }                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(kThreads, 3)                                                            \
      layer_norm8_##element(const uint4* x, const float* unit, uint2* out, int tokens, int dim) {                      \
    layer_norm8<type>(x, unit, out, tokens, dim);                                                                      \
  }                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(kThreads, 3)                                                            \
      norm_rotate8_##element(const uint4* qkv, const float4* gain_q, const float4* gain_k, const float4* table,        \
                             const float* scales, uint2* q, uint2* k, int tokens, int dim) {                           \
    norm_rotate8<type>(qkv, gain_q, gain_k, table, scales, q, k, tokens, dim);                                         \
  }                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(kThreads)                                                               \
      turn_values8_##element(const uint4* qkv, const float* scales, uint4* v, int dim) {                               \
    turn_values8<type>(qkv, scales, v, dim);                                                                           \
  }

FLASHVSR_FLOAT8(float16, Half)
FLASHVSR_FLOAT8(bfloat16, BFloat16)
