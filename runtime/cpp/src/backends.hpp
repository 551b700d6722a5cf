// The back ends that a model can be opened on.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "engine_set.hpp"
#include "manifest.hpp"
#include "queue.hpp"

namespace flashvsr {

// What to tell the user, at FLASHVSR_LOG_ERROR or FLASHVSR_LOG_INFO.
using Say = std::function<void(std::int32_t level, const std::string& text)>;

// ONNX Runtime's CPU execution provider. threads: inside one operator; 0 leaves it to ONNX Runtime.
// Throws FLASHVSR_ERROR_BACKEND, as those below.
std::unique_ptr<Backend> open_ort_cpu(const std::string& library, int threads);

struct CudaOptions {
  int index = 0;
  std::string library;     // of ONNX Runtime or TensorRT; empty: an environment variable, else the loader's search
  std::string op_library;  // of this project's kernels for it; may be empty
  Say say;
};

// ONNX Runtime's CUDA execution provider.
std::unique_ptr<Backend> open_ort_cuda(const CudaOptions& options, const Manifest& manifest);

// TensorRT, the flavour that the set names. Throws FLASHVSR_ERROR_UNSUPPORTED where this was compiled without it.
std::unique_ptr<Backend> open_tensorrt(const CudaOptions& options, const EngineSet& engines);

}  // namespace flashvsr
