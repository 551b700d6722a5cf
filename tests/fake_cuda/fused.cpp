// The kernels of csrc/kernels/fused.cu on the host.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "grid.hpp"

#include "fused.cu"

#define HOST_NORMS(element)                                                                                           \
  extern "C" void run_norm_rotate_##element(const uint4* qkv, const float4* gain_q, const float4* gain_k,             \
                                            const float4* table, uint4* q, uint4* k, uint4* v, int tokens, int dim) { \
    host::run((tokens + kWarps - 1) / kWarps, 3, kThreads,                                                            \
              [=] { norm_rotate_##element(qkv, gain_q, gain_k, table, q, k, v, tokens, dim); });                      \
  }                                                                                                                   \
  extern "C" void run_norm_rows_##element(const uint4* x, const float4* gain, uint4* out, int tokens, int dim) {      \
    host::run((tokens + kWarps - 1) / kWarps, 1, kThreads, [=] { norm_rows_##element(x, gain, out, tokens, dim); });  \
  }                                                                                                                   \
  extern "C" void run_layer_norm_##element(const uint4* x, uint4* out, int tokens, int dim) {                         \
    host::run((tokens + kWarps - 1) / kWarps, 1, kThreads, [=] { layer_norm_##element(x, out, tokens, dim); });       \
  }                                                                                                                   \
  extern "C" void run_norm_silu_##element(const uint4* x, const float4* gain, uint4* out, int tokens, int dim) {      \
    host::run((tokens + kWarps - 1) / kWarps, 1, kThreads, [=] { norm_silu_##element(x, gain, out, tokens, dim); });  \
  }

HOST_NORMS(float16)
HOST_NORMS(bfloat16)

extern "C" void run_list_all(int* lists, int* counts, int* order, int* ticket, int items, int k_windows) {
  host::run(items, 1, 32, [=] { list_all(lists, counts, order, ticket, k_windows); });
}
