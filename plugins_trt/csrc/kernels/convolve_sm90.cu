// The decoder's convolutions for Hopper (plugins_trt/spec.py: Convolve, ConvolvePast, ConvolveAdd, ConvolveUp).

#include "convolve.cuh"

#define FLASHVSR_CONVOLVE(name, type)                                                                                  \
  extern "C" __global__ void __launch_bounds__(convolve::kThreads, 1)                                                  \
      name(const __grid_constant__ hopper::TensorMap x, const __grid_constant__ hopper::TensorMap past,                \
           const __grid_constant__ hopper::TensorMap weight, const type::Storage* bias, const type::Storage* residual, \
           type::Storage* out, int frames, int height, int width, int channels, int sources, int outputs, int growth,  \
           int side, int relu) {                                                                                       \
    convolve::run({&x, &past, &weight}, convolve::Sixteen<type>{}, {bias, residual, out},                              \
                  {frames, height, width, channels, sources, outputs, growth, side, relu, 1});                         \
  }

FLASHVSR_CONVOLVE(convolve_float16, hopper::Half)
FLASHVSR_CONVOLVE(convolve_bfloat16, hopper::BFloat16)
