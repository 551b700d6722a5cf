// A TensorRT whose engines are ONNX Runtime sessions on the CPU. A "plan" is a text: the bundle's folder, the graph's
// name, and of each profile the largest dimension. Compiled with copies of TensorRT's headers whose functions end the
// process where they are not overridden here, so it has the tables of functions of the real one. With
// $STAND_IN_HOLLOW nothing is computed and all results are the same number: for tools that slow a program down.
#include <NvInferRuntime.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "manifest.hpp"
#include "ort.hpp"

namespace {

using namespace nvinfer1;

constexpr std::size_t SCRATCH = 1 << 16;
ILogger* logger = nullptr;

bool fails(const char* what) {
  const char* named = std::getenv("STAND_IN_FAILS");
  return named != nullptr && std::strcmp(named, what) == 0;
}

bool refuse(const std::string& why) {
  logger->log(ILogger::Severity::kERROR, why.c_str());
  return false;
}

struct Plan {
  flashvsr::Manifest manifest;
  flashvsr::Graph graph;
  std::vector<std::int64_t> largest;
  std::shared_ptr<flashvsr::OrtGraph> session;  // none: hollow

  const flashvsr::Tensor& tensor(const std::string& name) const { return graph.tensor(name); }
};

std::shared_ptr<Plan> read_plan(const std::string& text) {
  std::istringstream words(text);
  std::string folder, name;
  words >> folder >> name;
  auto plan = std::make_shared<Plan>();
  plan->manifest = flashvsr::load_manifest(folder);
  plan->graph = plan->manifest.graph(name);
  for (std::int64_t largest = 0; words >> largest;) plan->largest.push_back(largest);
  if (std::getenv("STAND_IN_HOLLOW") != nullptr) return plan;
  static const auto ort = std::make_shared<const flashvsr::Ort>(std::getenv("STAND_IN_ORT"));
  flashvsr::OrtPlace place;
  place.configure = [](OrtSessionOptions* options) {
    ort->check(ort->api().SetIntraOpNumThreads(options, 1), "the number of threads");
  };
  plan->session = std::make_shared<flashvsr::OrtGraph>(ort, folder + "/" + name + ".onnx", plan->graph, place);
  return plan;
}

class Context final : public IExecutionContext, public apiv::VExecutionContext {
 public:
  explicit Context(std::shared_ptr<Plan> plan) : plan_(std::move(plan)) { mImpl = this; }
  IExecutionContext* getPImpl() noexcept override { return this; }

  bool setOptimizationProfileAsync(int32_t profile, cudaStream_t) noexcept override {
    profile_ = static_cast<std::size_t>(profile);
    shapes_.clear();
    return true;
  }
  bool setInputShape(char const* name, Dims const& dims) noexcept override {
    shapes_[name].assign(dims.d, dims.d + dims.nbDims);
    for (const std::int64_t size : shapes_[name])
      if (size > plan_->largest[profile_]) return refuse("beyond the profile");
    return true;
  }
  bool setTensorAddress(char const* name, void* data) noexcept override {
    addresses_[name] = data;
    return data != nullptr;
  }
  std::size_t updateDeviceMemorySizeForShapes() noexcept override { return SCRATCH; }
  void setDeviceMemoryV2(void* memory, int64_t size) noexcept override {
    std::memset(memory, 0xFF, static_cast<std::size_t>(size));  // scratch is anybody's between runs
    scratch_ = size;
  }
  bool enqueueV3(cudaStream_t stream) noexcept override {
    if (fails("execute")) return refuse("Error Code 2: out of memory");
    if (stream != reinterpret_cast<cudaStream_t>(7) || scratch_ != SCRATCH) return refuse("stream or scratch");
    try {
      flashvsr::Binding inputs, outputs;
      for (const auto& tensor : plan_->graph.inputs) inputs[tensor.name] = buffer(tensor, shapes_.at(tensor.name));
      // As TensorRT does, outputs take the shapes that follow from the inputs'.
      for (const auto& tensor : plan_->graph.outputs) outputs[tensor.name] = buffer(tensor, evaluated(tensor));
      if (plan_->session != nullptr) {
        plan_->session->run(inputs, outputs);
        return true;
      }
      for (const auto& [name, output] : outputs) std::memset(output.data, 0x40, output.bytes());
      return true;
    } catch (const std::exception& error) {
      return refuse(error.what());
    }
  }

