// Choice of the key windows of block-sparse attention (plugins_trt/spec.py, steps 1 and 2) in three launches: window
// means, scores with softmax, and selection with lists and work order. For every GPU.
//
// Key window j of a call is window j % win of slab j / win; the slabs are the ring slots listed in `slabs`, then the
// step's own.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

#ifndef FLASHVSR_SHARED
#define FLASHVSR_SHARED __shared__  // memory of a block
#endif
#ifndef FLASHVSR_MOST_SHARED
#define FLASHVSR_MOST_SHARED 2048  // key windows whose scores stay in shared memory until they are normalised
#endif

namespace {

constexpr int kTokens = 128;
constexpr int kChannels = 128;  // of a head
constexpr unsigned kAll = ~0u;

__device__ __forceinline__ float2 widen(__half2 pair) { return __half22float2(pair); }
__device__ __forceinline__ float2 widen(__nv_bfloat162 pair) { return __bfloat1622float2(pair); }
__device__ __forceinline__ float2 widen(__nv_fp8x2_e4m3 pair) { return static_cast<float2>(pair); }

// Sum of what all threads of a block of kWarps warps give, up to and including this thread; `totals`: [kWarps].
template <int kWarps>
__device__ int block_prefix_sum(int value, int* totals) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int distance = 1; distance < 32; distance *= 2) {
    const int below = __shfl_up_sync(kAll, value, distance);
    if (lane >= distance) value += below;
  }
  if (lane == 31) totals[warp] = value;
  __syncthreads();
  if (warp == 0) {
    int total = lane < kWarps ? totals[lane] : 0;
    for (int distance = 1; distance < kWarps; distance *= 2) {
      const int below = __shfl_up_sync(kAll, total, distance);
      if (lane >= distance) total += below;
    }
    if (lane < kWarps) totals[lane] = total;
  }
  __syncthreads();
  return value + (warp > 0 ? totals[warp - 1] : 0);
}

}  // namespace

// --- Means

namespace {

constexpr int kMeansThreads = 128;

// Means of 128 channels of one window, float32; a number of q stands for q_unit. Grid (q_windows + key windows, dim / 128).
template <class Pair>
__device__ void mean_of_window(const uint4* q, const uint4* k, const uint4* k_cache, const int64_t* slabs,
                               float* q_means, float* k_means, int q_windows, int cached, int win, int dim,
                               float q_unit, float k_unit) {
  constexpr int kVector = 2 * sizeof(uint4) / sizeof(Pair);   // numbers of a 16-byte load
  constexpr int kColumns = kChannels / kVector;               // threads side by side
  constexpr int kParts = kMeansThreads / kColumns;            // threads below each other
  FLASHVSR_SHARED float partial[kParts][kChannels];
  const int j = static_cast<int>(blockIdx.x) - q_windows;
  const uint4* source = q;
  int64_t window = blockIdx.x;
  if (j >= cached) {
    source = k;
    window = j - cached;
  } else if (j >= 0) {
    source = k_cache;
    window = slabs[j / win] * win + j % win;
  }
  const int column = threadIdx.x % kColumns, part = threadIdx.x / kColumns;
  const int stride = dim / kVector;
  source += window * kTokens * stride + blockIdx.y * kColumns + column;
  float sum[kVector] = {};
#pragma unroll
  for (int i = 0; i < kTokens / kParts; ++i) {
    const uint4 vector = __ldg(source + static_cast<int64_t>(i * kParts + part) * stride);
    const Pair* pairs = reinterpret_cast<const Pair*>(&vector);
#pragma unroll
    for (int pair = 0; pair < kVector / 2; ++pair) {
      const float2 two = widen(pairs[pair]);
      sum[2 * pair] += two.x;
      sum[2 * pair + 1] += two.y;
    }
  }
#pragma unroll
  for (int i = 0; i < kVector; ++i) partial[part][column * kVector + i] = sum[i];
  __syncthreads();
  float total = 0.0f;
#pragma unroll
  for (int i = 0; i < kParts; ++i) total += partial[i][threadIdx.x];
  float* target = j >= 0 ? k_means + static_cast<int64_t>(j) * dim : q_means + static_cast<int64_t>(blockIdx.x) * dim;
  target[blockIdx.y * kChannels + threadIdx.x] = total / kTokens * (j >= 0 ? k_unit : q_unit);
}

}  // namespace

