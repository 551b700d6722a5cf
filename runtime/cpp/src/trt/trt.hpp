// TensorRT's library, loaded at run time: both flavours, through the one interface that their headers describe.
#pragma once

#include <NvInferRuntime.h>

#include <memory>
#include <mutex>
#include <string>

#include "engine_set.hpp"
#include "error.hpp"

namespace flashvsr {

// What TensorRT logs: its last error is kept for whoever finds that a call failed.
class TrtLog : public nvinfer1::ILogger {
 public:
  void log(Severity severity, nvinfer1::AsciiChar const* text) noexcept override;
  // Throws `what` with the last error since the last such call.
  [[noreturn]] void fail(const std::string& what);

 private:
  std::mutex mutex_;
  std::string last_;
};

// The library of the set's flavour and its runtime. May be shared by threads.
class Trt {
 public:
  // library: path; empty: $FLASHVSR_TENSORRT_LIBRARY, else the loader's search for the set's flavour. plugins: path of
  // this project's plug-in library; empty: what the plans carry. Throws FLASHVSR_ERROR_BACKEND.
  Trt(const EngineSet& engines, const std::string& library, const std::string& plugins);

  std::unique_ptr<nvinfer1::ICudaEngine> load(const std::string& path);
  TrtLog& log() { return log_; }
  const std::string& version() const { return version_; }

 private:
  TrtLog log_;
  std::string version_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::mutex mutex_;
};

}  // namespace flashvsr
