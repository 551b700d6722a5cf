// TensorRT plug-in library: BlockSparseAttention in float16 and bfloat16, for tensorrt_rtx and tensorrt alike.
// Loaded by IPluginRegistry::loadLibrary, or carried inside a plan (IBuilderConfig::setPluginsToSerialize): a program
// that runs such a plan needs no other file. Same op, version and fields as plugins_trt/python_plugin.py.

#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>

#include "attention.hpp"
#include "spec.hpp"

namespace {

namespace trt = nvinfer1;
namespace spec = flashvsr::spec;

enum Input { kQ, kK, kV, kKCache, kVCache, kSlabs, kTopk, kInputCount };
static_assert(kInputCount == sizeof(spec::kInputs) / sizeof(*spec::kInputs), "spec.py and this file disagree");

trt::ILoggerFinder* logger_finder = nullptr;  // given once, when the library is loaded

void log(const char* text) noexcept {
  if (logger_finder == nullptr) return;
  if (trt::ILogger* logger = logger_finder->findLogger()) {
    logger->log(trt::ILogger::Severity::kERROR, (std::string(spec::kAttention) + ": " + text).c_str());
  }
}

// Runs `work`; what it throws is logged, and becomes what TensorRT calls a failure.
template <class Work>
int32_t guarded(Work&& work) noexcept {
  try {
    work();
    return 0;
  } catch (const std::exception& error) {
    log(error.what());
    return -1;
  }
}

int current_device() {
  using GetDevice = CUresult (*)(CUdevice*);
  static const auto get = reinterpret_cast<GetDevice>(dlsym(dlopen("libcuda.so.1", RTLD_NOW), "cuCtxGetDevice"));
  CUdevice device{};
  if (get == nullptr) throw std::runtime_error("there is no CUDA driver");
  flashvsr::Driver::get().check(get(&device), "cuCtxGetDevice");
  return device;
}

struct Attributes {
  int64_t heads = 0, local_range = 0;
};

int64_t number(const trt::PluginField& field) {
  if (field.type == trt::PluginFieldType::kINT64) return *static_cast<const int64_t*>(field.data);
  if (field.type == trt::PluginFieldType::kINT32) return *static_cast<const int32_t*>(field.data);
  throw std::runtime_error(std::string(field.name) + " is no integer");
}

Attributes attributes_of(const trt::PluginFieldCollection& fields) {
  Attributes found;
  for (int32_t i = 0; i < fields.nbFields; ++i) {
    const trt::PluginField& field = fields.fields[i];
    if (!std::strcmp(field.name, "heads")) found.heads = number(field);
    if (!std::strcmp(field.name, "local_range")) found.local_range = number(field);
  }
  if (found.heads < 1 || found.local_range < 1) throw std::runtime_error("heads and local_range must be above 0");
  return found;
}

flashvsr::Problem problem_of(const trt::Dims& q, const trt::Dims& ring, const trt::Dims& slabs, Attributes a) {
  if (q.nbDims != 5 || q.d[3] != spec::kTokensPerWindow || q.d[4] != a.heads * spec::kHeadDim) {
    throw std::runtime_error("q must be [slabs, rows, columns, 128, heads * 128]");
  }
  if (slabs.nbDims != 1 || ring.nbDims != 5 || slabs.d[0] > ring.d[0]) {
    throw std::runtime_error("more slabs are listed than the ring has");
  }
  return {int(q.d[0]), int(slabs.d[0]), int(q.d[1]), int(q.d[2]), int(a.heads), int(a.local_range)};
}

// One node. Each execution context works on its own clone; the kernels are shared and thread-safe.
class Plugin final : public trt::IPluginV3,
                     public trt::IPluginV3OneCore,
                     public trt::IPluginV3OneBuild,
                     public trt::IPluginV3OneRuntime {
 public:
  explicit Plugin(Attributes attributes) : attributes_(attributes) {
    fields_[0] = {"heads", &attributes_.heads, trt::PluginFieldType::kINT64, 1};
    fields_[1] = {"local_range", &attributes_.local_range, trt::PluginFieldType::kINT64, 1};
    collection_ = {2, fields_};
  }

  trt::IPluginCapability* getCapabilityInterface(trt::PluginCapabilityType type) noexcept override {
    switch (type) {
      case trt::PluginCapabilityType::kCORE: return static_cast<trt::IPluginV3OneCore*>(this);
      case trt::PluginCapabilityType::kBUILD: return static_cast<trt::IPluginV3OneBuild*>(this);
      case trt::PluginCapabilityType::kRUNTIME: return static_cast<trt::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
  }

  trt::IPluginV3* clone() noexcept override {
    Plugin* copy = nullptr;
    guarded([&] { copy = new Plugin(attributes_); });
    return copy;
  }

  const char* getPluginName() const noexcept override { return spec::kAttention; }
  const char* getPluginVersion() const noexcept override { return "1"; }
  const char* getPluginNamespace() const noexcept override { return spec::kDomain; }

  // Build.

  int32_t getNbOutputs() const noexcept override { return 1; }

  int32_t configurePlugin(const trt::DynamicPluginTensorDesc*, int32_t, const trt::DynamicPluginTensorDesc*,
                          int32_t) noexcept override {
    return 0;
  }

  int32_t getOutputDataTypes(trt::DataType* out, int32_t, const trt::DataType* in, int32_t) const noexcept override {
    out[0] = in[kQ];
    return 0;
  }

  int32_t getOutputShapes(const trt::DimsExprs* in, int32_t, const trt::DimsExprs*, int32_t, trt::DimsExprs* out,
                          int32_t, trt::IExprBuilder&) noexcept override {
    out[0] = in[kQ];
    return 0;
  }

  bool supportsFormatCombination(int32_t at, const trt::DynamicPluginTensorDesc* all, int32_t,
                                 int32_t) noexcept override {
    const trt::PluginTensorDesc& tensor = all[at].desc;
    if (tensor.format != trt::TensorFormat::kLINEAR) return false;
    if (at < kInputCount && spec::kInputIsInt64[at]) return tensor.type == trt::DataType::kINT64;
    const bool wide = tensor.type == trt::DataType::kHALF || tensor.type == trt::DataType::kBF16;
    return wide && tensor.type == all[kQ].desc.type;
  }

  std::size_t getWorkspaceSize(const trt::DynamicPluginTensorDesc* in, int32_t, const trt::DynamicPluginTensorDesc*,
                               int32_t) const noexcept override {
    std::size_t bytes = 0;
    guarded([&] {
      bytes = flashvsr::workspace_bytes(problem_of(in[kQ].max, in[kKCache].max, in[kSlabs].max, attributes_));
    });
    return bytes;
  }

  // Run.

  int32_t onShapeChange(const trt::PluginTensorDesc* in, int32_t, const trt::PluginTensorDesc*,
                        int32_t) noexcept override {
    return guarded([&] {
      problem_ = problem_of(in[kQ].dims, in[kKCache].dims, in[kSlabs].dims, attributes_);
      const bool half = in[kQ].type == trt::DataType::kHALF;
      const auto element = half ? flashvsr::Element::kFloat16 : flashvsr::Element::kBFloat16;
      attention_ = flashvsr::shared_kernels<flashvsr::Attention>(current_device(), element);
    });
  }

  int32_t enqueue(const trt::PluginTensorDesc*, const trt::PluginTensorDesc*, const void* const* in, void* const* out,
                  void* workspace, cudaStream_t stream) noexcept override {
    return guarded([&] {
      if (attention_ == nullptr) throw std::runtime_error("enqueue before onShapeChange");
      const flashvsr::Tensors tensors{in[kQ],      in[kK],     in[kV],    in[kKCache],
                                      in[kVCache], in[kSlabs], in[kTopk], out[0]};
      attention_->enqueue(problem_, tensors, workspace, reinterpret_cast<CUstream>(stream));
    });
  }

  trt::IPluginV3* attachToContext(trt::IPluginResourceContext*) noexcept override { return clone(); }

  const trt::PluginFieldCollection* getFieldsToSerialize() noexcept override { return &collection_; }

 private:
  Attributes attributes_;
  trt::PluginField fields_[2];
  trt::PluginFieldCollection collection_;
  flashvsr::Problem problem_{};
  std::shared_ptr<const flashvsr::Attention> attention_;
};

class Creator final : public trt::IPluginCreatorV3One {
 public:
  trt::IPluginV3* createPlugin(const char*, const trt::PluginFieldCollection* fields,
                               trt::TensorRTPhase) noexcept override {
    Plugin* made = nullptr;
    guarded([&] { made = new Plugin(attributes_of(*fields)); });
    return made;
  }

  const trt::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }
  const char* getPluginName() const noexcept override { return spec::kAttention; }
  const char* getPluginVersion() const noexcept override { return "1"; }
  const char* getPluginNamespace() const noexcept override { return spec::kDomain; }

 private:
  trt::PluginField fields_[2] = {{"heads", nullptr, trt::PluginFieldType::kINT64, 1},
                                 {"local_range", nullptr, trt::PluginFieldType::kINT64, 1}};
  trt::PluginFieldCollection collection_{2, fields_};
};

}  // namespace

static_assert(flashvsr::spec::kOpset == 1, "getPluginVersion says 1");

#define FLASHVSR_EXPORT extern "C" __attribute__((visibility("default")))

// TensorRT looks up both by name; without either it does not load the library.
FLASHVSR_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { logger_finder = finder; }

FLASHVSR_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  static Creator creator;
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&creator};
  count = 1;
  return creators;
}
