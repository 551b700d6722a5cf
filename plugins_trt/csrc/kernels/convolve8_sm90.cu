// Convolutions of 8-bit numbers (E4M3) for Hopper, results in 16 (plugins_trt/spec.py: ConvolveInner8). The matrix units
// sum with about 13 bits of mantissa.

#include "convolve.cuh"

#define FLASHVSR_CONVOLVE8(name, type)                                                                               \
  extern "C" __global__ void __launch_bounds__(convolve::kThreads, 1)                                                \
      name(const __grid_constant__ hopper::TensorMap x, const __grid_constant__ hopper::TensorMap weight,            \
           const float* scales, const type::Storage* bias, type::Storage* out, int frames, int height, int width,    \
           int channels, int outputs) {                                                                              \
    convolve::run({&x, &x, &weight}, convolve::Eight<type>{__ldg(scales) * __ldg(scales + 1)}, {bias, nullptr, out}, \
                  {frames, height, width, channels, 1, outputs, 1, 3, 0, 0});                                        \
  }

FLASHVSR_CONVOLVE8(convolve8_float16, hopper::Half)
FLASHVSR_CONVOLVE8(convolve8_bfloat16, hopper::BFloat16)
