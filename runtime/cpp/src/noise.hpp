// Noise of the diffusion step and rotary tables: the numbers of runtime/noise.py and runtime/rope.py.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "schedule.hpp"

namespace flashvsr {

// Ten rounds of Philox4x32 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key);

// Bits of the float16 nearest to `value`, ties to even, rounded once.
std::uint16_t half_bits(double value);

// N(0,1) as a pure function of (seed, latent frame, channel, row, column), float16 bits [frames, 16, height, width].
std::vector<std::uint16_t> noise(std::uint64_t seed, Range frames, std::int64_t height, std::int64_t width);

// (cos, sin) of position * 10000^(-j/pairs) for each rotated pair j, [positions, pairs, 2], computed in double.
std::vector<float> rotary_table(Range positions, std::int64_t pairs);

}  // namespace flashvsr
