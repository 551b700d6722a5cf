// Parts of the library, one by one, for tests/test_cpp.py to compare with the Python runtime: arguments and standard
// input in, raw numbers out.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "canvas.hpp"
#include "noise.hpp"
#include "options.hpp"
#include "pixels.hpp"
#include "ring.hpp"
#include "schedule.hpp"
#include "sha256.hpp"
#include "yuv444.hpp"

namespace {

using namespace flashvsr;
using Bytes = std::vector<unsigned char>;

Bytes read_input() { return Bytes(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()); }

template <typename T>
void write(const std::vector<T>& values) {
  std::fwrite(values.data(), sizeof(T), values.size(), stdout);
}

std::int64_t number(const char* text) { return std::strtoll(text, nullptr, 10); }
std::uint64_t unsigned_number(const char* text) { return std::strtoull(text, nullptr, 10); }

template <typename A, typename B>
void expect(const A& got, const B& expected, const nlohmann::json& row) {
  if (!(nlohmann::json(got) == nlohmann::json(expected)))
    throw std::runtime_error("got " + nlohmann::json(got).dump() + " for " + row.dump());
}

// The table that the Python schedule is tested by.
void schedule(char** arguments) {
  std::ifstream file(arguments[0]);
  const auto table = nlohmann::json::parse(file);
  const auto pair = [](Range range) { return std::vector<std::int64_t>{range.begin, range.end}; };
  for (const auto& row : table.at("streams")) {
    expect(padded_frames(row.at("frames")), row.at("padded"), row);
    expect(steps(row.at("padded")), row.at("steps"), row);
  }
  for (const auto& row : table.at("steps")) {
    expect(pair(step_input(row.at("step"))), row.at("input"), row);
    expect(pair(step_output(row.at("step"))), row.at("output"), row);
    expect(pair(step_latents(row.at("step"))), row.at("latents"), row);
  }
  for (const auto& row : table.at("topk"))
    expect(topk({row.at("height"), row.at("width")}, row.at("ratio")), row.at("topk"), row);
  for (const auto& row : table.at("slabs")) {
    KvRing ring(row.at("kv_ratio"));
    expect(ring.slots(), row.at("ring_slots"), row);
    for (std::size_t step = 0; step < row.at("after_steps").size(); ++step) {
      ring.commit(ring.begin(step == 0 ? 3 : 1));
      expect(ring.valid().size(), row.at("after_steps")[step], row);
    }
  }
}

// KV_RATIO STEPS: after each step the valid slots, oldest first.
void ring(char** a) {
  KvRing slots(std::atof(a[0]));
  for (std::int64_t step = 0; step < number(a[1]); ++step) {
    slots.commit(slots.begin(step == 0 ? 3 : 1));
    for (const auto slot : slots.valid()) std::printf("%lld ", static_cast<long long>(slot));
    std::printf("\n");
  }
}

// HEIGHT WIDTH OUTPUT_HEIGHT OUTPUT_WIDTH CROP: pictures with rows `padding` bytes longer than they need.
void canvas(char** a) {
  constexpr std::size_t padding = 7;
  const Size source{number(a[0]), number(a[1])};
  const Canvas laid = make_canvas(source, {number(a[2]), number(a[3])}, number(a[4]) != 0);
  const CanvasMaker make(source, laid, std::make_shared<Allocator>());
  const Bytes in = read_input();
  const auto row = static_cast<std::size_t>(source.width * 3);
  Bytes padded;
  for (std::size_t y = 0; y < static_cast<std::size_t>(source.height); ++y) {
    padded.insert(padded.end(), in.begin() + static_cast<std::ptrdiff_t>(y * row),
                  in.begin() + static_cast<std::ptrdiff_t>((y + 1) * row));
    padded.insert(padded.end(), padding, 0xEE);
  }
  Bytes out(static_cast<std::size_t>(laid.size.height * laid.size.width * 3));
  make(padded.data(), row + padding, out.data());
  write(out);
}

flashvsr_image yuv_image(char** a, Bytes* planes) {
  flashvsr_image image{};
  image.struct_size = sizeof image;
  image.format = static_cast<std::int32_t>(number(a[0]));
  image.matrix = static_cast<std::int32_t>(number(a[1]));
  image.full_range = static_cast<std::int32_t>(number(a[2]));
  image.chroma = static_cast<std::int32_t>(number(a[3]));
  image.height = static_cast<std::int32_t>(number(a[4]));
  image.width = static_cast<std::int32_t>(number(a[5]));
  const std::size_t sample = image.format == FLASHVSR_FORMAT_P010 ? 2 : 1;
  const auto width = static_cast<std::size_t>(image.width), height = static_cast<std::size_t>(image.height);
  image.stride[0] = width * sample;
  image.stride[1] = (width + 1) / 2 * 2 * sample;
  planes->resize(image.stride[0] * height + image.stride[1] * ((height + 1) / 2));
  image.plane[0] = planes->data();
  image.plane[1] = planes->data() + image.stride[0] * height;
  return image;
}

// FORMAT MATRIX FULL CHROMA HEIGHT WIDTH
void decode(char** a) {
  Bytes planes;
  const flashvsr_image image = yuv_image(a, &planes);
  const Bytes in = read_input();
  std::copy(in.begin(), in.end(), planes.begin());
  check_image(image, {image.height, image.width});
  Bytes rgb(static_cast<std::size_t>(image.height) * static_cast<std::size_t>(image.width) * 3);
  yuv_to_rgb(image, rgb.data());
  write(rgb);
}

// FORMAT MATRIX FULL CHROMA HEIGHT WIDTH BITS
void encode(char** a) {
  Bytes planes;
  const flashvsr_image image = yuv_image(a, &planes);
  const Bytes in = read_input();
  store(in.data(), static_cast<int>(number(a[6])), image);
  write(planes);
}

// DECODE BT709 FULL
void planar444(char** a) {
  const Bytes in = read_input();
  Bytes out(in.size());
  if (number(a[0]) != 0)
    yuv444::Decoder(number(a[1]) != 0, number(a[2]) != 0)(in.data(), in.size() / 3, out.data());
  else
    yuv444::Encoder(number(a[1]) != 0, number(a[2]) != 0)(in.data(), in.size() / 3, out.data());
  write(out);
}

void half(char**) {
  const Bytes in = read_input();
  std::vector<std::uint16_t> out;
  for (std::size_t i = 0; i + sizeof(double) <= in.size(); i += sizeof(double)) {
    double value;
    std::memcpy(&value, in.data() + i, sizeof value);
    out.push_back(half_bits(value));
  }
  write(out);
}

void digest(char**) {
  const Bytes in = read_input();
  std::cout << sha256(std::string(in.begin(), in.end()));
}

void philox(char** a) {
  std::uint32_t v[6];
  for (int i = 0; i < 6; ++i) v[i] = static_cast<std::uint32_t>(unsigned_number(a[i]));
  for (const auto word : philox4x32({v[0], v[1], v[2], v[3]}, {v[4], v[5]})) std::printf("%u ", word);
}

void defaults(char**) {
  const auto o = default_stream_options();
  nlohmann::json all{{"scale", o.scale},       {"segment_steps", o.segment_steps}, {"bits", o.bits},
                     {"seed", o.seed},         {"sparse_ratio", o.sparse_ratio},   {"kv_ratio", o.kv_ratio},
                     {"variant", o.variant},   {"colour_fix", o.colour_fix},       {"fit", o.fit}};
  std::cout << all;
}

void run(const std::string& what, int count, char** a) {
  const auto is = [&](const char* name, int wanted) { return what == name && count == wanted; };
  if (is("schedule", 1)) return schedule(a);
  if (is("ring", 2)) return ring(a);
  if (is("canvas", 5)) return canvas(a);
  if (is("decode", 6)) return decode(a);
  if (is("encode", 7)) return encode(a);
  if (is("planar444", 3)) return planar444(a);
  if (is("half", 0)) return half(a);
  if (is("sha256", 0)) return digest(a);
  if (is("philox", 6)) return philox(a);
  if (is("defaults", 0)) return defaults(a);
  if (is("noise", 5))
    return write(noise(unsigned_number(a[0]), {number(a[1]), number(a[2])}, number(a[3]), number(a[4])));
  if (is("rope", 3)) return write(rotary_table({number(a[0]), number(a[1])}, number(a[2])));
  throw std::runtime_error("no such part: " + what);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(argc > 1 ? argv[1] : "", argc - 2, argv + 2);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
