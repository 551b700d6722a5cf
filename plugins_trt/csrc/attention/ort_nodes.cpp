#include "ort_nodes.hpp"

#include <algorithm>
#include <cstdint>
#include <limits>

#include "convolve.hpp"
#include "fused.hpp"
#include "ort_attention.hpp"
#include "ort_linear.hpp"

namespace flashvsr {

namespace {

constexpr int kMostBlocks = 65535;  // along a grid's second axis
constexpr char kAdapt8[] = "adapt_colours", kAdapt16[] = "adapt_colours16";

// The kernel's name, the longest rows, and how many inputs follow x.
struct Norm {
  const char* kernel;
  int most, more;
};
constexpr Norm kPlainNorm{"layer_norm", kMostChannels, 0}, kNorm8{"layer_norm8", kMostChannels, 1},
    kSiluNorm{"norm_silu", 3072, 1};

template <const Norm& kNorm>
class NormNode : public Node {
 public:
  NormNode(const OrtApi& api, const OrtKernelInfo* info, Element element)
      : Node(api, info), kernels_(shared_kernels<Fused>(device(), element)) {}

  void compute(const Call& call) override {
    const Shape x = call.shape(0);
    demand(!x.empty() && x.back() % kVector == 0 && 0 < x.back() && x.back() <= kNorm.most, "x is " + text(x));
    const std::int64_t tokens = product(x) / x.back();
    Arguments arguments{{call.input(0)}, {int(tokens), int(x.back())}};
    if (kNorm.more != 0) {
      const Shape more = call.shape(1), expected{&kNorm == &kSiluNorm ? x.back() : 1};
      demand(more == expected, "x is " + text(x) + ", the other input " + text(more));
      arguments.pointers.push_back(call.input(1));
    }
    arguments.pointers.push_back(call.output(0, x));
    kernels_->launch(kNorm.kernel, blocks_of_rows(tokens), 1, arguments, call.stream());
  }

 private:
  std::shared_ptr<const Fused> kernels_;
};

enum class Form { kPlain, kAdd, kPast, kUp, kUpRelu };

template <Form kForm>
class ConvolveNode : public Node {
  static constexpr bool kUps = kForm == Form::kUp || kForm == Form::kUpRelu;

 public:
  ConvolveNode(const OrtApi& api, const OrtKernelInfo* info, Element element)
      : Node(api, info),
        growth_(kUps ? attribute(info, "growth") : 1),
        element_(element),
        kernels_(shared_kernels<Fused>(device(), element)) {}

  void compute(const Call& call) override {
    const Shape x = call.shape(0), weight = call.shape(1);
    constexpr int kSources = kForm == Form::kPast ? 2 : 1, kSide = kUps ? 2 : 3, kScale = kUps ? 2 : 1;
    demand(x.size() == 4 && weight.size() == (kUps ? 5 : 4) && weight.back() == kSources * x[3],
           "x is " + text(x) + ", weight " + text(weight));
    const std::int64_t outputs = weight[kUps ? 1 : 0] / growth_;
    const Shape out{x[0] * growth_, x[1] * kScale, x[2] * kScale, outputs};
    if (kForm == Form::kAdd) demand(call.shape(3) == out, "residual is " + text(call.shape(3)));
    if (kForm == Form::kPast) demand(call.shape(3) == Shape(x.begin() + 1, x.end()), "past is " + text(call.shape(3)));
    const Convolution sizes{int(x[0]),    int(x[1]), int(x[2]), int(x[3]), kSources, int(outputs),
                            int(growth_), kSide,     kForm != Form::kUp};
    const ConvolutionTensors tensors{call.input(0),
                                     kForm == Form::kPast ? call.input(3) : nullptr,
                                     call.input(1),
                                     kUps ? nullptr : call.input(2),
                                     kForm == Form::kAdd ? call.input(3) : nullptr,
                                     call.output(0, out)};
    enqueue_convolution(*kernels_, element_, sizes, tensors, call.stream());
  }

 private:
  std::int64_t growth_;
  Element element_;
  std::shared_ptr<const Fused> kernels_;
};

class ConvolveInner8Node : public Node {
 public:
  ConvolveInner8Node(const OrtApi& api, const OrtKernelInfo* info, Element element)
      : Node(api, info), kernels_(shared_kernels<Fused>(device(), element)) {}

  void compute(const Call& call) override {
    const Shape x = call.shape(0), weight = call.shape(1);
    demand(x.size() == 4 && x[1] > 2 && x[2] > 2, "x is " + text(x));
    demand(weight.size() == 4 && weight == Shape({weight[0], 3, 3, x[3]}), "x is " + text(x) + ", weight " + text(weight));
    demand(call.shape(2) == Shape{weight[0]} && call.shape(3) == Shape{2},
           "bias is " + text(call.shape(2)) + ", scales " + text(call.shape(3)));
    void* out = call.output(0, {x[0], x[1] - 2, x[2] - 2, weight[0]});
    enqueue_convolution8(*kernels_, {int(x[0]), int(x[1] - 2), int(x[2] - 2), int(x[3]), int(weight[0])},
                         {call.input(0), call.input(1), call.input(3), call.input(2), out}, call.stream());
  }

