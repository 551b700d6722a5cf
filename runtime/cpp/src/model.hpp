// An open bundle and what runs it; shared by its streams.
#pragma once

#include <memory>
#include <string>

#include "flashvsr.h"
#include "manifest.hpp"
#include "queue.hpp"

namespace flashvsr {

struct Model {
  std::string folder;
  Manifest manifest;
  std::unique_ptr<Backend> backend;
  std::string backend_text;
  flashvsr_log log = nullptr;
  void* log_user = nullptr;

  std::string graph_path(const std::string& name) const { return folder + "/" + name + ".onnx"; }
  void say(int32_t level, const std::string& text) const {
    if (log != nullptr) log(log_user, level, text.c_str());
  }
};

}  // namespace flashvsr
