#include "backends.hpp"
#include "cuda_queue.hpp"
#include "library.hpp"
#include "ort_memory.hpp"

namespace flashvsr {

namespace {

constexpr const char* PROVIDER = "CUDAExecutionProvider";
constexpr const char* SLOW = "; attention runs by its function body, many times slower";

// As runtime/backends/onnxruntime_cuda.py has them, with its reasons.
constexpr std::pair<const char*, const char*> OPTIONS[] = {{"prefer_nhwc", "1"},
                                                           {"cudnn_conv_algo_search", "HEURISTIC"},
                                                           {"cudnn_conv_use_max_workspace", "1"},
                                                           {"use_tf32", "0"},
                                                           {"arena_extend_strategy", "kSameAsRequested"}};

// The op library's path where it serves this op and this GPU, else nothing, and the reason is told.
std::string usable_library(const std::string& path, std::int64_t wanted, int capability, const Say& say) {
  const auto refuse = [&](const std::string& why) {
    say(FLASHVSR_LOG_INFO, why + SLOW);
    return std::string();
  };
  if (path.empty()) return refuse("no op_library is named");
  int (*abi)() = nullptr;
  int (*serves)(int) = nullptr;
  const Library library = op_library(path);
  library.bind("flashvsr_op_abi", abi);
  library.bind("flashvsr_can_serve", serves);
  if (abi() != wanted)
    fail(FLASHVSR_ERROR_BACKEND, path + " is for version " + std::to_string(abi()) +
                                     " of the op; expected: " + std::to_string(wanted) + ", as the bundle");
  if (serves(capability) == 0)
    return refuse(path + " has no kernel for a GPU of compute capability " + std::to_string(capability));
  return path;
}

// By its function bodies such a bundle would be slower and larger than the one it was made of.
bool runs_float8(const std::string& path, int capability) {
  if (path.empty()) return false;
  const Library library = op_library(path);
  int (*runs)(int) = nullptr;
  return library.find("flashvsr_runs_float8_2", runs) && runs(capability) != 0;
}

class OrtCudaQueue : public CudaQueue {
 public:
  // memory: may be none.
  OrtCudaQueue(std::shared_ptr<const Ort> ort, std::string library, std::shared_ptr<const cuda::Device> device,
               std::unique_ptr<OrtMemory> memory, const QueueOptions& options)
      : CudaQueue(std::move(device), options),
        ort_(std::move(ort)),
        library_(std::move(library)),
        memory_(std::move(memory)) {
    place_.memory = "Cuda";
    place_.device = CudaQueue::device().index();
    place_.waits = false;
    if (memory_ != nullptr) place_.check_memory = [this] { memory_->check(); };
    place_.host_copy = [this](const Buffer& buffer) { return mirrored(buffer); };
    place_.configure = [this](OrtSessionOptions* session) { configure(session); };
  }
  ~OrtCudaQueue() override {
    const bool entered = device().try_enter();
    cuda::Driver::get().stream_wait(stream());  // before another stream may have the memory
    memory_.reset();
    if (entered) leave();
  }

  void trim() override {
    if (memory_ == nullptr) return;
    wait();
    memory_->trim();
  }

  std::shared_ptr<StepGraph> load(const std::string& path, const Graph& graph, const Symbols& symbols) override {
    // With sizes known, no shape is computed at run time: each such number would be waited for by the host.
    OrtPlace place = place_;
    place.dims = lasting_dims(graph, symbols);
    return std::make_shared<Loaded>(*this, ort_, path, graph, place);
  }

 private:
  struct Loaded : OrtGraph {
    Loaded(const CudaQueue& queue, std::shared_ptr<const Ort> ort, const std::string& path, const Graph& graph,
           const OrtPlace& place)
        : OrtGraph(std::move(ort), path, graph, place), queue(queue) {}
    // The session's memory is in use until the stream has passed its last run.
    ~Loaded() override { cuda::Driver::get().stream_wait(queue.stream()); }
    const CudaQueue& queue;
  };

