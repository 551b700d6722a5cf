// csrc/kernels/hopper.cuh on the host: the same functions by their PTX descriptions, with the swizzle, phases and bytes
// of the barriers, zeros outside a map, and the layout of accumulators. A kernel that waits for what never comes hangs.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <vector_functions.h>

#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>

#include "grid.hpp"

namespace hopper {

struct TensorMap {
  const void* base;
  int rank;
  long long sizes[5], strides[5];  // in elements, innermost first
  int box[5];
  int item = 2;  // bytes of an element
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
    std::uint16_t value = 0;
    if (inside) std::memcpy(&value, static_cast<const char*>(map->base) + map->item * place, map->item);
    std::memcpy(memory->bytes + swizzled(target + static_cast<std::uint32_t>(map->item * i)), &value, map->item);
  }
  std::lock_guard lock(memory->mutex);
  HostBarrier& own = memory->barriers.at(barrier);
  own.bytes -= map->item * count;
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

inline std::uint64_t swizzled_matrix(std::uint32_t address, std::uint32_t group) {
  return 1024ull >> 4 << 48 | static_cast<std::uint64_t>(group >> 4) << 32 | (address & 0x3FFFF) >> 4;
}
inline std::uint64_t swizzled_lines(std::uint32_t address, std::uint32_t stride) {
  return static_cast<std::uint64_t>(stride >> 4) << 48 | (address & 0x3FFFF) >> 4;
}
inline void mma_fence() {}
inline void mma_commit() {}
// The warpgroup's threads run a product together: none is ahead of it when another has waited for it.
template <int>
void mma_wait() {
  host::block->warpgroups[threadIdx.x / 128].barrier.arrive_and_wait();
}
inline void pin(float (&)[64]) {}

inline float exp2(float x) { return std::exp2(x); }
inline float reciprocal(float x) { return 1.0f / x; }

// Types: of `Bits` in memory.
struct Half {
  static constexpr bool kIsHalf = true;
  using Storage = __half;
  using Bits = std::uint16_t;
  static float number(std::uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
  static std::uint16_t bits(float x) { return __half_as_ushort(__float2half_rn(x)); }
  static std::uint32_t pack(float low, float high) { return bits(low) | static_cast<std::uint32_t>(bits(high)) << 16; }
  static float2 unpack(std::uint32_t pair) { return make_float2(number(pair & 0xFFFF), number(pair >> 16)); }
};

struct BFloat16 {
  static constexpr bool kIsHalf = false;
  using Storage = __nv_bfloat16;
  using Bits = std::uint16_t;
  static float number(std::uint16_t bits) { return __bfloat162float(__ushort_as_bfloat16(bits)); }
  static std::uint16_t bits(float x) { return __bfloat16_as_ushort(__float2bfloat16_rn(x)); }
  static std::uint32_t pack(float low, float high) { return bits(low) | static_cast<std::uint32_t>(bits(high)) << 16; }
  static float2 unpack(std::uint32_t pair) { return make_float2(number(pair & 0xFFFF), number(pair >> 16)); }
};

struct Eighth {
  using Bits = std::uint8_t;
  static float number(std::uint8_t bits) { return __half2float(__half(__nv_cvt_fp8_to_halfraw(bits, __NV_E4M3))); }
  static std::uint8_t bits(float x) { return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3); }
};

inline std::uint32_t pack8(float a, float b, float c, float d) {
  return Eighth::bits(a) | Eighth::bits(b) << 8 | Eighth::bits(c) << 16 | static_cast<std::uint32_t>(Eighth::bits(d)) << 24;
}

template <class T>
float at(std::uint32_t address) {
  typename T::Bits bits;
  std::memcpy(&bits, memory->bytes + swizzled(address), sizeof bits);
  return T::number(bits);
}
// Number k of a row that lies along K, and row k, column n of one that lies along N.
template <class T>
float element(std::uint64_t matrix, int row, int k) {
  const auto eight_rows = static_cast<std::uint32_t>(matrix >> 48) << 4;
  return at<T>(static_cast<std::uint32_t>(matrix << 4) + eight_rows * (row / 8) + 128 * (row % 8) +
               sizeof(typename T::Bits) * k);
}
template <class T>
float transposed(std::uint64_t matrix, int k, int n) {
  const auto group = (static_cast<std::uint32_t>(matrix >> 32) & 0xFFFF) << 4;
  return at<T>(static_cast<std::uint32_t>(matrix << 4) + group * (n / 64) + 128 * k + 2 * (n % 64));
}

// As documented at the real one: this thread's 2 rows by 2 columns of every 8. left(below, k), right(k, column).
template <class Left, class Right>
void multiply(float (&d)[64], int inner, Left left, Right right, int accumulate) {
  float rows[2][32];
  for (int k = 0; k < inner; ++k) {
    rows[0][k] = left(0, k);
    rows[1][k] = left(1, k);
  }
  for (int j = 0; j < 16; ++j) {
    for (int side = 0; side < 2; ++side) {
      float sums[2] = {};
      for (int k = 0; k < inner; ++k) {
        const float factor = right(k, 8 * j + 2 * static_cast<int>(threadIdx.x % 4) + side);
        sums[0] += rows[0][k] * factor;
        sums[1] += rows[1][k] * factor;
      }
      for (int below = 0; below < 2; ++below) {
        float& own = d[4 * j + 2 * below + side];
        own = (accumulate ? own : 0.0f) + sums[below];
      }
    }
  }
}

template <class T>
void multiply_shared(float (&d)[64], std::uint64_t a, std::uint64_t b, int accumulate) {
  const int thread = threadIdx.x % 128, row = 16 * (thread / 32) + thread % 32 / 4;
  multiply(
      d, 32 / sizeof(typename T::Bits), [=](int below, int k) { return element<T>(a, row + 8 * below, k); },
      [=](int k, int column) { return element<T>(b, column, k); }, accumulate);
}

// The other columns of the left operand's rows are in the three other lanes that have them.
template <class T, class Right>
void multiply_registers(float (&d)[64], const std::uint32_t (&a)[4], Right right, int accumulate) {
  constexpr int kPacked = 4 / sizeof(typename T::Bits), kHalf = 4 * kPacked;
  const int lane = threadIdx.x % 32;
  float left[2][2 * kHalf];
  for (int r = 0; r < 4; ++r) {
    for (int other = 0; other < 4; ++other) {
      const std::uint64_t packed = host::exchange(a[r], lane / 4 * 4 + other);
      for (int i = 0; i < kPacked; ++i) {
        const auto bits = static_cast<typename T::Bits>(packed >> 8 * sizeof(typename T::Bits) * i);
        left[r % 2][r / 2 * kHalf + other * kPacked + i] = T::number(bits);
      }
    }
  }
  multiply(d, 2 * kHalf, [&](int below, int k) { return left[below][k]; }, right, accumulate);
}

template <class T>
void mma_shared(float (&d)[64], std::uint64_t a, std::uint64_t b, int accumulate) {
  multiply_shared<T>(d, a, b, accumulate);
}
inline void mma8_shared(float (&d)[64], std::uint64_t a, std::uint64_t b, int accumulate) {
  multiply_shared<Eighth>(d, a, b, accumulate);
}
template <class T, int kTransposed>
void mma_registers(float (&d)[64], const std::uint32_t (&a)[4], std::uint64_t b, int accumulate) {
  static_assert(kTransposed);
  multiply_registers<T>(d, a, [=](int k, int column) { return transposed<T>(b, k, column); }, accumulate);
}
inline void mma8_registers(float (&d)[64], const std::uint32_t (&a)[4], std::uint64_t b, int accumulate) {
  multiply_registers<Eighth>(d, a, [=](int k, int column) { return element<Eighth>(b, column, k); }, accumulate);
}

}  // namespace hopper
