// The nodes of matrix products, in 16 bits and in float8.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <string>

#include "cublaslt.hpp"
#include "fused.hpp"
#include "ort_node.hpp"

namespace flashvsr {

// Linear and its kin; those of float8 if kEighth.
template <Epilogue kEpilogue, bool kEighth = false>
class LinearNode : public Node {
 public:
  LinearNode(const OrtApi& api, const OrtKernelInfo* info, Element element)
      : Node(api, info), linear_(device(), element, kEpilogue, kEighth) {
    if (kEighth) kernels_ = shared_kernels<Fused>(device(), element);
  }

  void compute(const Call& call) override {
    const Shape x = call.shape(0), weight = call.shape(1), bias = call.shape(2);
    demand(!x.empty() && weight.size() == 2 && weight[1] == x.back() && bias == Shape{weight[0]},
           "x is " + text(x) + ", weight " + text(weight) + ", bias " + text(bias));
    Shape out = x;
    out.back() = weight[0];
    constexpr bool kAdds = kEpilogue == Epilogue::kAdd;
    constexpr std::size_t kResidual = kEighth ? 4 : 3;
    if (kAdds) {
      demand(call.shape(kResidual) == out, "residual is " + text(call.shape(kResidual)) + ", expected " + text(out));
    }
    Product product{call.input(0), call.input(1), call.input(2), kAdds ? call.input(kResidual) : nullptr,
                    call.output(0, out), flashvsr::product(x) / x.back(), weight[0], weight[1]};
    const Workspace eighth = kEighth ? to_float8(call, product) : nullptr;
    const Workspace memory = workspace(Linear::kWorkspace);
    linear_.enqueue(product, memory.get(), call.stream());
  }

 private:
  // x in 8 bits and the scales, in the memory returned.
  Workspace to_float8(const Call& call, Product& product) const {
    demand(call.shape(3) == Shape{2}, "scales is " + text(call.shape(3)));
    const std::int64_t vectors = product.rows * product.inner / kNumbers;
    demand(product.inner % kNumbers == 0 && vectors <= std::numeric_limits<std::int32_t>::max(),
           "x is " + text(call.shape(0)));
    const std::size_t bytes = static_cast<std::size_t>(vectors * kNumbers);
    Workspace eighth = workspace(bytes + kScales);
    void* scales = static_cast<char*>(eighth.get()) + bytes;
    kernels_->launch("to_float8", static_cast<unsigned>((vectors + kThreads - 1) / kThreads), 1,
                     {{product.x, call.input(3), eighth.get(), scales}, {int(vectors)}}, call.stream());
    product.x = eighth.get();
    product.scales = static_cast<const float*>(scales);
    return eighth;
  }

  static constexpr std::int64_t kNumbers = 16, kThreads = 256;  // see csrc/kernels/float8.cu
  static constexpr std::size_t kScales = 32;
  Linear linear_;
  std::shared_ptr<const Fused> kernels_;
};

}  // namespace flashvsr