// Also sets the counters of the later kernels to 0.
#define FLASHVSR_MEANS(name, Pair)                                                                                    \
  extern "C" __global__ void __launch_bounds__(kMeansThreads)                                                         \
      name(const uint4* q, const uint4* k, const uint4* k_cache, const int64_t* slabs, float* q_means, float* k_means, \
           int* ticket, int* finished, int q_windows, int cached, int win, int dim) {                                 \
    if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) *ticket = *finished = 0;                              \
    mean_of_window<Pair>(q, k, k_cache, slabs, q_means, k_means, q_windows, cached, win, dim, 1.0f, 1.0f);            \
  }

FLASHVSR_MEANS(window_means_float16, __half2)
FLASHVSR_MEANS(window_means_bfloat16, __nv_bfloat162)

// The same of float8, in units of scales[0] (q) and scales[1] (k).
extern "C" __global__ void __launch_bounds__(kMeansThreads)
    window_means8(const uint4* q, const uint4* k, const uint4* k_cache, const int64_t* slabs, const float* scales,
                  float* q_means, float* k_means, int* ticket, int* finished, int q_windows, int cached, int win,
                  int dim) {
  if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) *ticket = *finished = 0;
  mean_of_window<__nv_fp8x2_e4m3>(q, k, k_cache, slabs, q_means, k_means, q_windows, cached, win, dim, __ldg(scales),
                                  __ldg(scales + 1));
}

// --- Scores

namespace {

constexpr int kScoreThreads = 512;
constexpr int kScoreWarps = kScoreThreads / 32;
constexpr int kScoreQueries = 4;  // query windows of one block
constexpr int kAlike = 32 / kScoreQueries;
constexpr int kMostShared = FLASHVSR_MOST_SHARED;

// Sums four numbers over the warp: lane l ends with the sum of number l / 8 (in eight lanes alike).
__device__ __forceinline__ float warp_sums(float (&number)[kScoreQueries], int lane) {
#pragma unroll
  for (int half = kScoreQueries / 2, distance = 16; half >= 1; half /= 2, distance /= 2) {
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const bool upper = lane & distance;
      const float received = __shfl_xor_sync(kAll, upper ? number[i] : number[i + half], distance);
      number[i] = (upper ? number[i + half] : number[i]) + received;
    }
  }
  float sum = number[0];
#pragma unroll
  for (int distance = kAlike / 2; distance >= 1; distance /= 2) sum += __shfl_xor_sync(kAll, sum, distance);
  return sum;
}

}  // namespace

// softmax(q.k / sqrt(128)) over all key windows, 0 outside the local range: [heads, q_windows, k_windows].
// Grid (q_windows / 4 rounded up, heads). Every query window has its own window in range.
extern "C" __global__ void __launch_bounds__(kScoreThreads)
    group_scores(const float* q_means, const float* k_means, float* scores, int q_windows, int k_windows, int rows,
                  int columns, int dim, int local_range) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int head = blockIdx.y, first = blockIdx.x * kScoreQueries;
  const int here = min(kScoreQueries, q_windows - first);
  const int win = rows * columns;
  FLASHVSR_SHARED float lines[kScoreQueries * kMostShared];
  float* out = scores + (static_cast<int64_t>(head) * q_windows + first) * k_windows;
  const bool fits = k_windows <= kMostShared;
  float* raw = fits ? lines : out;  // [here, k_windows]
  float4 query[kScoreQueries];
