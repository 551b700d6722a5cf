// Block-sparse attention for Hopper in 8 bits (E4M3): queries, keys, values and weights; results in 16. The matrix units
// sum such products with about 13 bits of mantissa, over all listed keys; the sum of the weights is of float32.
//
// Values come channel by channel (plugins_trt/spec.py, NormRotate8): the matrix units take 8-bit operands along the
// summed axis alone, and tokens lie in the order in which a thread's scores are weights of the second product.

#include "attention.cuh"

namespace {

// A tile is one box: 128 rows of 128 bytes.
template <class T>
struct Eight {
  using Out = T;
  using Weights = uint32_t[4][4];
  static constexpr int kBoxes = 1, kBoxColumns = 128, kStages = 4;
  static constexpr bool kLazy = true;
  // Weights up to 2^5, and until they are rescaled up to 2^8: small ones would be lost below 2^-9, large above 448.
  static constexpr float kRaise = 5.0f, kSlack = 3.0f;

  float score_factor, value_unit;

  __device__ explicit Eight(const float* scales)
      : score_factor(attention::kScaleLog2 * __ldg(scales) * __ldg(scales + 1)), value_unit(__ldg(scales + 2)) {}

  __device__ __forceinline__ float factor() const { return score_factor; }
  __device__ __forceinline__ static float raised(float exponent) { return exponent + kRaise; }
  __device__ __forceinline__ float unit() const { return value_unit; }

  // A window's values are `dim` rows of its 128 tokens.
  __device__ __forceinline__ static int2 value_tile(int token, int column, int dim) {
    return make_int2(0, token / attention::kTokens * dim + column);
  }

  __device__ __forceinline__ static void multiply_keys(float (&scores)[64], uint32_t q, uint32_t k) {
    const uint64_t left = hopper::swizzled_matrix(q, 0), right = hopper::swizzled_matrix(k, 0);
#pragma unroll
    for (int step = 0; step < 4; ++step) {  // 32 channels = 32 bytes a step
      hopper::mma8_shared(scores, left + step * (32 >> 4), right + step * (32 >> 4), step > 0);
    }
  }

  __device__ __forceinline__ static void multiply_values(float (&gathered)[64], const Weights& weights, uint32_t v) {
    const uint64_t right = hopper::swizzled_matrix(v, 0);
#pragma unroll
    for (int step = 0; step < 4; ++step) {  // 32 tokens = 32 bytes a step
      hopper::mma8_registers(gathered, weights[step], right + step * (32 >> 4), 1);
    }
  }

  // The left operand's register r of step s holds four numbers side by side of row r % 2; a thread has two numbers of
  // every eight columns: columns 32s + 16(r/2) + 8i + 2t and the next, for i = 0, 1, are taken as these four.
  __device__ __forceinline__ static void pack(Weights& weights, const float (&scores)[64]) {
#pragma unroll
    for (int s = 0; s < 4; ++s) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const int i = 16 * s + 8 * (r / 2) + 2 * (r % 2);
        weights[s][r] = hopper::pack8(scores[i], scores[i + 1], scores[i + 4], scores[i + 5]);
      }
    }
  }
};

}  // namespace

#define FLASHVSR_ATTENTION8(name, type)                                                                               \
  extern "C" __global__ void __launch_bounds__(attention::kThreads, 1)                                                \
      name(FLASHVSR_ATTENTION_ARGUMENTS, const float* scales, type::Storage* out, FLASHVSR_ATTENTION_SIZES) {         \
    FLASHVSR_ATTEND(Eight<type>(scales), out);                                                                        \
  }

FLASHVSR_ATTENTION8(block_sparse_attention8_float16, hopper::Half)
FLASHVSR_ATTENTION8(block_sparse_attention8_bfloat16, hopper::BFloat16)
