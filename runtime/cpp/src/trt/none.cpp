// Stands in where TensorRT's headers were not there.
#include "backends.hpp"
#include "error.hpp"

namespace flashvsr {

std::unique_ptr<Backend> open_tensorrt(const CudaOptions&, const EngineSet& engines) {
  fail(FLASHVSR_ERROR_UNSUPPORTED, engines.folder + " is an engine set, and this library was compiled without TensorRT; "
                                   "what to do: compile it with TENSORRT_INCLUDE_DIR, or open the bundle");
}

}  // namespace flashvsr
