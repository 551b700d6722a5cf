// Convolutions for Hopper, channels last: an implicit matrix product, no rearranged input in memory.
//
// A tile is 16 x 16 pixels of one frame by 128 outputs. Of each 128 bytes of channels the copy engine brings the window of
// pixels that the taps see once (what lies outside the picture arrives as zeros), and the 128 rows of the weight for each tap;
// two warpgroups own eight lines each. A tap's left operand is the window, read from another pixel on. One warpgroup is a
// few weights ahead of the other, so that the matrix units work for one while the other stores its results. Beside x a second
// source is read one frame earlier: no concatenation. After nearest upsampling a 3x3 convolution is four 2x2 ones on the
// small input, one per phase of the output pixel: no upsampled tensor.

#pragma once

#include "convolve_tile.cuh"
#include "stages.cuh"

namespace convolve {

// What the kernels differ in: kChannels of a stage, the type Out of bias, residual and result, `multiply` of 32 bytes a
// row, and what a sum stands for.
template <class T>
struct Sixteen {
  using Out = T;
  static constexpr int kChannels = 64;

  __device__ __forceinline__ static void multiply(float (&sums)[64], uint64_t left, uint64_t right, bool adds) {
    hopper::mma_shared<T>(sums, left, right, adds);
  }
  __device__ __forceinline__ float number(float sum) const { return sum; }
};

template <class T>
struct Eight {
  using Out = T;
  static constexpr int kChannels = 128;
  float unit;

  __device__ __forceinline__ static void multiply(float (&sums)[64], uint64_t left, uint64_t right, bool adds) {
    hopper::mma8_shared(sums, left, right, adds);
  }
  __device__ __forceinline__ float number(float sum) const { return sum * unit; }
};

// One thread: keeps the stages full. `stage_channels`: in the 128 bytes of a pixel.
__device__ __forceinline__ void produce(const Layout& at, const Maps& maps, const Sizes& sizes,
                                        int stage_channels) {
  stages::Cursor<kWindows> window;
  stages::Cursor<kWeights> weight;
  const int taps = sizes.side * sizes.side, tap_columns = sizes.sources * sizes.channels;
  for (int number = blockIdx.x; number < sizes.items(); number += gridDim.x) {
    const Item item(number, sizes);
    const int weight_row = item.phase * sizes.growth * sizes.outputs + item.row;
    for (int source = 0; source < sizes.sources; ++source) {
      const bool remembered = source == 1 && item.frame == 0;
      const TensorMap* map = remembered ? maps.past : maps.x;
      const int frame = remembered ? 0 : item.frame - source;
      for (int channel = 0; channel < sizes.channels; channel += stage_channels) {
        hopper::wait(at.window_empty(window.stage), window.parity ^ 1);
        hopper::arrive_expecting(at.window_full(window.stage), kLoadedBytes);
        const int4 corner = make_int4(channel, item.x - sizes.border, item.y - sizes.border, frame);
        hopper::load_box(at.window(window.stage), map, corner, at.window_full(window.stage));
        window.advance();
        int column = source * sizes.channels + channel;
        for (int tap = 0; tap < taps; ++tap, column += tap_columns) {
          hopper::wait(at.weight_empty(weight.stage), weight.parity ^ 1);
          hopper::arrive_expecting(at.weight_full(weight.stage), kWeightBytes);
          hopper::load_box(at.weight(weight.stage), maps.weight, column, weight_row, at.weight_full(weight.stage));
          weight.advance();
        }
      }
    }
  }
}

// Transposes four words among four neighbouring lanes; twice is nothing.
__device__ __forceinline__ void turn(uint32_t (&word)[4]) {
  const int lane = threadIdx.x % 4;
  const auto exchange = [](uint32_t& low, uint32_t& high, bool upper, int distance) {
    const uint32_t received = __shfl_xor_sync(~0u, upper ? low : high, distance);
    if (upper) {
      low = received;
    } else {
      high = received;
    }
  };
  exchange(word[0], word[1], lane & 1, 1);
  exchange(word[2], word[3], lane & 1, 1);
  exchange(word[0], word[2], lane & 2, 2);
  exchange(word[1], word[3], lane & 2, 2);
}

// What a consumer thread holds: 2 parts of 8 x 8 pixels with 128 outputs, as hopper.cuh's mma_shared lays them out: two
// pixels a part, one below the other.
template <class Operands>
struct Consumer {
  using T = typename Operands::Out;
  using Storage = typename T::Storage;
  float sums[2][64];
  uint32_t bias[4][4];   // pairs of outputs 32 * group + 8 * j + 2 * lane
  uint4 residual[2][4];  // 8 outputs in a row, of the two pixels of a part and each 32 outputs

