// The kernels of csrc/kernels/attention_sm90.cu and attention8_sm90.cu on the host; compiled with copies of them beside
// host_hopper/hopper.cuh.
#include <algorithm>
#include <atomic>

#include "hopper.cuh"

#define __grid_constant__
using std::min;

namespace {

int atomicAdd(int* address, int value) { return std::atomic_ref<int>(*address).fetch_add(value); }

}  // namespace

#include "attention8_sm90.cu"
#include "attention_sm90.cu"

namespace {

hopper::TensorMap map_of(const void* base, int item, int columns, long long rows) {
  return {base, 2, {columns, rows}, {1, columns}, {128 / item, 128}, item};
}

template <class Kernel>
void run(Kernel kernel) {
  hopper::SharedMemory own[1];
  host::run(1, 1, attention::kThreads, [=, &own] {
    if (threadIdx.x == 0) {
      own->barriers.clear();
      hopper::memory = own;
    }
    __syncthreads();
    kernel();
  });
}

}  // namespace

// sizes: items, q_windows, k_windows, cached, win, dim, ring windows
#define HOST_ATTENTION(element, type)                                                                                 \
  extern "C" void run_attention_##element(const void* q, const void* k, const void* v, const void* k_cache,           \
                                          const void* v_cache, const std::int64_t* slabs, const int* lists,           \
                                          const int* counts, const int* order, type::Storage* out, const int* s) {    \
    const int fresh = 128 * (s[2] - s[3]), ring = 128 * s[6], dim = s[5];                                             \
    const auto q_map = map_of(q, 2, dim, 128 * s[1]), k_map = map_of(k, 2, dim, fresh);                               \
    const auto v_map = map_of(v, 2, dim, fresh);                                                                      \
    const auto k_cached = map_of(k_cache, 2, dim, ring), v_cached = map_of(v_cache, 2, dim, ring);                    \
    int ticket[1] = {};                                                                                               \
    run([=, &ticket] {                                                                                                \
      block_sparse_attention_##element(q_map, k_map, v_map, k_cached, v_cached, slabs, lists, counts, order, ticket,  \
                                       out, s[0], s[1], s[2], s[3], s[4], s[5]);                                      \
    });                                                                                                               \
  }                                                                                                                   \
  extern "C" void run_attention8_##element(const void* q, const void* k, const void* v, const void* k_cache,          \
                                           const void* v_cache, const std::int64_t* slabs, const int* lists,          \
                                           const int* counts, const int* order, type::Storage* out, const int* s,     \
                                           const float* scales) {                                                     \
    const int fresh = 128 * (s[2] - s[3]), ring = 128 * s[6], dim = s[5];                                             \
    const auto q_map = map_of(q, 1, dim, 128 * s[1]), k_map = map_of(k, 1, dim, fresh);                               \
    const auto v_map = map_of(v, 1, 128, 1LL * fresh / 128 * dim);                                                    \
    const auto k_cached = map_of(k_cache, 1, dim, ring), v_cached = map_of(v_cache, 1, 128, 1LL * ring / 128 * dim);  \
    int ticket[1] = {};                                                                                               \
    run([=, &ticket] {                                                                                                \
      block_sparse_attention8_##element(q_map, k_map, v_map, k_cached, v_cached, slabs, lists, counts, order, ticket, \
                                        scales, out, s[0], s[1], s[2], s[3], s[4], s[5]);                             \
    });                                                                                                               \
  }

HOST_ATTENTION(float16, hopper::Half)
HOST_ATTENTION(bfloat16, hopper::BFloat16)
