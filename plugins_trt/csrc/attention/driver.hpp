// The CUDA driver, loaded when it is first needed: a machine without one can load what uses this.
#pragma once

#include <cuda.h>

#include <string>
#include <vector>

namespace flashvsr {

struct Driver {
  decltype(&::cuInit) init;
  decltype(&::cuGetErrorString) error_string;
  decltype(&::cuDeviceGet) device_get;
  decltype(&::cuDeviceGetCount) device_count;
  decltype(&::cuDeviceGetAttribute) device_attribute;
  decltype(&::cuDevicePrimaryCtxRetain) context_retain;
  decltype(&::cuDevicePrimaryCtxRelease) context_release;
  decltype(&::cuCtxPushCurrent) context_push;
  decltype(&::cuCtxPopCurrent) context_pop;
  decltype(&::cuCtxGetCurrent) context_current;
  decltype(&::cuCtxGetDevice) context_device;
  decltype(&::cuCtxSynchronize) context_wait;
  decltype(&::cuModuleLoadData) module_load;
  decltype(&::cuModuleUnload) module_unload;
  decltype(&::cuModuleGetFunction) module_function;
  decltype(&::cuFuncSetAttribute) function_attribute;
  decltype(&::cuLaunchKernel) launch;
  decltype(&::cuMemGetInfo) memory_info;
  decltype(&::cuMemAlloc) memory_alloc;
  decltype(&::cuMemFree) memory_free;
  decltype(&::cuMemHostAlloc) host_alloc;
  decltype(&::cuMemFreeHost) host_free;
  decltype(&::cuTensorMapEncodeTiled) tensor_map;  // null before CUDA 12

  // Of memory mapping, from CUDA 10.2 on: null before it.
  decltype(&::cuMemAddressReserve) address_reserve;
  decltype(&::cuMemAddressFree) address_free;
  decltype(&::cuMemCreate) memory_create;
  decltype(&::cuMemRelease) memory_release;
  decltype(&::cuMemMap) memory_map;
  decltype(&::cuMemUnmap) memory_unmap;
  decltype(&::cuMemSetAccess) memory_access;
  decltype(&::cuMemGetAllocationGranularity) memory_grain;

  // Throws std::runtime_error where there is no driver.
  static const Driver& get();

  // Throws std::runtime_error with the driver's own text.
  void check(CUresult status, const char* what) const;
};

// The primary context of a device, kept alive.
class Context {
 public:
  explicit Context(int device);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  // The device of the calling thread's context; without one, all there are: who asks has not chosen yet.
  static std::vector<int> likely_devices();

  // Of a device, e.g. 90; asks for no context of it, which would take its memory.
  static int compute_capability(int device);

  int attribute(CUdevice_attribute which) const;
  int compute_capability() const;

  // Makes it the calling thread's context for a while.
  class Current {
   public:
    explicit Current(const Context& context);
    ~Current();
    Current(const Current&) = delete;
    Current& operator=(const Current&) = delete;
  };

 private:
  CUdevice device_{};
  CUcontext context_{};
};

// Kernels of a context, given back together.
class Modules {
 public:
  explicit Modules(const Context& context) : context_(context) {}
  ~Modules();
  Modules(const Modules&) = delete;
  Modules& operator=(const Modules&) = delete;

  // The function of a cubin, allowed so much dynamic shared memory. The context is the calling thread's.
  CUfunction load(const void* cubin, const char* symbol, int shared_bytes);

 private:
  const Context& context_;
  std::vector<CUmodule> modules_;
};

}  // namespace flashvsr
