// The nodes of attention: what makes its operands, and both attentions of a layer.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "fused.hpp"
#include "ort_node.hpp"
#include "spec.hpp"

namespace flashvsr {

// BlockSparseAttention, or BlockSparseAttention8 if kEighth, whose values have the last two axes turned.
template <bool kEighth>
class AttentionNode : public Node {
 public:
  AttentionNode(const OrtApi& api, const OrtKernelInfo* info, Element element)
      : Node(api, info),
        heads_(attribute(info, "heads")),
        local_range_(attribute(info, "local_range")),
        attention_(shared_kernels<Attention>(device(), element)) {}

  void compute(const Call& call) override {
    const Shape q = call.shape(0), ring = call.shape(3), slabs = call.shape(5);
    const std::int64_t tokens = spec::kTokensPerWindow, dim = heads_ * spec::kHeadDim;
    demand(q.size() == 5 && q[3] == tokens && q[4] == dim, "q is " + text(q) + ", expected [slabs, rows, columns, " +
                                                               std::to_string(tokens) + ", " + std::to_string(dim) + "]");
    demand(call.shape(1) == q && call.shape(2) == values_like(q), "k and v must be shaped like q");
    demand(slabs.size() == 1 && ring.size() == 5 && values_like(ring) == call.shape(4) && slabs[0] <= ring[0] &&
               std::equal(q.begin() + 1, q.end(), ring.begin() + 1),
           "k_cache is " + text(ring) + " with " + text(slabs) + " slabs listed, q is " + text(q));
    if (kEighth) demand(call.shape(7) == Shape{3}, "scales is " + text(call.shape(7)));
    const Problem problem{int(q[0]), int(slabs[0]), int(q[1]), int(q[2]), int(heads_), int(local_range_)};
    const Tensors tensors{call.input(0), call.input(1), call.input(2), call.input(3),
                          call.input(4), call.input(5), call.input(6), call.output(0, q),
                          kEighth ? call.input(7) : nullptr};
    const Workspace memory = workspace(workspace_bytes(problem));
    attention_->enqueue(problem, tensors, memory.get(), call.stream());
  }

 private:
  static Shape values_like(Shape keys) {
    if (kEighth) std::swap(keys[3], keys[4]);
    return keys;
  }

  std::int64_t heads_, local_range_;
  std::shared_ptr<const Attention> attention_;
};

// NormRotate, or NormRotate8 if kEighth.
template <bool kEighth>
class NormRotateNode : public Node {
 public:
  NormRotateNode(const OrtApi& api, const OrtKernelInfo* info, Element element)
      : Node(api, info), kernels_(shared_kernels<Fused>(device(), element)) {}

  void compute(const Call& call) override {
    Shape shape = call.shape(0);
    const Shape gain = call.shape(1), table = call.shape(3);
    demand(!shape.empty() && gain.size() == 1 && gain[0] * 3 == shape.back() && call.shape(2) == gain,
           "qkv is " + text(shape) + ", gain_q " + text(gain));
    const std::int64_t dim = gain[0], tokens = product(shape) / (3 * dim);
    demand(dim % spec::kHeadDim == 0 && dim <= kMostChannels, std::to_string(dim) + " channels");
    demand(product(table) == tokens * spec::kHeadDim, "table is " + text(table));
    shape.back() = dim;
    const std::vector<std::int32_t> sizes{static_cast<std::int32_t>(tokens), static_cast<std::int32_t>(dim)};
    std::vector<const void*> pointers{call.input(0), call.input(1), call.input(2), call.input(3)};
    if (kEighth) {
      demand(call.shape(4) == Shape{3} && shape.size() == 5 && shape[3] == spec::kTokensPerWindow,
             "qkv is " + text(call.shape(0)) + ", scales " + text(call.shape(4)));
      pointers.push_back(call.input(4));
    }
    for (int i = 0; i < 2; ++i) pointers.push_back(call.output(i, shape));
    if (kEighth) std::swap(shape[3], shape[4]);
    void* values = call.output(2, shape);
    if (!kEighth) pointers.push_back(values);
    kernels_->launch(kEighth ? "norm_rotate8" : "norm_rotate", blocks_of_rows(tokens), kEighth ? 2 : 3,
                     {pointers, sizes}, call.stream());
    if (!kEighth) return;
    kernels_->launch("turn_values8", static_cast<unsigned>(tokens / spec::kTokensPerWindow),
                     static_cast<unsigned>(dim / spec::kHeadDim), {{call.input(0), call.input(4), values}, {int(dim)}},
                     call.stream());
  }

 private:
  std::shared_ptr<const Fused> kernels_;
};

class PromptAttentionNode : public Node {
 public:
  PromptAttentionNode(const OrtApi& api, const OrtKernelInfo* info, Element element)
      : Node(api, info),
        heads_(attribute(info, "heads")),
        attention_(shared_kernels<Attention>(device(), element)),
        kernels_(shared_kernels<Fused>(device(), element)) {}

  void compute(const Call& call) override {
    const Shape q = call.shape(0), k = call.shape(2);
    const std::int64_t dim = heads_ * spec::kHeadDim, tokens = product(q) / dim, window = spec::kTokensPerWindow;
    demand(q.back() == dim && dim <= kMostChannels && tokens % window == 0, "q is " + text(q));
    demand(k.size() == 2 && k[1] == dim && k[0] % window == 0 && call.shape(3) == k, "k is " + text(k));
    const Whole sizes{int(heads_), int(tokens / window), int(k[0] / window)};
    void* out = call.output(0, q);

    const std::size_t items = sizes.items(), parts[] = {2 * std::size_t(tokens * dim), 4 * items * sizes.k_windows,
                                                        4 * items, 4 * items, 4};
    constexpr std::size_t kAlign = 256;
    std::size_t end = 0, offsets[5];
    for (int i = 0; i < 5; ++i) {
      offsets[i] = end;
      end += (parts[i] + kAlign - 1) / kAlign * kAlign;
    }
    const Workspace memory = workspace(end);
    const void* at[5];
    for (int i = 0; i < 5; ++i) at[i] = static_cast<const char*>(memory.get()) + offsets[i];

    const CUstream stream = call.stream();
    kernels_->launch("norm_rows", blocks_of_rows(tokens), 1,
                     {{call.input(0), call.input(1), at[0]}, {int(tokens), int(dim)}}, stream);
    kernels_->launch("list_all", sizes.items(), 1, {{at[1], at[2], at[3], at[4]}, {sizes.k_windows}}, stream);
    attention_->enqueue_whole(sizes, {at[0], call.input(2), call.input(3), out, at[1], at[2], at[3], at[4]}, stream);
  }

 private:
  std::int64_t heads_;
  std::shared_ptr<const Attention> attention_;
  std::shared_ptr<const Fused> kernels_;
};

}  // namespace flashvsr
