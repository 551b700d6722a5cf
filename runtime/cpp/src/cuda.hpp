// The CUDA driver, loaded when it is first needed, as far as this library uses it. Its interface is C and fixed, so
// its functions are declared here and no header of CUDA is needed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace flashvsr::cuda {

using Pointer = unsigned long long;  // CUdeviceptr
using Stream = void*;
using Event = void*;

// CUDA_MEMCPY2D_v2.
struct Copy2D {
  std::size_t source_x, source_y;
  int source_kind;
  const void* source_host;
  Pointer source_device;
  void* source_array;
  std::size_t source_pitch;
  std::size_t target_x, target_y;
  int target_kind;
  void* target_host;
  Pointer target_device;
  void* target_array;
  std::size_t target_pitch;
  std::size_t width_bytes, height;
};
enum { HOST_MEMORY = 1, DEVICE_MEMORY = 2 };  // of Copy2D's kinds

struct Driver {
  int (*init)(unsigned);
  int (*error_string)(int, const char**);
  int (*device_get)(int*, int);
  int (*device_name)(char*, int, int);
  int (*device_attribute)(int*, int, int);
  int (*context_retain)(void**, int);
  int (*context_release)(int);
  int (*context_push)(void*);
  int (*context_pop)(void**);
  int (*stream_create)(Stream*, unsigned);
  int (*stream_destroy)(Stream);
  int (*stream_wait)(Stream);
  int (*allocate)(Pointer*, std::size_t);
  int (*deallocate)(Pointer);
  int (*allocate_host)(void**, std::size_t, unsigned);
  int (*deallocate_host)(void*);
  int (*set)(Pointer, unsigned char, std::size_t, Stream);
  int (*to_device)(Pointer, const void*, std::size_t, Stream);
  int (*to_host)(void*, Pointer, std::size_t, Stream);
  int (*in_device)(Pointer, Pointer, std::size_t, Stream);
  int (*copy_2d)(const Copy2D*, Stream);
  int (*event_create)(Event*, unsigned);
  int (*event_destroy)(Event);
  int (*event_record)(Event, Stream);
  int (*event_query)(Event);
  int (*event_wait)(Event);
  int (*event_milliseconds)(float*, Event, Event);

  // Throws FLASHVSR_ERROR_BACKEND where there is no driver, or none that works.
  static const Driver& get();

  // Throws FLASHVSR_ERROR_MEMORY or FLASHVSR_ERROR_INTERNAL, with the driver's own text.
  void check(int status, const char* what) const;
};

// One GPU and its primary context, the one that the CUDA runtime uses.
class Device {
 public:
  // index: as CUDA_VISIBLE_DEVICES leaves it. Throws FLASHVSR_ERROR_BACKEND where there is no such GPU.
  explicit Device(int index);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  // Makes its context the calling thread's until `leave`, which puts the earlier one back.
  void enter() const;
  bool try_enter() const noexcept;
  void leave() const noexcept;
  int index() const { return index_; }
  int capability() const;  // e.g. 89
  std::string name() const;

 private:
  int index_, device_ = 0;
  void* context_ = nullptr;
};

}  // namespace flashvsr::cuda
