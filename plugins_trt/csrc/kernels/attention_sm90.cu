// Block-sparse attention for Hopper: exact attention of each query window over its listed key windows.
//
// A block of three warpgroups stays on its multiprocessor and takes (head, query window) items from a queue. The
// first warpgroup only loads: 128 x 128 tiles by the copy engine, two of K and two of V in flight. The other two own
// 64 query rows each. Scores come from shared memory; the weights stay in registers and are the left operand of the
// product with V. Inside a warpgroup the scores of block n are computed beside the product of block n-1
// (FlashAttention-3, Shah et al. 2024, algorithm 2). What else was tried, with figures: plugins_trt/NOTES.md.

#include "hopper.cuh"

namespace {

using hopper::TensorMap;

constexpr int kTokens = 128;
constexpr int kChannels = 128;
constexpr int kBoxColumns = 64;                    // 128 bytes: the widest box of the 128-byte swizzle
constexpr int kBoxBytes = kTokens * 128;           // one box, [128 tokens, 64 channels]
constexpr int kTileBytes = 2 * kBoxBytes;          // one tile, two boxes side by side
constexpr int kHalfBytes = kBoxBytes / 2;          // the 64 rows of one warpgroup inside a box
constexpr int kStages = 2;
constexpr int kWarpgroup = 128;
constexpr int kConsumerWarps = 8;
constexpr int kThreads = 3 * kWarpgroup;
constexpr int kProducerRegisters = 40;
constexpr int kConsumerRegisters = (3 * 168 - kProducerRegisters) / 2;  // 168: what 384 threads start with
constexpr int kAlignment = 1024;                   // of the swizzle pattern
// exp2 is the hardware's: exp(x) = 2^(x log2(e)), and 1/sqrt(128) goes into the same factor
constexpr float kScaleLog2 = 0.08838834764831845f * 1.4426950408889634f;

struct Shared {
  alignas(8) uint64_t q_full, q_empty, k_full[kStages], k_empty[kStages], v_full[kStages], v_empty[kStages];
  int item, blocks;  // of the tile in q; valid between q_full and q_empty
};

constexpr int kSharedBytes = kAlignment + (1 + 2 * kStages) * kTileBytes + static_cast<int>(sizeof(Shared));
#ifdef FLASHVSR_SHARED_BYTES
static_assert(kSharedBytes <= FLASHVSR_SHARED_BYTES, "the launch gives too little shared memory");
#endif

// Sizes of a call. `cached` counts key windows in the caches; `items` = heads * q_windows.
struct Sizes {
  int items, q_windows, k_windows, cached, win, dim;
};

struct Lists {
  const int64_t* slabs;
  const int* lists;
  const int* counts;
  const int* order;
  int* ticket;
};

struct Maps {
  const TensorMap *q, *k, *v, *k_cache, *v_cache;
};

// Tiles and barriers in shared memory.
struct Layout {
  uint32_t q, k, v;
  Shared* shared;

