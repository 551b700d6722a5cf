// Hopper's instructions that CUDA C++ has no names for, one function each: mbarrier, TMA, wgmma, setmaxnreg.
// PTX ISA 8.0 and later, sections "mbarrier", "cp.async.bulk.tensor", "wgmma.mma_async".
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace hopper {

// A CUtensorMap without cuda.h: the driver fills it, only the copy engine reads it.
struct alignas(64) TensorMap {
  uint64_t opaque[16];
};

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// --- mbarrier: `arrivals` and the announced bytes end a phase; a waiter names the parity of the phase it waits for.

__device__ __forceinline__ void barrier_init(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Makes initialised barriers visible to the copy engine; a block barrier must follow.
__device__ __forceinline__ void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ void arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void arrive_expecting(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ bool phase_ended(uint32_t barrier, uint32_t parity) {
  uint32_t ended;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n"
      "}\n"
      : "=r"(ended)
      : "r"(barrier), "r"(parity)
      : "memory");
  return ended != 0;
}

__device__ __forceinline__ void wait(uint32_t barrier, uint32_t parity) {
  while (!phase_ended(barrier, parity)) {
  }
}

// --- Copy engine

__device__ __forceinline__ void prefetch(const TensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// One box of the map at (column, row) to shared memory; its bytes count towards `barrier`.
__device__ __forceinline__ void load_box(uint32_t target, const TensorMap* map, int column, int row, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
          target),
      "l"(map), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}

// As load_box, of a map of four dimensions, innermost first; what lies outside is zeros.
__device__ __forceinline__ void load_box(uint32_t target, const TensorMap* map, int4 at, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], "
      "[%6];" ::"r"(target),
      "l"(map), "r"(at.x), "r"(at.y), "r"(at.z), "r"(at.w), "r"(barrier)
      : "memory");
}

// The launch's dynamic shared memory.
__device__ __forceinline__ unsigned char* dynamic_shared() {
  extern __shared__ unsigned char raw[];
  return raw;
}

// --- Registers: all warps of a warpgroup call these together

template <int kCount>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}

template <int kCount>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}

// --- Matrix units

// Shared-memory matrix of 128-byte rows in the 128-byte swizzle, its origin 1024-byte aligned. Eight rows are 1024
// bytes. Rows along M or N: `group` is unused. Rows along K (the transposed operand): a row holds 64 columns, and the
// next 64 columns begin `group` bytes on.
__device__ __forceinline__ uint64_t swizzled_matrix(uint32_t address, uint32_t group) {
  constexpr uint64_t kSwizzle128 = 1ull << 62;
  constexpr uint64_t kEightRows = static_cast<uint64_t>(1024 >> 4) << 32;
  return kSwizzle128 | kEightRows | static_cast<uint64_t>(group >> 4) << 16 | (address & 0x3FFFF) >> 4;
}

// Shared-memory matrix of 64 rows of 128 bytes in eights, `stride` bytes from one to the next. Each eight may begin at any
// row of the swizzle pattern, which goes by the address alone: the descriptor's base offset stays 0 (seen on an H200).
__device__ __forceinline__ uint64_t swizzled_lines(uint32_t address, uint32_t stride) {
  constexpr uint64_t kSwizzle128 = 1ull << 62;
  return kSwizzle128 | static_cast<uint64_t>(stride >> 4) << 32 | (address & 0x3FFFF) >> 4;
}

// Orders register writes before the next mma's reads of accumulators and of A.
__device__ __forceinline__ void mma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ __forceinline__ void mma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Until at most kPending committed groups run.
template <int kPending>
__device__ __forceinline__ void mma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// The compiler does not know that an mma writes its accumulators later: keeps their uses behind the wait before this.
__device__ __forceinline__ void pin(float (&accumulator)[64]) {
#pragma unroll
  for (int i = 0; i < 64; ++i) asm volatile("" : "+f"(accumulator[i])::"memory");
}

#define HOPPER_D4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define HOPPER_D16(d, i) HOPPER_D4(d, i), HOPPER_D4(d, i + 4), HOPPER_D4(d, i + 8), HOPPER_D4(d, i + 12)
#define HOPPER_D64(d) HOPPER_D16(d, 0), HOPPER_D16(d, 16), HOPPER_D16(d, 32), HOPPER_D16(d, 48)
#define HOPPER_MMA(inner, types)                                         \
  "wgmma.mma_async.sync.aligned.m64n128k" inner ".f32." types            \
  " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, "  \
  "%15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, "    \
  "%28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, "    \
  "%41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, "    \
  "%54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
