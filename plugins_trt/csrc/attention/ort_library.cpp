// Custom-op library for ONNX Runtime: the ops of plugins_trt/spec.py on the CUDA execution provider, in float16 and
// bfloat16. Plain C API, version 18 and later. A session that registers it without that provider, or with tensors of
// another type, fails to load ("no implementation"): register it only where it can serve.

#include <onnxruntime_c_api.h>

#include <atomic>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <list>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "ort_node.hpp"
#include "ort_nodes.hpp"
#include "ort_pool.hpp"
#include "spec.hpp"

namespace {

using flashvsr::check;
using flashvsr::Element;
using flashvsr::Node;

constexpr uint32_t kApiVersion = 18;  // the first with all that is called here
static_assert(ORT_API_VERSION >= kApiVersion, "onnxruntime_c_api.h is older than 1.18");

// Ops that are left to their function bodies, by name with commas between: to compare, and to find a fault.
constexpr const char* kWithout = "FLASHVSR_TRT_WITHOUT";

// The ONNX Runtime that registered the ops last.
std::atomic<const OrtApi*> registered{nullptr};

// Returns what went wrong with `work`, null if nothing, for as long as the thread calls no other.
template <class Work>
const char* told(Work&& work) noexcept {
  thread_local std::string text;
  try {
    work();
    return nullptr;
  } catch (const std::exception& error) {
    text = error.what();
    return text.c_str();
  }
}

// Runs `work` and turns what it throws into a status.
template <class Work>
OrtStatus* guarded(const OrtApi& api, const char* name, Work&& work) noexcept {
  try {
    work();
    return nullptr;
  } catch (const std::exception& error) {
    return api.CreateStatus(ORT_FAIL, (std::string(name) + ": " + error.what()).c_str());
  }
}

struct Named {
  const char* name;
  Node* node;
};

// One op in one element type.
struct Op : OrtCustomOp {
  const flashvsr::spec::Op& spec;
  flashvsr::MakeNode* make;
  Element element;

  Op(const flashvsr::NodeKind& kind, Element chosen)
      : OrtCustomOp{}, spec(*kind.spec), make(kind.make), element(chosen) {
    version = kApiVersion;
    GetName = [](const OrtCustomOp* op) { return own(op).spec.name; };
    GetExecutionProviderType = [](const OrtCustomOp*) { return "CUDAExecutionProvider"; };
    GetInputTypeCount = [](const OrtCustomOp* op) { return std::strlen(own(op).spec.inputs); };
    GetInputType = [](const OrtCustomOp* op, size_t index) { return own(op).type(own(op).spec.inputs[index]); };
    GetOutputTypeCount = [](const OrtCustomOp* op) { return std::strlen(own(op).spec.outputs); };
    GetOutputType = [](const OrtCustomOp* op, size_t index) { return own(op).type(own(op).spec.outputs[index]); };
    GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    GetInputMemoryType = [](const OrtCustomOp* op, size_t index) {
      return own(op).spec.inputs[index] == 'h' ? OrtMemTypeCPUInput : OrtMemTypeDefault;
    };
    GetStartVersion = [](const OrtCustomOp*) { return flashvsr::spec::kOpset; };
    GetEndVersion = [](const OrtCustomOp*) { return INT_MAX; };
    CreateKernelV2 = [](const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
      return guarded(*api, own(op).spec.name,
                     [&] { *kernel = new Named{own(op).spec.name, own(op).make(*api, info, own(op).element)}; });
    };
    KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
      const Named& named = *static_cast<Named*>(kernel);
      const OrtApi& api = named.node->api();
      return guarded(api, named.name, [&] { named.node->compute(flashvsr::Call(api, context)); });
    };
    KernelDestroy = [](void* kernel) {
      delete static_cast<Named*>(kernel)->node;
      delete static_cast<Named*>(kernel);
    };
  }

  static const Op& own(const OrtCustomOp* op) { return *static_cast<const Op*>(op); }

