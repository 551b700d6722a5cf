// The kernels of csrc/kernels/float8.cu on the host.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "grid.hpp"

#define FLASHVSR_SHARED static  // blocks run one after the other
#include "float8.cu"

#define HOST_FLOAT8(element)                                                                                           \
  extern "C" void run_to_float8_##element(const uint4* x, const float* unit, uint4* out, int vectors) {                \
    host::run((vectors + kThreads - 1) / kThreads, 1, kThreads, [=] { to_float8_##element(x, unit, out, vectors); });  \
  }                                                                                                                    \
  extern "C" void run_layer_norm8_##element(const uint4* x, const float* unit, uint2* out, int tokens, int dim) {      \
    host::run((tokens + kWarps - 1) / kWarps, 1, kThreads,                                                             \
              [=] { layer_norm8_##element(x, unit, out, tokens, dim); });                                              \
  }                                                                                                                    \
  extern "C" void run_norm_rotate8_##element(const uint4* qkv, const float4* gain_q, const float4* gain_k,             \
                                             const float4* table, const float* scales, uint2* q, uint2* k, uint4* v,   \
                                             int tokens, int dim) {                                                    \
    host::run((tokens + kWarps - 1) / kWarps, 2, kThreads,                                                             \
              [=] { norm_rotate8_##element(qkv, gain_q, gain_k, table, scales, q, k, tokens, dim); });                 \
    host::run(tokens / kTokens, dim / kChannels, kThreads, [=] { turn_values8_##element(qkv, scales, v, dim); });      \
  }

HOST_FLOAT8(float16)
HOST_FLOAT8(bfloat16)
