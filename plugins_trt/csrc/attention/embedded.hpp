// The compiled kernels, as flashvsr_trt.plugins_trt.kernels.embed writes them.
#pragma once

#include <cstddef>

namespace flashvsr {

struct EmbeddedArgument {
  const char *name, *kind;
};

struct EmbeddedKernel {
  int architecture;       // e.g. 90
  const char* element;    // float16 or bfloat16; float32: serves both
  const char* name;
  const char* symbol;
  const unsigned char* cubin;
  int threads, shared_bytes, scratch_pointers;
  bool persistent;
  const EmbeddedArgument* arguments;
  int argument_count;
};

extern const EmbeddedKernel kEmbeddedKernels[];
extern const int kEmbeddedKernelCount;

}  // namespace flashvsr
