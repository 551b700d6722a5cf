// The kernels of csrc/kernels/float8.cu on the host.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "grid.hpp"

#include "float8.cu"

#define HOST_FLOAT8(element)                                                                                           \
  extern "C" void run_to_float8_##element(const uint4* x, const float* scales, uint4* out, float* apart, int vectors) { \
    host::run((vectors + kThreads - 1) / kThreads, 1, kThreads,                                                        \
              [=] { to_float8_##element(x, scales, out, apart, vectors); });                                           \
  }

HOST_FLOAT8(float16)
HOST_FLOAT8(bfloat16)
