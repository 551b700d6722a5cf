#include "pixels.hpp"

#include <algorithm>
#include <cstring>
#include <string>

#include "error.hpp"
#include "parts.hpp"

namespace flashvsr {

namespace {

bool is_yuv(std::int32_t format) { return format == FLASHVSR_FORMAT_NV12 || format == FLASHVSR_FORMAT_P010; }

// Luma weights of red and blue.
struct Matrix {
  float red, blue;
  float green() const { return 1.0F - red - blue; }
};

bool find_matrix(std::int32_t code, Matrix* matrix) {
  switch (code) {
    case 1: *matrix = {0.2126F, 0.0722F}; return true;
    case 5:
    case 6: *matrix = {0.299F, 0.114F}; return true;
    case 9: *matrix = {0.2627F, 0.0593F}; return true;
    default: return false;
  }
}

// Code values: luma = black + y * luma, chroma = middle + c * chroma with y in 0..1 and c in -0.5..0.5.
struct Coding {
  float black, luma, middle, chroma, largest;
  int shift;  // of the code value inside its sample
};

Coding coding(const flashvsr_image& image) {
  const bool deep = image.format == FLASHVSR_FORMAT_P010;
  const float unit = deep ? 4.0F : 1.0F;
  const float largest = deep ? 1023.0F : 255.0F;
  const int shift = deep ? 6 : 0;
  if (image.full_range != 0) return {0.0F, largest, 128.0F * unit, largest, largest, shift};
  return {16.0F * unit, 219.0F * unit, 128.0F * unit, 224.0F * unit, largest, shift};
}

float clamp_to(float value, float largest) { return std::min(std::max(value, 0.0F), largest); }

// The two chroma samples around luma sample `position` of one axis, and the weight of the second.
struct Neighbours {
  std::int64_t first, second;
  float weight;
};

// `centred`: chroma sample i lies between luma samples 2i and 2i+1, else on luma sample 2i.
Neighbours neighbours(std::int64_t position, std::int64_t count, bool centred) {
  const std::int64_t own = position / 2;
  const bool odd = position % 2 != 0;
  if (centred && !odd) return {std::max<std::int64_t>(own - 1, 0), own, 0.75F};
  return {own, std::min(own + 1, count - 1), odd ? (centred ? 0.25F : 0.5F) : 0.0F};
}

template <typename Sample>
const Sample* row_of(const flashvsr_image& image, int plane, std::int64_t y) {
  const auto* bytes = static_cast<const std::uint8_t*>(image.plane[plane]);
  return reinterpret_cast<const Sample*>(bytes + static_cast<std::size_t>(y) * image.stride[plane]);
}

template <typename Sample>
void decode(const flashvsr_image& image, std::uint8_t* rgb) {
  const Coding code = coding(image);
  Matrix matrix{};
  find_matrix(image.matrix, &matrix);
  const float to_red = 2.0F * (1.0F - matrix.red), to_blue = 2.0F * (1.0F - matrix.blue);
  const float blue_in_green = to_blue * matrix.blue / matrix.green(), red_in_green = to_red * matrix.red / matrix.green();
  const std::int64_t half_width = (image.width + 1) / 2, half_height = (image.height + 1) / 2;
  const auto value = [&code](Sample sample) { return static_cast<float>(sample >> code.shift); };
  const auto byte = [](float unit) { return static_cast<std::uint8_t>(clamp_to(unit * 255.0F + 0.5F, 255.0F)); };
  for (std::int64_t y = 0; y < image.height; ++y) {
    const Neighbours v = neighbours(y, half_height, image.chroma != FLASHVSR_CHROMA_TOP_LEFT);
    const Sample* luma = row_of<Sample>(image, 0, y);
    const Sample* above = row_of<Sample>(image, 1, v.first);
    const Sample* below = row_of<Sample>(image, 1, v.second);
    for (std::int64_t x = 0; x < image.width; ++x, rgb += 3) {
      const Neighbours h = neighbours(x, half_width, image.chroma == FLASHVSR_CHROMA_CENTRE);
      float chroma[2];
      for (int c = 0; c < 2; ++c) {
        const float left = value(above[2 * h.first + c]) * (1.0F - v.weight) + value(below[2 * h.first + c]) * v.weight;
        const float right =
            value(above[2 * h.second + c]) * (1.0F - v.weight) + value(below[2 * h.second + c]) * v.weight;
        chroma[c] = (left * (1.0F - h.weight) + right * h.weight - code.middle) / code.chroma;
      }
      const float grey = (value(luma[x]) - code.black) / code.luma;
      rgb[0] = byte(grey + to_red * chroma[1]);
      rgb[1] = byte(grey - blue_in_green * chroma[0] - red_in_green * chroma[1]);
      rgb[2] = byte(grey + to_blue * chroma[0]);
    }
  }
}

// Weights of the luma samples 2i-1, 2i, 2i+1 in chroma sample i.
struct Filter {
  float before, at, after;
};
Filter filter(bool centred) { return centred ? Filter{0.0F, 0.5F, 0.5F} : Filter{0.25F, 0.5F, 0.25F}; }

template <typename Source, typename Sample>
void encode(const Source* rgb, const flashvsr_image& image) {
  constexpr float SCALE = 1.0F / static_cast<float>(static_cast<Source>(~Source{0}));
  const Coding code = coding(image);
  Matrix matrix{};
  find_matrix(image.matrix, &matrix);
  const std::int64_t width = image.width, height = image.height;
  const auto sample = [&code](float value) {
    return static_cast<Sample>(static_cast<unsigned>(clamp_to(value + 0.5F, code.largest)) << code.shift);
  };
  const auto grey = [&matrix](const Source* p) {
    return (matrix.red * p[0] + matrix.green() * p[1] + matrix.blue * p[2]) * SCALE;
  };
  in_parts(height, height * width, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t y = begin; y < end; ++y) {
      auto* luma = const_cast<Sample*>(row_of<Sample>(image, 0, y));
      for (std::int64_t x = 0; x < width; ++x)
        luma[x] = sample(code.black + code.luma * grey(rgb + (y * width + x) * 3));
    }
  });
  const Filter h = filter(image.chroma == FLASHVSR_CHROMA_CENTRE);
  const Filter v = filter(image.chroma != FLASHVSR_CHROMA_TOP_LEFT);
  const float rows[3] = {v.before, v.at, v.after}, columns[3] = {h.before, h.at, h.after};
  in_parts((height + 1) / 2, height * width, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t y = begin; y < end; ++y) {
      auto* chroma = const_cast<Sample*>(row_of<Sample>(image, 1, y));
      for (std::int64_t x = 0; x < (width + 1) / 2; ++x) {
        float sum[3] = {};
        for (int j = 0; j < 3; ++j)
          for (int i = 0; i < 3; ++i) {
            const std::int64_t yy = std::clamp<std::int64_t>(2 * y + j - 1, 0, height - 1);
            const std::int64_t xx = std::clamp<std::int64_t>(2 * x + i - 1, 0, width - 1);
            for (int c = 0; c < 3; ++c) sum[c] += rows[j] * columns[i] * rgb[(yy * width + xx) * 3 + c];
          }
        const float mean = matrix.red * sum[0] + matrix.green() * sum[1] + matrix.blue * sum[2];
        chroma[2 * x] = sample(code.middle + code.chroma * (sum[2] - mean) * SCALE / (2.0F * (1.0F - matrix.blue)));
        chroma[2 * x + 1] = sample(code.middle + code.chroma * (sum[0] - mean) * SCALE / (2.0F * (1.0F - matrix.red)));
      }
    }
  });
}

