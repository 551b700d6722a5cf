// 16-bit numbers to 8 bits (E4M3) for the matrix products of plugins_trt/spec.py: Linear8.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

namespace {

constexpr int kThreads = 256;
constexpr int kVector = 16;  // numbers a thread: two 16-byte loads, one store

__device__ __forceinline__ float2 widen(__half2 pair) { return __half22float2(pair); }
__device__ __forceinline__ float2 widen(__nv_bfloat162 pair) { return __bfloat1622float2(pair); }

// Vector i of x, divided by scales[0]; what is beyond 448 becomes 448. Both scales also go where cuBLASLt can read them,
// 16 bytes apart. Grid (vectors / 256 rounded up).
template <class Pair>
__device__ __forceinline__ void to_float8(const uint4* x, const float* scales, uint4* out, float* apart, int vectors) {
  const int at = blockIdx.x * kThreads + threadIdx.x;
  if (at < 2) apart[4 * at] = scales[at];
  if (at >= vectors) return;
  const uint4 halves[2] = {__ldg(x + 2 * static_cast<int64_t>(at)), __ldg(x + 2 * static_cast<int64_t>(at) + 1)};
  const auto* pairs = reinterpret_cast<const Pair*>(halves);
  const float unit = __ldg(scales);
  uint4 packed;
  auto* eighths = reinterpret_cast<__nv_fp8x2_storage_t*>(&packed);
#pragma unroll
  for (int i = 0; i < kVector / 2; ++i) {
    const float2 two = widen(pairs[i]);
    eighths[i] = __nv_cvt_float2_to_fp8x2(make_float2(two.x / unit, two.y / unit), __NV_SATFINITE, __NV_E4M3);
  }
  out[at] = packed;
}

}  // namespace

#define FLASHVSR_FLOAT8(element, pair)                                                                                 \
  extern "C" __global__ void __launch_bounds__(kThreads)                                                               \
      to_float8_##element(const uint4* x, const float* scales, uint4* out, float* apart, int vectors) {               \
    to_float8<pair>(x, scales, out, apart, vectors);                                                                   \
  }

FLASHVSR_FLOAT8(float16, __half2)
FLASHVSR_FLOAT8(bfloat16, __nv_bfloat162)
