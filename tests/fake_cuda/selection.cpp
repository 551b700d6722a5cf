// The kernels of csrc/kernels/selection.cu on the host.
#include <algorithm>
#include <atomic>
#include <bit>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "grid.hpp"

using std::max, std::min;
#define FLASHVSR_SHARED alignas(16) static  // blocks run one after the other
#define FLASHVSR_MOST_SHARED 40             // so that small pictures take both ways

namespace {

int atomicAdd(int* address, int value) { return std::atomic_ref<int>(*address).fetch_add(value); }
int __popc(unsigned bits) { return std::popcount(bits); }
unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
int __ldcg(const int* address) { return *address; }
void __threadfence() {}

}  // namespace

#include "selection.cu"

// sizes: q windows, cached windows, windows of a slab, heads * 128, fresh windows
#define HOST_MEANS(name, ...)                                                                                         \
  extern "C" void run_##name(const uint4* q, const uint4* k, const uint4* k_cache, const std::int64_t* slabs,         \
                             const float* scales, float* q_means, float* k_means, const int* s) {                     \
    int ticket = 1, finished = 1;                                                                                     \
    host::run(s[0] + s[1] + s[4], s[3] / kChannels, kMeansThreads, [=, &ticket, &finished] {                          \
      name(q, k, k_cache, slabs, __VA_ARGS__ q_means, k_means, &ticket, &finished, s[0], s[1], s[2], s[3]);           \
    });                                                                                                               \
  }

HOST_MEANS(window_means_float16, )
HOST_MEANS(window_means_bfloat16, )
HOST_MEANS(window_means8, scales, )

extern "C" void run_group_scores(const float* q_means, const float* k_means, float* scores, int heads, int q_windows,
                                 int k_windows, int rows, int columns, int local_range) {
  host::run((q_windows + kScoreQueries - 1) / kScoreQueries, heads, kScoreThreads, [=] {
    group_scores(q_means, k_means, scores, q_windows, k_windows, rows, columns, heads * kChannels, local_range);
  });
}

extern "C" void run_select_windows(const float* scores, const std::int64_t* topk, int* lists, int* counts, int* order,
                                   int items, int k_windows, int win) {
  int finished = 0;
  host::run(items / win, 1, kSelectThreads, [=, &finished] {
    select_windows(scores, topk, lists, counts, order, &finished, items, k_windows, win);
  });
}
