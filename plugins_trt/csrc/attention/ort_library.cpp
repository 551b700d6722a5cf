// Custom-op library for ONNX Runtime: BlockSparseAttention on the CUDA execution provider, in float16 and bfloat16.
// Plain C API, version 18 and later. A session that registers it without that provider, or with tensors of another
// type, fails to load ("no implementation"): register it only where it can serve.

#include <onnxruntime_c_api.h>

#include <algorithm>
#include <climits>
#include <exception>
#include <iterator>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "attention.hpp"
#include "spec.hpp"

namespace {

using flashvsr::Attention;
using flashvsr::Element;

constexpr uint32_t kApiVersion = 18;  // the first with all that is called here
static_assert(ORT_API_VERSION >= kApiVersion, "onnxruntime_c_api.h is older than 1.18");

void check(const OrtApi& api, OrtStatus* status) {
  if (status == nullptr) return;
  const std::string text = api.GetErrorMessage(status);
  api.ReleaseStatus(status);
  throw std::runtime_error(text);
}

// Runs `work` and turns what it throws into a status.
template <class Work>
OrtStatus* guarded(const OrtApi& api, Work&& work) noexcept {
  try {
    work();
    return nullptr;
  } catch (const std::exception& error) {
    return api.CreateStatus(ORT_FAIL, (std::string(flashvsr::spec::kAttention) + ": " + error.what()).c_str());
  }
}

// One node.
class Node {
 public:
  Node(const OrtApi& api, const OrtKernelInfo* info, Element element) : api_(api) {
    check(api, api.KernelInfoGetAttribute_int64(info, "heads", &heads_));
    check(api, api.KernelInfoGetAttribute_int64(info, "local_range", &local_range_));
    if (heads_ < 1 || local_range_ < 1) throw std::runtime_error("heads and local_range must be above 0");
    check(api, api.KernelInfoGetAllocator(info, OrtMemTypeDefault, &allocator_));
    try {
      const OrtMemoryInfo* memory = nullptr;
      int device = 0;
      check(api, api.AllocatorGetInfo(allocator_, &memory));
      check(api, api.MemoryInfoGetId(memory, &device));
      attention_ = Attention::shared(device, element);
    } catch (...) {
      api.ReleaseAllocator(allocator_);
      throw;
    }
  }
  ~Node() { api_.ReleaseAllocator(allocator_); }
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  const OrtApi& api() const { return api_; }

  void compute(OrtKernelContext* context) const {
    const auto q = shape(context, 0), ring = shape(context, 3), slabs = shape(context, 5);
    if (q.size() != 5 || q[3] != flashvsr::spec::kTokensPerWindow || q[4] != heads_ * flashvsr::spec::kHeadDim) {
      throw std::runtime_error("q is " + text(q) + ", expected [slabs, rows, columns, " +
                               std::to_string(flashvsr::spec::kTokensPerWindow) + ", " +
                               std::to_string(heads_ * flashvsr::spec::kHeadDim) + "]");
    }
    if (shape(context, 1) != q || shape(context, 2) != q) throw std::runtime_error("k and v must be shaped like q");
    if (slabs.size() != 1 || ring.size() != 5 || ring != shape(context, 4) || slabs[0] > ring[0] ||
        !std::equal(q.begin() + 1, q.end(), ring.begin() + 1)) {
      throw std::runtime_error("k_cache is " + text(ring) + " with " + text(slabs) + " slabs listed, q is " + text(q));
    }
    const flashvsr::Problem problem{int(q[0]), int(slabs[0]), int(q[1]), int(q[2]), int(heads_), int(local_range_)};
    OrtValue* out = nullptr;
    check(api_, api_.KernelContext_GetOutput(context, 0, q.data(), q.size(), &out));
    const flashvsr::Tensors tensors{input(context, 0), input(context, 1), input(context, 2), input(context, 3),
                                    input(context, 4), input(context, 5), input(context, 6), data(out)};
    void* stream = nullptr;
    check(api_, api_.KernelContext_GetGPUComputeStream(context, &stream));
    // Given back at once: whoever gets this memory next works behind these kernels on the same stream.
    const std::unique_ptr<void, Release> workspace(allocator_->Alloc(allocator_, flashvsr::workspace_bytes(problem)),
                                                   Release{allocator_});
    if (workspace == nullptr) {
      throw std::runtime_error("out of memory: " + std::to_string(flashvsr::workspace_bytes(problem)) +
                               " bytes of workspace");
    }
    attention_->enqueue(problem, tensors, workspace.get(), static_cast<CUstream>(stream));
  }

 private:
  struct Release {
    OrtAllocator* allocator;
    void operator()(void* memory) const { allocator->Free(allocator, memory); }
  };

