#include "schedule.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "error.hpp"
#include "flashvsr_contract.hpp"

namespace flashvsr {

using namespace contract;

namespace {

constexpr std::int64_t LARGEST_SIDE = 1 << 16;  // keeps every product of sizes far inside 64 bits

std::int64_t round_up(std::int64_t value, std::int64_t grid) { return (value + grid - 1) / grid * grid; }

std::string text(Size size) { return std::to_string(size.width) + "x" + std::to_string(size.height); }

void check_size(const char* what, Size size) {
  if (std::min(size.height, size.width) < 1 || std::max(size.height, size.width) > LARGEST_SIDE)
    bad_argument(std::string(what) + " is " + text(size) + "; expected: 1 to 65536 pixels on both sides");
}

}  // namespace

Canvas make_canvas(Size source, Size output, bool crop) {
  check_size("the source", source);
  check_size("the output", output);
  if (!crop)
    return {{round_up(output.height, GRID), round_up(output.width, GRID)}, output, {0, 0}, output};
  const Size cut{output.height / GRID * GRID, output.width / GRID * GRID};
  if (std::min(cut.height, cut.width) < GRID)
    bad_argument("FLASHVSR_FIT_CROP leaves nothing of " + text(output) + "; expected: at least 128x128");
  return {cut, output, {(output.height - cut.height) / 2, (output.width - cut.width) / 2}, cut};
}

Size scaled(Size source, double scale) {
  if (!(scale > 0) || !(scale <= LARGEST_SIDE))
    bad_argument("scale is " + std::to_string(scale) + "; expected: a number above 0, e.g. 2, 3 or 4");
  const auto side = [scale](std::int64_t value) {
    return std::max<std::int64_t>(1, static_cast<std::int64_t>(static_cast<double>(value) * scale + 0.5));
  };
  return {side(source.height), side(source.width)};
}

std::int64_t padded_frames(std::int64_t frames) {
  return std::max(FIRST_INPUT, round_up(frames + LOOK_AHEAD - 1, STEP) + 1);
}

std::int64_t steps(std::int64_t padded) { return (padded - 1) / STEP - 2; }

Range step_input(std::int64_t step) {
  if (step == 0) return {0, FIRST_INPUT};
  const std::int64_t begin = FIRST_INPUT + STEP * (step - 1);
  return {begin, begin + STEP};
}

Range step_output(std::int64_t step) {
  if (step == 0) return {0, FIRST_OUTPUT};
  const std::int64_t begin = FIRST_OUTPUT + STEP * (step - 1);
  return {begin, begin + STEP};
}

Range step_latents(std::int64_t step) {
  if (step == 0) return {0, FIRST_LATENTS};
  const std::int64_t begin = FIRST_LATENTS + STEP_LATENTS * (step - 1);
  return {begin, begin + STEP_LATENTS};
}

std::int64_t topk(Size canvas, double sparse_ratio) {
  // In double and in this order: at ratios 1.5 and 2 the exact value is an integer, and the order decides its rounding.
  const std::int64_t windows = (canvas.height / GRID) * (canvas.width / GRID);
  const double ratio =
      sparse_ratio * static_cast<double>(REFERENCE_PIXELS) / static_cast<double>(canvas.height * canvas.width);
  const double blocks = static_cast<double>(windows * windows) * ratio;
  if (!(blocks < 9e18)) bad_argument("sparse_ratio is too large");
  return static_cast<std::int64_t>(blocks) - 1;
}

std::int64_t cached_slabs(std::int64_t slabs, double kv_ratio) {
  return slabs > static_cast<std::int64_t>(kv_ratio) ? slabs - 1 : slabs;
}

std::int64_t ring_slots(double kv_ratio) {
  const auto kept = std::max<std::int64_t>(STEP_LATENTS, static_cast<std::int64_t>(kv_ratio));
  return std::max(FIRST_SLABS, kept + 1);
}

}  // namespace flashvsr
