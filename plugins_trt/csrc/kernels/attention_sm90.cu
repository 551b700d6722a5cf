// Block-sparse attention for Hopper in 16 bits: exact attention of each query window over its listed key windows.

#include "attention.cuh"

namespace {

// A tile is two boxes of 64 channels, side by side.
template <class T>
struct Sixteen {
  using Out = T;
  using Weights = uint32_t[8][4];
  static constexpr int kBoxes = 2, kBoxColumns = 64, kStages = 2;
  static constexpr bool kLazy = false;  // made it slower

  __device__ __forceinline__ static float factor() { return attention::kScaleLog2; }
  __device__ __forceinline__ static float raised(float exponent) { return exponent; }
  __device__ __forceinline__ static float unit() { return 1.0f; }

  __device__ __forceinline__ static int2 value_tile(int token, int column, int) { return make_int2(column, token); }

  __device__ __forceinline__ static void multiply_keys(float (&scores)[64], uint32_t q, uint32_t k) {
    const uint64_t left = hopper::swizzled_matrix(q, 0), right = hopper::swizzled_matrix(k, 0);
#pragma unroll
    for (int step = 0; step < 8; ++step) {  // 16 channels = 32 bytes a step, 64 channels a box
      const int offset = (step / 4) * (attention::kBoxBytes >> 4) + (step % 4) * (32 >> 4);
      hopper::mma_shared<T>(scores, left + offset, right + offset, step > 0);
    }
  }

  __device__ __forceinline__ static void multiply_values(float (&gathered)[64], const Weights& weights, uint32_t v) {
    const uint64_t right = hopper::swizzled_matrix(v, attention::kBoxBytes);
#pragma unroll
    for (int step = 0; step < 8; ++step) {  // 16 tokens = 16 rows of 128 bytes
      hopper::mma_registers<T, 1>(gathered, weights[step], right + step * (16 * 128 >> 4), 1);
    }
  }

  // An accumulator's columns 16s .. 16s+15 are the left operand's step s, register for register.
  __device__ __forceinline__ static void pack(Weights& weights, const float (&scores)[64]) {
#pragma unroll
    for (int i = 0; i < 32; ++i) weights[i / 4][i % 4] = T::pack(scores[2 * i], scores[2 * i + 1]);
  }
};

}  // namespace

#define FLASHVSR_ATTENTION(name, type)                                                                                \
  extern "C" __global__ void __launch_bounds__(attention::kThreads, 1)                                                \
      name(FLASHVSR_ATTENTION_ARGUMENTS, type::Storage* out, FLASHVSR_ATTENTION_SIZES) {                              \
    FLASHVSR_ATTEND(Sixteen<type>(), out);                                                                            \
  }

FLASHVSR_ATTENTION(block_sparse_attention_float16, hopper::Half)
FLASHVSR_ATTENTION(block_sparse_attention_bfloat16, hopper::BFloat16)