  const OrtValue* value(OrtKernelContext* context, size_t index) const {
    const OrtValue* found = nullptr;
    check(api_, api_.KernelContext_GetInput(context, index, &found));
    if (found == nullptr) throw std::runtime_error(std::string(flashvsr::spec::kInputs[index]) + " is missing");
    return found;
  }

  void* data(const OrtValue* tensor) const {
    void* pointer = nullptr;
    check(api_, api_.GetTensorMutableData(const_cast<OrtValue*>(tensor), &pointer));
    return pointer;
  }

  const void* input(OrtKernelContext* context, size_t index) const { return data(value(context, index)); }

  std::vector<int64_t> shape(OrtKernelContext* context, size_t index) const {
    OrtTensorTypeAndShapeInfo* info = nullptr;
    check(api_, api_.GetTensorTypeAndShape(value(context, index), &info));
    size_t rank = 0;
    OrtStatus* status = api_.GetDimensionsCount(info, &rank);
    std::vector<int64_t> sizes(rank);
    if (status == nullptr) status = api_.GetDimensions(info, sizes.data(), rank);
    api_.ReleaseTensorTypeAndShapeInfo(info);
    check(api_, status);
    return sizes;
  }

  static std::string text(const std::vector<int64_t>& shape) {
    std::string out;
    for (int64_t size : shape) out += (out.empty() ? "[" : ", ") + std::to_string(size);
    return out.empty() ? "[]" : out + "]";
  }

  const OrtApi& api_;
  OrtAllocator* allocator_ = nullptr;
  int64_t heads_ = 0, local_range_ = 0;
  std::shared_ptr<const Attention> attention_;
};

// The op in one element type.
struct Op : OrtCustomOp {
  Element element;

  explicit Op(Element chosen) : OrtCustomOp{}, element(chosen) {
    version = kApiVersion;
    GetName = [](const OrtCustomOp*) { return flashvsr::spec::kAttention; };
    GetExecutionProviderType = [](const OrtCustomOp*) { return "CUDAExecutionProvider"; };
    GetInputTypeCount = [](const OrtCustomOp*) { return std::size(flashvsr::spec::kInputs); };
    GetInputType = [](const OrtCustomOp* op, size_t index) {
      return flashvsr::spec::kInputIsInt64[index] ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 : tensor_type(op);
    };
    GetOutputTypeCount = [](const OrtCustomOp*) { return size_t{1}; };
    GetOutputType = [](const OrtCustomOp* op, size_t) { return tensor_type(op); };
    GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
    GetStartVersion = [](const OrtCustomOp*) { return flashvsr::spec::kOpset; };
    GetEndVersion = [](const OrtCustomOp*) { return INT_MAX; };
    CreateKernelV2 = [](const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
      return guarded(*api, [&] { *kernel = new Node(*api, info, static_cast<const Op*>(op)->element); });
    };
    KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
      const Node& node = *static_cast<Node*>(kernel);
      return guarded(node.api(), [&] { node.compute(context); });
    };
    KernelDestroy = [](void* kernel) { delete static_cast<Node*>(kernel); };
  }

  static ONNXTensorElementDataType tensor_type(const OrtCustomOp* op) {
    return static_cast<const Op*>(op)->element == Element::kFloat16 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16
                                                                    : ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
  }
};

// Sessions keep pointers into the domain, so it lives as long as the library.
OrtCustomOpDomain* domain(const OrtApi& api) {
  static const Op half(Element::kFloat16), brain(Element::kBFloat16);
  static std::mutex mutex;
  static OrtCustomOpDomain* made = nullptr;
  const std::lock_guard<std::mutex> lock(mutex);
  if (made == nullptr) {
    OrtCustomOpDomain* fresh = nullptr;
    check(api, api.CreateCustomOpDomain(flashvsr::spec::kDomain, &fresh));
    check(api, api.CustomOpDomain_Add(fresh, &half));
    check(api, api.CustomOpDomain_Add(fresh, &brain));
    made = fresh;
  }
  return made;
}

}  // namespace

#define FLASHVSR_EXPORT extern "C" __attribute__((visibility("default")))

FLASHVSR_EXPORT OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(kApiVersion);
  if (api == nullptr) {
    return base->GetApi(1)->CreateStatus(ORT_FAIL, "flashvsr's custom ops need ONNX Runtime 1.18 or later");
  }
  return guarded(*api, [&] { check(*api, api->AddCustomOpDomain(options, domain(*api))); });
}

// 1 if the kernels inside run on a GPU of this compute capability (e.g. 90), else 0.
FLASHVSR_EXPORT int flashvsr_can_serve(int compute_capability) { return flashvsr::can_serve(compute_capability); }

// Version of the op's meaning that the library was built for, plugins_trt/spec.py: ABI.
FLASHVSR_EXPORT int flashvsr_op_abi() { return flashvsr::spec::kAbi; }
