// The kernel of csrc/kernels/colours.cu on the host.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "grid.hpp"

#define FLASHVSR_HOST
#define FLASHVSR_DYNAMIC_SHARED(name) alignas(16) static unsigned char name[kSharedBytes]  // blocks run in turn

// mma.m16n8k16 by the PTX manual's tables of fragments: what each lane holds of a, b and the sum.
template <class T>
void multiply(float (&sum)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], T) {
  const auto pair = [](std::uint32_t low, std::uint32_t high) { return low | std::uint64_t{high} << 32; };
  const auto left = host::everyones(pair(a[0], a[1])), right = host::everyones(pair(a[2], a[3]));
  const auto columns = host::everyones(pair(b[0], b[1]));
  const auto number = [](std::uint32_t bits, int which) {
    T values[2];
    __builtin_memcpy(values, &bits, 4);
    return static_cast<double>(static_cast<float>(values[which]));
  };
  for (int i = 0; i < 4; ++i) {
    const int row = threadIdx.x % 32 / 4 + i / 2 * 8, column = threadIdx.x % 4 * 2 + i % 2;
    double total = sum[i];
    for (int k = 0; k < 16; ++k) {
      const int share = k % 8 / 2;
      const std::uint64_t mine = (k < 8 ? left : right)[row % 8 * 4 + share], other = columns[column * 4 + share];
      total += number(row < 8 ? mine : mine >> 32, k % 2) * number(k < 8 ? other : other >> 32, k % 2);
    }
    sum[i] = static_cast<float>(total);
  }
}

#include "colours.cu"

#define HOST_COLOURS(element, type)                                                                                   \
  extern "C" void run_convolve_colours_##element(const type* x, const type* weight, const type* bias, type* out,      \
                                                 const int* s) {                                                      \
    const int tiles = ((s[1] + kRows - 1) / kRows) * ((s[2] + kColumns - 1) / kColumns);                              \
    host::run(tiles, s[0], kThreads, [=] { convolve_colours_##element(x, weight, bias, out, s[1], s[2], s[3]); });    \
  }

HOST_COLOURS(float16, __half)
HOST_COLOURS(bfloat16, __nv_bfloat16)
