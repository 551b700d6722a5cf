// ONNX Runtime's C interface, loaded at run time: errors, handles, and a graph on bound buffers of any device.
#pragma once

#include <onnxruntime_c_api.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "queue.hpp"

namespace flashvsr {

// The library and its environment. May be shared by threads.
class Ort {
 public:
  // library: path of libonnxruntime; empty: $FLASHVSR_ORT_LIBRARY, else the loader's search. Throws
  // FLASHVSR_ERROR_BACKEND where it cannot be loaded or is too old.
  explicit Ort(const std::string& library);
  ~Ort();
  Ort(const Ort&) = delete;
  Ort& operator=(const Ort&) = delete;

  const OrtApi& api() const { return *api_; }
  OrtEnv* environment() const { return environment_; }
  const std::string& version() const { return version_; }
  bool has_provider(const std::string& name) const;

  // Throws what `status` says, if it is one; `what` names the file or call, `otherwise` is the status where the text
  // does not tell.
  void check(OrtStatus* status, const std::string& what, flashvsr_status otherwise = FLASHVSR_ERROR_BACKEND) const;

 private:
  const OrtApi* api_ = nullptr;
  OrtEnv* environment_ = nullptr;
  std::string version_;
};

// What ONNX Runtime makes and takes back.
template <typename T>
using OrtHandle = std::unique_ptr<T, void(ORT_API_CALL*)(T*)>;

// Where a graph runs.
struct OrtPlace {
  const char* memory = "Cpu";  // ONNX Runtime's name of the device's memory
  int device = 0;
  bool waits = true;  // whether a run ends when the device has finished
  std::function<void()> check_memory;  // called behind each load and run: throws where the device lacked memory
  // A host copy of a small buffer's content; none where buffers lie in host memory.
  std::function<const void*(const Buffer&)> host_copy;
  Symbols dims;  // dimensions that are the same in every run
  std::function<void(OrtSessionOptions*)> configure;
};

class OrtGraph : public StepGraph {
 public:
  OrtGraph(std::shared_ptr<const Ort> ort, const std::string& path, const Graph& graph, const OrtPlace& place);

  // May be called from several threads at once.
  void run(const Binding& inputs, const Binding& outputs) override;

 private:
  using CountOf = OrtStatus*(ORT_API_CALL*)(const OrtSession*, std::size_t*) NO_EXCEPTION;
  using NameOf = OrtStatus*(ORT_API_CALL*)(const OrtSession*, std::size_t, OrtAllocator*, char**) NO_EXCEPTION;

  OrtHandle<OrtRunOptions> run_options(bool waits) const;
  void check(OrtStatus* status, const std::string& what, flashvsr_status otherwise) const;
  OrtHandle<OrtValue> input_value(const std::string& name, const Buffer& buffer) const;
  OrtHandle<OrtValue> value_on(const OrtMemoryInfo* memory, void* data, const Buffer& buffer) const;
  void check_names(const char* kind, const std::vector<Tensor>& tensors, CountOf count_of, NameOf name_of) const;

  std::shared_ptr<const Ort> ort_;
  std::string path_;
  OrtHandle<OrtMemoryInfo> memory_, host_memory_;
  std::function<const void*(const Buffer&)> host_copy_;
  std::function<void()> check_memory_;
  OrtHandle<OrtRunOptions> run_options_;
  OrtHandle<OrtSession> session_;
};

}  // namespace flashvsr
