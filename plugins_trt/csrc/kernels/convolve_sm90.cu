// Convolutions of the decoder for Hopper, channels last (plugins_trt/spec.py: Convolve, ConvolvePast, ConvolveAdd,
// ConvolveUp): an implicit matrix product, no rearranged input in memory.
//
// A tile is 16 x 16 pixels of one frame by 128 outputs. For each tap and each 64 channels the copy engine brings the
// 256 shifted pixels (what lies outside the picture arrives as zeros) and the 128 rows of the weight; two warpgroups
// own 128 pixels each. Beside x a second source is read one frame earlier: no concatenation. After nearest upsampling
// a 3x3 convolution is four 2x2 ones on the small input, one per phase of the output pixel: no upsampled tensor.

#include "hopper.cuh"
#include "stages.cuh"

namespace {

using hopper::TensorMap;

constexpr int kSide = 16;                           // of a tile, in pixels
constexpr int kPixels = kSide * kSide;
constexpr int kOutputs = 128;
constexpr int kChannels = 64;                       // of one stage: 128 bytes, the width of the swizzle
constexpr int kPixelBytes = kPixels * kChannels * 2;
constexpr int kWeightBytes = kOutputs * kChannels * 2;
constexpr int kStageBytes = kPixelBytes + kWeightBytes;
constexpr int kSubtileBytes = 64 * kChannels * 2;   // the 64 pixels of one instruction
constexpr int kStages = 4;
constexpr int kWarpgroup = 128;
constexpr int kConsumerWarps = 8;
constexpr int kThreads = 3 * kWarpgroup;
constexpr int kProducerRegisters = 40;
constexpr int kConsumerRegisters = 232;
constexpr int kAlignment = 1024;                    // of the swizzle pattern

struct Shared {
  uint64_t full[kStages], empty[kStages];
};

constexpr int kSharedBytes = kAlignment + kStages * kStageBytes + static_cast<int>(sizeof(Shared));
#ifdef FLASHVSR_SHARED_BYTES
static_assert(kSharedBytes <= FLASHVSR_SHARED_BYTES, "the launch gives too little shared memory");
#endif

// `side`: 3 taps a side, or 2 of an upsampling convolution. `outputs` of one frame; weight rows are
// [phase, growth, outputs].
struct Sizes {
  int frames, height, width, channels, sources, outputs, growth, side, relu;

  __device__ int phases() const { return side == 2 ? 4 : 1; }
  __device__ int tiles_across() const { return (width + kSide - 1) / kSide; }
  __device__ int tiles_down() const { return (height + kSide - 1) / kSide; }
  __device__ int blocks_of_outputs() const { return growth * outputs / kOutputs; }
  __device__ int items() const { return frames * tiles_down() * tiles_across() * blocks_of_outputs() * phases(); }
  __device__ int steps() const { return side * side * sources * (channels / kChannels); }
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
  uint32_t stages;
  Shared* shared;

