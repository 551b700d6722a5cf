#include "convolve.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "../kernels/convolve_sizes.hpp"

namespace flashvsr {

using ::convolve::kOutputs, ::convolve::kPixelBytes, ::convolve::kSide, ::convolve::kWindow;

namespace {

constexpr char kKernel[] = "convolve", kKernel8[] = "convolve8";

// Numbers of a tensor.
struct Kind {
  CUtensorMapDataType type;
  unsigned bytes;

  unsigned channels() const { return kPixelBytes / bytes; }  // of a box
};
constexpr Kind kByte{CU_TENSOR_MAP_DATA_TYPE_UINT8, 1};

Kind kind_of(Element element) {
  return {element == Element::kFloat16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2};
}

// Map of a dense tensor, innermost dimension first. Not returned: GCC does not align a temporary as such a map must be.
template <int kRank>
void set_map(CUtensorMap& map, const void* pointer, const Kind& kind, const cuuint64_t (&sizes)[kRank],
             const cuuint32_t (&box)[kRank]) {
  const Driver& driver = Driver::get();
  if (driver.tensor_map == nullptr) throw std::runtime_error("the CUDA driver is older than 12.0: install a newer one");
  cuuint64_t strides[kRank - 1], stride = kind.bytes;
  cuuint32_t steps[kRank];
  for (int i = 0; i < kRank; ++i) {
    steps[i] = 1;
    stride *= sizes[i];
    if (i < kRank - 1) strides[i] = stride;
  }
  driver.check(driver.tensor_map(&map, kind.type, kRank, const_cast<void*>(pointer), sizes, strides, box, steps,
                                 CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
               "cuTensorMapEncodeTiled");
}

// Of frames [count, height, width, channels]: a box is what the taps of a tile see.
void set_frames(CUtensorMap& map, const void* pointer, const Kind& kind, int count, int height, int width,
                int channels) {
  const cuuint64_t sizes[4] = {static_cast<cuuint64_t>(channels), static_cast<cuuint64_t>(width),
                               static_cast<cuuint64_t>(height), static_cast<cuuint64_t>(count)};
  set_map<4>(map, pointer, kind, sizes, {kind.channels(), kWindow, kWindow, 1});
}

void set_weight(CUtensorMap& map, const void* pointer, const Kind& kind, int rows, int columns) {
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  set_map<2>(map, pointer, kind, sizes, {kind.channels(), kOutputs});
}

unsigned tiles(int frames, int height, int width) {
  const auto up = [](int size) { return (size + kSide - 1) / kSide; };
  return static_cast<unsigned>(frames * up(height) * up(width));
}

void demand_multiples(int channels, int outputs, const Kind& kind) {
  if (channels % kind.channels() == 0 && outputs % kOutputs == 0) return;
  throw std::runtime_error(std::to_string(channels) + " channels to " + std::to_string(outputs) +
                           ", expected a multiple of " + std::to_string(kind.channels()) + " and one of " +
                           std::to_string(kOutputs));
}

bool likely_devices_have(const char* kernel) {
  try {
    const std::vector<int> devices = Context::likely_devices();
    return std::all_of(devices.begin(), devices.end(), [=](int device) {
      return is_embedded(kernel, embedded_architecture(Context::compute_capability(device)));
    });
  } catch (const std::exception&) {  // no driver: nothing of this library runs then
    return false;
  }
}

}  // namespace

bool can_convolve() { return likely_devices_have(kKernel); }

bool can_convolve8() { return likely_devices_have(kKernel8); }

void enqueue_convolution(const Fused& kernels, Element element, const Convolution& s, const ConvolutionTensors& tensors,
                         CUstream stream) {
  const Kind kind = kind_of(element);
  demand_multiples(s.channels, s.outputs, kind);
  const int rows = s.phases() * s.growth * s.outputs, taps = s.side * s.side * s.sources;
  CUtensorMap x, past, weight;
  set_frames(x, tensors.x, kind, s.frames, s.height, s.width, s.channels);
  const bool remembers = tensors.past != nullptr;
  set_frames(past, remembers ? tensors.past : tensors.x, kind, remembers ? 1 : s.frames, s.height, s.width, s.channels);
  set_weight(weight, tensors.weight, kind, rows, taps * s.channels);
  const void *bias = tensors.bias, *residual = tensors.residual;
  void* out = tensors.out;
  int numbers[] = {s.frames, s.height, s.width, s.channels, s.sources, s.outputs, s.growth, s.side, s.relu};
  std::vector<void*> parameters{&x, &past, &weight, &bias, &residual, &out};
  for (int& number : numbers) parameters.push_back(&number);
  kernels.launch(kKernel, tiles(s.frames, s.height, s.width), rows / kOutputs, parameters, stream);
}

void enqueue_convolution8(const Fused& kernels, const InnerConvolution& s, const InnerTensors& tensors,
                          CUstream stream) {
  demand_multiples(s.channels, s.outputs, kByte);
  CUtensorMap x, weight;
  set_frames(x, tensors.x, kByte, s.frames, s.height + 2, s.width + 2, s.channels);
  set_weight(weight, tensors.weight, kByte, s.outputs, 9 * s.channels);
  const void *scales = tensors.scales, *bias = tensors.bias;
  void* out = tensors.out;
  int numbers[] = {s.frames, s.height, s.width, s.channels, s.outputs};
  std::vector<void*> parameters{&x, &weight, &scales, &bias, &out};
  for (int& number : numbers) parameters.push_back(&number);
  kernels.launch(kKernel8, tiles(s.frames, s.height, s.width), s.outputs / kOutputs, parameters, stream);
}

}  // namespace flashvsr
