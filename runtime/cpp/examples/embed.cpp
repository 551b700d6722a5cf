// Raw RGB24 in, raw RGB24 out:   embed BUNDLE WIDTH HEIGHT [SCALE] < in.rgb > out.rgb
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <vector>

#include "flashvsr.hpp"

namespace {

// False at the end of the input; a part of a frame is an error.
bool read_frame(std::vector<unsigned char>& pixels) {
  const std::size_t got = std::fread(pixels.data(), 1, pixels.size(), stdin);
  if (got != 0 && got != pixels.size()) throw std::runtime_error("the input ends inside a frame");
  return got != 0;
}

void write_ready(flashvsr::Stream& stream, std::vector<unsigned char>& pixels, flashvsr_image& image) {
  while (stream.pull(image))
    if (std::fwrite(pixels.data(), 1, pixels.size(), stdout) != pixels.size())
      throw std::runtime_error("the output cannot be written");
}

void upscale(const char* bundle, int width, int height, double scale) {
  const flashvsr::Model model(bundle);
  auto options = flashvsr::Stream::defaults();
  options.width = width;
  options.height = height;
  options.scale = scale;
  flashvsr::Stream stream(model, options);
  const auto info = stream.info();

  std::vector<unsigned char> in(std::size_t(3) * width * height);
  std::vector<unsigned char> out(std::size_t(3) * info.output_width * info.output_height);
  const auto in_image = flashvsr::rgb_image(in.data(), width, height);
  auto out_image = flashvsr::rgb_image(out.data(), info.output_width, info.output_height);

  while (read_frame(in)) {
    stream.push(in_image);
    write_ready(stream, out, out_image);
  }
  stream.flush();
  write_ready(stream, out, out_image);
  if (std::fflush(stdout) != 0) throw std::runtime_error("the output cannot be written");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4 && argc != 5) {
    std::fprintf(stderr, "usage: %s BUNDLE WIDTH HEIGHT [SCALE] < in.rgb > out.rgb\n", argv[0]);
    return 2;
  }
  try {
    upscale(argv[1], std::atoi(argv[2]), std::atoi(argv[3]), argc == 5 ? std::atof(argv[4]) : 4.0);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
