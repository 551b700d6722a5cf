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

inline void round_to_float8(const Fused& kernels, const void* x, const void* unit, const void* out,
                            std::int64_t numbers, CUstream stream) {
  constexpr std::int64_t kNumbers = 16, kThreads = 256;  // see csrc/kernels/float8.cu
  const std::int64_t vectors = numbers / kNumbers;
  demand(numbers % kNumbers == 0 && vectors <= std::numeric_limits<std::int32_t>::max(),
         std::to_string(numbers) + " numbers to float8");
  kernels.launch("to_float8", static_cast<unsigned>((vectors + kThreads - 1) / kThreads), 1, {{x, unit, out}, {int(vectors)}},
                 stream);
}

// Linear and its kin; those of float8 if kEighth.
template <Epilogue kEpilogue, bool kEighth = false>
class LinearNode : public Node {
 public:
  LinearNode(const OrtApi& api, const OrtKernelInfo* info, Element element)
      : Node(api, info), linear_(device(), element, kEpilogue, kEighth) {
    if (kRounds) kernels_ = shared_kernels<Fused>(device(), element);
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
    if (kEighth) {
      constexpr int kRows = kEpilogue == Epilogue::kGelu ? 3 : 2;
      demand(call.shape(3) == Shape{kRows, 4}, "scales is " + text(call.shape(3)));
      product.scales = static_cast<const float*>(call.input(3));
    }
    const Workspace memory = workspace(Linear::kWorkspace);
    if (!kRounds || !linear_.leaves_rounding(product)) return linear_.enqueue(product, memory.get(), call.stream());
    void* eighth = product.out;
    const std::int64_t numbers = product.rows * product.columns;
    const Workspace wide = workspace(static_cast<std::size_t>(2 * numbers));
    product.out = wide.get();
    linear_.enqueue(product, memory.get(), call.stream());
    round_to_float8(*kernels_, wide.get(), product.scales + kUnit, eighth, numbers, call.stream());
  }

 private:
  static constexpr bool kRounds = kEighth && kEpilogue == Epilogue::kGelu;
  static constexpr int kUnit = 9;  // among the scales: what a number of the result stands for
  Linear linear_;
  std::shared_ptr<const Fused> kernels_;
};

class ToFloat8Node : public Node {
 public:
  ToFloat8Node(const OrtApi& api, const OrtKernelInfo* info, Element element)
      : Node(api, info), kernels_(shared_kernels<Fused>(device(), element)) {}

  void compute(const Call& call) override {
    const Shape x = call.shape(0);
    demand(call.shape(1) == Shape{1}, "unit is " + text(call.shape(1)));
    round_to_float8(*kernels_, call.input(0), call.input(1), call.output(0, x), product(x), call.stream());
  }

 private:
  std::shared_ptr<const Fused> kernels_;
};

}  // namespace flashvsr
