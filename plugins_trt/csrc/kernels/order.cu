// Work order of a persistent attention kernel: items with many key windows first, so that the last ones are short.

#include <cstdint>

namespace {

constexpr int kThreads = 1024;  // and bins

}  // namespace

// order: the items 0 .. items-1, by decreasing counts / (k_windows / 1024), in no fixed order inside a bin (the order
// moves work, not results). ticket: set to 0. One block.
extern "C" __global__ void __launch_bounds__(kThreads)
    order_windows(const int* counts, int* order, int* ticket, int items, int k_windows) {
  __shared__ int bins[kThreads];
  __shared__ int warp_totals[kThreads / 32];
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  auto bin = [&](int item) {
    return kThreads - 1 - static_cast<int>(static_cast<int64_t>(counts[item]) * (kThreads - 1) / k_windows);
  };
  if (thread == 0) *ticket = 0;
  bins[thread] = 0;
  __syncthreads();
  for (int item = thread; item < items; item += kThreads) atomicAdd(&bins[bin(item)], 1);
  __syncthreads();
  const int mine = bins[thread];
  int sum = mine;  // inclusive over the warp
  for (int distance = 1; distance < 32; distance *= 2) {
    const int below = __shfl_up_sync(~0u, sum, distance);
    if (lane >= distance) sum += below;
  }
  if (lane == 31) warp_totals[warp] = sum;
  __syncthreads();
  if (warp == 0) {
    int total = warp_totals[lane];
    for (int distance = 1; distance < 32; distance *= 2) {
      const int below = __shfl_up_sync(~0u, total, distance);
      if (lane >= distance) total += below;
    }
    warp_totals[lane] = total;
  }
  __syncthreads();
  bins[thread] = sum - mine + (warp > 0 ? warp_totals[warp - 1] : 0);  // first position of this bin
  __syncthreads();
  for (int item = thread; item < items; item += kThreads) order[atomicAdd(&bins[bin(item)], 1)] = item;
}