 private:
  std::shared_ptr<const Fused> kernels_;
};

class ConvolveColoursNode : public Node {
 public:
  ConvolveColoursNode(const OrtApi& api, const OrtKernelInfo* info, Element element)
      : Node(api, info), kernels_(shared_kernels<Fused>(device(), element)) {}

  void compute(const Call& call) override {
    const Shape x = call.shape(0), weight = call.shape(1);
    demand(x.size() == 4 && x[3] % kChannels == 0 && x[3] <= kMostChannels && x[0] <= kMostBlocks, "x is " + text(x));
    demand(weight == Shape{3, 3, 3, x[3]} && call.shape(2) == Shape{3}, "weight is " + text(weight));
    void* out = call.output(0, {x[0], 3, x[1], x[2]});
    const std::int64_t tiles = ((x[1] + kRows - 1) / kRows) * ((x[2] + kColumns - 1) / kColumns);
    kernels_->launch("convolve_colours", static_cast<unsigned>(tiles), static_cast<unsigned>(x[0]),
                     {{call.input(0), call.input(1), call.input(2), out}, {int(x[1]), int(x[2]), int(x[3])}},
                     call.stream());
  }

 private:
  static constexpr int kRows = 14, kColumns = 30, kChannels = 128, kMostChannels = 256;  // see csrc/kernels/colours.cu
  std::shared_ptr<const Fused> kernels_;
};

class LastPlanesNode : public Node {
 public:
  LastPlanesNode(const OrtApi& api, const OrtKernelInfo* info, Element element)
      : Node(api, info), kernels_(shared_kernels<Fused>(device(), element)) {}

  void compute(const Call& call) override {
    const Shape x = call.shape(0);
    demand(x.size() == 4 && x[0] > 0 && x[1] * x[2] % 2 == 0 && x[3] % kTile == 0, "x is " + text(x));
    const std::int64_t pixels = x[1] * x[2], channels = x[3];
    const void* last = static_cast<const std::uint16_t*>(call.input(0)) + (x[0] - 1) * pixels * channels;
    void* out = call.output(0, {channels, x[1], x[2]});
    kernels_->launch("last_planes", static_cast<unsigned>((pixels + kTile - 1) / kTile),
                     static_cast<unsigned>(channels / kTile), {{last, out}, {int(pixels), int(channels)}},
                     call.stream());
  }

 private:
  static constexpr int kTile = 64;  // see csrc/kernels/fold.cu
  std::shared_ptr<const Fused> kernels_;
};

// FoldFrames, or FoldPixels if kPixels.
template <bool kPixels>
class FoldNode : public Node {
 public:
  FoldNode(const OrtApi& api, const OrtKernelInfo* info, Element element)
      : Node(api, info), kernels_(shared_kernels<Fused>(device(), element)) {}

  void compute(const Call& call) override {
    const Shape x = call.shape(0), past = call.shape(1);
    constexpr int kCell = kPixels ? 16 : 1, kTaps = 4, kStep = 2;
    demand(x.size() == 4 && x[0] % kStep == 0 && x[1] % kCell == 0 && x[2] % kCell == 0 &&
               (kPixels ? x[3] == 3 : x[3] % kVector == 0),
           "x is " + text(x));
    demand(past == Shape{kStep, x[1], x[2], x[3]}, "past is " + text(past) + ", x " + text(x));
    const std::int64_t results = x[0] / kStep, height = x[1] / kCell, width = x[2] / kCell, dim = x[3] * kCell * kCell;
    void* out = call.output(0, {results, height + 2, width + 2, kTaps * dim});
    const std::int64_t items = results * (height + 2) * (width + 2) * kTaps;
    demand(items <= std::numeric_limits<std::int32_t>::max(), "x is " + text(x) + ": too large");
    Arguments arguments{{call.input(0), call.input(1), out}, {int(results), int(height), int(width)}};
    if (!kPixels) arguments.integers.push_back(int(dim));
    kernels_->launch(kPixels ? "fold_pixels" : "fold_frames", blocks_of_rows(items), 1, arguments, call.stream());
  }

 private:
  std::shared_ptr<const Fused> kernels_;
};

// Statistics of the picture, then their use. kKernel: for 8 or for 16 bits.
template <const char* kKernel>
class AdaptColoursNode : public Node {
 public:
  AdaptColoursNode(const OrtApi& api, const OrtKernelInfo* info, Element element)
      : Node(api, info), kernels_(shared_kernels<Fused>(device(), element)) {}

