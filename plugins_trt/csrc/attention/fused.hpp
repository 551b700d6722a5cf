// The small kernels beside the attention, launched from C++.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "attention.hpp"

namespace flashvsr {

// What a kernel is given: pointers, then 32-bit integers, in the order of plugins_trt/kernels/catalogue.py.
struct Arguments {
  std::vector<const void*> pointers;
  std::vector<std::int32_t> integers;
};

// Whether a kernel of that name was compiled in, for whatever GPU.
bool is_embedded(const char* name);
bool is_embedded(const char* name, int architecture);

// The kernels that are not stages of the attention, of one element type on one device. Errors are std::runtime_error.
class Fused {
 public:
  Fused(int device, Element element);
  Fused(const Fused&) = delete;
  Fused& operator=(const Fused&) = delete;

  // Whether there is such a kernel for this device.
  bool has(const std::string& name) const { return kernels_.count(name) != 0; }

  void launch(const std::string& name, unsigned x, unsigned y, const Arguments& arguments, CUstream stream) const;

  // The same with the addresses of all arguments. A persistent kernel gets no more blocks than multiprocessors.
  void launch(const std::string& name, unsigned x, unsigned y, std::vector<void*>& parameters, CUstream stream) const;

 private:
  struct Kernel {
    CUfunction function;
    int threads, shared_bytes, pointers, integers, maps;
    bool persistent;
  };

  const Kernel& kernel(const std::string& name) const;

  Context context_;
  unsigned multiprocessors_;
  Modules modules_;
  std::map<std::string, Kernel> kernels_;
};

}  // namespace flashvsr
