// The kernels of csrc/kernels/fold.cu on the host.
#include <algorithm>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "grid.hpp"

using std::max, std::min;
#define FLASHVSR_SHARED alignas(4) static  // blocks run one after the other
#include "fold.cu"

#define HOST_FOLD(element)                                                                                            \
  extern "C" void run_fold_frames_##element(const uint4* x, const uint4* past, uint4* out, const int* s) {            \
    host::run((s[0] * (s[1] + 2) * (s[2] + 2) * kTaps + kWarps - 1) / kWarps, 1, kThreads,                            \
              [=] { fold_frames_##element(x, past, out, s[0], s[1], s[2], s[3]); });                                  \
  }                                                                                                                   \
  extern "C" void run_fold_pixels_##element(const std::uint8_t* frames, const std::uint8_t* past, uint4* out,         \
                                            const int* s) {                                                           \
    host::run((s[0] * (s[1] + 2) * (s[2] + 2) * kTaps + kWarps - 1) / kWarps, 1, kThreads,                            \
              [=] { fold_pixels_##element(frames, past, out, s[0], s[1], s[2]); });                                   \
  }

extern "C" void run_last_planes(const uint4* x, std::uint32_t* out, int pixels, int channels) {
  host::run((pixels + kTile - 1) / kTile, channels / kTile, kThreads, [=] { last_planes(x, out, pixels, channels); });
}

HOST_FOLD(float16)
HOST_FOLD(bfloat16)