  __device__ explicit Layout(unsigned char* raw) {
    const uint32_t address = hopper::shared_address(raw);
    stages = (address + kAlignment - 1) & ~(kAlignment - 1);
    shared = reinterpret_cast<Shared*>(raw + (stages - address) + kStages * kStageBytes);
  }
  __device__ uint32_t pixels(int stage) const { return stages + stage * kStageBytes; }
  __device__ uint32_t weight(int stage) const { return pixels(stage) + kPixelBytes; }
  __device__ uint32_t full(int stage) const { return hopper::shared_address(&shared->full[stage]); }
  __device__ uint32_t empty(int stage) const { return hopper::shared_address(&shared->empty[stage]); }
};

// One thread: keeps the stages full.
__device__ __forceinline__ void produce(const Layout& at, const Maps& maps, const Sizes& sizes) {
  stages::Cursor<kStages> cursor;
  for (int number = blockIdx.x; number < sizes.items(); number += gridDim.x) {
    const Item item(number, sizes);
    const int weight_row = item.phase * sizes.growth * sizes.outputs + item.row;
    // The first tap of 3x3 lies one pixel up and left; of a phase's 2x2, as far as its pixel is in the upper left.
    const int left = item.x - (sizes.side == 3 ? 1 : 1 - item.phase % 2);
    const int top = item.y - (sizes.side == 3 ? 1 : 1 - item.phase / 2);
    int column = 0;
    for (int tap = 0; tap < sizes.side * sizes.side; ++tap) {
      for (int source = 0; source < sizes.sources; ++source) {
        const bool remembered = source == 1 && item.frame == 0;
        const TensorMap* map = remembered ? maps.past : maps.x;
        const int frame = remembered ? 0 : item.frame - source;
        for (int channel = 0; channel < sizes.channels; channel += kChannels, column += kChannels) {
          hopper::wait(at.empty(cursor.stage), cursor.parity ^ 1);
          hopper::arrive_expecting(at.full(cursor.stage), kStageBytes);
          const int4 corner = make_int4(channel, left + tap % sizes.side, top + tap / sizes.side, frame);
          hopper::load_box(at.pixels(cursor.stage), map, corner, at.full(cursor.stage));
          hopper::load_box(at.weight(cursor.stage), maps.weight, column, weight_row, at.full(cursor.stage));
          cursor.advance();
        }
      }
    }
  }
}

// What a consumer thread holds: 2 x 2 rows of 128 outputs, as hopper.cuh's mma_shared lays them out.
template <class T>
struct Consumer {
  float sums[2][64];

  __device__ __forceinline__ void multiply(uint32_t pixels, uint32_t weight, bool adds) {
    const uint64_t right = hopper::swizzled_matrix(weight, 0);
#pragma unroll
    for (int step = 0; step < kChannels / 16; ++step) {
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        const uint64_t left = hopper::swizzled_matrix(pixels + part * kSubtileBytes, 0);
        hopper::mma_shared<T>(sums[part], left + step * 2, right + step * 2, adds || step > 0);
      }
    }
    hopper::mma_commit();
  }

  // One pixel's 128 outputs lie in 4 lanes, 2 of every 8: bias and residual are added there, then the words are turned
  // so that a lane stores 8 in a row. `half`: the pixel eight to the right.
  __device__ __forceinline__ void store(int part, int half, const typename T::Storage* bias,
                                        const typename T::Storage* residual, typename T::Storage* out, bool relu,
                                        bool inside) const {
    const int lane = threadIdx.x % 4;
#pragma unroll
    for (int group = 0; group < 4; ++group) {
      uint32_t word[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int i = 16 * group + 4 * j + 2 * half, output = 32 * group + 8 * j + 2 * lane;
        float first = sums[part][i], second = sums[part][i + 1];
        if (bias != nullptr) add(first, second, bias + output);
        if (residual != nullptr && inside) add(first, second, residual + output);
        word[j] = relu ? T::pack(fmaxf(first, 0.0f), fmaxf(second, 0.0f)) : T::pack(first, second);
      }
      exchange(word[0], word[1], lane & 1, 1);
      exchange(word[2], word[3], lane & 1, 1);
      exchange(word[0], word[2], lane & 2, 2);
      exchange(word[1], word[3], lane & 2, 2);
      if (inside) *reinterpret_cast<uint4*>(out + 32 * group + 8 * lane) = make_uint4(word[0], word[1], word[2], word[3]);
    }
  }

  __device__ __forceinline__ static void add(float& first, float& second, const typename T::Storage* pair) {
    const float2 two = T::unpack(__ldg(reinterpret_cast<const uint32_t*>(pair)));
    first += two.x;
    second += two.y;
  }

  __device__ __forceinline__ static void exchange(uint32_t& low, uint32_t& high, bool upper, int distance) {
    const uint32_t received = __shfl_xor_sync(~0u, upper ? low : high, distance);
    if (upper) {
      low = received;
    } else {
      high = received;
    }
  }
};