  __device__ explicit Layout(unsigned char* raw) {
    const uint32_t address = hopper::shared_address(raw);
    q = (address + kAlignment - 1) & ~(kAlignment - 1);
    k = q + kTileBytes;
    v = k + kStages * kTileBytes;
    shared = reinterpret_cast<Shared*>(raw + (v - address) + kStages * kTileBytes);
  }
  __device__ uint32_t barrier(const uint64_t* member) const { return hopper::shared_address(member); }
};

// Position in a ring of stages, and the parity of the current round.
struct Cursor {
  int stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

__device__ __forceinline__ void load_tile(uint32_t target, const TensorMap* map, int column, int row, uint32_t full) {
  hopper::arrive_expecting(full, kTileBytes);
  hopper::load_box(target, map, column, row, full);
  hopper::load_box(target + kBoxBytes, map, column + kBoxColumns, row, full);
}

// Row of the first token of a key window, and in bit 31 whether it is in the caches.
__device__ __forceinline__ uint32_t locate(int window, const Lists& lists, const Sizes& sizes) {
  if (window >= sizes.cached) return static_cast<uint32_t>(window - sizes.cached) * kTokens;
  const int slab = window / sizes.win;
  const int slot = static_cast<int>(lists.slabs[slab]);
  return static_cast<uint32_t>(slot * sizes.win + window - slab * sizes.win) * kTokens | 0x80000000u;
}

// One warp: takes items and keeps the stages full, K one block ahead of V as the consumers read them.
__device__ __forceinline__ void produce(const Layout& at, const Maps& maps, const Lists& lists, const Sizes& sizes) {
  const int lane = threadIdx.x % 32;
  Shared& shared = *at.shared;
  Cursor key, value;
  uint32_t q_parity = 1;
  int turn = blockIdx.x;  // the first item is the block's own, later ones come from the queue
  int item = turn < sizes.items ? lists.order[turn] : -1;
  while (true) {
    hopper::wait(at.barrier(&shared.q_empty), q_parity);
    q_parity ^= 1;
    const int blocks = item < 0 ? 0 : lists.counts[item];
    const int head = item / sizes.q_windows;
    const int column = head * kChannels;
    if (lane == 0) {
      shared.item = item;
      shared.blocks = blocks;
      if (blocks > 0) {
        load_tile(at.q, maps.q, column, (item - head * sizes.q_windows) * kTokens, at.barrier(&shared.q_full));
      } else {
        hopper::arrive(at.barrier(&shared.q_full));
      }
    }
    if (item < 0) return;
    const int* listed = lists.lists + static_cast<int64_t>(item) * sizes.k_windows;
    uint32_t before = 0;
    auto load_value = [&](uint32_t place) {
      hopper::wait(at.barrier(&shared.v_empty[value.stage]), value.parity ^ 1);
      if (lane == 0) {
        const TensorMap* map = place >> 31 ? maps.v_cache : maps.v;
        load_tile(at.v + value.stage * kTileBytes, map, column, place & 0x7FFFFFFF,
                  at.barrier(&shared.v_full[value.stage]));
      }
      value.advance();
    };
    for (int begin = 0; begin < blocks; begin += 32) {
      const uint32_t places = begin + lane < blocks ? locate(listed[begin + lane], lists, sizes) : 0;
      const int here = min(32, blocks - begin);
      for (int n = 0; n < here; ++n) {
        const uint32_t place = __shfl_sync(~0u, places, n);
        hopper::wait(at.barrier(&shared.k_empty[key.stage]), key.parity ^ 1);
        if (lane == 0) {
          const TensorMap* map = place >> 31 ? maps.k_cache : maps.k;
          load_tile(at.k + key.stage * kTileBytes, map, column, place & 0x7FFFFFFF,
                    at.barrier(&shared.k_full[key.stage]));
        }
        key.advance();
        if (begin + n > 0) load_value(before);
        before = place;
      }
    }
    if (lane == 0) turn = gridDim.x + atomicAdd(lists.ticket, 1);
    turn = __shfl_sync(~0u, turn, 0);
    item = turn < sizes.items ? lists.order[turn] : -1;
    if (blocks > 0) load_value(before);
  }
}

// What a consumer thread holds: 2 rows (r, r + 8) of 64 x 128 tiles, as hopper.cuh's mma_shared lays them out.
template <class T>
struct Consumer {
  float scores[64];
  float gathered[64];
  uint32_t weights[8][4];
  float highest[2], total[2], rescale[2];


  __device__ __forceinline__ void multiply_keys(uint32_t q, uint32_t k) {
    const uint64_t left = hopper::swizzled_matrix(q, 0), right = hopper::swizzled_matrix(k, 0);
#pragma unroll
    for (int step = 0; step < 8; ++step) {  // 16 channels = 32 bytes a step, 64 channels a box
      const int offset = (step / 4) * (kBoxBytes >> 4) + (step % 4) * (32 >> 4);
      hopper::mma_shared<T>(scores, left + offset, right + offset, step > 0);
    }
    hopper::mma_commit();
  }

  __device__ __forceinline__ void multiply_values(uint32_t v) {
    const uint64_t right = hopper::swizzled_matrix(v, kBoxBytes);
#pragma unroll
    for (int step = 0; step < 8; ++step) {  // 16 tokens = 16 rows of 128 bytes
      hopper::mma_registers<T, 1>(gathered, weights[step], right + step * (16 * 128 >> 4), 1);
    }
    hopper::mma_commit();
  }