  // `pixels`: where the first part's first pixel is for this tap.
  __device__ __forceinline__ void multiply(uint32_t pixels, uint32_t weight, bool adds) {
    const uint64_t right = hopper::swizzled_matrix(weight, 0);
#pragma unroll
    for (int step = 0; step < kPixelBytes / 32; ++step) {
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        const uint64_t left = hopper::swizzled_lines(pixels + part * kPart * kPixelBytes, kLineBytes);
        Operands::multiply(sums[part], left + step * 2, right + step * 2, adds || step > 0);
      }
    }
    hopper::mma_commit();
  }

  __device__ __forceinline__ void load_bias(const Storage* from) {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int pair = 8 * i + 2 * static_cast<int>(threadIdx.x % 4);
      bias[i / 4][i % 4] = from == nullptr ? 0 : __ldg(reinterpret_cast<const uint32_t*>(from + pair));
    }
  }

  __device__ __forceinline__ void load_residual(int half, const Storage* from, bool inside) {
#pragma unroll
    for (int group = 0; group < 4; ++group) {
      const Storage* eight = from + 32 * group + 8 * (threadIdx.x % 4);
      residual[half][group] = inside ? __ldg(reinterpret_cast<const uint4*>(eight)) : make_uint4(0, 0, 0, 0);
    }
  }

  // One pixel's 128 outputs lie in 4 lanes, 2 of every 8: the words are turned so that a lane stores 8 in a row.
  __device__ __forceinline__ void store(const Operands& operands, int part, int half, bool adds, bool relu, Storage* out,
                                        bool inside) const {
#pragma unroll
    for (int group = 0; group < 4; ++group) {
      const uint4& added = residual[half][group];
      uint32_t word[4] = {added.x, added.y, added.z, added.w};
      if (adds) turn(word);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int i = 16 * group + 4 * j + 2 * half;
        float2 two = T::unpack(bias[group][j]);
        two.x += operands.number(sums[part][i]);
        two.y += operands.number(sums[part][i + 1]);
        if (adds) {
          const float2 more = T::unpack(word[j]);
          two.x += more.x;
          two.y += more.y;
        }
        word[j] = relu ? T::pack(fmaxf(two.x, 0.0f), fmaxf(two.y, 0.0f)) : T::pack(two.x, two.y);
      }
      turn(word);
      uint4* eight = reinterpret_cast<uint4*>(out + 32 * group + 8 * (threadIdx.x % 4));
      if (inside) *eight = make_uint4(word[0], word[1], word[2], word[3]);
    }
  }
};

template <class Operands>
__device__ __forceinline__ void finish(Consumer<Operands>& state, const Operands& operands,
                                       const Tensors<typename Operands::Out>& tensors, const Item& item,
                                       const Sizes& sizes) {
  const bool adds = tensors.residual != nullptr;
#pragma unroll
  for (int part = 0; part < 2; ++part) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Pixel pixel(item, sizes, part, half);
      state.store(operands, part, half, adds, sizes.relu, tensors.out + pixel.at, pixel.inside);
      if (adds && part == 0) {  // the second part's come while the first is stored
        const Pixel next(item, sizes, 1, half);
        state.load_residual(half, tensors.residual + next.at, next.inside);
      }
    }
  }
}

