// What block-sparse attention on Hopper shares between its types: tiles, the loading warpgroup, the loop of the others.
//
// A block of three warpgroups stays on its multiprocessor and takes (head, query window) items from a queue. The
// first warpgroup only loads: 128 x 128 tiles by the copy engine, a few of K and of V in flight. The other two own
// 64 query rows each. Scores come from shared memory; the weights stay in registers and are the left operand of the
// product with V. Inside a warpgroup the scores of block n are computed beside the product of block n-1
// (FlashAttention-3, Shah et al. 2024, algorithm 2). What else was tried, with figures: plugins_trt/NOTES.md.
//
// A `Kind` says what differs: the layout of tiles, both products, and how scores become weights.
#pragma once

#include "hopper.cuh"
#include "stages.cuh"

namespace attention {

using hopper::TensorMap;

constexpr int kTokens = 128;
constexpr int kChannels = 128;
constexpr int kBoxBytes = kTokens * 128;           // one box: 128 rows of 128 bytes, the widest of the swizzle
constexpr int kHalfBytes = kBoxBytes / 2;          // the 64 rows of one warpgroup inside a box
constexpr int kWarpgroup = 128;
constexpr int kConsumerWarps = 8;
constexpr int kThreads = 3 * kWarpgroup;
constexpr int kProducerRegisters = 40;
constexpr int kConsumerRegisters = (3 * 168 - kProducerRegisters) / 2;  // 168: what 384 threads start with
constexpr int kAlignment = 1024;                   // of the swizzle pattern
// exp2 is the hardware's: exp(x) = 2^(x log2(e)), and 1/sqrt(128) goes into the same factor
constexpr float kScaleLog2 = 0.08838834764831845f * 1.4426950408889634f;

template <int kStages>
struct Shared {
  alignas(8) uint64_t q_full, q_empty, k_full[kStages], k_empty[kStages], v_full[kStages], v_empty[kStages];
  int item, blocks;  // of the tile in q; valid between q_full and q_empty
};

template <class Kind>
constexpr int kTileBytes = Kind::kBoxes * kBoxBytes;

template <class Kind>
constexpr int kSharedBytes = kAlignment + (1 + 2 * Kind::kStages) * kTileBytes<Kind> +
                             static_cast<int>(sizeof(Shared<Kind::kStages>));

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
template <class Kind>
struct Layout {
  uint32_t q, k, v;
  Shared<Kind::kStages>* shared;