  // scores become weights relative to the running maximum.
  template <bool kFirst>
  __device__ __forceinline__ void softmax() {
    float best[2][2];
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      best[row][0] = fmaxf(scores[2 * row], scores[2 * row + 4]);
      best[row][1] = fmaxf(scores[2 * row + 1], scores[2 * row + 5]);
    }
#pragma unroll
    for (int i = 8; i < 64; ++i) best[i / 2 % 2][i % 2] = fmaxf(best[i / 2 % 2][i % 2], scores[i]);
    float higher[2];
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float most = fmaxf(best[row][0], best[row][1]);
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
      higher[row] = kFirst ? most : fmaxf(most, highest[row]);
    }
    if constexpr (!kFirst) {
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        rescale[row] = hardware_exp2((highest[row] - higher[row]) * kScaleLog2);
        total[row] *= rescale[row];
      }
    }
    float sum[2][2] = {};
#pragma unroll
    for (int row = 0; row < 2; ++row) highest[row] = higher[row];
    const float shift[2] = {-highest[0] * kScaleLog2, -highest[1] * kScaleLog2};
#pragma unroll
    for (int i = 0; i < 64; ++i) {
      scores[i] = hardware_exp2(fmaf(scores[i], kScaleLog2, shift[i / 2 % 2]));
      sum[i / 2 % 2][i % 2] += scores[i];
    }
#pragma unroll
    for (int row = 0; row < 2; ++row) total[row] = (kFirst ? 0.0f : total[row]) + (sum[row][0] + sum[row][1]);
  }

  __device__ __forceinline__ static float hardware_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }

  // An accumulator's columns 16s .. 16s+15 are the left operand's step s, register for register.
  __device__ __forceinline__ void pack_weights() {
#pragma unroll
    for (int i = 0; i < 32; ++i) weights[i / 4][i % 4] = T::pack(scores[2 * i], scores[2 * i + 1]);
  }

  __device__ __forceinline__ void rescale_gathered() {
#pragma unroll
    for (int i = 0; i < 64; ++i) gathered[i] *= rescale[i / 2 % 2];
  }

  __device__ __forceinline__ void normalise() {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      total[row] += __shfl_xor_sync(~0u, total[row], 1);
      total[row] += __shfl_xor_sync(~0u, total[row], 2);
      asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(rescale[row]) : "f"(total[row]));
    }
