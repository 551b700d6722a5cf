#include "cublaslt.hpp"

#include <dlfcn.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace flashvsr {

namespace {

// cublasLt.h is in no package that the rest needs: its types are opaque, and these are its numbers.
constexpr int kFloat32 = 0, kFloat16 = 2, kBFloat16 = 14, kFloat8 = 28;  // cudaDataType; the last E4M3
constexpr int kComputeFloat32 = 68;                        // cublasComputeType_t
enum Attribute {
  kTransposeA = 3, kEpilogue = 7, kBiasPointer = 8, kScaleA = 17, kScaleB = 18, kScaleD = 20, kFastSums = 25, kBiasType = 26
};
constexpr int kTransposed = 1;  // cublasOperation_t
constexpr int kEpilogueBias = 4, kEpilogueGeluBias = 36;
constexpr int kNotSupported = 15;  // cublasStatus_t
constexpr int kMaxWorkspace = 1;  // cublasLtMatmulPreferenceAttributes_t
constexpr std::int64_t kAlign8 = 16;  // of the sizes of matrices in 8 bits

struct Heuristic {  // cublasLtMatmulHeuristicResult_t
  std::uint64_t algorithm[8];
  std::size_t workspace;
  int status;
  float waves;
  int reserved[4];
};

struct Library {
  int (*create)(void**);
  int (*operation_create)(void**, int compute, int scale);
  int (*operation_set)(void*, int, const void*, std::size_t);
  int (*operation_destroy)(void*);
  int (*layout_create)(void**, int type, std::uint64_t rows, std::uint64_t columns, std::int64_t leading);
  int (*layout_destroy)(void*);
  int (*preference_create)(void**);
  int (*preference_set)(void*, int, const void*, std::size_t);
  int (*preference_destroy)(void*);
  int (*heuristic)(void*, void*, void*, void*, void*, void*, void*, int, Heuristic*, int*);
  int (*matmul)(void*, void*, const void*, const void*, void*, const void*, void*, const void*, const void*, void*,
                void*, void*, const std::uint64_t*, void*, std::size_t, CUstream);
  bool whole = false;
};

template <class Function>
bool bind(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

Library load() {
  Library found{};
  void* library = nullptr;
  // First the one that is there already: two versions side by side would each take memory for themselves.
  for (int mode : {RTLD_NOW | RTLD_NOLOAD, RTLD_NOW}) {
    for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12"}) {
      if (library == nullptr) library = dlopen(name, mode);
    }
  }
  found.whole = library != nullptr && bind(library, "cublasLtCreate", found.create) &&
                bind(library, "cublasLtMatmulDescCreate", found.operation_create) &&
                bind(library, "cublasLtMatmulDescSetAttribute", found.operation_set) &&
                bind(library, "cublasLtMatmulDescDestroy", found.operation_destroy) &&
                bind(library, "cublasLtMatrixLayoutCreate", found.layout_create) &&
                bind(library, "cublasLtMatrixLayoutDestroy", found.layout_destroy) &&
                bind(library, "cublasLtMatmulPreferenceCreate", found.preference_create) &&
                bind(library, "cublasLtMatmulPreferenceSetAttribute", found.preference_set) &&
                bind(library, "cublasLtMatmulPreferenceDestroy", found.preference_destroy) &&
                bind(library, "cublasLtMatmulAlgoGetHeuristic", found.heuristic) &&
                bind(library, "cublasLtMatmul", found.matmul);
  return found;
}

const Library& library() {
  static const Library loaded = load();
  return loaded;
}

void check(int status, const char* what) {
  if (status != 0) throw std::runtime_error(std::string(what) + " failed with status " + std::to_string(status));
}

// A handle belongs to a device: one for all layers there, kept to the end of the process.
void* handle_of(int device) {
  static std::mutex mutex;
  static std::map<int, void*> handles;
  const std::lock_guard<std::mutex> lock(mutex);
  void*& handle = handles[device];
  if (handle == nullptr) {
    const Context context(device);
    const Context::Current current(context);
    check(library().create(&handle), "cublasLtCreate");
  }
  return handle;
}

int type_of(Element element) { return element == Element::kFloat16 ? kFloat16 : kBFloat16; }

}  // namespace

bool Linear::available() { return library().whole; }

Linear::Linear(int device, Element element, Epilogue epilogue, bool float8)
    : element_(element), epilogue_(epilogue), float8_(float8), handle_(handle_of(device)) {
  if (!float8) return;
  const int capability = Context(device).compute_capability();
  if (capability < kFirstWithFloat8) {
    throw std::runtime_error("this GPU (sm" + std::to_string(capability) + ") multiplies no FP8; expected sm" +
                             std::to_string(kFirstWithFloat8) + " or later; what to do: take a bundle of fp16");
  }
}

Linear::~Linear() {
  for (auto& [rows, plan] : plans_) destroy(plan);
}

void Linear::destroy(Plan& plan) {
  if (plan.operation != nullptr) library().operation_destroy(plan.operation);
  for (void* layout : {plan.weight, plan.x, plan.residual, plan.out}) {
    if (layout != nullptr) library().layout_destroy(layout);
  }
}