 private:
  flashvsr::Buffer buffer(const flashvsr::Tensor& tensor, const flashvsr::Shape& shape) const {
    return {nullptr, static_cast<std::uint8_t*>(addresses_.at(tensor.name)), shape, tensor.dtype};
  }

  // The symbols' values from the inputs; the size of the pictures is read on the host.
  flashvsr::Shape evaluated(const flashvsr::Tensor& tensor) const {
    flashvsr::Symbols symbols;
    for (const auto& input : plan_->graph.inputs) {
      const flashvsr::Shape& shape = shapes_.at(input.name);
      for (std::size_t i = 0; i < shape.size(); ++i)
        if (!input.shape[i].symbol.empty()) symbols[input.shape[i].symbol] = shape[i] * input.shape[i].value;
      if (input.name != "size") continue;
      const auto* size = static_cast<const std::int64_t*>(addresses_.at("size"));
      symbols["height"] = size[0];
      symbols["width"] = size[1];
    }
    return flashvsr::evaluate(tensor.shape, symbols);
  }

  std::shared_ptr<Plan> plan_;
  std::size_t profile_ = 0;
  std::int64_t scratch_ = 0;
  std::map<std::string, flashvsr::Shape> shapes_;
  std::map<std::string, void*> addresses_;
};

class Engine final : public ICudaEngine, public apiv::VCudaEngine {
 public:
  explicit Engine(std::shared_ptr<Plan> plan) : plan_(std::move(plan)) {
    mImpl = this;
    for (const auto* tensors : {&plan_->graph.inputs, &plan_->graph.outputs})
      for (const auto& tensor : *tensors) names_.push_back(tensor.name);
    if (fails("names")) names_.pop_back();
  }
  ICudaEngine* getPImpl() noexcept override { return this; }

  IExecutionContext* createExecutionContext(ExecutionContextAllocationStrategy strategy) noexcept override {
    if (strategy != ExecutionContextAllocationStrategy::kUSER_MANAGED || fails("context")) return nullptr;
    return new Context(plan_);
  }
  int32_t getNbOptimizationProfiles() const noexcept override { return static_cast<int32_t>(plan_->largest.size()); }
  TensorLocation getTensorLocation(char const* name) const noexcept override {
    return std::strcmp(name, "size") == 0 ? TensorLocation::kHOST : TensorLocation::kDEVICE;
  }
  Dims getProfileShape(char const* name, int32_t profile, OptProfileSelector select) const noexcept override {
    Dims dims{};
    dims.nbDims = static_cast<int32_t>(plan_->tensor(name).shape.size());
    const auto largest = plan_->largest[static_cast<std::size_t>(profile)];
    std::fill(dims.d, dims.d + dims.nbDims, select == OptProfileSelector::kMIN ? 0 : largest);
    return dims;
  }
  int32_t getNbIOTensors() const noexcept override { return static_cast<int32_t>(names_.size()); }
  char const* getIOTensorName(int32_t index) const noexcept override {
    return names_[static_cast<std::size_t>(index)].c_str();
  }
  int64_t getStreamableWeightsSize() const noexcept override { return 0; }

 private:
  std::shared_ptr<Plan> plan_;
  std::vector<std::string> names_;
};

class Runtime final : public IRuntime, public apiv::VRuntime {
 public:
  Runtime() { mImpl = this; }
  IRuntime* getPImpl() noexcept override { return this; }
  ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept override {
    if (fails("deserialize")) return refuse("magic tag does not match"), nullptr;
    try {
      return new Engine(read_plan(std::string(static_cast<const char*>(blob), size)));
    } catch (const std::exception& error) {
      return refuse(error.what()), nullptr;
    }
  }
};

}  // namespace

extern "C" {
__attribute__((visibility("default"))) void* createInferRuntime_INTERNAL(void* log, int32_t) noexcept {
  logger = static_cast<ILogger*>(log);
  return new Runtime;
}
__attribute__((visibility("default"))) int32_t getInferLibMajorVersion() noexcept { return fails("version") ? 10 : 11; }
__attribute__((visibility("default"))) int32_t getInferLibMinorVersion() noexcept { return 1; }
__attribute__((visibility("default"))) int32_t getInferLibPatchVersion() noexcept { return 0; }
__attribute__((visibility("default"))) int32_t getInferLibBuildVersion() noexcept { return 0; }
}