// `last`: whether the operands are transposed, which those of 8 bits cannot be.
#define HOPPER_MMA_SHARED(inner, types, last)                                                                     \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n" HOPPER_MMA(inner, types) "%64, %65, p, 1, 1" last ";\n}\n" \
               : HOPPER_D64(d)                                                                                    \
               : "l"(a), "l"(b), "r"(accumulate))
#define HOPPER_A4 "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3])
#define HOPPER_MMA_REGISTERS(inner, types, last, ...)                                                             \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n" HOPPER_MMA(inner, types)                             \
               "{%64, %65, %66, %67}, %68, p, 1, 1" last ";\n}\n"                                                 \
               : HOPPER_D64(d)                                                                                    \
               : __VA_ARGS__)

// d[64, 128] (+)= a[64, 16] b[128, 16]^T, both in shared memory with K along their rows.
//
// Thread t of the warpgroup holds of d, for j in 0..15: d[4j], d[4j+1] at row 16*(t/32) + (t%32)/4, columns
// 8j + 2*(t%4) and the next; d[4j+2], d[4j+3] eight rows below.
template <class T>
__device__ __forceinline__ void mma_shared(float (&d)[64], uint64_t a, uint64_t b, int accumulate) {
  if constexpr (T::kIsHalf) {
    HOPPER_MMA_SHARED("16", "f16.f16", ", 0, 0");
  } else {
    HOPPER_MMA_SHARED("16", "bf16.bf16", ", 0, 0");
  }
}

// d[64, 128] (+)= a[64, 16] b, a in registers (two rows and two column groups of 8 as in d, packed in pairs), b in
// shared memory: [128, 16] with K along its rows, or [16, 128] if kTransposed.
template <class T, int kTransposed>
__device__ __forceinline__ void mma_registers(float (&d)[64], const uint32_t (&a)[4], uint64_t b, int accumulate) {
  if constexpr (T::kIsHalf) {
    HOPPER_MMA_REGISTERS("16", "f16.f16", ", %70", HOPPER_A4, "l"(b), "r"(accumulate), "n"(kTransposed));
  } else {
    HOPPER_MMA_REGISTERS("16", "bf16.bf16", ", %70", HOPPER_A4, "l"(b), "r"(accumulate), "n"(kTransposed));
  }
}

// As mma_shared, of 8-bit numbers (E4M3): a[64, 32], b[128, 32].
__device__ __forceinline__ void mma8_shared(float (&d)[64], uint64_t a, uint64_t b, int accumulate) {
  HOPPER_MMA_SHARED("32", "e4m3.e4m3", "");
}

// As mma_registers, of 8-bit numbers, b[128, 32] with K along its rows. Thread t holds of a, in register r, row
// 16*(t/32) + (t%32)/4 + 8*(r%2), columns 16*(r/2) + 4*(t%4) and the next three.
__device__ __forceinline__ void mma8_registers(float (&d)[64], const uint32_t (&a)[4], uint64_t b, int accumulate) {
  HOPPER_MMA_REGISTERS("32", "e4m3.e4m3", "", HOPPER_A4, "l"(b), "r"(accumulate));
}

// Four numbers rounded to E4M3, the first in the lowest byte; what is beyond 448 becomes 448.
__device__ __forceinline__ uint32_t pack8(float a, float b, float c, float d) {
  uint16_t low, high;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(low) : "f"(b), "f"(a));
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(high) : "f"(d), "f"(c));
  uint32_t packed;
  asm("mov.b32 %0, {%1, %2};" : "=r"(packed) : "h"(low), "h"(high));
  return packed;
}

#undef HOPPER_MMA_REGISTERS
#undef HOPPER_A4
#undef HOPPER_MMA_SHARED
#undef HOPPER_MMA
#undef HOPPER_D64
#undef HOPPER_D16
#undef HOPPER_D4

// The hardware's own, to about 2 units in the last place.
__device__ __forceinline__ float exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Element types: tag with the packing and unpacking of two numbers, the first in the low half.
struct Half {
  static constexpr bool kIsHalf = true;
  using Storage = __half;
  __device__ static uint32_t pack(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
  __device__ static float2 unpack(uint32_t pair) { return __half22float2(*reinterpret_cast<const __half2*>(&pair)); }
};

struct BFloat16 {
  static constexpr bool kIsHalf = false;
  using Storage = __nv_bfloat16;
  __device__ static uint32_t pack(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
  __device__ static float2 unpack(uint32_t pair) {
    return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&pair));
  }
};

}  // namespace hopper
