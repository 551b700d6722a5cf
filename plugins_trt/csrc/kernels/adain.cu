// Colour fix against the low-quality frames and conversion to integers (plugins_trt/spec.py: AdaptColours): statistics
// in one launch, their use in another.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#ifndef FLASHVSR_SHARED
#define FLASHVSR_SHARED __shared__  // memory of a block
#endif

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr unsigned kAll = ~0u;
constexpr double kEps = 1e-5;

__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float unit(uint8_t byte) { return byte / 255.0f * 2.0f - 1.0f; }

// Sizes of a call: frames of `height` x `width`, of which the first `rows` x `columns` are the picture.
struct Sizes {
  int height, width, rows, columns;
  int parts;  // blocks that share the statistics of one frame and colour
};

__device__ double sum_of_block(double value, double* totals) {
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(kAll, value, distance);
  if (threadIdx.x % 32 == 0) totals[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = 0;
  for (int i = 0; i < kWarps; ++i) sum += totals[i];
  __syncthreads();
  return sum;
}

// sums: [frames, 3, parts, 4], of x, x^2, LQ and LQ^2 over a share of the picture's rows. Grid (parts, frames * 3).
// Each thread's own sum is in float32 over one row at a time, what adds them up is in double.
template <class T>
__device__ __forceinline__ void statistics(const T* frames, const uint8_t* lq, double* sums, const Sizes& s) {
  FLASHVSR_SHARED double totals[kWarps];
  const int frame = blockIdx.y / 3, colour = blockIdx.y % 3;
  const T* x = frames + static_cast<int64_t>(blockIdx.y) * s.height * s.width;
  const uint8_t* reference = lq + static_cast<int64_t>(frame) * s.height * s.width * 3 + colour;
  double sum[4] = {};
  for (int row = blockIdx.x; row < s.rows; row += s.parts) {
    float line[4] = {};
    for (int column = threadIdx.x; column < s.columns; column += kThreads) {
      const int64_t at = static_cast<int64_t>(row) * s.width + column;
      const float a = widen(x[at]), b = unit(reference[3 * at]);
      line[0] += a;
      line[1] += a * a;
      line[2] += b;
      line[3] += b * b;
    }
    for (int i = 0; i < 4; ++i) sum[i] += line[i];
  }
  for (int i = 0; i < 4; ++i) {
    const double whole = sum_of_block(sum[i], totals);
    if (threadIdx.x == 0) sums[(static_cast<int64_t>(blockIdx.y) * s.parts + blockIdx.x) * 4 + i] = whole;
  }
}

// Integers [frames, rows, columns, 3]. Grid (shares of the rows, frames).
template <class T, class Pixel>
__device__ __forceinline__ void adapt(const T* frames, const double* sums, Pixel* pixels, const Sizes& s) {
  constexpr float kHalf = sizeof(Pixel) == 1 ? 127.5f : 32767.5f;  // of the range
  FLASHVSR_SHARED double totals[3][4];
  FLASHVSR_SHARED float factor[3], offset[3];
  const int frame = blockIdx.y;
  if (threadIdx.x < 12) {
    const int colour = threadIdx.x / 4, kind = threadIdx.x % 4;
    const double* own = sums + (static_cast<int64_t>(frame) * 3 + colour) * s.parts * 4 + kind;
    double total = 0;
    for (int i = 0; i < s.parts; ++i) total += own[4 * i];
    totals[colour][kind] = total;
  }
  __syncthreads();
  if (threadIdx.x < 3) {
    const double* total = totals[threadIdx.x];
    const double count = static_cast<double>(s.rows) * s.columns;
    const double mean = total[0] / count, target = total[2] / count;
    const double ratio = sqrt((total[3] / count - target * target + kEps) / (total[1] / count - mean * mean + kEps));
    factor[threadIdx.x] = static_cast<float>(ratio);
    offset[threadIdx.x] = static_cast<float>(target - mean * ratio);
  }
  __syncthreads();
  const int64_t plane = static_cast<int64_t>(s.height) * s.width;
  const T* x = frames + static_cast<int64_t>(frame) * 3 * plane;
  for (int row = blockIdx.x; row < s.rows; row += gridDim.x) {
    Pixel* line = pixels + (static_cast<int64_t>(frame) * s.rows + row) * s.columns * 3;
    for (int i = threadIdx.x; i < 3 * s.columns; i += kThreads) {  // neighbours write neighbours
      const int column = i / 3, colour = i % 3;
      const float value = widen(x[colour * plane + static_cast<int64_t>(row) * s.width + column]);
      const float fixed = fminf(fmaxf(value * factor[colour] + offset[colour], -1.0f), 1.0f);
      line[i] = static_cast<Pixel>((fixed + 1.0f) * kHalf);
    }
  }
}

}  // namespace

#define FLASHVSR_ADAIN(element, type)                                                                                \
  extern "C" __global__ void __launch_bounds__(kThreads)                                                             \
      colour_statistics_##element(const type* frames, const uint8_t* lq, double* sums, int height, int width,        \
                                  int rows, int columns, int parts) {                                                \
    statistics<type>(frames, lq, sums, {height, width, rows, columns, parts});                                       \
  }                                                                                                                  \
  extern "C" __global__ void __launch_bounds__(kThreads)                                                             \
      adapt_colours_##element(const type* frames, const double* sums, uint8_t* pixels, int height, int width,        \
                              int rows, int columns, int parts) {                                                    \
    adapt(frames, sums, pixels, {height, width, rows, columns, parts});                                              \
  }                                                                                                                  \
  extern "C" __global__ void __launch_bounds__(kThreads)                                                             \
      adapt_colours16_##element(const type* frames, const double* sums, uint16_t* pixels, int height, int width,     \
                                int rows, int columns, int parts) {                                                  \
    adapt(frames, sums, pixels, {height, width, rows, columns, parts});                                              \
  }

FLASHVSR_ADAIN(float16, __half)
FLASHVSR_ADAIN(bfloat16, __nv_bfloat16)
