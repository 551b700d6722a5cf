// Launches the convolutions of csrc/kernels/convolve_sm90.cu and convolve8_sm90.cu.
#pragma once

#include <cuda.h>

#include <memory>

#include "fused.hpp"

namespace flashvsr {

// As Sizes of the kernel: `side` 3, or 2 of an upsampling convolution; `sources` 2 with a past.
struct Convolution {
  int frames, height, width, channels, sources, outputs, growth, side, relu;

  int phases() const { return side == 2 ? 4 : 1; }
};

// Device addresses; past, bias and residual may be null.
struct ConvolutionTensors {
  const void *x, *past, *weight, *bias, *residual;
  void* out;
};

// In 8 bits, of the inner pixels: x is one pixel larger on every side.
struct InnerConvolution {
  int frames, height, width, channels, outputs;
};
struct InnerTensors {
  const void *x, *weight, *scales, *bias;
  void* out;
};

// Whether the device of the calling thread's context has the kernel.
bool can_convolve();
bool can_convolve8();

void enqueue_convolution(const Fused& kernels, Element element, const Convolution& sizes,
                         const ConvolutionTensors& tensors, CUstream stream);
void enqueue_convolution8(const Fused& kernels, const InnerConvolution& sizes, const InnerTensors& tensors,
                          CUstream stream);

}  // namespace flashvsr
