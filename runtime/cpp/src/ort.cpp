#include "ort.hpp"

#include <map>
#include <set>

#include "flashvsr_contract.hpp"
#include "library.hpp"

namespace flashvsr {

namespace {

ONNXTensorElementDataType element_type(const std::string& dtype) {
  static const std::map<std::string, ONNXTensorElementDataType> TYPES{
      {"float32", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT},     {"float16", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16},
      {"bfloat16", ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16}, {"uint8", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8},
      {"uint16", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16},     {"int64", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64},
      {"float8e4m3fn", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FN}};
  return TYPES.at(dtype);
}

flashvsr_status status_of(OrtErrorCode code, const std::string& text, flashvsr_status otherwise) {
  // ONNX Runtime has no code of its own for these.
  for (const char* mark : {"bad_alloc", "Failed to allocate memory", "out of memory", "ALLOC_FAILED"})
    if (text.find(mark) != std::string::npos) return FLASHVSR_ERROR_MEMORY;
  return code == ORT_NOT_IMPLEMENTED ? FLASHVSR_ERROR_BACKEND : otherwise;
}

}  // namespace

Ort::Ort(const std::string& library) {
  const Library loaded(
      "ONNX Runtime",
      library_names(library, "FLASHVSR_ORT_LIBRARY", {"libonnxruntime.so.1", "libonnxruntime.so", "libonnxruntime.dylib"}),
      "install it, or name libonnxruntime in ort_library or $FLASHVSR_ORT_LIBRARY");
  const OrtApiBase* (*get_base)() = nullptr;
  loaded.bind("OrtGetApiBase", get_base);
  version_ = get_base()->GetVersionString();
  api_ = get_base()->GetApi(ORT_API_VERSION);
  if (api_ == nullptr)
    fail(FLASHVSR_ERROR_BACKEND,
         "ONNX Runtime " + version_ + " is too old; expected: 1." + std::to_string(ORT_API_VERSION) + " or later");
  // What fails is returned as well; printing it too would tell the user twice.
  check(api_->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "flashvsr", &environment_), "ONNX Runtime");
}

Ort::~Ort() { api_->ReleaseEnv(environment_); }

bool Ort::has_provider(const std::string& name) const {
  char** names = nullptr;
  int count = 0;
  check(api_->GetAvailableProviders(&names, &count), "ONNX Runtime");
  bool found = false;
  for (int i = 0; i < count; ++i) found = found || name == names[i];
  check(api_->ReleaseAvailableProviders(names, count), "ONNX Runtime");
  return found;
}

void Ort::check(OrtStatus* status, const std::string& what, flashvsr_status otherwise) const {
  if (status == nullptr) return;
  const OrtHandle<OrtStatus> owned(status, api_->ReleaseStatus);
  const std::string text = api_->GetErrorMessage(status);
  fail(status_of(api_->GetErrorCode(status), text, otherwise), what + ": " + text);
}

OrtGraph::OrtGraph(std::shared_ptr<const Ort> ort, const std::string& path, const Graph& graph, const OrtPlace& place)
    : ort_(std::move(ort)),
      path_(path),
      memory_(nullptr, ort_->api().ReleaseMemoryInfo),
      host_memory_(nullptr, ort_->api().ReleaseMemoryInfo),
      host_copy_(place.host_copy),
      check_memory_(place.check_memory),
      run_options_(nullptr, ort_->api().ReleaseRunOptions),
      session_(nullptr, ort_->api().ReleaseSession) {
  const OrtApi& api = ort_->api();
  OrtMemoryInfo* memory = nullptr;
  ort_->check(api.CreateMemoryInfo(place.memory, OrtDeviceAllocator, place.device, OrtMemTypeDefault, &memory), path);
  memory_.reset(memory);
  ort_->check(api.CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory), path);
  host_memory_.reset(memory);
  run_options_ = run_options(place.waits);
  OrtSessionOptions* made = nullptr;
  ort_->check(api.CreateSessionOptions(&made), path);
  const OrtHandle<OrtSessionOptions> options(made, api.ReleaseSessionOptions);
  ort_->check(api.SetSessionLogSeverityLevel(made, ORT_LOGGING_LEVEL_FATAL), path);
  for (const auto& [name, size] : place.dims)
    ort_->check(api.AddFreeDimensionOverrideByName(made, name.c_str(), size), path);
  place.configure(made);
  OrtSession* session = nullptr;
  check(api.CreateSession(ort_->environment(), path.c_str(), made, &session), path + " does not load",
        FLASHVSR_ERROR_BUNDLE);
  session_.reset(session);
  check_names("inputs", graph.inputs, api.SessionGetInputCount, api.SessionGetInputName);
  check_names("outputs", graph.outputs, api.SessionGetOutputCount, api.SessionGetOutputName);
}