void check_plane(const flashvsr_image& image, std::size_t index, const Plane& plane) {
  const std::string name = "image.plane[" + std::to_string(index) + "]";
  if (image.plane[index] == nullptr) bad_argument(name + " is NULL");
  if (image.stride[index] < plane.row_bytes)
    bad_argument("image.stride[" + std::to_string(index) + "] is " + std::to_string(image.stride[index]) +
                 "; expected: at least " + std::to_string(plane.row_bytes) + " bytes");
  if (image.stride[index] > (std::size_t{1} << 40)) bad_argument("image.stride is negative or beyond any picture");
  if (reinterpret_cast<std::uintptr_t>(image.plane[index]) % plane.sample_bytes != 0 ||
      image.stride[index] % plane.sample_bytes != 0)
    bad_argument(name + " and its stride are not aligned to its " + std::to_string(plane.sample_bytes) +
                 "-byte samples");
}

}  // namespace

std::vector<Plane> planes_of(std::int32_t format, Size size) {
  const bool deep = format == FLASHVSR_FORMAT_RGB48 || format == FLASHVSR_FORMAT_P010;
  const std::size_t sample = deep ? 2 : 1;
  const auto width = static_cast<std::size_t>(size.width), height = static_cast<std::size_t>(size.height);
  if (!is_yuv(format)) return {{width * 3 * sample, height, sample}};
  return {{width * sample, height, sample}, {(width + 1) / 2 * 2 * sample, (height + 1) / 2, sample}};
}

