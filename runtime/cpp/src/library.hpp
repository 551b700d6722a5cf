// A shared library that is loaded when it is first needed, and stays until the process ends: the threads and statics
// of the libraries used here do not survive an unload.
#pragma once

#include <dlfcn.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "error.hpp"

namespace flashvsr {

class Library {
 public:
  // The first of `names` that the loader finds; `title` and `todo` are for the error. Throws FLASHVSR_ERROR_BACKEND.
  Library(const std::string& title, const std::vector<std::string>& names, const std::string& todo) : title_(title) {
    std::string why;
    for (const std::string& name : names) {
      handle_ = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (handle_ != nullptr) return;
      const char* text = dlerror();
      if (why.empty()) why = text != nullptr ? text : name;
    }
    fail(FLASHVSR_ERROR_BACKEND, title + " cannot be loaded: " + why + "; what to do: " + todo);
  }

  template <typename Function>
  void bind(const char* name, Function& function) const {
    if (!find(name, function)) fail(FLASHVSR_ERROR_BACKEND, "what was loaded as " + title_ + " has no " + name);
  }

  template <typename Function>
  bool find(const char* name, Function& function) const {
    function = reinterpret_cast<Function>(dlsym(handle_, name));
    return function != nullptr;
  }

 private:
  std::string title_;
  void* handle_ = nullptr;
};

// The custom-op library for ONNX Runtime.
inline Library op_library(const std::string& path) {
  return {"the op library", {path}, "make kernels, or leave op_library out"};
}

// `path`, or else what the environment variable names, or else `otherwise`.
inline std::vector<std::string> library_names(const std::string& path, const char* variable,
                                              std::vector<std::string> otherwise) {
  if (!path.empty()) return {path};
  const char* named = std::getenv(variable);
  if (named != nullptr && *named != '\0') return {named};
  return otherwise;
}

}  // namespace flashvsr
