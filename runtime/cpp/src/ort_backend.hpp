// ONNX Runtime's CPU execution provider, through its C API, loaded when a model is opened.
#pragma once

#include <memory>
#include <string>

#include "backend.hpp"

namespace flashvsr {

// library: path of libonnxruntime; empty: the environment variable FLASHVSR_ORT_LIBRARY, else the loader's own search.
// threads: inside one operator; 0 leaves it to ONNX Runtime. Throws FLASHVSR_ERROR_BACKEND.
std::unique_ptr<Backend> open_ort_cpu(const std::string& library, int threads);

}  // namespace flashvsr