// Element index of output `row` (growth * outputs + output) at an input pixel, for its phase.
__device__ __forceinline__ int64_t place(const Item& item, int x, int y, const Sizes& sizes) {
  const int grown = item.row / sizes.outputs, output = item.row % sizes.outputs;
  const int64_t frame = static_cast<int64_t>(item.frame) * sizes.growth + grown;
  const int scale = sizes.side == 2 ? 2 : 1;
  const int64_t line = frame * sizes.height * scale + y * scale + item.phase / 2;
  return (line * sizes.width * scale + x * scale + item.phase % 2) * sizes.outputs + output;
}

template <class T>
__device__ __forceinline__ void consume(const Layout& at, const Tensors<T>& tensors, const Sizes& sizes) {
  const int group = __shfl_sync(~0u, static_cast<int>(threadIdx.x / kWarpgroup), 0) - 1;
  const int lane = threadIdx.x % 32, warp = threadIdx.x % kWarpgroup / 32;
  const int steps = sizes.steps();
  stages::Cursor<kStages> cursor;
  Consumer<T> state;
  for (int number = blockIdx.x; number < sizes.items(); number += gridDim.x) {
    int before = 0;
    for (int step = 0; step < steps; ++step) {
      hopper::wait(at.full(cursor.stage), cursor.parity);
      hopper::mma_fence();
      state.multiply(at.pixels(cursor.stage) + group * 2 * kSubtileBytes, at.weight(cursor.stage), step > 0);
      if (step > 0) {
        hopper::mma_wait<1>();  // the stage before has been read
        if (lane == 0) hopper::arrive(at.empty(before));
      }
      before = cursor.stage;
      cursor.advance();
    }
    hopper::mma_wait<0>();
    hopper::pin(state.sums[0]);
    hopper::pin(state.sums[1]);
    if (lane == 0) hopper::arrive(at.empty(before));
    const Item item(number, sizes);
    const typename T::Storage* bias = tensors.bias == nullptr ? nullptr : tensors.bias + item.row;
#pragma unroll
    for (int part = 0; part < 2; ++part) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {  // a warp's 16 rows are 16 pixels of one line
        const int x = item.x + lane / 4 + 8 * half, y = item.y + group * 8 + part * 4 + warp;
        const bool inside = x < sizes.width && y < sizes.height;
        const int64_t pixel = inside ? place(item, x, y, sizes) : 0;
        const typename T::Storage* residual = tensors.residual == nullptr ? nullptr : tensors.residual + pixel;
        state.store(part, half, bias, residual, tensors.out + pixel, sizes.relu, inside);
      }
    }
  }
}

template <class T>
__device__ __forceinline__ void convolve(const Maps& maps, const Tensors<T>& tensors, const Sizes& sizes) {
  const Layout at(hopper::dynamic_shared());
  if (threadIdx.x == 0) {
    hopper::prefetch(maps.x);
    hopper::prefetch(maps.past);
    hopper::prefetch(maps.weight);
    for (int stage = 0; stage < kStages; ++stage) {
      hopper::barrier_init(at.full(stage), 1);
      hopper::barrier_init(at.empty(stage), kConsumerWarps);
    }
    hopper::barrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x < kWarpgroup) {
    hopper::give_registers<kProducerRegisters>();
    if (threadIdx.x == 0) produce(at, maps, sizes);
  } else {
    hopper::take_registers<kConsumerRegisters>();
    consume<T>(at, tensors, sizes);
  }
}

}  // namespace

#define FLASHVSR_CONVOLVE(name, type)                                                                                  \
  extern "C" __global__ void __launch_bounds__(kThreads, 1)                                                            \
      name(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap past,                                \
           const __grid_constant__ TensorMap weight, const type::Storage* bias, const type::Storage* residual,         \
           type::Storage* out, int frames, int height, int width, int channels, int sources, int outputs, int growth,  \
           int side, int relu) {                                                                                       \
    convolve<type>({&x, &past, &weight}, {bias, residual, out},                                                        \
                   {frames, height, width, channels, sources, outputs, growth, side, relu});                           \
  }

FLASHVSR_CONVOLVE(convolve_float16, hopper::Half)
FLASHVSR_CONVOLVE(convolve_bfloat16, hopper::BFloat16)
