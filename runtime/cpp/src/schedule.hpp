// The schedule of a stream, rule by rule as in configs/schedule.py; both are tested by tests/data/schedule.json.
#pragma once

#include <cstdint>

namespace flashvsr {

struct Size {
  std::int64_t height = 0;
  std::int64_t width = 0;
  bool operator==(const Size& other) const { return height == other.height && width == other.width; }
  bool operator!=(const Size& other) const { return !(*this == other); }
};

// Indices [begin, end).
struct Range {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t count() const { return end - begin; }
};

// The picture the networks see, and how the source, resized to `resized`, lies on it: cut at `offset`, or extended
// to the right and bottom by its edge. The output is the canvas cut to `output`.
struct Canvas {
  Size size;
  Size resized;
  Size offset;
  Size output;
};

Canvas make_canvas(Size source, Size output, bool crop);
// round(scale x size) of both sides, halves up, at least 1 pixel each.
Size scaled(Size source, double scale);

std::int64_t padded_frames(std::int64_t frames);
std::int64_t steps(std::int64_t padded);
Range step_input(std::int64_t step);
Range step_output(std::int64_t step);
Range step_latents(std::int64_t step);
std::int64_t topk(Size canvas, double sparse_ratio);
std::int64_t cached_slabs(std::int64_t slabs, double kv_ratio);
std::int64_t ring_slots(double kv_ratio);

}  // namespace flashvsr
