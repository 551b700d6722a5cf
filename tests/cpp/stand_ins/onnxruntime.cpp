// The real ONNX Runtime ($STAND_IN_ORT) with a CUDA provider that is its CPU: what libflashvsr asks of the provider is
// checked, and written to the file that STAND_IN_LOG names.
#include <dlfcn.h>
#include <onnxruntime_c_api.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>

namespace {

const OrtApi* real;
OrtApi changed;
char provider[] = "CUDAExecutionProvider";
char* providers[] = {provider};
std::set<const OrtMemoryInfo*> on_device;

OrtStatus* note(const char* what, const char* value) {
  std::FILE* file = std::fopen(std::getenv("STAND_IN_LOG"), "a");
  if (file == nullptr) return real->CreateStatus(ORT_FAIL, "STAND_IN_LOG cannot be written");
  std::fprintf(file, "%s=%s\n", what, value);
  std::fclose(file);
  return nullptr;
}

void change() {
  changed = *real;
  changed.GetAvailableProviders = [](char*** names, int* count) noexcept -> OrtStatus* {
    *names = providers;
    *count = 1;
    return nullptr;
  };
  changed.ReleaseAvailableProviders = [](char**, int) noexcept -> OrtStatus* { return nullptr; };
  changed.CreateCUDAProviderOptions = [](OrtCUDAProviderOptionsV2** out) noexcept -> OrtStatus* {
    *out = reinterpret_cast<OrtCUDAProviderOptionsV2*>(provider);
    return nullptr;
  };
  changed.ReleaseCUDAProviderOptions = [](OrtCUDAProviderOptionsV2*) noexcept {};
  changed.UpdateCUDAProviderOptions = [](OrtCUDAProviderOptionsV2*, const char* const* keys, const char* const* values,
                                         size_t count) noexcept -> OrtStatus* {
    OrtStatus* status = nullptr;
    for (size_t i = 0; i < count && status == nullptr; ++i) status = note(keys[i], values[i]);
    return status;
  };
  changed.UpdateCUDAProviderOptionsWithValue = [](OrtCUDAProviderOptionsV2*, const char* key,
                                                  void* value) noexcept -> OrtStatus* {
    return note(key, value == reinterpret_cast<void*>(7) ? "the driver's" : "another");
  };
  changed.SessionOptionsAppendExecutionProvider_CUDA_V2 = [](OrtSessionOptions* options,
                                                             const OrtCUDAProviderOptionsV2*) noexcept -> OrtStatus* {
    if (std::getenv("STAND_IN_FAILS") != nullptr) return real->CreateStatus(ORT_FAIL, "no cuDNN");
    return real->SetIntraOpNumThreads(options, 1);
  };
  changed.RegisterCustomOpsLibrary_V2 = [](OrtSessionOptions*, const char* path) noexcept -> OrtStatus* {
    return note("ops", path);
  };
  changed.AddRunConfigEntry = [](OrtRunOptions*, const char* key, const char* value) noexcept -> OrtStatus* {
    return note(key, value);
  };
  changed.AddSessionConfigEntry = [](OrtSessionOptions*, const char* key, const char* value) noexcept -> OrtStatus* {
    return note(key, value);
  };
  // Noted only: with sizes known ONNX Runtime puts other sums together, and bytes are compared.
  changed.AddFreeDimensionOverrideByName = [](OrtSessionOptions*, const char* name, int64_t size) noexcept -> OrtStatus* {
    return note(name, std::to_string(size).c_str());
  };
  changed.DisableMemPattern = [](OrtSessionOptions*) noexcept -> OrtStatus* { return note("enable_mem_pattern", "0"); };
  changed.CreateArenaCfgV2 = [](const char* const* keys, const size_t* values, size_t count,
                                OrtArenaCfg** out) noexcept -> OrtStatus* {
    OrtStatus* status = nullptr;
    for (size_t i = 0; i < count && status == nullptr; ++i)
      status = note((std::string("arena's ") + keys[i]).c_str(), std::to_string(static_cast<int>(values[i])).c_str());
    *out = reinterpret_cast<OrtArenaCfg*>(provider);
    return status;
  };
  changed.ReleaseArenaCfg = [](OrtArenaCfg*) noexcept {};
  changed.CreateAndRegisterAllocatorV2 = [](OrtEnv*, const char* of, const OrtMemoryInfo*, const OrtArenaCfg*,
                                            const char* const* keys, const char* const* values,
                                            size_t count) noexcept -> OrtStatus* {
    if (std::getenv("STAND_IN_FAILS") != nullptr) return real->CreateStatus(ORT_FAIL, "no arena");
    OrtStatus* status = note("arena", of);
    for (size_t i = 0; i < count && status == nullptr; ++i) status = note(keys[i], values[i]);
    return status;
  };
  changed.UnregisterAllocator = [](OrtEnv*, const OrtMemoryInfo*) noexcept -> OrtStatus* {
    return note("arena", "given back");
  };
  changed.CreateMemoryInfo = [](const char* name, OrtAllocatorType type, int device, OrtMemType memory,
                                OrtMemoryInfo** out) noexcept -> OrtStatus* {
    if (std::strcmp(name, "Cuda") != 0) return real->CreateStatus(ORT_FAIL, "the memory is not on the device");
    OrtStatus* status = real->CreateMemoryInfo("Cpu", type, device, memory, out);
    if (status == nullptr) on_device.insert(*out);
    return status;
  };
  changed.ReleaseMemoryInfo = [](OrtMemoryInfo* memory) noexcept {
    on_device.erase(memory);
    real->ReleaseMemoryInfo(memory);
  };
  changed.CreateTensorWithDataAsOrtValue = [](const OrtMemoryInfo* memory, void* data, size_t bytes,
                                              const int64_t* shape, size_t rank, ONNXTensorElementDataType type,
                                              OrtValue** out) noexcept -> OrtStatus* {
    OrtStatus* status = on_device.count(memory) > 0 ? nullptr : note("bytes on the host", std::to_string(bytes).c_str());
    return status != nullptr ? status
                             : real->CreateTensorWithDataAsOrtValue(memory, data, bytes, shape, rank, type, out);
  };
}

}  // namespace

extern "C" const OrtApiBase* ORT_API_CALL OrtGetApiBase() noexcept {
  static const OrtApiBase base{[](uint32_t version) noexcept -> const OrtApi* {
                                 const auto get = reinterpret_cast<const OrtApiBase* (*)()>(
                                     dlsym(dlopen(std::getenv("STAND_IN_ORT"), RTLD_NOW), "OrtGetApiBase"));
                                 real = get()->GetApi(version);
                                 change();
                                 return &changed;
                               },
                               []() noexcept -> const char* { return "1.0.stand-in"; }};
  return &base;
}
