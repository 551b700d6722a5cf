// A filter of y4m on pipes:
//
//     ffmpeg -i in.mp4 -pix_fmt yuv420p -f yuv4mpegpipe - | flashvsr_y4m BUNDLE | ffmpeg -i - out.mp4
//
// 8 bit, 4:2:0 or 4:4:4. y4m names no colour matrix: BT.709 from 720 lines up, else BT.601, as players read it.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "flashvsr.hpp"
#include "y4m.hpp"
#include "yuv444.hpp"

namespace {

using Bytes = std::vector<unsigned char>;

struct Arguments {
  std::string bundle;
  double scale = 4.0;
  int threads = 0;
  unsigned long long seed = 0;
  int variant = FLASHVSR_VARIANT_LONG;
  int device = FLASHVSR_DEVICE_CPU;
  std::string op_library;
};

int variant_of(const std::string& name) {
  if (name == "long") return FLASHVSR_VARIANT_LONG;
  if (name == "tiny") return FLASHVSR_VARIANT_TINY;
  if (name == "full") return FLASHVSR_VARIANT_FULL;
  throw std::runtime_error("variant " + name + " is unknown; expected: long, tiny or full");
}

int device_of(const std::string& name) {
  if (name == "cpu") return FLASHVSR_DEVICE_CPU;
  if (name == "cuda") return FLASHVSR_DEVICE_CUDA;
  throw std::runtime_error("device " + name + " is unknown; expected: cpu or cuda");
}

std::int32_t chroma_location(const std::string& colour) {
  if (colour == "420jpeg" || colour == "420") return FLASHVSR_CHROMA_CENTRE;
  if (colour == "420mpeg2") return FLASHVSR_CHROMA_LEFT;
  if (colour == "420paldv") return FLASHVSR_CHROMA_TOP_LEFT;
  throw std::runtime_error("y4m colour C" + colour + " is not supported; expected: 8-bit 4:2:0 or C444");
}

// One picture between the planes of y4m and the image that the library takes or gives.
class Picture {
 public:
  Picture(const y4m::Header& header, bool bt709)
      : header_(header),
        planes_(header.frame_bytes()),
        packed_(header.subsampled() ? 2 * header.chroma_bytes() : 3 * header.luma_bytes()),
        decode_(bt709, header.full_range),
        encode_(bt709, header.full_range) {
    if (!header.subsampled()) {
      if (header.colour != "444") chroma_location(header.colour);
      image_ = flashvsr::rgb_image(packed_.data(), header.width, header.height);
      return;
    }
    image_ = flashvsr::rgb_image(planes_.data(), header.width, header.height);
    image_.format = FLASHVSR_FORMAT_NV12;
    image_.plane[1] = packed_.data();
    image_.stride[0] = static_cast<std::size_t>(header.width);
    image_.stride[1] = 2 * header.chroma_width();
    image_.matrix = bt709 ? 1 : 6;
    image_.full_range = header.full_range ? 1 : 0;
    image_.chroma = chroma_location(header.colour);
  }
  Picture(const Picture&) = delete;
  Picture& operator=(const Picture&) = delete;

  flashvsr_image& image() { return image_; }

  bool read() {
    if (!y4m::read_frame(stdin, planes_)) return false;
    if (!header_.subsampled()) {
      decode_(planes_.data(), header_.luma_bytes(), packed_.data());
      return true;
    }
    const unsigned char* u = planes_.data() + header_.luma_bytes();
    for (std::size_t i = 0; i < header_.chroma_bytes(); ++i) {
      packed_[2 * i] = u[i];
      packed_[2 * i + 1] = u[header_.chroma_bytes() + i];
    }
    return true;
  }

  void write() {
    if (!header_.subsampled()) {
      encode_(packed_.data(), header_.luma_bytes(), planes_.data());
    } else {
      unsigned char* u = planes_.data() + header_.luma_bytes();
      for (std::size_t i = 0; i < header_.chroma_bytes(); ++i) {
        u[i] = packed_[2 * i];
        u[header_.chroma_bytes() + i] = packed_[2 * i + 1];
      }
    }
    y4m::write_frame(stdout, planes_);
  }

 private:
  y4m::Header header_;
  Bytes planes_;
  Bytes packed_;  // U, V in pairs for NV12, or RGB
  yuv444::Decoder decode_;
  yuv444::Encoder encode_;
  flashvsr_image image_{};
};

void filter(const Arguments& arguments) {
  const y4m::Header source = y4m::read_header(stdin);
  const bool bt709 = source.height >= 720;
  Picture in(source, bt709);
  auto model_options = flashvsr::Model::defaults();
  model_options.threads = arguments.threads;
  model_options.device = arguments.device;
  if (!arguments.op_library.empty()) model_options.op_library = arguments.op_library.c_str();
  const flashvsr::Model model(arguments.bundle, model_options);
  auto options = flashvsr::Stream::defaults();
  options.width = source.width;
  options.height = source.height;
  options.scale = arguments.scale;
  options.seed = arguments.seed;
  options.variant = arguments.variant;
  flashvsr::Stream stream(model, options);

  y4m::Header target = source;
  target.width = stream.info().output_width;
  target.height = stream.info().output_height;
  Picture out(target, bt709);
  y4m::write_header(stdout, target);
  const auto write_ready = [&] {
    while (stream.pull(out.image())) out.write();
    std::fflush(stdout);
  };
  while (in.read()) {
    stream.push(in.image());
    write_ready();
  }
  stream.flush();
  write_ready();
  if (std::ferror(stdout) != 0) throw std::runtime_error("the output cannot be written");
}

bool parse(int argc, char** argv, Arguments& arguments) {
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const bool flag = word == "--scale" || word == "--threads" || word == "--seed" || word == "--variant" ||
                      word == "--device" || word == "--op-library";
    if (flag && ++i == argc) return false;
    if (word == "--scale")
      arguments.scale = std::atof(argv[i]);
    else if (word == "--threads")
      arguments.threads = std::atoi(argv[i]);
    else if (word == "--seed")
      arguments.seed = std::strtoull(argv[i], nullptr, 10);
    else if (word == "--variant")
      arguments.variant = variant_of(argv[i]);
    else if (word == "--device")
      arguments.device = device_of(argv[i]);
    else if (word == "--op-library")
      arguments.op_library = argv[i];
    else if (arguments.bundle.empty() && word.rfind("--", 0) != 0)
      arguments.bundle = word;
    else
      return false;
  }
  return !arguments.bundle.empty();
}

}  // namespace

int main(int argc, char** argv) {
  try {
    Arguments arguments;
    if (!parse(argc, argv, arguments)) {
      std::fprintf(stderr,
                   "usage: %s BUNDLE|ENGINES [--scale 4] [--variant long|tiny|full] [--device cpu|cuda] [--op-library "
                   "FILE] [--threads N] [--seed 0] < in.y4m > out.y4m\n",
                   argv[0]);
      return 2;
    }
    filter(arguments);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
