// 3x3 convolution to the three colours, channels last to planes (plugins_trt/spec.py: ConvolveColours).
//
// Every input pixel is read once, straight into the matrix units' registers, and multiplied by the weights of all nine
// taps and three colours at once; what these 27 products add to the neighbouring pixels is summed in shared memory.
// Taps as separate products would load each pixel nine times from there.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#ifndef FLASHVSR_DYNAMIC_SHARED
#define FLASHVSR_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kRows = 14, kColumns = 30;        // of a block's result
constexpr int kInRows = 16, kInColumns = 32;    // of what it reads
constexpr int kPixels = 16;                     // of one product
constexpr int kGroups = kInRows * kInColumns / kPixels;
constexpr int kColours = 3, kProducts = 27;     // (tap, colour)
constexpr int kTiles = 4;                       // of eight products
constexpr int kPlane = kInRows * kInColumns + 4;  // floats of one product: four lanes then write to different banks
constexpr int kChunk = 128;                     // channels in registers
constexpr int kMostChannels = 256;
constexpr int kVector = 8;                      // numbers of a 16-byte access
constexpr int kPadding = 32;                    // numbers behind a row of weights, for other banks
constexpr int kWeightBytes = kTiles * 8 * (kMostChannels + kPadding) * 2;
constexpr int kSharedBytes = kWeightBytes + kProducts * kPlane * 4;
#ifdef FLASHVSR_SHARED_BYTES
static_assert(kSharedBytes <= FLASHVSR_SHARED_BYTES, "too little shared memory");
#endif

#ifndef FLASHVSR_HOST
// sum [16 x 8] += a [16 x 16] b [16 x 8], distributed over the warp as mma.m16n8k16 has it.
__device__ __forceinline__ void multiply(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], __half) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void multiply(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                         __nv_bfloat16) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void narrow(float x, __half* to) { *to = __float2half_rn(x); }
__device__ __forceinline__ void narrow(float x, __nv_bfloat16* to) { *to = __float2bfloat16_rn(x); }

struct Sizes {
  int height, width, channels;
};

// weight [3 colours, 9 taps, channels] to rows (tap, colour), the last five of them zeros.
template <class T>
__device__ __forceinline__ void load_weights(const T* weight, T* rows, int channels) {
  const int vectors = channels / kVector, stride = channels + kPadding;
  for (int i = threadIdx.x; i < kTiles * 8 * vectors; i += kThreads) {
    const int row = i / vectors, at = i % vectors, source = row % kColours * 9 + row / kColours;
    const uint4 zeros = make_uint4(0, 0, 0, 0);
    const uint4 value = row < kProducts ? __ldg(reinterpret_cast<const uint4*>(weight) + source * vectors + at) : zeros;
    *reinterpret_cast<uint4*>(rows + row * stride + at * kVector) = value;
  }
}

// The products of 16 neighbouring pixels, by the whole warp. Channels are taken in an order of our own, which does not
// change their sum: a lane's 16 bytes of a pixel are its share of two products of 16 channels.
template <class T>
__device__ __forceinline__ void products(const uint4* const (&pixels)[2], const T* rows, float* planes, int first,
                                         int channels) {
  const int lane = threadIdx.x % 32, row = lane / 4, quarter = lane % 4;
  constexpr int kLoads = kChunk / (4 * kVector);
  float sums[kTiles][4] = {};
  for (int chunk = 0; chunk < channels; chunk += kChunk) {
    uint4 x[2][kLoads];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        x[half][i] = pixels[half] == nullptr ? make_uint4(0, 0, 0, 0)
                                             : __ldg(pixels[half] + chunk / kVector + 4 * i + quarter);
      }
    }
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const uint32_t even[4] = {x[0][i].x, x[1][i].x, x[0][i].y, x[1][i].y};
      const uint32_t odd[4] = {x[0][i].z, x[1][i].z, x[0][i].w, x[1][i].w};
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const T* source = rows + (8 * tile + row) * (channels + kPadding) + chunk + (4 * i + quarter) * kVector;
        const uint4 w = *reinterpret_cast<const uint4*>(source);
        const uint32_t first_two[2] = {w.x, w.y}, last_two[2] = {w.z, w.w};
        multiply(sums[tile], even, first_two, T());
        multiply(sums[tile], odd, last_two, T());
      }
    }
  }
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int product = 8 * tile + 2 * quarter + i % 2;
      if (product < kProducts) planes[product * kPlane + first + row + i / 2 * 8] = sums[tile][i];
    }
  }
}

// Grid (tiles of 14 x 30 pixels, frames). x [frames, height, width, channels], out [frames, 3, height, width].
template <class T>
__device__ __forceinline__ void convolve_colours(const T* x, const T* weight, const T* bias, T* out, const Sizes& s) {
  FLASHVSR_DYNAMIC_SHARED(memory);
  T* rows = reinterpret_cast<T*>(memory);
  float* planes = reinterpret_cast<float*>(memory + kWeightBytes);
  load_weights(weight, rows, s.channels);
  __syncthreads();

  const int across = (s.width + kColumns - 1) / kColumns, lane = threadIdx.x % 32;
  const int top = static_cast<int>(blockIdx.x) / across * kRows, left = static_cast<int>(blockIdx.x) % across * kColumns;
  const T* frame = x + static_cast<int64_t>(blockIdx.y) * s.height * s.width * s.channels;
  for (int group = threadIdx.x / 32; group < kGroups; group += kWarps) {
    const int line = top - 1 + group / 2, column = left - 1 + group % 2 * kPixels + lane / 4;
    const uint4* pixels[2];
    for (int half = 0; half < 2; ++half) {
      const int own = column + 8 * half;
      const bool inside = 0 <= line && line < s.height && 0 <= own && own < s.width;
      const int64_t at = (static_cast<int64_t>(line) * s.width + own) * s.channels;
      pixels[half] = inside ? reinterpret_cast<const uint4*>(frame + at) : nullptr;
    }
    products(pixels, rows, planes, group * kPixels, s.channels);
  }
  __syncthreads();

  const int column = left + lane;
  if (lane >= kColumns || column >= s.width) return;
  for (int i = threadIdx.x / 32; i < kColours * kRows; i += kWarps) {
    const int colour = i / kRows, line = i % kRows;
    if (top + line >= s.height) continue;
    float sum = widen(bias[colour]);
#pragma unroll
    for (int tap = 0; tap < 9; ++tap) {
      sum += planes[(tap * kColours + colour) * kPlane + (line + tap / 3) * kInColumns + lane + tap % 3];
    }
    const int64_t plane = static_cast<int64_t>(blockIdx.y) * kColours + colour;
    narrow(sum, out + (plane * s.height + top + line) * s.width + column);
  }
}

}  // namespace

#define FLASHVSR_COLOURS(element, type)                                                                              \
  extern "C" __global__ void __launch_bounds__(kThreads, 3)                                                          \
      convolve_colours_##element(const type* x, const type* weight, const type* bias, type* out, int height,         \
                                 int width, int channels) {                                                          \
    convolve_colours<type>(x, weight, bias, out, {height, width, channels});                                         \
  }

FLASHVSR_COLOURS(float16, __half)
FLASHVSR_COLOURS(bfloat16, __nv_bfloat16)
