// Copies in another order (plugins_trt/spec.py: FoldFrames, FoldPixels, LastPlanes). Folding: one warp for each pixel and
// each of the four frames in its channels.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#ifndef FLASHVSR_SHARED
#define FLASHVSR_SHARED __shared__  // memory of a block
#endif

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kVector = 8;    // numbers of a 16-byte access
constexpr int kTaps = 4;      // frames side by side in the channels
constexpr int kStep = 2;      // frames between neighbouring results, and frames of the past
constexpr int kCell = 16;     // pixels along a side of a cell
constexpr int kColours = 3;
constexpr int kTile = 64;        // pixels and channels of a block of last_planes
constexpr int kRow = kTile + 2;  // numbers between its channels: lanes that write four channels meet other banks

struct Half {
  using Pair = __half2;
  __device__ static Pair narrow(float2 pair) { return __float22half2_rn(pair); }
};

struct BFloat16 {
  using Pair = __nv_bfloat162;
  __device__ static Pair narrow(float2 pair) { return __float22bfloat162_rn(pair); }
};

// What a warp writes, and where it is read: the result is one pixel larger on every side, a copy of its neighbour.
struct Place {
  int64_t item;
  int frame, row, column;
  bool past, outside;  // of the past; outside the grid

  __device__ __forceinline__ Place(int results, int height, int width) {
    const unsigned number = blockIdx.x * kWarps + threadIdx.x / 32;  // 32 bits: their divisions are fast
    const unsigned pixel = number / kTaps, line = pixel / (width + 2), result = line / (height + 2);
    const int first = static_cast<int>(result * kStep + number % kTaps) - kStep;
    item = number;
    past = first < 0;
    frame = past ? first + kStep : first;
    row = min(max(static_cast<int>(line % (height + 2)) - 1, 0), height - 1);
    column = min(max(static_cast<int>(pixel % (width + 2)) - 1, 0), width - 1);
    outside = result >= static_cast<unsigned>(results);
  }
};

// 24 bytes, eight pixels in a row, to eight numbers of one colour.
template <class T>
__device__ __forceinline__ uint4 numbers_of(const uint2* bytes, int colour) {
  const auto* values = reinterpret_cast<const uint8_t*>(bytes);
  const auto unit = [&](int pixel) { return values[kColours * pixel + colour] / 255.0f * 2.0f - 1.0f; };
  uint4 packed;
  auto* out = reinterpret_cast<typename T::Pair*>(&packed);
#pragma unroll
  for (int i = 0; i < kVector / 2; ++i) out[i] = T::narrow(make_float2(unit(2 * i), unit(2 * i + 1)));
  return packed;
}

// Cells of `height` x `width`; channels of a frame are (colour, row, column) of its cell: a lane has half a row.
template <class T>
__device__ __forceinline__ void fold_pixels(const uint8_t* frames, const uint8_t* past, uint4* out, int results,
                                            int height, int width) {
  const Place place(results, height, width);
  if (place.outside) return;
  const int lane = threadIdx.x % 32;
  const uint8_t* source = place.past ? past : frames;
  const int64_t line = (static_cast<int64_t>(place.frame) * height + place.row) * kCell + lane / 2;
  const int64_t pixel = (line * width + place.column) * kCell + lane % 2 * kVector;
  const auto* eight = reinterpret_cast<const uint2*>(source + pixel * kColours);
  const uint2 bytes[kColours] = {__ldg(eight), __ldg(eight + 1), __ldg(eight + 2)};
#pragma unroll
  for (int colour = 0; colour < kColours; ++colour) {
    out[(place.item * kColours + colour) * 32 + lane] = numbers_of<T>(bytes, colour);
  }
}

}  // namespace

// Grid (results * (height + 2) * (width + 2) * 4 / 8, rounded up), of both.
#define FLASHVSR_FOLD(element, type)                                                                                \
  extern "C" __global__ void __launch_bounds__(kThreads)                                                            \
      fold_frames_##element(const uint4* x, const uint4* past, uint4* out, int results, int height, int width,      \
                            int dim) {                                                                              \
    const Place place(results, height, width);                                                                      \
    if (place.outside) return;                                                                                      \
    const int count = dim / kVector;                                                                                \
    const int64_t pixel = (static_cast<int64_t>(place.frame) * height + place.row) * width + place.column;          \
    const uint4* source = (place.past ? past : x) + pixel * count;                                                  \
    for (int i = threadIdx.x % 32; i < count; i += 32) out[place.item * count + i] = __ldg(source + i);             \
  }                                                                                                                 \
  extern "C" __global__ void __launch_bounds__(kThreads)                                                            \
      fold_pixels_##element(const uint8_t* frames, const uint8_t* past, uint4* out, int results, int height,        \
                            int width) {                                                                            \
    fold_pixels<type>(frames, past, out, results, height, width);                                                   \
  }

// x [pixels, channels] of 16-bit numbers to out [channels, pixels]. Grid (pixels / 64 rounded up, channels / 64).
extern "C" __global__ void __launch_bounds__(kThreads)
    last_planes(const uint4* x, uint32_t* out, int pixels, int channels) {
  FLASHVSR_SHARED uint16_t tile[kTile * kRow];
  const int first = blockIdx.x * kTile, channel = blockIdx.y * kTile, lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int pixel = threadIdx.x / 32 * 8 + lane / 4, vector = 4 * i + lane % 4;
    if (first + pixel >= pixels) break;
    const int64_t at = (static_cast<int64_t>(first + pixel) * channels + channel) / kVector + vector;
    const uint4 packed = __ldg(x + at);
    const auto* numbers = reinterpret_cast<const uint16_t*>(&packed);
#pragma unroll
    for (int j = 0; j < kVector; ++j) tile[(vector * kVector + j) * kRow + pixel] = numbers[j];
  }
  __syncthreads();
  if (first + 2 * lane >= pixels) return;
  for (int row = threadIdx.x / 32; row < kTile; row += kWarps) {  // two pixels a lane
    const int64_t at = (static_cast<int64_t>(channel + row) * pixels + first) / 2 + lane;
    out[at] = *reinterpret_cast<const uint32_t*>(tile + row * kRow + 2 * lane);
  }
}

FLASHVSR_FOLD(float16, Half)
FLASHVSR_FOLD(bfloat16, BFloat16)
