// Memory that all sessions of a stream share on the GPU.
#pragma once

#include <memory>

#include "ort.hpp"

namespace flashvsr {

// ONNX Runtime's arena for the sessions of a process, of which a GPU has one: graphs that run in turn need not each
// keep memory of their own. What a run has given back may still be in use on its CUDA stream, and another CUDA stream
// would write there, so one stream has the arena at a time.
class OrtArena {
 public:
  // Nothing while another stream has it. Throws where ONNX Runtime refuses.
  static std::unique_ptr<OrtArena> take(std::shared_ptr<const Ort> ort, int device);
  ~OrtArena();
  OrtArena(const OrtArena&) = delete;
  OrtArena& operator=(const OrtArena&) = delete;

 private:
  OrtArena(std::shared_ptr<const Ort> ort, int device);

  std::shared_ptr<const Ort> ort_;
  int device_;
  OrtHandle<OrtMemoryInfo> memory_;
};

}  // namespace flashvsr