#pragma unroll
    for (int i = 0; i < 64; ++i) gathered[i] *= rescale[i / 2 % 2];
  }

  // Each row of 128 channels lies in 4 lanes, 2 channels of every 8: turned so that a lane stores 8 in a row.
  __device__ __forceinline__ void store(typename T::Storage* row0, int dim) const {
    const int lane = threadIdx.x % 4;
#pragma unroll
    for (int row = 0; row < 2; ++row) {
#pragma unroll
      for (int group = 0; group < 4; ++group) {
        uint32_t word[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int i = 16 * group + 4 * j + 2 * row;
          word[j] = T::pack(gathered[i], gathered[i + 1]);
        }
        exchange(word[0], word[1], lane & 1, 1);
        exchange(word[2], word[3], lane & 1, 1);
        exchange(word[0], word[2], lane & 2, 2);
        exchange(word[1], word[3], lane & 2, 2);
        auto* target = reinterpret_cast<uint4*>(row0 + static_cast<int64_t>(8 * row) * dim + 32 * group + 8 * lane);
        *target = make_uint4(word[0], word[1], word[2], word[3]);
      }
    }
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

template <class T>
__device__ __forceinline__ void consume(const Layout& at, typename T::Storage* out, const Sizes& sizes) {
  const int group = __shfl_sync(~0u, threadIdx.x / kWarpgroup, 0) - 1;
  const int lane = threadIdx.x % 32;
  const int row = group * 64 + threadIdx.x % kWarpgroup / 32 * 16 + lane / 4;
  Shared& shared = *at.shared;
  const uint32_t q = at.q + group * kHalfBytes;
  Cursor key, value;
  uint32_t q_parity = 0;
  Consumer<T> state;

  auto wait_key = [&] { hopper::wait(at.barrier(&shared.k_full[key.stage]), key.parity); };
  auto wait_value = [&] { hopper::wait(at.barrier(&shared.v_full[value.stage]), value.parity); };
  auto release_key = [&] {
    if (lane == 0) hopper::arrive(at.barrier(&shared.k_empty[key.stage]));
  };
  auto release_value = [&] {
    if (lane == 0) hopper::arrive(at.barrier(&shared.v_empty[value.stage]));
    value.advance();
  };
  auto release_query = [&] {
    __syncwarp();  // every lane has read what the producer will overwrite
    if (lane == 0) hopper::arrive(at.barrier(&shared.q_empty));
  };

  while (true) {
    hopper::wait(at.barrier(&shared.q_full), q_parity);
    q_parity ^= 1;
    const int item = shared.item;
    const int blocks = shared.blocks;
    if (item < 0) return;
#pragma unroll
    for (int i = 0; i < 64; ++i) state.gathered[i] = 0.0f;
    if (blocks > 0) {
      wait_key();
      hopper::mma_fence();
      state.multiply_keys(q, at.k + key.stage * kTileBytes);
      hopper::mma_wait<0>();
      hopper::pin(state.scores);
      release_key();
      key.advance();
      if (blocks == 1) release_query();
      state.template softmax<true>();
      state.pack_weights();
      for (int n = 1; n < blocks; ++n) {
        wait_key();
        wait_value();
        hopper::mma_fence();
        state.multiply_keys(q, at.k + key.stage * kTileBytes);
        state.multiply_values(at.v + value.stage * kTileBytes);
        hopper::mma_wait<1>();
        hopper::pin(state.scores);
        if (n + 1 == blocks) release_query();
        state.template softmax<false>();
        // Always true. Tied to the softmax this way, the arrival keeps ptxas from moving the wait below in front of the
        // exponentials (seen in the SASS), which would undo the overlap.
        if (!(state.total[0] + state.total[1] < 0.0f)) release_key();
        key.advance();
        hopper::mma_wait<0>();
        hopper::pin(state.gathered);
        release_value();
        state.rescale_gathered();
        state.pack_weights();
      }
      wait_value();
      hopper::mma_fence();
      state.multiply_values(at.v + value.stage * kTileBytes);
      hopper::mma_wait<0>();
      hopper::pin(state.gathered);
      release_value();
      state.normalise();
    } else {
      release_query();
    }
    const int head = item / sizes.q_windows;
    const int64_t token = static_cast<int64_t>(item - head * sizes.q_windows) * kTokens + row;
    state.store(out + token * sizes.dim + head * kChannels, sizes.dim);
  }
}

template <class T>
__device__ __forceinline__ void attend(const Maps& maps, const Lists& lists, typename T::Storage* out,
                                       const Sizes& sizes) {
  extern __shared__ unsigned char raw[];
  const Layout at(raw);
  Shared& shared = *at.shared;
  if (threadIdx.x == 0) {
    hopper::prefetch(maps.q);
    hopper::prefetch(maps.k);
    hopper::prefetch(maps.v);
    hopper::prefetch(maps.k_cache);
    hopper::prefetch(maps.v_cache);
    hopper::barrier_init(at.barrier(&shared.q_full), 1);
    hopper::barrier_init(at.barrier(&shared.q_empty), kConsumerWarps);
    for (int stage = 0; stage < kStages; ++stage) {
      hopper::barrier_init(at.barrier(&shared.k_full[stage]), 1);
      hopper::barrier_init(at.barrier(&shared.v_full[stage]), 1);
      hopper::barrier_init(at.barrier(&shared.k_empty[stage]), kConsumerWarps);
      hopper::barrier_init(at.barrier(&shared.v_empty[stage]), kConsumerWarps);
    }
    hopper::barrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x < kWarpgroup) {
    hopper::give_registers<kProducerRegisters>();
    if (threadIdx.x < 32) produce(at, maps, lists, sizes);
  } else {
    hopper::take_registers<kConsumerRegisters>();
    consume<T>(at, out, sizes);
  }
}

}  // namespace

#define FLASHVSR_ATTENTION(name, type)                                                                               \
  extern "C" __global__ void __launch_bounds__(kThreads, 1)                                                          \
      name(const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k,                                 \
           const __grid_constant__ TensorMap v, const __grid_constant__ TensorMap k_cache,                           \
           const __grid_constant__ TensorMap v_cache, const int64_t* slabs, const int* lists, const int* counts,     \
           const int* order, int* ticket, type::Storage* out, int items, int q_windows, int k_windows, int cached,   \
           int win, int dim) {                                                                                       \
    attend<type>({&q, &k, &v, &k_cache, &v_cache}, {slabs, lists, counts, order, ticket}, out,                       \
                 {items, q_windows, k_windows, cached, win, dim});                                                   \
  }

FLASHVSR_ATTENTION(block_sparse_attention_float16, hopper::Half)
FLASHVSR_ATTENTION(block_sparse_attention_bfloat16, hopper::BFloat16)
