// Frames a second of long streams:   speed BUNDLE_OR_ENGINES HEIGHT WIDTH FRAMES cpu|cuda [OP_LIBRARY]
//
// Generated frames of HEIGHTxWIDTH pixels to four times that, RGB in and out of host memory, as `python -m
// flashvsr_trt.runtime.speed` does; but for the resize, which is counted here. Prints the speed of the median step.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "flashvsr.hpp"

namespace {

using Clock = std::chrono::steady_clock;
using Bytes = std::vector<unsigned char>;

constexpr int DISTINCT = 16;  // frames that are generated; they come again in turn
constexpr int WARM = 3;       // batches of frames that are not counted: each graph's first run chooses its kernels
constexpr int STEP = 8;

Bytes moving_picture(int index, int height, int width) {
  Bytes picture;
  const double phase = index / 6.0;
  for (int i = 0; i < height; ++i)
    for (int k = 0; k < width; ++k) {
      const double y = i / 16.0, x = k / 16.0;
      for (const double wave : {std::sin(x + phase), std::sin(y - phase), std::sin((x + y) * 2 + 2 * phase)})
        picture.push_back(static_cast<unsigned char>(std::lround(127.5 + 100 * wave)));
    }
  return picture;
}

void measure(const flashvsr::Model& model, int height, int width, int frames) {
  auto options = flashvsr::Stream::defaults();
  options.width = width;
  options.height = height;
  flashvsr::Stream stream(model, options);
  const auto info = stream.info();
  std::vector<Bytes> pictures;
  for (int i = 0; i < DISTINCT; ++i) pictures.push_back(moving_picture(i, height, width));
  Bytes out(std::size_t(3) * std::size_t(info.output_width) * std::size_t(info.output_height));
  auto out_image = flashvsr::rgb_image(out.data(), info.output_width, info.output_height);

  const auto began = Clock::now();
  auto last = began;
  std::vector<double> steps;
  const auto pull = [&] {
    int pulled = 0;
    while (stream.pull(out_image)) ++pulled;
    if (pulled == 0) return;
    const auto now = Clock::now();
    if (pulled == STEP) steps.push_back(std::chrono::duration<double>(now - last).count());
    last = now;
  };
  for (int frame = 0; frame < frames; ++frame) {
    stream.push(flashvsr::rgb_image(pictures[static_cast<std::size_t>(frame % DISTINCT)].data(), width, height));
    pull();
  }
  stream.flush();
  pull();
  const double all = std::chrono::duration<double>(Clock::now() - began).count();
  if (steps.size() <= WARM) throw std::runtime_error("too few frames");
  std::sort(steps.begin() + WARM, steps.end());
  const auto stats = stream.stats();
  std::printf("fps_steady %.2f\nfps_with_start %.2f\n", STEP / steps[WARM + (steps.size() - WARM) / 2], frames / all);
  std::printf("seconds: resize %.2f denoise %.2f decode %.2f\n", stats.resize_seconds, stats.denoise_seconds,
              stats.decode_seconds);
  std::printf("MB: host %.0f device %.0f\n", stats.peak_bytes / 1e6, stats.peak_device_bytes / 1e6);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6 && argc != 7) return 2;
  try {
    auto options = flashvsr::Model::defaults();
    options.device = std::string(argv[5]) == "cuda" ? FLASHVSR_DEVICE_CUDA : FLASHVSR_DEVICE_CPU;
    if (argc == 7) options.op_library = argv[6];
    const flashvsr::Model model(argv[1], options);
    std::printf("%s\n", model.info().backend);
    measure(model, std::atoi(argv[2]), std::atoi(argv[3]), std::atoi(argv[4]));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
