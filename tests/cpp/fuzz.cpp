// Bytes of a stranger: manifests, engine sets, and the option structs and pictures of the border. Nothing here may crash; what
// cannot be honoured is refused with a status.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "engine_set.hpp"
#include "error.hpp"
#include "flashvsr.h"
#include "manifest.hpp"
#include "options.hpp"
#include "pixels.hpp"

namespace {

using namespace flashvsr;

void fuzz_manifest(const std::uint8_t* data, std::size_t size) {
  const Manifest manifest = parse_manifest(std::string(reinterpret_cast<const char*>(data), size));
  const Symbols symbols{{"H", 128}, {"W", 256}, {"T", 8}, {"ring", 4}, {"height", 100}, {"width", 200}};
  for (const auto& [name, graph] : manifest.graphs)
    for (const auto* tensors : {&graph.inputs, &graph.outputs})
      for (const Tensor& tensor : *tensors) tensor_bytes(evaluate(tensor.shape, symbols), tensor.dtype);
}

void fuzz_engine_set(const std::uint8_t* data, std::size_t size) {
  const EngineSet set = parse_engine_set(std::string(reinterpret_cast<const char*>(data), size));
  set.serves(89, set.flavour);
}

// The library reads struct_size bytes of the caller's memory, so the caller owns as many.
template <typename T>
std::vector<std::uint8_t> as_struct(const std::uint8_t* data, std::size_t size) {
  std::vector<std::uint8_t> bytes(8192, 0);
  std::memcpy(bytes.data(), data, std::min(size, bytes.size()));
  if (size % 2 == 0) {  // every second input gets past the first check
    const std::size_t right = sizeof(T);
    std::memcpy(bytes.data(), &right, sizeof right);
  }
  return bytes;
}

void fuzz_stream_options(const std::uint8_t* data, std::size_t size) {
  const auto bytes = as_struct<flashvsr_stream_options>(data, size);
  const auto options = read_struct(reinterpret_cast<const flashvsr_stream_options*>(bytes.data()), "options");
  Manifest manifest;
  manifest.local_range = 11;
  make_queue_options(options);
  const Options made = make_options(options, manifest);
  const Size canvas = made.settings.canvas.size, output = made.settings.canvas.output;
  if (canvas.height < output.height || canvas.width < output.width || canvas.height % 128 != 0) std::abort();
  topk(canvas, made.settings.sparse_ratio);
  KvRing(made.settings.kv_ratio).begin(3);
}

void fuzz_image(const std::uint8_t* data, std::size_t size) {
  auto bytes = as_struct<flashvsr_image>(data, size);
  auto image = read_struct(reinterpret_cast<const flashvsr_image*>(bytes.data()), "image");
  const Size picture{1 + (image.height & 15), 1 + (image.width & 15)};
  image.height = static_cast<std::int32_t>(picture.height);
  image.width = static_cast<std::int32_t>(picture.width);
  std::vector<std::uint8_t> planes[2] = {std::vector<std::uint8_t>(1 << 16), std::vector<std::uint8_t>(1 << 16)};
  for (int i = 0; i < 2; ++i) {
    image.plane[i] = planes[i].data();
    image.stride[i] %= 1024;
  }
  check_image(image, picture);
  std::vector<std::uint8_t> rgb(16 * 16 * 3);
  if (image.format == FLASHVSR_FORMAT_NV12 || image.format == FLASHVSR_FORMAT_P010) {
    yuv_to_rgb(image, rgb.data());
    store(rgb.data(), 8, image);
  }
}

void fuzz_model_options(const std::uint8_t* data, std::size_t size) {
  const auto bytes = as_struct<flashvsr_model_options>(data, size);
  check_model_options(read_struct(reinterpret_cast<const flashvsr_model_options*>(bytes.data()), "options"));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  try {
    switch (data[0]) {
      case 'o': fuzz_stream_options(data + 1, size - 1); break;
      case 'i': fuzz_image(data + 1, size - 1); break;
      case 'e': fuzz_engine_set(data + 1, size - 1); break;
      case 'm': fuzz_model_options(data + 1, size - 1); break;
      default: fuzz_manifest(data, size);
    }
  } catch (const Error& error) {
    if (error.status() >= 0) std::abort();
  }
  return 0;
}
