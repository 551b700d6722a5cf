#include "cuda.hpp"

#include "library.hpp"

namespace flashvsr::cuda {

namespace {

constexpr int OUT_OF_MEMORY = 2;                       // CUDA_ERROR_OUT_OF_MEMORY
constexpr int CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_

Driver load() {
  const Library library("the CUDA driver", {"libcuda.so.1"}, "install NVIDIA's driver, or take FLASHVSR_DEVICE_CPU");
  Driver driver{};
  library.bind("cuInit", driver.init);
  library.bind("cuGetErrorString", driver.error_string);
  library.bind("cuDeviceGet", driver.device_get);
  library.bind("cuDeviceGetName", driver.device_name);
  library.bind("cuDeviceGetAttribute", driver.device_attribute);
  library.bind("cuDevicePrimaryCtxRetain", driver.context_retain);
  library.bind("cuDevicePrimaryCtxRelease_v2", driver.context_release);
  library.bind("cuCtxPushCurrent_v2", driver.context_push);
  library.bind("cuCtxPopCurrent_v2", driver.context_pop);
  library.bind("cuStreamCreate", driver.stream_create);
  library.bind("cuStreamDestroy_v2", driver.stream_destroy);
  library.bind("cuStreamSynchronize", driver.stream_wait);
  library.bind("cuMemAlloc_v2", driver.allocate);
  library.bind("cuMemFree_v2", driver.deallocate);
  library.bind("cuMemHostAlloc", driver.allocate_host);
  library.bind("cuMemFreeHost", driver.deallocate_host);
  library.bind("cuMemsetD8Async", driver.set);
  library.bind("cuMemcpyHtoDAsync_v2", driver.to_device);
  library.bind("cuMemcpyDtoHAsync_v2", driver.to_host);
  library.bind("cuMemcpyDtoDAsync_v2", driver.in_device);
  library.bind("cuMemcpy2DAsync_v2", driver.copy_2d);
  library.bind("cuEventCreate", driver.event_create);
  library.bind("cuEventDestroy_v2", driver.event_destroy);
  library.bind("cuEventRecord", driver.event_record);
  library.bind("cuEventQuery", driver.event_query);
  library.bind("cuEventSynchronize", driver.event_wait);
  library.bind("cuEventElapsedTime", driver.event_milliseconds);
  const int status = driver.init(0);
  if (status != 0)
    fail(FLASHVSR_ERROR_BACKEND, "the CUDA driver does not start (" + std::to_string(status) +
                                     "); what to do: see whether nvidia-smi shows a GPU");
  return driver;
}

}  // namespace

const Driver& Driver::get() {
  static const Driver driver = load();
  return driver;
}

void Driver::check(int status, const char* what) const {
  if (status == 0) return;
  const char* text = nullptr;
  error_string(status, &text);
  fail(status == OUT_OF_MEMORY ? FLASHVSR_ERROR_MEMORY : FLASHVSR_ERROR_INTERNAL,
       std::string(what) + ": " + (text != nullptr ? text : "CUDA error " + std::to_string(status)));
}

Device::Device(int index) : index_(index) {
  const Driver& driver = Driver::get();
  if (driver.device_get(&device_, index) != 0)
    fail(FLASHVSR_ERROR_BACKEND, "there is no GPU " + std::to_string(index) +
                                     "; what to do: see nvidia-smi and CUDA_VISIBLE_DEVICES");
  driver.check(driver.context_retain(&context_, device_), "the GPU's context");
}

Device::~Device() { Driver::get().context_release(device_); }

void Device::enter() const { Driver::get().check(Driver::get().context_push(context_), "the GPU's context"); }

bool Device::try_enter() const noexcept { return Driver::get().context_push(context_) == 0; }

void Device::leave() const noexcept {
  void* popped = nullptr;
  Driver::get().context_pop(&popped);
}

int Device::capability() const {
  const Driver& driver = Driver::get();
  int major = 0, minor = 0;
  driver.check(driver.device_attribute(&major, CAPABILITY_MAJOR, device_), "the GPU's compute capability");
  driver.check(driver.device_attribute(&minor, CAPABILITY_MINOR, device_), "the GPU's compute capability");
  return 10 * major + minor;
}

std::string Device::name() const {
  char text[256] = {};
  Driver::get().check(Driver::get().device_name(text, sizeof text, device_), "the GPU's name");
  return text;
}

}  // namespace flashvsr::cuda