#pragma unroll
  for (int i = 0; i < kScoreQueries; ++i) {
    const int64_t row = min(first + i, q_windows - 1);
    query[i] = *reinterpret_cast<const float4*>(q_means + row * dim + head * kChannels + 4 * lane);
  }
  const int mine = first + lane / kAlike;  // the query whose sum this lane ends with
  const int top = mine % win / columns - local_range / 2, left = mine % columns - local_range / 2;
#pragma unroll 4
  for (int j = warp; j < k_windows; j += kScoreWarps) {
    const int row = j % win / columns - top, column = j % columns - left;
    const bool inside = row >= 0 && row < local_range && column >= 0 && column < local_range;
    float score = -INFINITY;
    if (__any_sync(kAll, inside)) {
      const float4 key = *reinterpret_cast<const float4*>(k_means + static_cast<int64_t>(j) * dim + head * kChannels +
                                                          4 * lane);
      float sums[kScoreQueries];
#pragma unroll
      for (int i = 0; i < kScoreQueries; ++i) {
        sums[i] = query[i].x * key.x + query[i].y * key.y + query[i].z * key.z + query[i].w * key.w;
      }
      const float sum = warp_sums(sums, lane);
      if (inside) score = sum * 0.08838834764831845f;  // 1/sqrt(128)
    }
    if (lane % kAlike == 0 && lane / kAlike < here) raw[static_cast<int64_t>(lane / kAlike) * k_windows + j] = score;
  }
  __syncthreads();
  if (warp >= here) return;
  float *line = raw + static_cast<int64_t>(warp) * k_windows, *result = out + static_cast<int64_t>(warp) * k_windows;
  float highest = -INFINITY;
  for (int j = lane; j < k_windows; j += 32) highest = fmaxf(highest, line[j]);
  for (int distance = 16; distance > 0; distance /= 2) {
    highest = fmaxf(highest, __shfl_xor_sync(kAll, highest, distance));
  }
  float total = 0.0f;
  for (int j = lane; j < k_windows; j += 32) total += line[j] = expf(line[j] - highest);
  for (int distance = 16; distance > 0; distance /= 2) total += __shfl_xor_sync(kAll, total, distance);
  for (int j = lane; j < k_windows; j += 32) result[j] = line[j] / total;
}

// --- Selection

namespace {

constexpr int kSelectThreads = 1024;
constexpr int kSelectWarps = kSelectThreads / 32;
constexpr int kBins = 2048;
constexpr int kHeld = 20;  // numbers that a thread keeps from pass to pass, where all of them fit

struct SelectShared {
  int bins[kBins];
  int totals[kSelectWarps];
  unsigned prefix[3];  // of each pass: no thread can overwrite what another has yet to read
  int wanted[3];
  bool last;
};

// The `wanted`-th largest of `count` numbers that are not negative; 0 where fewer are above 0. Radix select, 11 bits a
// pass from the top: such numbers order like their bits. Zeros are not counted: half of the scores are, and all would
// meet in one bin.
__device__ float nth_largest(const float* numbers, int count, int wanted, SelectShared& shared) {
  const bool fits = count <= kHeld * kSelectThreads;
  float held[kHeld];
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int at = i * kSelectThreads + static_cast<int>(threadIdx.x);
    held[i] = fits && at < count ? numbers[at] : 0.0f;
  }
  unsigned prefix = 0;
#pragma unroll
  for (int pass = 0; pass < 3; ++pass) {
    const int shift = pass == 0 ? 21 : pass == 1 ? 10 : 0;
    const int above = pass == 0 ? 32 : pass == 1 ? 21 : 10;  // bits from here up are settled
    for (int bin = threadIdx.x; bin < kBins; bin += kSelectThreads) shared.bins[bin] = 0;
    if (threadIdx.x == 0) shared.wanted[pass] = 0;
    __syncthreads();
    const auto tally = [&](float number) {
      const unsigned bits = __float_as_uint(number);
      const bool active = bits != 0 && (pass == 0 || bits >> (above & 31) == prefix >> (above & 31));
      if (active) atomicAdd(&shared.bins[bits >> shift & ((1u << (above - shift)) - 1)], 1);
    };
#pragma unroll
    for (int i = 0; i < kHeld; ++i) tally(held[i]);
    if (!fits) {
      for (int i = threadIdx.x; i < count; i += kSelectThreads) tally(numbers[i]);
    }
    __syncthreads();
    const int high = kBins - 1 - 2 * static_cast<int>(threadIdx.x);  // two bins a thread, the highest first
    const int upper = shared.bins[high], lower = shared.bins[high - 1];
    const int upto = block_prefix_sum<kSelectWarps>(upper + lower, shared.totals);
    const int before = upto - upper - lower;
    if (before < wanted && wanted <= upto) {
      const bool in_lower = wanted > before + upper;
      shared.prefix[pass] = prefix | static_cast<unsigned>(high - in_lower) << shift;
      shared.wanted[pass] = wanted - before - (in_lower ? upper : 0);
    }
    __syncthreads();
    wanted = shared.wanted[pass];
    if (wanted == 0) return 0.0f;  // no thread found it
    prefix = shared.prefix[pass];
  }
  return __uint_as_float(prefix);
}