template <class Operands>
__device__ __forceinline__ void consume(const Layout& at, const Operands& operands,
                                        const Tensors<typename Operands::Out>& tensors, const Sizes& sizes) {
  const int group = __shfl_sync(~0u, static_cast<int>(threadIdx.x / kWarpgroup), 0) - 1;
  const bool speaks = threadIdx.x % 32 == 0;  // for its warp
  stages::Cursor<kWindows> window;
  stages::Cursor<kWeights> weight;
  Consumer<Operands> state;
  int lead = group == 0 ? kLead : 0;  // weights until the other may begin
  for (int number = blockIdx.x; number < sizes.items(); number += gridDim.x) {
    const Item item(number, sizes);
    if (group != 0) hopper::wait(at.led(), 0);  // from the second item on it is over
    const int down = kPart * group + item.phase / 2, right = item.phase % 2;
    int window_before = -1, weight_before = -1;  // read by products that may still run
    for (int count = sizes.sources * sizes.channels / Operands::kChannels; count > 0; --count) {
      hopper::wait(at.window_full(window.stage), window.parity);
      for (int row = 0; row < sizes.side; ++row) {
        for (int column = 0; column < sizes.side; ++column) {
          hopper::wait(at.weight_full(weight.stage), weight.parity);
          hopper::mma_fence();
          const uint32_t pixels = at.window(window.stage) + (down + row) * kLineBytes + (right + column) * kPixelBytes;
          state.multiply(pixels, at.weight(weight.stage), weight_before >= 0);
          if (weight_before >= 0) {
            hopper::mma_wait<1>();  // the products before have read theirs
            if (speaks) {
              hopper::arrive(at.weight_empty(weight_before));
              if (window_before >= 0) hopper::arrive(at.window_empty(window_before));
            }
          }
          window_before = -1;
          weight_before = weight.stage;
          weight.advance();
          if (lead > 0 && --lead == 0 && speaks) hopper::arrive(at.led());
        }
      }
      window_before = window.stage;
      window.advance();
    }
    state.load_bias(tensors.bias == nullptr ? nullptr : tensors.bias + item.row);
    if (tensors.residual != nullptr) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Pixel pixel(item, sizes, 0, half);
        state.load_residual(half, tensors.residual + pixel.at, pixel.inside);
      }
    }
    hopper::mma_wait<0>();
    hopper::pin(state.sums[0]);
    hopper::pin(state.sums[1]);
    if (speaks) {
      hopper::arrive(at.weight_empty(weight_before));
      hopper::arrive(at.window_empty(window_before));
      if (lead > 0) hopper::arrive(at.led());  // all that there is was less
    }
    lead = 0;
    finish(state, operands, tensors, item, sizes);
  }
}

template <class Operands>
__device__ __forceinline__ void run(const Maps& maps, const Operands& operands,
                                    const Tensors<typename Operands::Out>& tensors, const Sizes& sizes) {
  const Layout at(hopper::dynamic_shared());
  if (threadIdx.x == 0) {
    hopper::prefetch(maps.x);
    hopper::prefetch(maps.past);
    hopper::prefetch(maps.weight);
    hopper::barrier_init(at.led(), kConsumerWarps / 2);
    for (int stage = 0; stage < kWindows; ++stage) {
      hopper::barrier_init(at.window_full(stage), 1);
      hopper::barrier_init(at.window_empty(stage), kConsumerWarps);
    }
    for (int stage = 0; stage < kWeights; ++stage) {
      hopper::barrier_init(at.weight_full(stage), 1);
      hopper::barrier_init(at.weight_empty(stage), kConsumerWarps);
    }
    hopper::barrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x < kWarpgroup) {
    hopper::give_registers<kProducerRegisters>();
    if (threadIdx.x == 0) produce(at, maps, sizes, Operands::kChannels);
  } else {
    hopper::take_registers<kConsumerRegisters>();
    consume(at, operands, tensors, sizes);
  }
}

}  // namespace convolve
