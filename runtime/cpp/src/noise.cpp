#include "noise.hpp"

#include <cmath>
#include <cstring>

#include "flashvsr_contract.hpp"
#include "parts.hpp"

namespace flashvsr {

namespace {

constexpr double PI = 3.14159265358979323846;
constexpr double TO_UNIT = 1.0 / 4294967296.0;
constexpr std::int64_t LANES = 4;
constexpr std::int64_t WORK = 8;  // a value costs about as much as so many samples of a picture

struct Pair {
  double first, second;
};

Pair box_muller(std::uint32_t a, std::uint32_t b) {
  // (a + 1) / 2^32 lies in (0, 1], so the logarithm is finite.
  const double radius = std::sqrt(-2.0 * std::log((static_cast<double>(a) + 1.0) * TO_UNIT));
  const double angle = static_cast<double>(b) * (2.0 * PI * TO_UNIT);
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

std::uint32_t high(std::uint64_t value) { return static_cast<std::uint32_t>(value >> 32); }
std::uint32_t low(std::uint64_t value) { return static_cast<std::uint32_t>(value); }

}  // namespace

std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> c, std::array<std::uint32_t, 2> key) {
  constexpr std::uint64_t M0 = 0xD2511F53, M1 = 0xCD9E8D57;
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = M0 * c[0], p1 = M1 * c[2];
    c = {high(p1) ^ c[1] ^ key[0], low(p1), high(p0) ^ c[3] ^ key[1], low(p0)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return c;
}

std::uint16_t half_bits(double value) {
  std::uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const auto sign = static_cast<std::uint16_t>(bits >> 48 & 0x8000);
  const double magnitude = std::fabs(value);
  if (std::isnan(value)) return sign | 0x7E00;
  if (magnitude >= 65520.0) return sign | 0x7C00;  // halfway to the number after the largest
  // The spacing of float16 around `magnitude`; below 2^-14 it no longer shrinks. nearbyint rounds ties to even.
  const int exponent = magnitude == 0 ? -14 : std::max(-14, std::ilogb(magnitude));
  const auto steps = static_cast<std::uint32_t>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  // Exponent field e and mantissa m stand for (1024 + m) * 2^(e - 25), or m * 2^-24 where e = 0; a carry out of
  // the mantissa moves into the exponent by itself.
  return static_cast<std::uint16_t>(sign + (static_cast<std::uint32_t>(exponent + 14) << 10) + steps);
}

std::vector<std::uint16_t> noise(std::uint64_t seed, Range frames, std::int64_t height, std::int64_t width) {
  const std::array<std::uint32_t, 2> key{low(seed), high(seed)};
  const std::int64_t rows = frames.count() * contract::LATENT_CHANNELS * height;  // of all channels of all frames
  std::vector<std::uint16_t> values(static_cast<std::size_t>(rows * width));
  in_parts(rows, rows * width * WORK, [&](std::int64_t begin, std::int64_t end) {
    std::uint16_t* out = values.data() + begin * width;
    for (std::int64_t index = begin; index < end; ++index) {
      const auto frame = static_cast<std::uint64_t>(frames.begin + index / (contract::LATENT_CHANNELS * height));
      const auto channel = static_cast<std::uint32_t>(index / height % contract::LATENT_CHANNELS);
      const auto row = static_cast<std::uint32_t>(index % height);
      for (std::int64_t column = 0; column < width; column += LANES) {
        const auto bits =
            philox4x32({static_cast<std::uint32_t>(column / LANES), row, channel | high(frame) << 8, low(frame)}, key);
        const Pair a = box_muller(bits[0], bits[1]), b = box_muller(bits[2], bits[3]);
        const double lanes[LANES] = {a.first, a.second, b.first, b.second};
        for (std::int64_t lane = 0; lane < std::min(LANES, width - column); ++lane) *out++ = half_bits(lanes[lane]);
      }
    }
  });
  return values;  // [frames, 16, height, width]
}

std::vector<float> rotary_table(Range positions, std::int64_t pairs) {
  std::vector<double> frequencies;
  for (std::int64_t pair = 0; pair < pairs; ++pair)
    frequencies.push_back(std::pow(10000.0, -static_cast<double>(pair) / static_cast<double>(pairs)));
  std::vector<float> out;
  out.reserve(static_cast<std::size_t>(positions.count() * pairs * 2));
  for (std::int64_t position = positions.begin; position < positions.end; ++position)
    for (const double frequency : frequencies) {
      const double angle = static_cast<double>(position) * frequency;
      out.push_back(static_cast<float>(std::cos(angle)));
      out.push_back(static_cast<float>(std::sin(angle)));
    }
  return out;  // [positions, pairs, 2]
}

}  // namespace flashvsr