  __device__ explicit Layout(unsigned char* raw) {
    const uint32_t address = hopper::shared_address(raw);
    q = (address + kAlignment - 1) & ~(kAlignment - 1);
    k = q + kTileBytes<Kind>;
    v = k + Kind::kStages * kTileBytes<Kind>;
    shared = reinterpret_cast<Shared<Kind::kStages>*>(raw + (v - address) + Kind::kStages * kTileBytes<Kind>);
  }
  __device__ uint32_t barrier(const uint64_t* member) const { return hopper::shared_address(member); }
};

template <class Kind>
__device__ __forceinline__ void load_tile(uint32_t target, const TensorMap* map, int column, int row, uint32_t full) {
  hopper::arrive_expecting(full, kTileBytes<Kind>);
#pragma unroll
  for (int box = 0; box < Kind::kBoxes; ++box) {
    hopper::load_box(target + box * kBoxBytes, map, column + box * Kind::kBoxColumns, row, full);
  }
}

// Row of the first token of a key window, and in bit 31 whether it is in the caches.
__device__ __forceinline__ uint32_t locate(int window, const Lists& lists, const Sizes& sizes) {
  if (window >= sizes.cached) return static_cast<uint32_t>(window - sizes.cached) * kTokens;
  const int slab = window / sizes.win;
  const int slot = static_cast<int>(lists.slabs[slab]);
  return static_cast<uint32_t>(slot * sizes.win + window - slab * sizes.win) * kTokens | 0x80000000u;
}

// One warp: takes items and keeps the stages full, K one block ahead of V as the consumers read them.
template <class Kind>
__device__ __forceinline__ void produce(const Layout<Kind>& at, const Maps& maps, const Lists& lists,
                                        const Sizes& sizes) {
  const int lane = threadIdx.x % 32;
  auto& shared = *at.shared;
  stages::Cursor<Kind::kStages> key, value;
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
        load_tile<Kind>(at.q, maps.q, column, (item - head * sizes.q_windows) * kTokens, at.barrier(&shared.q_full));
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
        const int2 corner = Kind::value_tile(place & 0x7FFFFFFF, column, sizes.dim);
        load_tile<Kind>(at.v + value.stage * kTileBytes<Kind>, map, corner.x, corner.y,
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
          load_tile<Kind>(at.k + key.stage * kTileBytes<Kind>, map, column, place & 0x7FFFFFFF,
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
template <class Kind>
struct Consumer {
  using T = typename Kind::Out;

  float scores[64];
  float gathered[64];
  typename Kind::Weights weights;
  float highest[2], total[2], rescale[2];

  // scores become weights relative to the running maximum, raised as the kind wants. Returns whether what is gathered is
  // to be rescaled.
  template <bool kFirst>
  __device__ __forceinline__ bool softmax(const Kind& kind) {
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
    const float factor = kind.factor();
    bool rescales = !kFirst;
    if constexpr (!kFirst && Kind::kLazy) {  // the old maximum serves until weights outgrow it (FlashAttention-4)
      const float growth = fmaxf(higher[0] - highest[0], higher[1] - highest[1]) * factor;
      rescales = __any_sync(~0u, growth > Kind::kSlack);
#pragma unroll
      for (int row = 0; row < 2; ++row) higher[row] = rescales ? higher[row] : highest[row];
    }
    if (rescales) {
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        rescale[row] = hopper::exp2((highest[row] - higher[row]) * factor);
        total[row] *= rescale[row];
      }
    }
    float sum[2][2] = {};
#pragma unroll
    for (int row = 0; row < 2; ++row) highest[row] = higher[row];
    const float shift[2] = {Kind::raised(-highest[0] * factor), Kind::raised(-highest[1] * factor)};
#pragma unroll
    for (int i = 0; i < 64; ++i) {
      scores[i] = hopper::exp2(fmaf(scores[i], factor, shift[i / 2 % 2]));
      sum[i / 2 % 2][i % 2] += scores[i];
    }
#pragma unroll
    for (int row = 0; row < 2; ++row) total[row] = (kFirst ? 0.0f : total[row]) + (sum[row][0] + sum[row][1]);
    return rescales;
  }

  __device__ __forceinline__ void rescale_gathered() {
#pragma unroll
    for (int i = 0; i < 64; ++i) gathered[i] *= rescale[i / 2 % 2];
  }

  __device__ __forceinline__ void normalise(const Kind& kind) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      total[row] += __shfl_xor_sync(~0u, total[row], 1);
      total[row] += __shfl_xor_sync(~0u, total[row], 2);
      rescale[row] = hopper::reciprocal(total[row]) * kind.unit();
    }
    rescale_gathered();
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

template <class Kind>
__device__ __forceinline__ void consume(const Layout<Kind>& at, const Kind& kind, typename Kind::Out::Storage* out,
                                        const Sizes& sizes) {
  const int group = __shfl_sync(~0u, threadIdx.x / kWarpgroup, 0) - 1;
  const int lane = threadIdx.x % 32;
  const int row = group * 64 + threadIdx.x % kWarpgroup / 32 * 16 + lane / 4;
  auto& shared = *at.shared;
  const uint32_t q = at.q + group * kHalfBytes;
  stages::Cursor<Kind::kStages> key, value;
  uint32_t q_parity = 0;
  Consumer<Kind> state;

  auto wait_key = [&] { hopper::wait(at.barrier(&shared.k_full[key.stage]), key.parity); };
  auto wait_value = [&] { hopper::wait(at.barrier(&shared.v_full[value.stage]), value.parity); };
  auto multiply_keys = [&] {
    Kind::multiply_keys(state.scores, q, at.k + key.stage * kTileBytes<Kind>);
    hopper::mma_commit();
  };
  auto multiply_values = [&] {
    Kind::multiply_values(state.gathered, state.weights, at.v + value.stage * kTileBytes<Kind>);
    hopper::mma_commit();
  };
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
      multiply_keys();
      hopper::mma_wait<0>();
      hopper::pin(state.scores);
      release_key();
      key.advance();
      if (blocks == 1) release_query();
      state.template softmax<true>(kind);
      Kind::pack(state.weights, state.scores);
      for (int n = 1; n < blocks; ++n) {
        wait_key();
        wait_value();
        hopper::mma_fence();
        multiply_keys();
        multiply_values();
        hopper::mma_wait<1>();
        hopper::pin(state.scores);
        if (n + 1 == blocks) release_query();
        const bool rescales = state.template softmax<false>(kind);
        // Always true. Tied to the softmax this way, the arrival keeps ptxas from moving the wait below in front of the
        // exponentials (seen in the SASS), which would undo the overlap.
        if (!(state.total[0] + state.total[1] < 0.0f)) release_key();
        key.advance();
        hopper::mma_wait<0>();
        hopper::pin(state.gathered);
        release_value();
        if (rescales) state.rescale_gathered();
        Kind::pack(state.weights, state.scores);
      }
      wait_value();
      hopper::mma_fence();
      multiply_values();
      hopper::mma_wait<0>();
      hopper::pin(state.gathered);
      release_value();
      state.normalise(kind);
    } else {
      release_query();
    }
    const int head = item / sizes.q_windows;
    const int64_t token = static_cast<int64_t>(item - head * sizes.q_windows) * kTokens + row;
    state.store(out + token * sizes.dim + head * kChannels, sizes.dim);
  }
}

template <class Kind>
__device__ __forceinline__ void attend(const Maps& maps, const Lists& lists, const Kind& kind,
                                       typename Kind::Out::Storage* out, const Sizes& sizes) {
#ifdef FLASHVSR_SHARED_BYTES
  static_assert(kSharedBytes<Kind> <= FLASHVSR_SHARED_BYTES, "the launch gives too little shared memory");
#endif
  const Layout<Kind> at(hopper::dynamic_shared());
  auto& shared = *at.shared;
  if (threadIdx.x == 0) {
    hopper::prefetch(maps.q);
    hopper::prefetch(maps.k);
    hopper::prefetch(maps.v);
    hopper::prefetch(maps.k_cache);
    hopper::prefetch(maps.v_cache);
    hopper::barrier_init(at.barrier(&shared.q_full), 1);
    hopper::barrier_init(at.barrier(&shared.q_empty), kConsumerWarps);
    for (int stage = 0; stage < Kind::kStages; ++stage) {
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
    consume(at, kind, out, sizes);
  }
}

}  // namespace attention

// The kernels' arguments, and what they become.
#define FLASHVSR_ATTENTION_ARGUMENTS                                                                                  \
  const __grid_constant__ hopper::TensorMap q, const __grid_constant__ hopper::TensorMap k,                           \
      const __grid_constant__ hopper::TensorMap v, const __grid_constant__ hopper::TensorMap k_cache,                 \
      const __grid_constant__ hopper::TensorMap v_cache, const int64_t *slabs, const int *lists, const int *counts,   \
      const int *order, int *ticket
#define FLASHVSR_ATTENTION_SIZES int items, int q_windows, int k_windows, int cached, int win, int dim
#define FLASHVSR_ATTEND(kind, out)                                                                                    \
  attention::attend({&q, &k, &v, &k_cache, &v_cache}, {slabs, lists, counts, order, ticket}, kind, out,               \
                    {items, q_windows, k_windows, cached, win, dim})