  void compute(const Call& call) override {
    const Shape frames = call.shape(0), lq = call.shape(1);
    demand(frames.size() == 4 && frames[1] == 3 && lq == Shape{frames[0], frames[2], frames[3], 3},
           "frames is " + text(frames) + ", lq " + text(lq));
    demand(call.shape(2) == Shape{2}, "size is " + text(call.shape(2)));
    const auto* size = static_cast<const std::int64_t*>(call.input(2));
    const std::int64_t rows = size[0], columns = size[1];
    demand(0 < rows && rows <= frames[2] && 0 < columns && columns <= frames[3],
           "a picture of " + std::to_string(rows) + "x" + std::to_string(columns) + " in frames of " + text(frames));
    void* pixels = call.output(0, {frames[0], rows, columns, 3});
    demand(frames[0] * 3 <= kMostBlocks, std::to_string(frames[0]) + " frames at once");
    const unsigned planes = static_cast<unsigned>(frames[0] * 3);

    const Workspace sums = workspace(std::size_t{planes} * kParts * 4 * sizeof(double));
    const std::vector<std::int32_t> sizes{int(frames[2]), int(frames[3]), int(rows), int(columns), kParts};
    const CUstream stream = call.stream();
    kernels_->launch("colour_statistics", kParts, planes, {{call.input(0), call.input(1), sums.get()}, sizes}, stream);
    kernels_->launch(kKernel, kSharesOfRows, planes / 3, {{call.input(0), sums.get(), pixels}, sizes}, stream);
  }

 private:
  static constexpr int kParts = 32, kSharesOfRows = 64;  // with 8 frames: four to six blocks a multiprocessor
  std::shared_ptr<const Fused> kernels_;
};

template <class Kind>
Node* make(const OrtApi& api, const OrtKernelInfo* info, Element element) {
  return new Kind(api, info, element);
}

bool always() { return true; }

// Without nvcc only the attention was compiled.
bool has_fused() { return is_embedded("norm_rotate"); }

bool can_make_eighths() { return is_embedded("to_float8"); }

}  // namespace

bool can_run_float8(int compute_capability) {
  return Linear::available() && can_make_eighths() &&
         is_embedded("block_sparse_attention8", embedded_architecture(compute_capability));
}

const std::vector<NodeKind>& node_kinds() {
  static const std::vector<NodeKind> kinds{
      {&spec::kBlockSparseAttention, make<AttentionNode<false>>, always},
      {&spec::kBlockSparseAttention8, make<AttentionNode<true>>, can_make_eighths},
      {&spec::kLinear, make<LinearNode<Epilogue::kBias>>, Linear::available},
      {&spec::kLinearGelu, make<LinearNode<Epilogue::kGelu>>, Linear::available},
      {&spec::kLinearAdd, make<LinearNode<Epilogue::kAdd>>, Linear::available},
      {&spec::kToFloat8, make<ToFloat8Node>, can_make_eighths},
      {&spec::kLinear8, make<LinearNode<Epilogue::kBias, true>>, Linear::available},
      {&spec::kLinearGelu8, make<LinearNode<Epilogue::kGelu, true>>, Linear::available},
      {&spec::kLinearAdd8, make<LinearNode<Epilogue::kAdd, true>>, Linear::available},
      {&spec::kNormRotate, make<NormRotateNode<false>>, has_fused},
      {&spec::kNormRotate8, make<NormRotateNode<true>>, can_make_eighths},
      {&spec::kLayerNorm, make<NormNode<kPlainNorm>>, has_fused},
      {&spec::kLayerNorm8, make<NormNode<kNorm8>>, can_make_eighths},
      {&spec::kPromptAttention, make<PromptAttentionNode>, has_fused},
      {&spec::kConvolve, make<ConvolveNode<Form::kPlain>>, can_convolve},
      {&spec::kConvolveAdd, make<ConvolveNode<Form::kAdd>>, can_convolve},
      {&spec::kConvolvePast, make<ConvolveNode<Form::kPast>>, can_convolve},
      {&spec::kConvolveUp, make<ConvolveNode<Form::kUp>>, can_convolve},
      {&spec::kConvolveUpRelu, make<ConvolveNode<Form::kUpRelu>>, can_convolve},
      {&spec::kConvolveInner8, make<ConvolveInner8Node>, can_convolve8},
      {&spec::kConvolveColours, make<ConvolveColoursNode>, has_fused},
      {&spec::kLastPlanes, make<LastPlanesNode>, has_fused},
      {&spec::kFoldFrames, make<FoldNode<false>>, has_fused},
      {&spec::kFoldPixels, make<FoldNode<true>>, has_fused},
      {&spec::kNormSilu, make<NormNode<kSiluNorm>>, has_fused},
      {&spec::kAdaptColours, make<AdaptColoursNode<kAdapt8>>, has_fused},
      {&spec::kAdaptColours16, make<AdaptColoursNode<kAdapt16>>, has_fused},
  };
  return kinds;
}

}  // namespace flashvsr
