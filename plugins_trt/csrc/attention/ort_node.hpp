// What the custom ops share: ONNX Runtime's C API with its statuses as exceptions.
#pragma once

#include <onnxruntime_c_api.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "attention.hpp"

namespace flashvsr {

using Shape = std::vector<std::int64_t>;

inline void check(const OrtApi& api, OrtStatus* status) {
  if (status == nullptr) return;
  const std::string text = api.GetErrorMessage(status);
  api.ReleaseStatus(status);
  throw std::runtime_error(text);
}

inline std::string text(const Shape& shape) {
  std::string out;
  for (std::int64_t size : shape) out += (out.empty() ? "[" : ", ") + std::to_string(size);
  return out.empty() ? "[]" : out + "]";
}

inline void demand(bool holds, const std::string& otherwise) {
  if (!holds) throw std::runtime_error(otherwise);
}

inline std::int64_t product(const Shape& shape) {
  std::int64_t out = 1;
  for (std::int64_t size : shape) out *= size;
  return out;
}

// Rows of numbers as csrc/kernels/rows.cuh takes them: so many a block, so long at most, in vectors.
constexpr int kMostChannels = 2048, kVector = 8;
inline unsigned blocks_of_rows(std::int64_t rows) {
  constexpr int kWarps = 8;
  return static_cast<unsigned>((rows + kWarps - 1) / kWarps);
}

// One run of a node.
class Call {
 public:
  Call(const OrtApi& api, OrtKernelContext* context) : api_(api), context_(context) {}

  const void* input(std::size_t index) const { return data(value(index)); }

  Shape shape(std::size_t index) const {
    OrtTensorTypeAndShapeInfo* info = nullptr;
    check(api_, api_.GetTensorTypeAndShape(value(index), &info));
    std::size_t rank = 0;
    OrtStatus* status = api_.GetDimensionsCount(info, &rank);
    Shape sizes(rank);
    if (status == nullptr) status = api_.GetDimensions(info, sizes.data(), rank);
    api_.ReleaseTensorTypeAndShapeInfo(info);
    check(api_, status);
    return sizes;
  }

  void* output(std::size_t index, const Shape& shape) const {
    OrtValue* out = nullptr;
    check(api_, api_.KernelContext_GetOutput(context_, index, shape.data(), shape.size(), &out));
    return data(out);
  }

  CUstream stream() const {
    void* stream = nullptr;
    check(api_, api_.KernelContext_GetGPUComputeStream(context_, &stream));
    return static_cast<CUstream>(stream);
  }

 private:
  const OrtValue* value(std::size_t index) const {
    const OrtValue* found = nullptr;
    check(api_, api_.KernelContext_GetInput(context_, index, &found));
    if (found == nullptr) throw std::runtime_error("input " + std::to_string(index) + " is missing");
    return found;
  }

  void* data(const OrtValue* tensor) const {
    void* pointer = nullptr;
    check(api_, api_.GetTensorMutableData(const_cast<OrtValue*>(tensor), &pointer));
    return pointer;
  }

  const OrtApi& api_;
  OrtKernelContext* context_;
};

// One node of a graph, on one device.
class Node {
 public:
  Node(const OrtApi& api, const OrtKernelInfo* info) : api_(api) {
    check(api, api.KernelInfoGetAllocator(info, OrtMemTypeDefault, &allocator_));
    const OrtMemoryInfo* memory = nullptr;
    OrtStatus* status = api.AllocatorGetInfo(allocator_, &memory);
    if (status == nullptr) status = api.MemoryInfoGetId(memory, &device_);
    if (status != nullptr) api.ReleaseAllocator(allocator_);
    check(api, status);
  }
  virtual ~Node() { api_.ReleaseAllocator(allocator_); }
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  virtual void compute(const Call& call) = 0;

  const OrtApi& api() const { return api_; }

 protected:
  struct Release {
    OrtAllocator* allocator;
    void operator()(void* memory) const { allocator->Free(allocator, memory); }
  };
  using Workspace = std::unique_ptr<void, Release>;

  // Device memory for one run. It may be given back at once: whoever gets it next works behind on the same stream.
  Workspace workspace(std::size_t bytes) const {
    Workspace memory(allocator_->Alloc(allocator_, bytes), Release{allocator_});
    if (memory == nullptr) throw std::runtime_error("out of memory: " + std::to_string(bytes) + " bytes of workspace");
    return memory;
  }

  std::int64_t attribute(const OrtKernelInfo* info, const char* name) const {
    std::int64_t value = 0;
    check(api_, api_.KernelInfoGetAttribute_int64(info, name, &value));
    if (value < 1) throw std::runtime_error(std::string(name) + " must be above 0");
    return value;
  }

  int device() const { return device_; }

 private:
  const OrtApi& api_;
  OrtAllocator* allocator_ = nullptr;
  int device_ = 0;
};

}  // namespace flashvsr
