// csrc/kernels/hopper.cuh on the host: the same functions by their PTX descriptions, with the swizzle, phases and bytes
// of the barriers, zeros outside a map, and the layout of accumulators. A kernel that waits for what never comes hangs.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>

#include "grid.hpp"

namespace hopper {

struct TensorMap {
  const std::uint16_t* base;
  int rank;
  long long sizes[5], strides[5];  // in elements, innermost first
  int box[5];
};

struct HostBarrier {
  int arrivals = 0, arrived = 0;
  long long bytes = 0;
  std::uint32_t phase = 0;
};

// Of one block, made new for each.
struct SharedMemory {
  alignas(16) unsigned char bytes[232448];
  std::mutex mutex;
  std::condition_variable changed;
  std::map<std::uint32_t, HostBarrier> barriers;

  void settle(HostBarrier& barrier) {
    if (barrier.arrived < barrier.arrivals || barrier.bytes != 0) return;
    barrier.arrived = 0;
    barrier.phase ^= 1;
    changed.notify_all();
  }
};

inline SharedMemory* memory;  // blocks run one after the other

// Begins off the swizzle's alignment, as a launch may.
constexpr std::uint32_t kBegin = 16;

inline unsigned char* dynamic_shared() { return memory->bytes + kBegin; }
inline std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(static_cast<const unsigned char*>(pointer) - memory->bytes);
}

inline void barrier_init(std::uint32_t barrier, int arrivals) {
  std::lock_guard lock(memory->mutex);
  memory->barriers[barrier].arrivals = arrivals;
}
inline void barrier_init_fence() {}

inline void arrive_expecting(std::uint32_t barrier, std::uint32_t bytes) {
  std::lock_guard lock(memory->mutex);
  HostBarrier& own = memory->barriers.at(barrier);
  own.bytes += bytes;
  ++own.arrived;
  memory->settle(own);
}
inline void arrive(std::uint32_t barrier) { arrive_expecting(barrier, 0); }

inline void wait(std::uint32_t barrier, std::uint32_t parity) {
  std::unique_lock lock(memory->mutex);
  HostBarrier& own = memory->barriers.at(barrier);
  memory->changed.wait(lock, [&] { return own.phase != parity; });
}

inline void prefetch(const TensorMap*) {}

inline std::uint32_t swizzled(std::uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

inline void load(std::uint32_t target, const TensorMap* map, const int (&at)[5], std::uint32_t barrier) {
  long long count = 1;
  for (int d = 0; d < map->rank; ++d) count *= map->box[d];
  for (long long i = 0; i < count; ++i) {
    long long rest = i, place = 0;
    bool inside = true;
    for (int d = 0; d < map->rank; ++d) {
      const long long index = at[d] + rest % map->box[d];
      rest /= map->box[d];
      inside = inside && index >= 0 && index < map->sizes[d];
      place += index * map->strides[d];
    }
    const std::uint16_t value = inside ? map->base[place] : 0;
    std::memcpy(memory->bytes + swizzled(target + 2 * static_cast<std::uint32_t>(i)), &value, 2);
  }
  std::lock_guard lock(memory->mutex);
  HostBarrier& own = memory->barriers.at(barrier);
  own.bytes -= 2 * count;
  memory->settle(own);
}
inline void load_box(std::uint32_t target, const TensorMap* map, int column, int row, std::uint32_t barrier) {
  load(target, map, {column, row, 0, 0, 0}, barrier);
}
inline void load_box(std::uint32_t target, const TensorMap* map, int4 at, std::uint32_t barrier) {
  load(target, map, {at.x, at.y, at.z, at.w, 0}, barrier);
}

template <int>
void give_registers() {}
template <int>
void take_registers() {}

inline std::uint64_t swizzled_matrix(std::uint32_t address, std::uint32_t) { return (address & 0x3FFFF) >> 4; }
inline void mma_fence() {}
inline void mma_commit() {}
// The warpgroup's threads run a product together: none is ahead of it when another has waited for it.
template <int>
void mma_wait() {
  host::block->warpgroups[threadIdx.x / 128].barrier.arrive_and_wait();
}
inline void pin(float (&)[64]) {}

struct Half {
  static constexpr bool kIsHalf = true;
  using Storage = __half;
  static float number(std::uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
  static std::uint16_t bits(float x) { return __half_as_ushort(__float2half_rn(x)); }
  static std::uint32_t pack(float low, float high) { return bits(low) | static_cast<std::uint32_t>(bits(high)) << 16; }
  static float2 unpack(std::uint32_t pair) { return make_float2(number(pair & 0xFFFF), number(pair >> 16)); }
};

struct BFloat16 {
  static constexpr bool kIsHalf = false;
  using Storage = __nv_bfloat16;
  static float number(std::uint16_t bits) { return __bfloat162float(__ushort_as_bfloat16(bits)); }
  static std::uint16_t bits(float x) { return __bfloat16_as_ushort(__float2bfloat16_rn(x)); }
  static std::uint32_t pack(float low, float high) { return bits(low) | static_cast<std::uint32_t>(bits(high)) << 16; }
  static float2 unpack(std::uint32_t pair) { return make_float2(number(pair & 0xFFFF), number(pair >> 16)); }
};

template <class T>
float element(std::uint64_t matrix, int row, int k) {
  std::uint16_t bits;
  std::memcpy(&bits, memory->bytes + swizzled(static_cast<std::uint32_t>(matrix << 4) + 128 * row + 2 * k), 2);
  return T::number(bits);
}

// As documented at the real one: this thread's 2 rows by 2 columns of every 8.
template <class T>
void mma_shared(float (&d)[64], std::uint64_t a, std::uint64_t b, int accumulate) {
  const int thread = threadIdx.x % 128, row = 16 * (thread / 32) + thread % 32 / 4;
  float left[2][16];
  for (int k = 0; k < 16; ++k) {
    left[0][k] = element<T>(a, row, k);
    left[1][k] = element<T>(a, row + 8, k);
  }
  for (int j = 0; j < 16; ++j) {
    for (int side = 0; side < 2; ++side) {
      const int column = 8 * j + 2 * (thread % 4) + side;
      float sums[2] = {};
      for (int k = 0; k < 16; ++k) {
        const float right = element<T>(b, column, k);
        sums[0] += left[0][k] * right;
        sums[1] += left[1][k] * right;
      }
      for (int below = 0; below < 2; ++below) {
        float& own = d[4 * j + 2 * below + side];
        own = (accumulate ? own : 0.0f) + sums[below];
      }
    }
  }
}

}  // namespace hopper
