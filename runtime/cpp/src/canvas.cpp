#include "canvas.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "parts.hpp"

namespace flashvsr {

namespace {

constexpr int PRECISION = 22;
constexpr double RADIUS = 2.0;
constexpr std::int64_t CHANNELS = 3;
constexpr std::int64_t BLOCK = 512;  // samples whose sums stay in the nearest cache

double cubic(double x) {
  constexpr double a = -0.5;
  x = std::fabs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
  if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
  return 0.0;
}

std::int32_t to_fixed(double weight) {
  return static_cast<std::int32_t>(weight * (1 << PRECISION) + (weight < 0 ? -0.5 : 0.5));
}

std::uint8_t to_byte(std::int32_t sum) {
  return static_cast<std::uint8_t>(std::clamp((sum + (1 << (PRECISION - 1))) >> PRECISION, 0, 255));
}

struct Lines {
  const std::uint8_t* first;
  std::size_t stride;
  std::int64_t count;
};

// The weighted sum of some lines, of at most BLOCK samples each.
void blend(const Lines& in, const std::int32_t* weights, std::int64_t samples, std::uint8_t* out) {
  std::int32_t sums[BLOCK] = {};
  const std::uint8_t* line = in.first;
  for (std::int64_t k = 0; k < in.count; ++k, line += in.stride)
    for (std::int64_t i = 0; i < samples; ++i) sums[i] += line[i] * weights[k];
  for (std::int64_t i = 0; i < samples; ++i) out[i] = to_byte(sums[i]);
}

}  // namespace

Taps bicubic_taps(std::int64_t input, std::int64_t output) {
  const double step = static_cast<double>(input) / static_cast<double>(output);
  const double stretch = std::max(step, 1.0);
  const double support = RADIUS * stretch;
  Taps taps;
  taps.width = static_cast<std::int64_t>(std::ceil(support)) * 2 + 1;
  taps.weights.assign(static_cast<std::size_t>(output * taps.width), 0);
  std::vector<double> exact;
  for (std::int64_t i = 0; i < output; ++i) {
    const double centre = (static_cast<double>(i) + 0.5) * step;
    const auto begin = std::max<std::int64_t>(0, static_cast<std::int64_t>(centre - support + 0.5));
    const auto end = std::min(input, static_cast<std::int64_t>(centre + support + 0.5));
    exact.clear();
    double sum = 0.0;
    for (std::int64_t x = begin; x < end; ++x) {
      exact.push_back(cubic((static_cast<double>(x) - centre + 0.5) * (1.0 / stretch)));
      sum += exact.back();
    }
    for (std::size_t k = 0; k < exact.size(); ++k)
      taps.weights[static_cast<std::size_t>(i * taps.width) + k] = to_fixed(sum != 0.0 ? exact[k] / sum : exact[k]);
    taps.first.push_back(begin);
    taps.count.push_back(end - begin);
  }
  return taps;
}

CanvasMaker::CanvasMaker(Size source, const Canvas& canvas, const std::shared_ptr<Allocator>& allocator)
    : source_(source),
      canvas_(canvas),
      cut_{std::min(canvas.size.height, canvas.resized.height), std::min(canvas.size.width, canvas.resized.width)},
      horizontal_(bicubic_taps(source.width, canvas.resized.width)),
      vertical_(bicubic_taps(source.height, canvas.resized.height)) {
  if (source.width != canvas.resized.width)
    rows_ = make_block(allocator, static_cast<std::size_t>(source.height * canvas.resized.width * CHANNELS));
}

void CanvasMaker::operator()(const std::uint8_t* rgb, std::size_t stride, std::uint8_t* lq) const {
  if (rows_ == nullptr) {
    resize_columns(rgb, stride, lq);
  } else {
    resize_rows(rgb, stride);
    resize_columns(rows_->data(), static_cast<std::size_t>(canvas_.resized.width * CHANNELS), lq);
  }
  const auto row_bytes = static_cast<std::size_t>(canvas_.size.width * CHANNELS);
  for (std::int64_t y = 0; y < cut_.height; ++y) {
    std::uint8_t* row = lq + static_cast<std::size_t>(y) * row_bytes;
    for (std::int64_t x = cut_.width; x < canvas_.size.width; ++x)
      std::memcpy(row + x * CHANNELS, row + (cut_.width - 1) * CHANNELS, CHANNELS);
  }
  for (std::int64_t y = cut_.height; y < canvas_.size.height; ++y)
    std::memcpy(lq + static_cast<std::size_t>(y) * row_bytes, lq + static_cast<std::size_t>(cut_.height - 1) * row_bytes,
                row_bytes);
}

void CanvasMaker::resize_rows(const std::uint8_t* rgb, std::size_t stride) const {
  const std::int64_t width = canvas_.resized.width;
  in_parts(source_.height, source_.height * width * CHANNELS, [&](std::int64_t begin, std::int64_t end) {
    std::uint8_t* out = rows_->data() + begin * width * CHANNELS;
    for (std::int64_t y = begin; y < end; ++y)
      for (std::int64_t x = 0; x < width; ++x, out += CHANNELS) {
        const auto tap = static_cast<std::size_t>(x);
        const std::int32_t* weights = &horizontal_.weights[tap * static_cast<std::size_t>(horizontal_.width)];
        const std::uint8_t* pixel = rgb + static_cast<std::size_t>(y) * stride + horizontal_.first[tap] * CHANNELS;
        std::int32_t sum[CHANNELS] = {};
        for (std::int64_t k = 0; k < horizontal_.count[tap]; ++k, pixel += CHANNELS)
          for (std::int64_t c = 0; c < CHANNELS; ++c) sum[c] += pixel[c] * weights[k];
        for (std::int64_t c = 0; c < CHANNELS; ++c) out[c] = to_byte(sum[c]);
      }
  });
}

void CanvasMaker::resize_columns(const std::uint8_t* rows, std::size_t stride, std::uint8_t* lq) const {
  const std::int64_t samples = cut_.width * CHANNELS;
  const std::uint8_t* origin = rows + static_cast<std::size_t>(canvas_.offset.width * CHANNELS);
  in_parts(cut_.height, cut_.height * samples, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t y = begin; y < end; ++y) {
      const auto tap = static_cast<std::size_t>(y + canvas_.offset.height);
      const std::int32_t* weights = &vertical_.weights[tap * static_cast<std::size_t>(vertical_.width)];
      const std::uint8_t* in = origin + static_cast<std::size_t>(vertical_.first[tap]) * stride;
      std::uint8_t* out = lq + y * canvas_.size.width * CHANNELS;
      for (std::int64_t x = 0; x < samples; x += BLOCK)
        blend({in + x, stride, vertical_.count[tap]}, weights, std::min(BLOCK, samples - x), out + x);
    }
  });
}

}  // namespace flashvsr
