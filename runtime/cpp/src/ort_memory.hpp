// Memory that all sessions of a stream share on the GPU.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "backends.hpp"
#include "ort.hpp"

namespace flashvsr {

// What the sessions of a process compute with, of which a GPU has one: graphs that run in turn need not each keep memory
// of their own. It is the op library's pool, or an arena of ONNX Runtime, which takes more. What a run has given back may
// still be in use on its CUDA stream, and another CUDA stream would write there, so one stream has it at a time.
class OrtMemory {
 public:
  // Nothing while another stream has it. library: path of the op library; empty, or one that shares no pool: an arena,
  // and `say` is told why. Throws where ONNX Runtime refuses.
  static std::unique_ptr<OrtMemory> take(std::shared_ptr<const Ort> ort, int device, const std::string& library,
                                         const Say& say);
  // The stream must have been waited for.
  ~OrtMemory();
  OrtMemory(const OrtMemory&) = delete;
  OrtMemory& operator=(const OrtMemory&) = delete;

  // Gives the GPU what graphs that are gone have computed in. The stream must have been waited for.
  void trim() const;
  // Throws FLASHVSR_ERROR_MEMORY where the GPU has lacked memory since the last call.
  void check() const;

 private:
  OrtMemory(std::shared_ptr<const Ort> ort, int device);
  // Whether the library's pool is shared now; else `why` not.
  bool share_pool(const std::string& path, std::string& why);
  void share_arena();

  std::shared_ptr<const Ort> ort_;
  int device_;
  const char* (*unshare_)(int) = nullptr;  // of the pool, and so on; null where there is none
  std::size_t (*shortage_)(int) = nullptr;
  void (*trim_)(int) = nullptr;
  OrtHandle<OrtMemoryInfo> arena_;
};

}  // namespace flashvsr
