#include "ort_backend.hpp"

#include <dlfcn.h>
#include <onnxruntime_c_api.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

namespace flashvsr {

namespace {

struct Library {
  const OrtApi* api = nullptr;
  std::string version;
};

constexpr const char* LIBRARY_VARIABLE = "FLASHVSR_ORT_LIBRARY";

// The library stays loaded until the process ends: ONNX Runtime's threads and statics do not survive an unload.
Library load_library(const std::string& path) {
  std::vector<std::string> names{path};
  if (path.empty()) names = {"libonnxruntime.so.1", "libonnxruntime.so", "libonnxruntime.dylib"};
  void* handle = nullptr;
  std::string why;
  for (const std::string& name : names) {
    handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle != nullptr) break;
    const char* text = dlerror();
    if (why.empty()) why = text != nullptr ? text : name;
  }
  if (handle == nullptr)
    fail(FLASHVSR_ERROR_BACKEND, "ONNX Runtime cannot be loaded: " + why +
                                     "; what to do: install it, or name libonnxruntime in ort_library or $" +
                                     LIBRARY_VARIABLE);
  using GetBase = const OrtApiBase* (*)();
  const auto get_base = reinterpret_cast<GetBase>(dlsym(handle, "OrtGetApiBase"));
  if (get_base == nullptr) fail(FLASHVSR_ERROR_BACKEND, names.front() + " is not ONNX Runtime");
  const OrtApiBase* base = get_base();
  Library library{base->GetApi(ORT_API_VERSION), base->GetVersionString()};
  if (library.api == nullptr)
    fail(FLASHVSR_ERROR_BACKEND, "ONNX Runtime " + library.version + " is too old; expected: 1." +
                                     std::to_string(ORT_API_VERSION) + " or later");
  return library;
}

ONNXTensorElementDataType element_type(const std::string& dtype) {
  static const std::map<std::string, ONNXTensorElementDataType> TYPES{
      {"float32", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT},    {"float16", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16},
      {"bfloat16", ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16}, {"uint8", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8},
      {"uint16", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16},    {"int64", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64}};
  return TYPES.at(dtype);
}

bool says(const std::string& text, const char* mark) { return text.find(mark) != std::string::npos; }

flashvsr_status status_of(OrtErrorCode code, const std::string& text, flashvsr_status otherwise) {
  // ONNX Runtime has no code of its own for these two.
  if (says(text, "bad_alloc") || says(text, "Failed to allocate memory") || says(text, "out of memory"))
    return FLASHVSR_ERROR_MEMORY;
  return code == ORT_NOT_IMPLEMENTED ? FLASHVSR_ERROR_BACKEND : otherwise;
}

// Throws what `status` says, if it is one; `what` names the file or call.
void check(const OrtApi* api, OrtStatus* status, const std::string& what, flashvsr_status otherwise) {
  if (status == nullptr) return;
  const OrtErrorCode code = api->GetErrorCode(status);
  std::string text;
  try {
    text = api->GetErrorMessage(status);
  } catch (...) {
    api->ReleaseStatus(status);
    throw;
  }
  api->ReleaseStatus(status);
  fail(status_of(code, text, otherwise), what + ": " + text);
}

template <typename T>
using Handle = std::unique_ptr<T, void(ORT_API_CALL*)(T*)>;

// ONNX Runtime's environment and CPU memory, shared by the graphs, which may outlive the back end.
struct Context {
  explicit Context(Library loaded)
      : library(std::move(loaded)),
        environment(nullptr, library.api->ReleaseEnv),
        memory(nullptr, library.api->ReleaseMemoryInfo) {
    OrtEnv* env = nullptr;
    // What fails is returned as well; printing it too would tell the user twice.
    check(library.api, library.api->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "flashvsr", &env), "ONNX Runtime",
          FLASHVSR_ERROR_BACKEND);
    environment.reset(env);
    OrtMemoryInfo* info = nullptr;
    check(library.api, library.api->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &info), "ONNX Runtime",
          FLASHVSR_ERROR_BACKEND);
    memory.reset(info);
  }

  Library library;
  Handle<OrtEnv> environment;
  Handle<OrtMemoryInfo> memory;
};

class OrtGraph : public StepGraph {
 public:
  OrtGraph(std::shared_ptr<Context> context, const std::string& path, const Graph& graph, int threads)
      : context_(std::move(context)), path_(path), session_(nullptr, context_->library.api->ReleaseSession) {
    const OrtApi* api = context_->library.api;
    OrtSessionOptions* created = nullptr;
    check(api, api->CreateSessionOptions(&created), path, FLASHVSR_ERROR_BACKEND);
    const Handle<OrtSessionOptions> options(created, api->ReleaseSessionOptions);
    check(api, api->SetSessionLogSeverityLevel(created, ORT_LOGGING_LEVEL_FATAL), path, FLASHVSR_ERROR_BACKEND);
    if (threads > 0) check(api, api->SetIntraOpNumThreads(created, threads), path, FLASHVSR_ERROR_BACKEND);
    OrtSession* session = nullptr;
    check(api, api->CreateSession(context_->environment.get(), path.c_str(), created, &session),
          path + " does not load", FLASHVSR_ERROR_BUNDLE);
    session_.reset(session);
    check_names(graph);
  }