void check_image(const flashvsr_image& image, Size size) {
  if (image.memory != FLASHVSR_MEMORY_HOST && image.memory != FLASHVSR_MEMORY_DEVICE)
    bad_argument("image.memory is unknown");
  if (image.format < FLASHVSR_FORMAT_RGB24 || image.format > FLASHVSR_FORMAT_P010)
    bad_argument("image.format " + std::to_string(image.format) + " is unknown");
  if (image.width != size.width || image.height != size.height)
    bad_argument("the image is " + std::to_string(image.width) + "x" + std::to_string(image.height) +
                 "; expected: " + std::to_string(size.width) + "x" + std::to_string(size.height));
  const auto planes = planes_of(image.format, size);
  for (std::size_t i = 0; i < planes.size(); ++i) check_plane(image, i, planes[i]);
  if (!is_yuv(image.format)) return;
  Matrix matrix{};
  if (!find_matrix(image.matrix, &matrix))
    bad_argument("image.matrix is " + std::to_string(image.matrix) + "; expected: 1, 5, 6 or 9");
  if (image.full_range != 0 && image.full_range != 1) bad_argument("image.full_range is neither 0 nor 1");
  if (image.chroma < FLASHVSR_CHROMA_LEFT || image.chroma > FLASHVSR_CHROMA_TOP_LEFT)
    bad_argument("image.chroma " + std::to_string(image.chroma) + " is unknown");
}

void yuv_to_rgb(const flashvsr_image& image, std::uint8_t* rgb) {
  if (image.format == FLASHVSR_FORMAT_NV12)
    decode<std::uint8_t>(image, rgb);
  else
    decode<std::uint16_t>(image, rgb);
}

void store(const void* rgb, int bits, const flashvsr_image& image) {
  const auto* narrow = static_cast<const std::uint8_t*>(rgb);
  const auto* wide = static_cast<const std::uint16_t*>(rgb);
  const bool nv12 = image.format == FLASHVSR_FORMAT_NV12;
  if (is_yuv(image.format)) {
    if (bits == 8) return nv12 ? encode<std::uint8_t, std::uint8_t>(narrow, image) : encode<std::uint8_t, std::uint16_t>(narrow, image);
    return nv12 ? encode<std::uint16_t, std::uint8_t>(wide, image) : encode<std::uint16_t, std::uint16_t>(wide, image);
  }
  const auto row_bytes = static_cast<std::size_t>(image.width) * 3 * static_cast<std::size_t>(bits / 8);
  for (std::int64_t y = 0; y < image.height; ++y)
    std::memcpy(static_cast<std::uint8_t*>(image.plane[0]) + static_cast<std::size_t>(y) * image.stride[0],
                narrow + static_cast<std::size_t>(y) * row_bytes, row_bytes);
}

}  // namespace flashvsr
