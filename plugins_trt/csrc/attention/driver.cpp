#include "driver.hpp"

#include <dlfcn.h>

#include <numeric>
#include <stdexcept>

namespace flashvsr {

namespace {

constexpr int kDefaultShared = 48 * 1024;  // more must be asked for

template <class Function>
void bind(void* library, const char* name, Function& function, bool needed = true) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (needed && function == nullptr) {
    throw std::runtime_error(std::string("the CUDA driver has no ") + name + ": install a newer driver");
  }
}

int attribute_of(CUdevice device, CUdevice_attribute which) {
  int value = 0;
  Driver::get().check(Driver::get().device_attribute(&value, which, device), "cuDeviceGetAttribute");
  return value;
}

int capability_of(CUdevice device) {
  return 10 * attribute_of(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) +
         attribute_of(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
}

Driver load() {
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) throw std::runtime_error(std::string("the CUDA driver does not load: ") + dlerror());
  Driver driver{};
  // cuda.h gives some functions another name; these are the exported ones.
  bind(library, "cuInit", driver.init);
  bind(library, "cuGetErrorString", driver.error_string);
  bind(library, "cuDeviceGet", driver.device_get);
  bind(library, "cuDeviceGetCount", driver.device_count);
  bind(library, "cuDeviceGetAttribute", driver.device_attribute);
  bind(library, "cuDevicePrimaryCtxRetain", driver.context_retain);
  bind(library, "cuDevicePrimaryCtxRelease_v2", driver.context_release);
  bind(library, "cuCtxPushCurrent_v2", driver.context_push);
  bind(library, "cuCtxPopCurrent_v2", driver.context_pop);
  bind(library, "cuCtxGetCurrent", driver.context_current);
  bind(library, "cuCtxGetDevice", driver.context_device);
  bind(library, "cuCtxSynchronize", driver.context_wait);
  bind(library, "cuModuleLoadData", driver.module_load);
  bind(library, "cuModuleUnload", driver.module_unload);
  bind(library, "cuModuleGetFunction", driver.module_function);
  bind(library, "cuFuncSetAttribute", driver.function_attribute);
  bind(library, "cuLaunchKernel", driver.launch);
  bind(library, "cuMemGetInfo_v2", driver.memory_info);
  bind(library, "cuMemAlloc_v2", driver.memory_alloc);
  bind(library, "cuMemFree_v2", driver.memory_free);
  bind(library, "cuMemHostAlloc", driver.host_alloc);
  bind(library, "cuMemFreeHost", driver.host_free);
  bind(library, "cuTensorMapEncodeTiled", driver.tensor_map, false);
  bind(library, "cuMemAddressReserve", driver.address_reserve, false);
  bind(library, "cuMemAddressFree", driver.address_free, false);
  bind(library, "cuMemCreate", driver.memory_create, false);
  bind(library, "cuMemRelease", driver.memory_release, false);
  bind(library, "cuMemMap", driver.memory_map, false);
  bind(library, "cuMemUnmap", driver.memory_unmap, false);
  bind(library, "cuMemSetAccess", driver.memory_access, false);
  bind(library, "cuMemGetAllocationGranularity", driver.memory_grain, false);
  driver.check(driver.init(0), "cuInit");
  return driver;
}

}  // namespace

const Driver& Driver::get() {
  static const Driver driver = load();
  return driver;
}

void Driver::check(CUresult status, const char* what) const {
  if (status == CUDA_SUCCESS) return;
  const char* text = nullptr;
  error_string(status, &text);
  throw std::runtime_error(std::string(what) + " failed: " + (text != nullptr ? text : "unknown error") + " (" +
                           std::to_string(status) + ")");
}

Context::Context(int device) {
  const Driver& driver = Driver::get();
  driver.check(driver.device_get(&device_, device), "cuDeviceGet");
  driver.check(driver.context_retain(&context_, device_), "cuDevicePrimaryCtxRetain");
}

Context::~Context() { Driver::get().context_release(device_); }

std::vector<int> Context::likely_devices() {
  const Driver& driver = Driver::get();
  CUcontext current = nullptr;
  driver.check(driver.context_current(&current), "cuCtxGetCurrent");
  if (current != nullptr) {
    CUdevice device = 0;
    driver.check(driver.context_device(&device), "cuCtxGetDevice");
    return {device};
  }
  int count = 0;
  driver.check(driver.device_count(&count), "cuDeviceGetCount");
  std::vector<int> devices(static_cast<std::size_t>(count));
  std::iota(devices.begin(), devices.end(), 0);
  return devices;
}

int Context::attribute(CUdevice_attribute which) const { return attribute_of(device_, which); }

int Context::compute_capability() const { return capability_of(device_); }

int Context::compute_capability(int device) {
  CUdevice found = 0;
  Driver::get().check(Driver::get().device_get(&found, device), "cuDeviceGet");
  return capability_of(found);
}

Context::Current::Current(const Context& context) {
  Driver::get().check(Driver::get().context_push(context.context_), "cuCtxPushCurrent");
}

Context::Current::~Current() {
  CUcontext popped = nullptr;
  Driver::get().context_pop(&popped);
}

Modules::~Modules() {
  try {
    const Context::Current current(context_);
    for (CUmodule module : modules_) Driver::get().module_unload(module);
  } catch (const std::exception&) {  // the driver is already gone with the process, and the modules with it
  }
}

CUfunction Modules::load(const void* cubin, const char* symbol, int shared_bytes) {
  const Driver& driver = Driver::get();
  CUmodule module = nullptr;
  driver.check(driver.module_load(&module, cubin), "cuModuleLoadData");
  modules_.push_back(module);
  CUfunction function = nullptr;
  driver.check(driver.module_function(&function, module, symbol), "cuModuleGetFunction");
  if (shared_bytes > kDefaultShared) {
    driver.check(driver.function_attribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_bytes),
                 "cuFuncSetAttribute");
  }
  return function;
}

}  // namespace flashvsr
