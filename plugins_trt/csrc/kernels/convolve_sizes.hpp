// Sizes of a convolution's tile, for the kernels (convolve.cuh) and for what launches them (attention/convolve.cpp).

#pragma once

namespace convolve {

constexpr int kSide = 16;           // pixels and lines
constexpr int kWindow = kSide + 2;  // pixels and lines that the taps of a tile see
constexpr int kOutputs = 128;
constexpr int kPixelBytes = 128;    // of one stage's channels: the width of the swizzle

}  // namespace convolve