// Column by column, as cuBLAS sees it: out^T [columns, rows] = weight [columns, inner] x^T [inner, rows].
void Linear::make(Plan& plan, const Product& product) const {
  const Library& lt = library();
  const int type = type_of(element_), factor = float8_ ? kFloat8 : type;
  const int epilogue = epilogue_ == Epilogue::kGelu ? kEpilogueGeluBias : kEpilogueBias;
  if (float8_ && (product.inner % kAlign8 != 0 || product.columns % kAlign8 != 0)) {
    throw std::runtime_error("a weight of " + std::to_string(product.columns) + " x " + std::to_string(product.inner) +
                             " in FP8; expected multiples of " + std::to_string(kAlign8) +
                             "; what to do: calibrate the bundle again");
  }
  check(lt.operation_create(&plan.operation, kComputeFloat32, kFloat32), "cublasLtMatmulDescCreate");
  check(lt.operation_set(plan.operation, kTransposeA, &kTransposed, sizeof(kTransposed)), "transposition");
  check(lt.operation_set(plan.operation, kEpilogue, &epilogue, sizeof(epilogue)), "epilogue");
  check(lt.operation_set(plan.operation, kBiasPointer, &product.bias, sizeof(product.bias)), "bias");
  check(lt.operation_set(plan.operation, kBiasType, &type, sizeof(type)), "the bias's type");
  if (float8_) {
    const std::int8_t fast = 1;  // sums in the matrix units' own width: 3 % of the DiT's time for 7e-4 of a result
    check(lt.operation_set(plan.operation, kFastSums, &fast, sizeof(fast)), "fast sums");
  }
  check(lt.layout_create(&plan.weight, factor, product.inner, product.columns, product.inner), "layout of the weight");
  check(lt.layout_create(&plan.x, factor, product.inner, product.rows, product.inner), "layout of x");
  if (float8_ && epilogue_ == Epilogue::kGelu) choose(plan, product, kFloat8);
  if (!plan.found) choose(plan, product, type);
  if (!plan.found) {
    throw std::runtime_error("cuBLASLt has no kernel for a product of " + std::to_string(product.rows) + " x " +
                             std::to_string(product.inner) + " and " + std::to_string(product.columns) +
                             " columns; what to do: install a newer cuBLAS");
  }
}

// Looks for a kernel whose result is of that type.
void Linear::choose(Plan& plan, const Product& product, int result) const {
  const Library& lt = library();
  plan.rounds = float8_ && epilogue_ == Epilogue::kGelu && result != kFloat8;
  if (float8_) set_scales(plan, product);
  for (void** layout : {&plan.residual, &plan.out}) {
    if (*layout != nullptr) lt.layout_destroy(std::exchange(*layout, nullptr));
    const int type = layout == &plan.out ? result : type_of(element_);
    check(lt.layout_create(layout, type, product.columns, product.rows, product.columns), "layout of the result");
  }
  void* preference = nullptr;
  check(lt.preference_create(&preference), "cublasLtMatmulPreferenceCreate");
  const std::size_t workspace = kWorkspace;
  Heuristic best{};
  int count = 0;
  int status = lt.preference_set(preference, kMaxWorkspace, &workspace, sizeof(workspace));
  if (status == 0) {
    status = lt.heuristic(handle_, plan.operation, plan.weight, plan.x, plan.residual, plan.out, preference, 1, &best,
                          &count);
  }
  lt.preference_destroy(preference);
  if (status == kNotSupported) return;
  check(status, "cublasLtMatmulAlgoGetHeuristic");
  plan.found = count > 0 && best.status == 0;
  for (int i = 0; i < 8; ++i) plan.algorithm.data[i] = best.algorithm[i];
}

// A is the weight, B is x.
void Linear::set_scales(const Plan& plan, const Product& product) const {
  const float *of_x = product.scales, *of_weight = product.scales + 4;
  check(library().operation_set(plan.operation, kScaleA, &of_weight, sizeof(of_weight)), "the weight's scale");
  check(library().operation_set(plan.operation, kScaleB, &of_x, sizeof(of_x)), "the scale of x");
  if (epilogue_ != Epilogue::kGelu) return;
  const float* of_out = plan.rounds ? nullptr : product.scales + 8;
  check(library().operation_set(plan.operation, kScaleD, &of_out, sizeof(of_out)), "the result's scale");
}

Linear::Plan& Linear::plan(const Product& product) {
  const auto found = plans_.find(product.rows);
  if (found != plans_.end()) return found->second;
  Plan& made = plans_[product.rows];
  try {
    make(made, product);
  } catch (...) {
    destroy(made);
    plans_.erase(product.rows);
    throw;
  }
  return made;
}

bool Linear::leaves_rounding(const Product& product) {
  const std::lock_guard<std::mutex> lock(mutex_);
  return plan(product).rounds;
}

void Linear::enqueue(const Product& product, void* workspace, CUstream stream) {
  const Library& lt = library();
  const std::lock_guard<std::mutex> lock(mutex_);
  const Plan& plan = this->plan(product);
  check(lt.operation_set(plan.operation, kBiasPointer, &product.bias, sizeof(product.bias)), "bias");
  if (float8_) set_scales(plan, product);
  const bool adds = epilogue_ == Epilogue::kAdd;
  const float one = 1.0f, share = adds ? 1.0f : 0.0f;
  // Without a residual C is not read; but it may not be the result's memory under another type.
  check(lt.matmul(handle_, plan.operation, &one, product.weight, plan.weight, product.x, plan.x, &share,
                  adds ? product.residual : nullptr, plan.residual, product.out, plan.out, plan.algorithm.data,
                  workspace, kWorkspace, stream),
        "cublasLtMatmul");
}

}  // namespace flashvsr
