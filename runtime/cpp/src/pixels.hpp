// Pictures of the caller: checked, and turned into RGB and back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "flashvsr.h"
#include "schedule.hpp"

namespace flashvsr {

struct Plane {
  std::size_t row_bytes, rows, sample_bytes;
};

// The planes of a picture of that format, which must be a known one.
std::vector<Plane> planes_of(std::int32_t format, Size size);

// Throws where `image` cannot be what a caller of size `size` means: unknown format, no plane, a stride under a row.
void check_image(const flashvsr_image& image, Size size);

// NV12 or P010 to RGB24 [height, width, 3], dense: chroma interpolated linearly, each value rounded once.
void yuv_to_rgb(const flashvsr_image& image, std::uint8_t* rgb);

// RGB [height, width, 3], dense, 8 or 16 bits, to the image's own format: RGB of that depth is copied, NV12 and P010
// take each chroma sample from its neighbours with a triangle filter, or the 2x2 box where it lies in their centre.
void store(const void* rgb, int bits, const flashvsr_image& image);

}  // namespace flashvsr
