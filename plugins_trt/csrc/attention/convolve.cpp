#include "convolve.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

namespace flashvsr {

namespace {

constexpr const char* kKernel = "convolve";
constexpr int kSide = 16, kChannels = 64, kOutputs = 128;  // of a tile, see the kernel

CUtensorMapDataType type_of(Element element) {
  return element == Element::kFloat16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
}

// Map of a dense tensor of 16-bit numbers, innermost dimension first. Not returned: GCC does not align a temporary as
// such a map must be.
template <int kRank>
void set_map(CUtensorMap& map, const void* pointer, Element element, const cuuint64_t (&sizes)[kRank],
             const cuuint32_t (&box)[kRank]) {
  const Driver& driver = Driver::get();
  if (driver.tensor_map == nullptr) throw std::runtime_error("the CUDA driver is older than 12.0: install a newer one");
  cuuint64_t strides[kRank - 1], stride = 2;
  cuuint32_t steps[kRank];
  for (int i = 0; i < kRank; ++i) {
    steps[i] = 1;
    stride *= sizes[i];
    if (i < kRank - 1) strides[i] = stride;
  }
  driver.check(driver.tensor_map(&map, type_of(element), kRank, const_cast<void*>(pointer), sizes, strides, box, steps,
                                 CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
               "cuTensorMapEncodeTiled");
}

unsigned tiles(const Convolution& s) {
  const auto up = [](int size) { return (size + kSide - 1) / kSide; };
  return static_cast<unsigned>(s.frames * up(s.height) * up(s.width)) * (s.growth * s.outputs / kOutputs) * s.phases();
}

}  // namespace

bool can_convolve() {
  try {
    const std::vector<int> devices = Context::likely_devices();
    return std::all_of(devices.begin(), devices.end(), [](int device) {
      return is_embedded(kKernel, embedded_architecture(Context::compute_capability(device)));
    });
  } catch (const std::exception&) {  // no driver: nothing of this library runs then
    return false;
  }
}

void enqueue_convolution(const Fused& kernels, Element element, const Convolution& s, const ConvolutionTensors& tensors,
                         CUstream stream) {
  if (s.channels % kChannels != 0 || s.outputs % kOutputs != 0) {
    throw std::runtime_error(std::to_string(s.channels) + " channels to " + std::to_string(s.outputs) +
                             ", expected a multiple of 64 and one of 128");
  }
  const cuuint64_t channels = s.channels, width = s.width, height = s.height, frames = s.frames;
  const cuuint64_t taps = s.side * s.side * s.sources, rows = s.phases() * s.growth * s.outputs;
  const cuuint32_t pixels[4] = {kChannels, kSide, kSide, 1}, matrix[2] = {kChannels, kOutputs};
  CUtensorMap x, past, weight;
  set_map<4>(x, tensors.x, element, {channels, width, height, frames}, pixels);
  set_map<4>(past, tensors.past != nullptr ? tensors.past : tensors.x, element,
             {channels, width, height, tensors.past != nullptr ? 1 : frames}, pixels);
  set_map<2>(weight, tensors.weight, element, {taps * channels, rows}, matrix);
  const void *bias = tensors.bias, *residual = tensors.residual;
  void* out = tensors.out;
  int numbers[] = {s.frames, s.height, s.width, s.channels, s.sources, s.outputs, s.growth, s.side, s.relu};
  std::vector<void*> parameters{&x, &past, &weight, &bias, &residual, &out};
  for (int& number : numbers) parameters.push_back(&number);
  kernels.launch(kKernel, tiles(s), 1, parameters, stream);
}

}  // namespace flashvsr