void OrtGraph::run(const Binding& inputs, const Binding& outputs) {
  const OrtApi& api = ort_->api();
  OrtIoBinding* made = nullptr;
  ort_->check(api.CreateIoBinding(session_.get(), &made), path_, FLASHVSR_ERROR_INTERNAL);
  const OrtHandle<OrtIoBinding> binding(made, api.ReleaseIoBinding);
  for (const auto& [name, buffer] : inputs)
    ort_->check(api.BindInput(made, name.c_str(), input_value(name, buffer).get()), path_, FLASHVSR_ERROR_INTERNAL);
  for (const auto& [name, buffer] : outputs)
    ort_->check(api.BindOutput(made, name.c_str(), value_on(memory_.get(), buffer.data, buffer).get()), path_,
                FLASHVSR_ERROR_INTERNAL);
  check(api.RunWithBinding(session_.get(), run_options_.get(), made), path_ + " failed", FLASHVSR_ERROR_INTERNAL);
}

// A lack of memory is told before what came of it, and is not left for the next check.
void OrtGraph::check(OrtStatus* status, const std::string& what, flashvsr_status otherwise) const {
  OrtHandle<OrtStatus> owned(status, ort_->api().ReleaseStatus);
  if (check_memory_) check_memory_();
  ort_->check(owned.release(), what, otherwise);
}

OrtHandle<OrtRunOptions> OrtGraph::run_options(bool waits) const {
  OrtRunOptions* made = nullptr;
  ort_->check(ort_->api().CreateRunOptions(&made), path_);
  OrtHandle<OrtRunOptions> options(made, ort_->api().ReleaseRunOptions);
  if (!waits)
    ort_->check(ort_->api().AddRunConfigEntry(made, "disable_synchronize_execution_providers", "1"), path_);
  return options;
}

OrtHandle<OrtValue> OrtGraph::input_value(const std::string& name, const Buffer& buffer) const {
  // Bound from the device, what decides shapes would be copied back, and the host wait for all work before it.
  if (host_copy_ && name == contract::tensor::size)
    return value_on(host_memory_.get(), const_cast<void*>(host_copy_(buffer)), buffer);
  return value_on(memory_.get(), buffer.data, buffer);
}

OrtHandle<OrtValue> OrtGraph::value_on(const OrtMemoryInfo* memory, void* data, const Buffer& buffer) const {
  OrtValue* value = nullptr;
  ort_->check(
      ort_->api().CreateTensorWithDataAsOrtValue(memory, data, buffer.bytes(), buffer.shape.data(), buffer.shape.size(),
                                                 element_type(buffer.dtype), &value),
      path_, FLASHVSR_ERROR_INTERNAL);
  return {value, ort_->api().ReleaseValue};
}

void OrtGraph::check_names(const char* kind, const std::vector<Tensor>& tensors, CountOf count_of,
                           NameOf name_of) const {
  OrtAllocator* allocator = nullptr;
  ort_->check(ort_->api().GetAllocatorWithDefaultOptions(&allocator), path_);
  std::size_t count = 0;
  ort_->check(count_of(session_.get(), &count), path_);
  std::set<std::string> offered, wanted;
  for (std::size_t i = 0; i < count; ++i) {
    char* name = nullptr;
    ort_->check(name_of(session_.get(), i, allocator, &name), path_);
    const auto release = [allocator](char* text) { allocator->Free(allocator, text); };
    const std::unique_ptr<char, decltype(release)> owned(name, release);
    offered.insert(name);
  }
  for (const Tensor& tensor : tensors) wanted.insert(tensor.name);
  if (offered != wanted)
    bad_bundle(path_ + ": the " + kind + " differ from the manifest's; what to do: export the bundle again");
}

}  // namespace flashvsr
