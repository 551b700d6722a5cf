#include "trt.hpp"

#include <cstdint>
#include <fstream>
#include <iterator>
#include <vector>

#include "library.hpp"

namespace flashvsr {

namespace {

constexpr const char* RTX = "tensorrt_rtx";
// The first TensorRT-RTX whose classes are laid out as in the headers of TensorRT 11 (read off the library itself);
// those of TensorRT 10 still have virtual functions that were removed since.
constexpr int RTX_MAJOR = 1, RTX_MINOR = 7, HEADERS = 11;

struct Version {
  int major, minor;
  std::string text;
};

Version version_of(const Library& library) {
  std::int32_t (*parts[4])() = {};
  const char* const names[] = {"getInferLibMajorVersion", "getInferLibMinorVersion", "getInferLibPatchVersion",
                               "getInferLibBuildVersion"};
  std::string text;
  for (int i = 0; i < 4; ++i) {
    library.bind(names[i], parts[i]);
    text += (i > 0 ? "." : "") + std::to_string(parts[i]());
  }
  return {parts[0](), parts[1](), text};
}

// TensorRT's classes are called through tables of functions, so headers and library must agree on them.
void check_layout(bool rtx, const Version& found) {
  if (rtx && (NV_TENSORRT_MAJOR < HEADERS || found.major != RTX_MAJOR || found.minor < RTX_MINOR))
    fail(FLASHVSR_ERROR_BACKEND, "TensorRT-RTX is " + found.text + ", and this library was compiled with the headers of "
                                 "TensorRT " + std::to_string(NV_TENSORRT_MAJOR) + "; expected: 1.7 or later, and 11");
  if (!rtx && found.major != NV_TENSORRT_MAJOR)
    fail(FLASHVSR_ERROR_BACKEND, "TensorRT is " + found.text + "; expected: " + std::to_string(NV_TENSORRT_MAJOR) +
                                     ", whose headers this library was compiled with");
}

}  // namespace

void TrtLog::log(Severity severity, nvinfer1::AsciiChar const* text) noexcept {
  if (severity > Severity::kERROR) return;
  try {
    const std::lock_guard<std::mutex> lock(mutex_);
    last_ = text;
  } catch (const std::exception&) {
    return;  // no memory for the text: the failure itself is still told
  }
}

void TrtLog::fail(const std::string& what) {
  std::string said;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    said.swap(last_);
  }
  const bool memory = said.find("ut of memory") != std::string::npos || said.find("OutOfMemory") != std::string::npos ||
                      said.find("nsufficient memory") != std::string::npos;
  flashvsr::fail(memory ? FLASHVSR_ERROR_MEMORY : FLASHVSR_ERROR_BACKEND,
                 what + (said.empty() ? ", and TensorRT does not say why" : ": " + said));
}

Trt::Trt(const EngineSet& engines, const std::string& library, const std::string& plugins) {
  const bool rtx = engines.flavour == RTX;
  if (!rtx && engines.flavour != "tensorrt")
    fail(FLASHVSR_ERROR_BUNDLE, "the engines are for " + engines.flavour + "; expected: tensorrt_rtx or tensorrt");
  const std::string name = rtx ? "libtensorrt_rtx.so.1" : "libnvinfer.so." + std::to_string(NV_TENSORRT_MAJOR);
  const Library loaded(rtx ? "TensorRT-RTX" : "TensorRT", library_names(library, "FLASHVSR_TENSORRT_LIBRARY", {name}),
                       "install it, or name " + name + " in tensorrt_library or $FLASHVSR_TENSORRT_LIBRARY");
  const Version found = version_of(loaded);
  check_layout(rtx, found);
  version_ = engines.flavour + " " + found.text;
  if (engines.version != found.text)
    fail(FLASHVSR_ERROR_BACKEND, "the engines are for " + engines.flavour + " " + engines.version + ", and " +
                                     found.text + " was loaded; what to do: build the engines again");
  if (!plugins.empty()) {
    nvinfer1::IPluginRegistry* (*registry)() noexcept = nullptr;
    loaded.bind("getPluginRegistry", registry);
    if (registry()->loadLibrary(plugins.c_str()) == nullptr) log_.fail(plugins + " is no plug-in library");
  }
  void* (*create)(void*, std::int32_t) noexcept = nullptr;
  loaded.bind("createInferRuntime_INTERNAL", create);
  runtime_.reset(static_cast<nvinfer1::IRuntime*>(create(&log_, NV_TENSORRT_VERSION)));
  if (runtime_ == nullptr) log_.fail("TensorRT does not start");
}

std::unique_ptr<nvinfer1::ICudaEngine> Trt::load(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> plan((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file || plan.empty()) fail(FLASHVSR_ERROR_BUNDLE, path + " cannot be read");
  const std::lock_guard<std::mutex> lock(mutex_);
  std::unique_ptr<nvinfer1::ICudaEngine> engine(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
  if (engine == nullptr) log_.fail(path + " does not load");
  return engine;
}

}  // namespace flashvsr
