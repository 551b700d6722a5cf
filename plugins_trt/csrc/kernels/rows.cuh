// Rows of numbers, one in the registers of a warp, for kernels that are bound by memory: each row is read once.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

namespace rows {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kVector = 8;       // numbers of a 16-byte access
constexpr int kMostVectors = 8;  // of one lane: rows of up to 2048 numbers
constexpr unsigned kAll = ~0u;

constexpr float kEps = 1e-6f;

// Types of numbers: pairs of them, and vectors of kVector.
struct Half {
  using Pair = __half2;
  using Vector = uint4;
  __device__ static float2 widen(Pair pair) { return __half22float2(pair); }
  __device__ static Pair narrow(float2 pair) { return __float22half2_rn(pair); }
};

struct BFloat16 {
  using Pair = __nv_bfloat162;
  using Vector = uint4;
  __device__ static float2 widen(Pair pair) { return __bfloat1622float2(pair); }
  __device__ static Pair narrow(float2 pair) { return __float22bfloat162_rn(pair); }
};

// E4M3; what is beyond 448 becomes 448.
struct Eighth {
  using Pair = __nv_fp8x2_storage_t;
  using Vector = uint2;
  __device__ static Pair narrow(float2 pair) { return __nv_cvt_float2_to_fp8x2(pair, __NV_SATFINITE, __NV_E4M3); }
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

  // Row with every four numbers changed, change(which four, the four), as numbers of type Out.
  template <class Out = T, class Change>
  __device__ __forceinline__ void store(typename Out::Vector* target, int count, Change change) const {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int at = 32 * i + threadIdx.x % 32;
      if (at >= count) return;
      const auto* pairs = reinterpret_cast<const typename T::Pair*>(&vectors[i]);
      typename Out::Vector packed;
      auto* out = reinterpret_cast<typename Out::Pair*>(&packed);
#pragma unroll
      for (int j = 0; j < kVector / 4; ++j) {
        const float2 first = T::widen(pairs[2 * j]), second = T::widen(pairs[2 * j + 1]);
        const float4 four = change(at * (kVector / 4) + j, make_float4(first.x, first.y, second.x, second.y));
        out[2 * j] = Out::narrow(make_float2(four.x, four.y));
        out[2 * j + 1] = Out::narrow(make_float2(four.z, four.w));
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

// The `at`-th four numbers x of a row, times factor and gain, their two pairs turned by (cos, sin) of `table`: those of
// the 64 pairs of a head.
__device__ __forceinline__ float4 turned(int at, float4 x, float factor, const float4* gain, const float4* table) {
  x = scaled(x, factor, __ldg(gain + at));
  const float4 turn = __ldg(table + at % 32);
  return make_float4(x.x * turn.x - x.y * turn.y, x.x * turn.y + x.y * turn.x,  //
                     x.z * turn.z - x.w * turn.w, x.z * turn.w + x.w * turn.z);
}

// One row of a layer norm, its numbers standing for `unit` each.
template <class T, class Out = T>
__device__ __forceinline__ void standardise(const uint4* x, typename Out::Vector* out, int dim, float unit = 1.0f) {
  const int count = dim / kVector;
  Row<T> row;
  row.load(x, count);
  const float mean = row.template sum<1>() / dim;
  const float factor = rsqrtf(row.template sum<2>(mean, count) / dim + kEps) / unit;
  row.template store<Out>(out, count, [=](int, float4 x) {
    return make_float4((x.x - mean) * factor, (x.y - mean) * factor, (x.z - mean) * factor, (x.w - mean) * factor);
  });
}

}  // namespace rows
