// Plans of an engine set in place of a bundle's ONNX graphs, as runtime/backends/tensorrt.py runs them.
//
// What was run: everything up to loading a plan with the real library, and the whole with a stand-in for TensorRT.
// Running plans needs a GPU that TensorRT serves, which was not at hand when this was written.
#include <algorithm>
#include <set>

#include "backends.hpp"
#include "cuda_queue.hpp"
#include "trt.hpp"

namespace flashvsr {

namespace {

using nvinfer1::OptProfileSelector;

std::string text(const nvinfer1::Dims& shape) {
  std::string out = "[";
  for (int i = 0; i < shape.nbDims; ++i) out += (i > 0 ? ", " : "") + std::to_string(shape.d[i]);
  return out + "]";
}

nvinfer1::Dims dims_of(const Shape& shape) {
  nvinfer1::Dims dims{};
  if (shape.size() > static_cast<std::size_t>(nvinfer1::Dims::MAX_DIMS)) bad_bundle("a tensor has too many dimensions");
  dims.nbDims = static_cast<int>(shape.size());
  std::copy(shape.begin(), shape.end(), dims.d);
  return dims;
}

bool within(const nvinfer1::Dims& least, const nvinfer1::Dims& shape, const nvinfer1::Dims& most) {
  bool inside = least.nbDims == shape.nbDims && most.nbDims == shape.nbDims;
  for (int i = 0; inside && i < shape.nbDims; ++i) inside = least.d[i] <= shape.d[i] && shape.d[i] <= most.d[i];
  return inside;
}

class TrtQueue;

class TrtGraph : public StepGraph {
 public:
  TrtGraph(TrtQueue& queue, std::shared_ptr<Trt> trt, const std::string& path, const Graph& graph,
           std::int64_t streamed_bytes);
  ~TrtGraph() override;

  void run(const Binding& inputs, const Binding& outputs) override;

 private:
  void check_names(const Graph& graph) const;
  void set_shapes(const Binding& inputs);
  int pick_profile(const Binding& inputs) const;
  void bind(const std::string& name, const void* pointer);

  TrtQueue& queue_;
  std::shared_ptr<Trt> trt_;
  std::string path_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  std::set<std::string> on_host_;  // inputs that TensorRT reads on the host
  std::map<std::string, Shape> shapes_;
  int profile_ = 0;
};

class TrtQueue : public CudaQueue {
 public:
  TrtQueue(std::shared_ptr<Trt> trt, EngineSet engines, std::shared_ptr<const cuda::Device> device,
           const QueueOptions& options)
      : CudaQueue(std::move(device), options), trt_(std::move(trt)), engines_(std::move(engines)) {}
  ~TrtQueue() override {
    const bool entered = device().try_enter();
    scratch_.reset();
    if (entered) leave();
  }

  std::shared_ptr<StepGraph> load(const std::string&, const Graph& graph, const Symbols&) override {
    const std::string path = engines_.folder + "/" + engines_.plans.at(graph.name).file;
    return std::make_shared<TrtGraph>(*this, trt_, path, graph, engines_.weight_streaming_mib << 20);
  }

  // At least so many bytes, the same for all graphs: they run one after the other.
  void* scratch(std::size_t bytes) {
    if (scratch_ == nullptr || scratch_->bytes() < bytes) {
      wait();
      scratch_.reset();  // given back first, so that the two need not be there at once
      scratch_ = make_block(tensors(), bytes);
    }
    return scratch_->data();
  }

  using CudaQueue::mirrored;