// order: the items 0 .. items-1 by decreasing count, in no fixed order inside a bin (it moves work, not results).
__device__ void order_items(const int* counts, int* order, int items, int k_windows, SelectShared& shared) {
  auto bin = [&](int item) {
    return kBins - 1 - static_cast<int>(static_cast<int64_t>(__ldcg(counts + item)) * (kBins - 1) / k_windows);
  };
  for (int i = threadIdx.x; i < kBins; i += kSelectThreads) shared.bins[i] = 0;
  __syncthreads();
  for (int item = threadIdx.x; item < items; item += kSelectThreads) atomicAdd(&shared.bins[bin(item)], 1);
  __syncthreads();
  const int low = 2 * threadIdx.x, first = shared.bins[low], second = shared.bins[low + 1];
  const int upto = block_prefix_sum<kSelectWarps>(first + second, shared.totals);
  shared.bins[low] = upto - second - first;
  shared.bins[low + 1] = upto - second;
  __syncthreads();
  for (int item = threadIdx.x; item < items; item += kSelectThreads) order[atomicAdd(&shared.bins[bin(item)], 1)] = item;
}

}  // namespace

// Per head and query slab (one block each): the (min(topk, n-1)+1)-th largest of its n scores; ascending lists of the
// key windows above it and their counts; the block that finishes last orders all items for the attention.
extern "C" __global__ void __launch_bounds__(kSelectThreads, 1)
    select_windows(const float* scores, const int64_t* topk, int* lists, int* counts, int* order, int* finished,
                   int items, int k_windows, int win) {
  FLASHVSR_SHARED SelectShared shared;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int count = win * k_windows;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * win;  // items of one (head, slab) are adjacent
  const float* mine = scores + first * k_windows;
  const int wanted = static_cast<int>(min(*topk, static_cast<int64_t>(count - 1))) + 1;
  const float threshold = nth_largest(mine, count, wanted, shared);
  for (int i = warp; i < win; i += kSelectWarps) {
    int* list = lists + (first + i) * k_windows;
    int found = 0;
#pragma unroll 4
    for (int begin = 0; begin < k_windows; begin += 32) {
      const int j = begin + lane;
      const bool keep = j < k_windows && mine[static_cast<int64_t>(i) * k_windows + j] > threshold;
      const unsigned kept = __ballot_sync(kAll, keep);
      if (keep) list[found + __popc(kept & ((1u << lane) - 1))] = j;
      found += __popc(kept);
    }
    if (lane == 0) counts[first + i] = found;
  }
  __threadfence();  // the counts, before this block counts as finished
  __syncthreads();
  if (threadIdx.x == 0) shared.last = atomicAdd(finished, 1) == static_cast<int>(gridDim.x) - 1;
  __syncthreads();
  if (!shared.last) return;
  __threadfence();
  order_items(counts, order, items, k_windows, shared);
}
