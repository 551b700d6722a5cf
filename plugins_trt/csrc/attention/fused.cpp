#include "fused.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "embedded.hpp"

namespace flashvsr {

bool is_embedded(const char* name) {
  return std::any_of(kEmbeddedKernels, kEmbeddedKernels + kEmbeddedKernelCount,
                     [name](const EmbeddedKernel& entry) { return std::strcmp(entry.name, name) == 0; });
}

bool is_embedded(const char* name, int architecture) {
  return std::any_of(kEmbeddedKernels, kEmbeddedKernels + kEmbeddedKernelCount, [=](const EmbeddedKernel& entry) {
    return entry.architecture == architecture && std::strcmp(entry.name, name) == 0;
  });
}

Fused::Fused(int device, Element element)
    : context_(device),
      multiprocessors_(context_.attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)),
      modules_(context_) {
  const Context::Current current(context_);
  const int architecture = embedded_architecture(context_.compute_capability());
  const char* wanted = element == Element::kFloat16 ? "float16" : "bfloat16";
  for (int i = 0; i < kEmbeddedKernelCount; ++i) {
    const EmbeddedKernel& entry = kEmbeddedKernels[i];
    const bool typed = std::strcmp(entry.element, "float32") != 0;
    if (entry.architecture != architecture || (typed && std::strcmp(entry.element, wanted) != 0)) continue;
    if (is_attention_stage(entry.name)) continue;
    Kernel kernel{nullptr, entry.threads, entry.shared_bytes, 0, 0, 0, entry.persistent};
    for (int a = 0; a < entry.argument_count; ++a) {
      const char kind = entry.arguments[a].kind[0];
      ++(kind == '*' ? kernel.pointers : kind == 'm' ? kernel.maps : kernel.integers);
    }
    kernel.function = modules_.load(entry.cubin, entry.symbol, entry.shared_bytes);
    kernels_.emplace(entry.name, kernel);
  }
}

const Fused::Kernel& Fused::kernel(const std::string& name) const {
  const auto found = kernels_.find(name);
  if (found == kernels_.end()) throw std::runtime_error("no embedded kernel " + name + " fits this GPU");
  return found->second;
}

void Fused::launch(const std::string& name, unsigned x, unsigned y, const Arguments& arguments, CUstream stream) const {
  const Kernel& own = kernel(name);
  if (arguments.pointers.size() != static_cast<std::size_t>(own.pointers) ||
      arguments.integers.size() != static_cast<std::size_t>(own.integers)) {
    throw std::runtime_error("kernel " + name + " was built with other arguments");
  }
  std::vector<void*> parameters;
  for (const void* const& pointer : arguments.pointers) parameters.push_back(const_cast<const void**>(&pointer));
  for (const std::int32_t& integer : arguments.integers) parameters.push_back(const_cast<std::int32_t*>(&integer));
  launch(name, x, y, parameters, stream);
}

void Fused::launch(const std::string& name, unsigned x, unsigned y, std::vector<void*>& parameters,
                   CUstream stream) const {
  const Kernel& own = kernel(name);
  if (parameters.size() != static_cast<std::size_t>(own.pointers + own.integers + own.maps)) {
    throw std::runtime_error("kernel " + name + " was built with other arguments");
  }
  if (own.persistent) x = std::min(x * y, multiprocessors_), y = 1;
  const Context::Current current(context_);
  const Driver& driver = Driver::get();
  driver.check(driver.launch(own.function, x, y, 1, own.threads, 1, 1, own.shared_bytes, stream, parameters.data(),
                             nullptr),
               name.c_str());
}

}  // namespace flashvsr
