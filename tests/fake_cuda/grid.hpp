// Runs CUDA kernels on the host, compiled by a C++ compiler: every thread of a block is a thread. Slow, exact, enough
// for a few blocks. What a kernel takes from the hardware (shuffles, barriers) is here, as far as the kernels use it.
#pragma once

#include <array>
#include <atomic>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include <vector_types.h>

namespace host {

struct Warp {
  std::barrier<> barrier{32};
  std::uint64_t slots[32];
};

struct Warpgroup {
  std::barrier<> barrier{128};
};

struct Block {
  explicit Block(int threads) : barrier(threads), warps(threads / 32), warpgroups(threads / 128) {}
  std::barrier<> barrier;
  std::vector<Warp> warps;
  std::vector<Warpgroup> warpgroups;
};

inline thread_local Block* block;
inline thread_local uint3 thread_index, block_index;
inline thread_local dim3 grid_size, block_size;

inline std::uint64_t exchange(std::uint64_t value, int lane) {
  Warp& warp = block->warps[thread_index.x / 32];
  warp.slots[thread_index.x % 32] = value;
  warp.barrier.arrive_and_wait();
  const std::uint64_t received = warp.slots[lane];
  warp.barrier.arrive_and_wait();
  return received;
}

// The values of all lanes of a warp.
inline std::array<std::uint64_t, 32> everyones(std::uint64_t value) {
  Warp& warp = block->warps[thread_index.x / 32];
  warp.slots[thread_index.x % 32] = value;
  warp.barrier.arrive_and_wait();
  std::array<std::uint64_t, 32> values;
  for (int lane = 0; lane < 32; ++lane) values[lane] = warp.slots[lane];
  warp.barrier.arrive_and_wait();
  return values;
}

template <class Kernel>
void run(unsigned x, unsigned y, int threads, Kernel kernel) {
  for (unsigned by = 0; by < y; ++by) {
    for (unsigned bx = 0; bx < x; ++bx) {
      Block here(threads);
      std::vector<std::thread> running;
      for (int t = 0; t < threads; ++t) {
        running.emplace_back([&, t] {
          block = &here;
          thread_index = {static_cast<unsigned>(t), 0, 0};
          block_index = {bx, by, 0};
          grid_size = dim3(x, y, 1);
          block_size = dim3(threads, 1, 1);
          kernel();
        });
      }
      for (std::thread& thread : running) thread.join();
    }
  }
}

}  // namespace host

#define threadIdx host::thread_index
#define blockIdx host::block_index
#define gridDim host::grid_size
#define blockDim host::block_size
#undef __global__
#undef __device__
#undef __forceinline__
#undef __launch_bounds__
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)

template <class T>
T __ldg(const T* pointer) {
  return *pointer;
}

template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  std::uint64_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof(T));
  bits = host::exchange(bits, lane);
  __builtin_memcpy(&value, &bits, sizeof(T));
  return value;
}

template <class T>
T __shfl_xor_sync(unsigned all, T value, int distance) {
  return __shfl_sync(all, value, static_cast<int>(threadIdx.x % 32) ^ distance);
}

template <class T>
T __shfl_up_sync(unsigned, T value, int distance) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  return __shfl_sync(~0u, value, lane < distance ? lane : lane - distance);
}

inline unsigned __ballot_sync(unsigned, bool value) {
  unsigned bits = 0;
  int lane = 0;
  for (const std::uint64_t one : host::everyones(value)) bits |= static_cast<unsigned>(one != 0) << lane++;
  return bits;
}

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline void __syncthreads() { host::block->barrier.arrive_and_wait(); }
inline void __syncwarp() { host::block->warps[threadIdx.x / 32].barrier.arrive_and_wait(); }
inline bool __any_sync(unsigned, bool value) {
  for (const std::uint64_t one : host::everyones(value)) {
    if (one != 0) return true;
  }
  return false;
}
