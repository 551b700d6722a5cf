// The kernels of csrc/kernels/adain.cu on the host.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "grid.hpp"

#define FLASHVSR_SHARED static  // blocks run one after the other
#include "adain.cu"

#define HOST_ADAPT(name, element, type, pixel)                                                                     \
  extern "C" void run_##name##_##element(const type* frames, const std::uint8_t* lq, double* sums, pixel* pixels,      \
                                         int count, const int* s) {                                                    \
    host::run(3, 3 * count, kThreads,                                                                                  \
              [=] { colour_statistics_##element(frames, lq, sums, s[0], s[1], s[2], s[3], 3); });                      \
    host::run(2, count, kThreads, [=] { name##_##element(frames, sums, pixels, s[0], s[1], s[2], s[3], 3); });         \
  }

HOST_ADAPT(adapt_colours, float16, __half, std::uint8_t)
HOST_ADAPT(adapt_colours, bfloat16, __nv_bfloat16, std::uint8_t)
HOST_ADAPT(adapt_colours16, float16, __half, std::uint16_t)