  void configure(OrtSessionOptions* session) const {
    const OrtApi& api = ort_->api();
    OrtCUDAProviderOptionsV2* made = nullptr;
    ort_->check(api.CreateCUDAProviderOptions(&made), "ONNX Runtime's CUDA provider");
    const OrtHandle<OrtCUDAProviderOptionsV2> options(made, api.ReleaseCUDAProviderOptions);
    const std::string device = std::to_string(place_.device);
    std::vector<const char*> keys{"device_id"}, values{device.c_str()};
    for (const auto& [key, value] : OPTIONS) {
      keys.push_back(key);
      values.push_back(value);
    }
    ort_->check(api.UpdateCUDAProviderOptions(made, keys.data(), values.data(), keys.size()), "ONNX Runtime's options");
    ort_->check(api.UpdateCUDAProviderOptionsWithValue(made, "user_compute_stream", stream()), "ONNX Runtime's options");
    ort_->check(api.SessionOptionsAppendExecutionProvider_CUDA_V2(session, made),
                "ONNX Runtime's CUDA provider does not start; what to do: see that the CUDA and cuDNN libraries it was "
                "built for are on the loader's path");
    if (!library_.empty()) ort_->check(api.RegisterCustomOpsLibrary_V2(session, library_.c_str()), library_);
    configure_memory(session);
  }

  // So that a graph's weights are given back with it, and what it computes with is the next graph's.
  void configure_memory(OrtSessionOptions* session) const {
    const OrtApi& api = ort_->api();
    const auto set = [&](const char* key) { ort_->check(api.AddSessionConfigEntry(session, key, "1"), key); };
    set("session.use_device_allocator_for_initializers");
    if (memory_ == nullptr) return;
    set("session.use_env_allocators");
    // One block for all of a graph's tensors would not be shared.
    ort_->check(api.DisableMemPattern(session), "ONNX Runtime's options");
  }

  std::shared_ptr<const Ort> ort_;
  std::string library_;
  std::unique_ptr<OrtMemory> memory_;
  OrtPlace place_;
};

class OrtCuda : public Backend {
 public:
  OrtCuda(const CudaOptions& options, const Manifest& manifest)
      : ort_(std::make_shared<const Ort>(options.library)), say_(options.say) {
    if (!ort_->has_provider(PROVIDER))
      fail(FLASHVSR_ERROR_BACKEND, "ONNX Runtime " + ort_->version() + " as installed has no CUDA provider; expected: "
                                   "a build for GPUs, as in the package onnxruntime-gpu");
    device_ = std::make_shared<const cuda::Device>(options.index);
    // The kernels have 16 bits; a float32 bundle runs its attention's function body, and has the library's pool alone.
    pool_library_ = options.op_library;
    if (manifest.precision != "fp32")
      pool_library_ = library_ =
          usable_library(options.op_library, manifest.op_abi, device_->capability(), options.say);
    if (manifest.precision == "fp8" && !runs_float8(library_, device_->capability()))
      fail(FLASHVSR_ERROR_BACKEND, "the bundle is of FP8, which " + device_->name() +
                                       " has no kernels for here; expected: a GPU from RTX 40 or H100 on, cuBLASLt, and "
                                       "an op_library of this version; what to do: take the fp16 bundle it was made of");
  }

  std::shared_ptr<Queue> open_queue(const QueueOptions& options) override {
    return std::make_shared<OrtCudaQueue>(ort_, library_, device_, take_memory(), options);
  }
  bool on_gpu() const override { return true; }
  void require(const std::string&) const override {}
  std::string describe() const override {
    const char* own = library_.empty() ? "without own kernels: slow attention" : "own kernels";
    return "ONNX Runtime " + ort_->version() + ", CUDA, " + device_->name() + ", " + own;
  }

 private:
  std::unique_ptr<OrtMemory> take_memory() const {
    std::string why = "another stream has the GPU's memory";
    try {
      if (auto memory = OrtMemory::take(ort_, device_->index(), pool_library_, say_)) return memory;
    } catch (const Error& error) {
      why = error.what();
    }
    say_(FLASHVSR_LOG_INFO, why + "; each graph keeps memory of its own");
    return nullptr;
  }

  std::shared_ptr<const Ort> ort_;
  std::shared_ptr<const cuda::Device> device_;
  std::string library_, pool_library_;
  Say say_;
};

}  // namespace

std::unique_ptr<Backend> open_ort_cuda(const CudaOptions& options, const Manifest& manifest) {
  return std::make_unique<OrtCuda>(options, manifest);
}

}  // namespace flashvsr