 private:
  std::shared_ptr<Trt> trt_;
  EngineSet engines_;
  std::shared_ptr<Block> scratch_;
};

TrtGraph::TrtGraph(TrtQueue& queue, std::shared_ptr<Trt> trt, const std::string& path, const Graph& graph,
                   std::int64_t streamed_bytes)
    : queue_(queue), trt_(std::move(trt)), path_(path), engine_(trt_->load(path)) {
  check_names(graph);
  if (streamed_bytes > 0 && engine_->getStreamableWeightsSize() > 0)
    engine_->setWeightStreamingBudgetV2(std::min(streamed_bytes, engine_->getStreamableWeightsSize()));
  using Strategy = nvinfer1::ExecutionContextAllocationStrategy;
  context_.reset(engine_->createExecutionContext(Strategy::kUSER_MANAGED));
  if (context_ == nullptr) trt_->log().fail(path + " gives no execution context");
  for (const Tensor& tensor : graph.inputs)
    if (engine_->getTensorLocation(tensor.name.c_str()) == nvinfer1::TensorLocation::kHOST) on_host_.insert(tensor.name);
}

TrtGraph::~TrtGraph() {
  // The context's memory is in use until the stream has passed its last run.
  cuda::Driver::get().stream_wait(queue_.stream());
}

void TrtGraph::run(const Binding& inputs, const Binding& outputs) {
  set_shapes(inputs);
  for (const auto& [name, buffer] : inputs)
    bind(name, on_host_.count(name) > 0 ? queue_.mirrored(buffer) : buffer.data);
  for (const auto& [name, buffer] : outputs) bind(name, buffer.data);
  const std::size_t scratch = context_->updateDeviceMemorySizeForShapes();
  context_->setDeviceMemoryV2(queue_.scratch(scratch), static_cast<std::int64_t>(scratch));
  if (!context_->enqueueV3(static_cast<cudaStream_t>(queue_.stream()))) trt_->log().fail(path_ + " failed");
}

void TrtGraph::check_names(const Graph& graph) const {
  std::set<std::string> offered, wanted;
  for (int i = 0; i < engine_->getNbIOTensors(); ++i) offered.insert(engine_->getIOTensorName(i));
  for (const auto* tensors : {&graph.inputs, &graph.outputs})
    for (const Tensor& tensor : *tensors) wanted.insert(tensor.name);
  if (offered != wanted)
    bad_bundle(path_ + ": its tensors differ from the manifest's; what to do: build the engines again");
}

void TrtGraph::set_shapes(const Binding& inputs) {
  std::map<std::string, Shape> wanted;
  for (const auto& [name, buffer] : inputs) wanted[name] = buffer.shape;
  if (wanted == shapes_) return;
  const int profile = pick_profile(inputs);
  if (profile != profile_) {
    if (!context_->setOptimizationProfileAsync(profile, static_cast<cudaStream_t>(queue_.stream())))
      trt_->log().fail(path_ + ": profile " + std::to_string(profile));
    profile_ = profile;
    shapes_.clear();
  }
  for (const auto& [name, shape] : wanted) {
    const auto set = shapes_.find(name);
    if ((set == shapes_.end() || set->second != shape) && !context_->setInputShape(name.c_str(), dims_of(shape)))
      trt_->log().fail(path_ + ": " + name + " cannot be " + text(dims_of(shape)));
  }
  shapes_ = std::move(wanted);
}

// The first profile whose (least, largest) shapes hold all inputs.
int TrtGraph::pick_profile(const Binding& inputs) const {
  std::string odd;
  for (int profile = 0; profile < engine_->getNbOptimizationProfiles(); ++profile) {
    bool holds = true;
    for (const auto& [name, buffer] : inputs) {
      if (on_host_.count(name) > 0) continue;
      const auto least = engine_->getProfileShape(name.c_str(), profile, OptProfileSelector::kMIN);
      const auto most = engine_->getProfileShape(name.c_str(), profile, OptProfileSelector::kMAX);
      if (within(least, dims_of(buffer.shape), most)) continue;
      holds = false;
      if (odd.empty()) odd = name + " is " + text(dims_of(buffer.shape)) + "; expected: " + text(least) + " .. " + text(most);
    }
    if (holds) return profile;
  }
  fail(FLASHVSR_ERROR_BACKEND, path_ + ": " + odd + ", which the engines were built for; what to do: take engines of a "
                                                    "larger tier, or a smaller picture");
}

void TrtGraph::bind(const std::string& name, const void* pointer) {
  if (!context_->setTensorAddress(name.c_str(), const_cast<void*>(pointer)))
    trt_->log().fail(path_ + ": " + name + " cannot be bound");
}

class TrtBackend : public Backend {
 public:
  TrtBackend(const CudaOptions& options, const EngineSet& engines)
      : engines_(engines), device_(std::make_shared<const cuda::Device>(options.index)) {
    if (!engines.serves(device_->capability(), device_->name())) {
      std::string targets;
      for (const std::string& target : engines.targets) targets += (targets.empty() ? "" : ", ") + target;
      fail(FLASHVSR_ERROR_BACKEND, "the engines are for " + targets + "; this GPU is sm" +
                                       std::to_string(device_->capability()) + " (" + device_->name() +
                                       "); what to do: build engines for it");
    }
    device_->enter();
    try {
      trt_ = std::make_shared<Trt>(engines, options.library, options.op_library);
    } catch (...) {
      device_->leave();
      throw;
    }
    device_->leave();
  }

  std::shared_ptr<Queue> open_queue(const QueueOptions& options) override {
    return std::make_shared<TrtQueue>(trt_, engines_, device_, options);
  }
  bool on_gpu() const override { return true; }
  void require(const std::string& graph) const override {
    if (engines_.plans.count(graph) == 0)
      fail(FLASHVSR_ERROR_ARGUMENT, engines_.folder + " has no plan for " + graph + "; its decoder is " +
                                        engines_.decoder + "; what to do: build engines for this variant");
  }
  std::string describe() const override {
    return trt_->version() + ", " + device_->name() + ", tier " + engines_.tier;
  }

 private:
  EngineSet engines_;
  std::shared_ptr<const cuda::Device> device_;
  std::shared_ptr<Trt> trt_;
};

}  // namespace

std::unique_ptr<Backend> open_tensorrt(const CudaOptions& options, const EngineSet& engines) {
  return std::make_unique<TrtBackend>(options, engines);
}

}  // namespace flashvsr