  ONNXTensorElementDataType type(char letter) const {
    switch (letter) {  // of plugins_trt/kernels/library.py
      case 'i':
      case 'h':
        return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
      case 'f':
        return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
      case 'e':
        return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FN;
      case 'b':
        return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
      case 'w':
        return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16;
      default:
        return element == Element::kFloat16 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16
                                            : ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
    }
  }
};

bool is_left_out(const char* name) {
  const char* named = std::getenv(kWithout);
  return named != nullptr && ("," + std::string(named) + ",").find("," + std::string(name) + ",") != std::string::npos;
}

// The ops that can be run now, which another GPU's sessions may have others of. Sessions keep pointers into a domain, so
// it lives as long as the library.
OrtCustomOpDomain* domain(const OrtApi& api) {
  using Kinds = std::vector<const flashvsr::NodeKind*>;
  static std::list<Op> ops;
  static std::mutex mutex;
  static std::map<Kinds, OrtCustomOpDomain*> domains;
  const std::lock_guard<std::mutex> lock(mutex);
  Kinds offered;
  for (const flashvsr::NodeKind& kind : flashvsr::node_kinds()) {
    if (kind.available() && !is_left_out(kind.spec->name)) offered.push_back(&kind);
  }
  OrtCustomOpDomain*& made = domains[offered];
  if (made == nullptr) {
    OrtCustomOpDomain* fresh = nullptr;
    check(api, api.CreateCustomOpDomain(flashvsr::spec::kDomain, &fresh));
    for (const flashvsr::NodeKind* kind : offered) {
      for (Element element : {Element::kFloat16, Element::kBFloat16}) {
        check(api, api.CustomOpDomain_Add(fresh, &ops.emplace_back(*kind, element)));
      }
    }
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
  registered = api;
  return guarded(*api, "flashvsr", [&] { check(*api, api->AddCustomOpDomain(options, domain(*api))); });
}

// 1 if the kernels inside run on a GPU of this compute capability (e.g. 90), else 0.
FLASHVSR_EXPORT int flashvsr_can_serve(int compute_capability) { return flashvsr::can_serve(compute_capability); }

// 1 if a GPU of this compute capability has the ops of FP8 bundles here, else 0. The name's number grows with the ops: a
// library of before knows another name, and is refused instead of running the new ones by their bodies.
FLASHVSR_EXPORT int flashvsr_runs_float8_2(int compute_capability) {
  return flashvsr::can_run_float8(compute_capability);
}

// Version of the ops' meaning that the library was built for, plugins_trt/spec.py: ABI.
FLASHVSR_EXPORT int flashvsr_op_abi() { return flashvsr::spec::kAbi; }

// Sessions that ask for the environment's allocators work in that device's pool, until `flashvsr_unshare_pool`. Graphs
// that use it must run on one stream, in turn. Both return null, or what went wrong.
FLASHVSR_EXPORT const char* flashvsr_share_pool(int device) {
  return told([&] {
    if (registered == nullptr) throw std::runtime_error("no session options have registered the ops yet");
    flashvsr::share_pool(*registered.load(), device);
  });
}
FLASHVSR_EXPORT const char* flashvsr_unshare_pool(int device) {
  return told([&] { flashvsr::unshare_pool(device); });
}

// Bytes that the device lacked since the last call, for which host memory was taken instead: slow, but right.
FLASHVSR_EXPORT std::size_t flashvsr_pool_shortage(int device) {
  flashvsr::Pool* const pool = flashvsr::pool_of(device);
  return pool == nullptr ? 0 : pool->shortage();
}

// Gives the device what the pool does not use behind what it does. The stream must have been waited for.
FLASHVSR_EXPORT void flashvsr_pool_trim(int device) {
  if (flashvsr::Pool* const pool = flashvsr::pool_of(device)) pool->trim();
}

// Device memory that the pool has, in bytes.
FLASHVSR_EXPORT std::size_t flashvsr_pool_bytes(int device) {
  const flashvsr::Pool* const pool = flashvsr::pool_of(device);
  return pool == nullptr ? 0 : pool->mapped();
}
