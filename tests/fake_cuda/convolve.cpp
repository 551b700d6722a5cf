// The kernels of csrc/kernels/convolve_sm90.cu and convolve8_sm90.cu on the host; compiled with copies of them beside
// host_hopper/hopper.cuh.
#include "hopper.cuh"

#define __grid_constant__
#include "convolve8_sm90.cu"
#include "convolve_sm90.cu"

namespace {

using convolve::kOutputs, convolve::kThreads, convolve::kWindow;

hopper::TensorMap map_of(const void* base, int rank, const long long* sizes, const int* box, int item = 2) {
  hopper::TensorMap map{base, rank, {}, {}, {}, item};
  long long stride = 1;
  for (int d = 0; d < rank; ++d) {
    map.sizes[d] = sizes[d];
    map.strides[d] = stride;
    map.box[d] = box[d];
    stride *= sizes[d];
  }
  return map;
}

template <class Kernel>
void launch(int blocks, Kernel kernel) {
  hopper::SharedMemory own[1];
  host::run(blocks, 1, kThreads, [&] {
    if (threadIdx.x == 0) {
      own->barriers.clear();
      hopper::memory = own;
    }
    __syncthreads();
    kernel();
  });
}

}  // namespace

// sizes: frames, height, width, channels, sources, outputs, growth, side, relu
#define HOST_CONVOLVE(element, type)                                                                                 \
  extern "C" void run_convolve_##element(const void* x, const void* past, const void* weight,                        \
                                         const type::Storage* bias, const type::Storage* residual,                   \
                                         type::Storage* out, const int* s, int blocks) {                             \
    const int pixels[] = {64, kWindow, kWindow, 1}, rows[] = {64, kOutputs};                                         \
    const long long input[] = {s[3], s[2], s[1], s[0]}, memory[] = {s[3], s[2], s[1], 1};                            \
    const long long taps = s[7] * s[7], matrix[] = {taps * s[4] * s[3], (s[7] == 2 ? 4 : 1) * s[6] * s[5]};          \
    const auto x_map = map_of(x, 4, input, pixels), past_map = map_of(past, 4, memory, pixels);                      \
    const auto weight_map = map_of(weight, 2, matrix, rows);                                                         \
    launch(blocks, [=] {                                                                                             \
      convolve_##element(x_map, past_map, weight_map, bias, residual, out, s[0], s[1], s[2], s[3], s[4], s[5], s[6], \
                         s[7], s[8]);                                                                                \
    });                                                                                                              \
  }

// sizes: frames, height, width, channels, outputs; x is one pixel larger on every side
#define HOST_CONVOLVE8(element, type)                                                                                \
  extern "C" void run_convolve8_##element(const void* x, const void* weight, const float* scales,                    \
                                          const type::Storage* bias, type::Storage* out, const int* s, int blocks) { \
    const int pixels[] = {128, kWindow, kWindow, 1}, rows[] = {128, kOutputs};                                       \
    const long long input[] = {s[3], s[2] + 2, s[1] + 2, s[0]}, matrix[] = {9ll * s[3], s[4]};                       \
    const auto x_map = map_of(x, 4, input, pixels, 1), weight_map = map_of(weight, 2, matrix, rows, 1);              \
    launch(blocks, [=] {                                                                                             \
      convolve8_##element(x_map, weight_map, scales, bias, out, s[0], s[1], s[2], s[3], s[4]);                       \
    });                                                                                                              \
  }

HOST_CONVOLVE(float16, hopper::Half)
HOST_CONVOLVE(bfloat16, hopper::BFloat16)
HOST_CONVOLVE8(float16, hopper::Half)
HOST_CONVOLVE8(bfloat16, hopper::BFloat16)
