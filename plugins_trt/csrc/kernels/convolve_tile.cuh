// What a block of convolve.cuh works on: the layer's sizes, one tile of it, the shared memory's layout, a thread's pixels.

#pragma once

#include "convolve_sizes.hpp"
#include "hopper.cuh"

namespace convolve {

using hopper::TensorMap;

constexpr int kLineBytes = kWindow * kPixelBytes;
constexpr int kLoadedBytes = kWindow * kLineBytes;
constexpr int kWeightBytes = kOutputs * kPixelBytes;
constexpr int kWindows = 2, kWeights = 8;           // stages of each
constexpr int kLead = 5;                            // weights that the first warpgroup is ahead at the start
constexpr int kPart = 8;                            // pixels and lines of one instruction's 64 rows
constexpr int kWarpgroup = 128;
constexpr int kConsumerWarps = 8;
constexpr int kThreads = 3 * kWarpgroup;
constexpr int kProducerRegisters = 40;
constexpr int kConsumerRegisters = 232;
constexpr int kAlignment = 1024;                    // of the swizzle pattern
constexpr int kWindowBytes = (kLoadedBytes + kAlignment - 1) / kAlignment * kAlignment;
static_assert(kLead < kWeights && kLead <= 4 * kWindows, "the second warpgroup would wait for what waits for it");

struct Shared {
  uint64_t led, window_full[kWindows], window_empty[kWindows], weight_full[kWeights], weight_empty[kWeights];
};

constexpr int kSharedBytes =
    kAlignment + kWindows * kWindowBytes + kWeights * kWeightBytes + static_cast<int>(sizeof(Shared));
#ifdef FLASHVSR_SHARED_BYTES
static_assert(kSharedBytes <= FLASHVSR_SHARED_BYTES, "the launch gives too little shared memory");
#endif

// Height and width are the result's, before upsampling. `side`: 3 taps a side, or 2 of an upsampling convolution.
// `outputs` of one frame; weight rows are [phase, growth, outputs]. `border`: pixels of zeros around x, 0 where x itself
// is one pixel larger on every side.
struct Sizes {
  int frames, height, width, channels, sources, outputs, growth, side, relu, border;

  __device__ int phases() const { return side == 2 ? 4 : 1; }
  __device__ int tiles_across() const { return (width + kSide - 1) / kSide; }
  __device__ int tiles_down() const { return (height + kSide - 1) / kSide; }
  __device__ int blocks_of_outputs() const { return growth * outputs / kOutputs; }
  __device__ int items() const { return frames * tiles_down() * tiles_across() * blocks_of_outputs() * phases(); }
};

// One tile: first pixel, frame, first weight row inside its phase, phase.
struct Item {
  int x, y, frame, row, phase;

  __device__ Item(int number, const Sizes& sizes) {
    const int blocks = sizes.blocks_of_outputs(), across = sizes.tiles_across(), down = sizes.tiles_down();
    row = number % blocks * kOutputs;
    number /= blocks;
    phase = number % sizes.phases();
    number /= sizes.phases();
    x = number % across * kSide;
    number /= across;
    y = number % down * kSide;
    frame = number / down;
  }
};

struct Maps {
  const TensorMap *x, *past, *weight;
};

template <class T>
struct Tensors {
  const typename T::Storage *bias, *residual;  // either may be null
  typename T::Storage* out;
};

struct Layout {
  uint32_t windows;
  Shared* shared;

  __device__ explicit Layout(unsigned char* raw) {
    const uint32_t address = hopper::shared_address(raw);
    windows = (address + kAlignment - 1) & ~(kAlignment - 1);
    shared = reinterpret_cast<Shared*>(raw + (weight(kWeights) - address));
  }
  __device__ uint32_t window(int stage) const { return windows + stage * kWindowBytes; }
  __device__ uint32_t weight(int stage) const { return window(kWindows) + stage * kWeightBytes; }
  __device__ uint32_t led() const { return hopper::shared_address(&shared->led); }
  __device__ uint32_t window_full(int stage) const { return hopper::shared_address(&shared->window_full[stage]); }
  __device__ uint32_t window_empty(int stage) const { return hopper::shared_address(&shared->window_empty[stage]); }
  __device__ uint32_t weight_full(int stage) const { return hopper::shared_address(&shared->weight_full[stage]); }
  __device__ uint32_t weight_empty(int stage) const { return hopper::shared_address(&shared->weight_empty[stage]); }
};

// Element index of output `row` (growth * outputs + output) at an input pixel, for its phase.
__device__ __forceinline__ int64_t place(const Item& item, int x, int y, const Sizes& sizes) {
  const int grown = item.row / sizes.outputs, output = item.row % sizes.outputs;
  const int64_t frame = static_cast<int64_t>(item.frame) * sizes.growth + grown;
  const int scale = sizes.side == 2 ? 2 : 1;
  const int64_t line = frame * sizes.height * scale + y * scale + item.phase / 2;
  return (line * sizes.width * scale + x * scale + item.phase % 2) * sizes.outputs + output;
}

// Where a consumer thread's pixel is: of part `part` the upper or lower one, as `half` says.
struct Pixel {
  bool inside;
  int64_t at;  // of its first output

  __device__ __forceinline__ Pixel(const Item& item, const Sizes& sizes, int part, int half) {
    const int group = threadIdx.x / kWarpgroup - 1, lane = threadIdx.x % 32, warp = threadIdx.x % kWarpgroup / 32;
    const int x = item.x + kPart * part + lane / 4, y = item.y + kPart * group + 2 * warp + half;
    inside = x < sizes.width && y < sizes.height;
    at = inside ? place(item, x, y, sizes) : 0;
  }
};

}  // namespace convolve