  void run(const Binding& inputs, const Binding& outputs) override {
    const OrtApi* api = context_->library.api;
    std::vector<const char*> input_names, output_names;
    std::vector<Handle<OrtValue>> owned;
    const auto wrap = [&](const Binding& binding, std::vector<const char*>* names) {
      for (const auto& [name, buffer] : binding) {
        names->push_back(name.c_str());
        owned.push_back(value_on(buffer));
      }
    };
    wrap(inputs, &input_names);
    wrap(outputs, &output_names);
    std::vector<OrtValue*> values;
    for (const auto& value : owned) values.push_back(value.get());
    check(api,
          api->Run(session_.get(), nullptr, input_names.data(), values.data(), inputs.size(), output_names.data(),
                   outputs.size(), values.data() + inputs.size()),
          path_ + " failed", FLASHVSR_ERROR_INTERNAL);
  }

 private:
  Handle<OrtValue> value_on(const Buffer& buffer) const {
    const OrtApi* api = context_->library.api;
    OrtValue* value = nullptr;
    check(api,
          api->CreateTensorWithDataAsOrtValue(context_->memory.get(), buffer.data, buffer.bytes(), buffer.shape.data(),
                                              buffer.shape.size(), element_type(buffer.dtype), &value),
          path_, FLASHVSR_ERROR_INTERNAL);
    return {value, api->ReleaseValue};
  }

  using CountOf = OrtStatus*(ORT_API_CALL*)(const OrtSession*, std::size_t*) NO_EXCEPTION;
  using NameOf = OrtStatus*(ORT_API_CALL*)(const OrtSession*, std::size_t, OrtAllocator*, char**) NO_EXCEPTION;

  void check_names(const Graph& graph) const {
    const OrtApi* api = context_->library.api;
    check_names("inputs", graph.inputs, api->SessionGetInputCount, api->SessionGetInputName);
    check_names("outputs", graph.outputs, api->SessionGetOutputCount, api->SessionGetOutputName);
  }

  void check_names(const char* kind, const std::vector<Tensor>& tensors, CountOf count_of, NameOf name_of) const {
    const OrtApi* api = context_->library.api;
    OrtAllocator* allocator = nullptr;
    check(api, api->GetAllocatorWithDefaultOptions(&allocator), path_, FLASHVSR_ERROR_INTERNAL);
    std::size_t count = 0;
    check(api, count_of(session_.get(), &count), path_, FLASHVSR_ERROR_INTERNAL);
    std::set<std::string> offered, wanted;
    for (std::size_t i = 0; i < count; ++i) {
      char* name = nullptr;
      check(api, name_of(session_.get(), i, allocator, &name), path_, FLASHVSR_ERROR_INTERNAL);
      const auto release = [allocator](char* text) { allocator->Free(allocator, text); };
      const std::unique_ptr<char, decltype(release)> owned(name, release);
      offered.insert(name);
    }
    for (const Tensor& tensor : tensors) wanted.insert(tensor.name);
    if (offered != wanted)
      bad_bundle(path_ + ": the " + kind + " differ from the manifest's; what to do: export the bundle again");
  }

  std::shared_ptr<Context> context_;
  std::string path_;
  Handle<OrtSession> session_;
};

class OrtCpu : public Backend {
 public:
  OrtCpu(const std::string& library, int threads)
      : context_(std::make_shared<Context>(load_library(library))), threads_(threads) {}

  // Streams of one model share the weights of a graph while one of them holds it.
  std::shared_ptr<StepGraph> load(const std::string& path, const Graph& graph) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::weak_ptr<StepGraph>& slot = loaded_[path];
    auto session = slot.lock();
    if (session == nullptr) slot = session = std::make_shared<OrtGraph>(context_, path, graph, threads_);
    return session;
  }

  std::string describe() const override {
    const std::string threads = threads_ > 0 ? std::to_string(threads_) + " threads" : "threads by default";
    return "ONNX Runtime " + context_->library.version + ", CPU, " + threads;
  }

 private:
  std::shared_ptr<Context> context_;
  int threads_;
  std::mutex mutex_;
  std::map<std::string, std::weak_ptr<StepGraph>> loaded_;
};

}  // namespace

std::unique_ptr<Backend> open_ort_cpu(const std::string& library, int threads) {
  const char* variable = std::getenv(LIBRARY_VARIABLE);
  const std::string path = library.empty() && variable != nullptr ? variable : library;
  return std::make_unique<OrtCpu>(path, threads);
}

}  // namespace flashvsr
