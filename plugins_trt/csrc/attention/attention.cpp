#include "attention.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <stdexcept>
#include <string>
#include <utility>

#include "embedded.hpp"
#include "spec.hpp"

namespace flashvsr {

namespace {

constexpr std::size_t kAlign = 256;
constexpr int kMeansBlock = 128;  // channels of one block of window_means
constexpr int kScoresGroup = 4;   // query windows of one block of group_scores, see csrc/kernels/selection.cu
constexpr int kMaxArguments = 32;

enum Value {
  kQ, kK, kV, kKCache, kVCache, kSlabs, kTopk, kOut, kScales,
  kQMeans, kKMeans, kScores, kThresholds, kLists, kCounts, kOrder, kTicket, kFinished,
  kQWindows, kKWindows, kCached, kWin, kRows, kColumns, kDim, kLocalRange, kCount, kItems,
  kValues
};
constexpr const char* kValueNames[kValues] = {
    "q", "k", "v", "k_cache", "v_cache", "slabs", "topk", "out", "scales",
    "q_means", "k_means", "scores", "thresholds", "lists", "counts", "order", "ticket", "finished",
    "q_windows", "k_windows", "cached", "win", "rows", "columns", "dim", "local_range", "count", "items"};
constexpr int kFirstScratch = kQMeans, kScratch = kQWindows - kQMeans;

// The last three are tensor maps, see plugins_trt/kernels/catalogue.py.
enum Kind { kPointer, kInt32, kTile, kTile8, kTurned8 };
constexpr const char* kMapNames[] = {"tile", "tile8", "turned8"};

// In launch order.
constexpr const char* kStages[] = {"window_means",   "window_scores", "group_scores",          "select_threshold",
                                   "list_kept",      "select_windows", "block_sparse_attention"};
// The same of BlockSparseAttention8.
constexpr const char* kStages8[] = {"window_means8",  "window_scores", "group_scores",           "select_threshold",
                                    "list_kept",      "select_windows", "block_sparse_attention8"};

using Values = std::array<std::uint64_t, kValues>;

template <std::size_t kNames>
int place(const char* const (&names)[kNames], const char* name) {
  const auto found = std::find_if(names, names + kNames, [=](const char* one) { return std::strcmp(one, name) == 0; });
  return found == names + kNames ? -1 : static_cast<int>(found - names);
}

int value_of(const char* name) {
  const int found = place(kValueNames, name);
  if (found >= 0) return found;
  throw std::runtime_error(std::string("the embedded kernels have an unknown argument ") + name);
}

int kind_of(const std::string& kind) {
  if (const int map = place(kMapNames, kind.c_str()); map >= 0) return kTile + map;
  if (kind == "i32") return kInt32;
  if (kind[0] == '*') return kPointer;
  throw std::runtime_error("the embedded kernels have an unknown kind of argument " + kind);
}

// Sizes of the intermediates, in the order of Value.
std::array<std::size_t, kScratch> scratch_sizes(const Problem& problem) {
  const std::size_t heads = problem.heads, q_windows = problem.q_windows(), k_windows = problem.k_windows();
  const std::size_t pairs = heads * q_windows * k_windows, items = problem.items(), dim = problem.dim();
  return {4 * q_windows * dim, 4 * k_windows * dim, 4 * pairs, 4 * heads * problem.slabs, 4 * pairs,
          4 * items,           4 * items,           4,         4};
}

std::size_t aligned(std::size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

Values values_of(const Problem& problem, const Tensors& tensors, void* workspace) {
  Values values{};
  const bool cached = problem.cached_slabs > 0;  // an empty ring may have no address, and a tensor map needs one
  const void* pointers[] = {tensors.q,    tensors.k,    tensors.v,  cached ? tensors.k_cache : tensors.k,
                            cached ? tensors.v_cache : tensors.v, tensors.slabs, tensors.topk, tensors.out, tensors.scales};
  for (int i = 0; i < kFirstScratch; ++i) values[i] = reinterpret_cast<std::uint64_t>(pointers[i]);
  std::uint64_t at = reinterpret_cast<std::uint64_t>(workspace);
  const auto sizes = scratch_sizes(problem);
  for (int i = 0; i < kScratch; ++i) {
    values[kFirstScratch + i] = at;
    at += aligned(sizes[i]);
  }
  const int numbers[] = {problem.q_windows(), problem.k_windows(), problem.cached_slabs * problem.win(), problem.win(),
                         problem.rows,        problem.columns,     problem.dim(), problem.local_range,
                         problem.win() * problem.k_windows(),      problem.items()};
  for (int i = kQWindows; i < kValues; ++i) values[i] = static_cast<std::uint64_t>(numbers[i - kQWindows]);
  return values;
}

using Grid = std::array<unsigned, 2>;

Grid grid_of(int stage, const Values& values) {
  const unsigned q_windows = values[kQWindows], k_windows = values[kKWindows], dim = values[kDim];
  const unsigned heads = dim / spec::kHeadDim, groups = values[kItems] / values[kWin];  // (head, query slab) pairs
  switch (stage) {
    case 0: return {q_windows + k_windows, dim / kMeansBlock};
    case 1: return {q_windows, heads};
    case 2: return {(q_windows + kScoresGroup - 1) / kScoresGroup, heads};
    case 3: return {groups, 1};
    case 4: return {q_windows, heads};
    case 5: return {groups, 1};
    default: return {heads, q_windows};
  }
}

// It is told no end of the rows: the ring's length is not known here, and every row read is a listed one.
// Not returned: GCC does not align a temporary as such a map must be.
void set_map(CUtensorMap& map, std::uint64_t pointer, int kind, std::uint64_t dim, Element element) {
  constexpr std::uint64_t kRowBytes = 128;
  const Driver& driver = Driver::get();
  if (driver.tensor_map == nullptr) throw std::runtime_error("the CUDA driver is older than 12.0: install a newer one");
  const auto type = kind != kTile                  ? CU_TENSOR_MAP_DATA_TYPE_UINT8
                    : element == Element::kFloat16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                                   : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const std::uint64_t item = kind == kTile ? 2 : 1, columns = kind == kTurned8 ? kRowBytes : dim;
  const cuuint64_t sizes[] = {columns, 0x7FFFFFFF}, strides[] = {item * columns};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(kRowBytes / item), 128}, steps[] = {1, 1};
  driver.check(driver.tensor_map(&map, type, 2, reinterpret_cast<void*>(pointer), sizes, strides, box, steps,
                                 CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
               "cuTensorMapEncodeTiled");
}

}  // namespace

// The same major version, the highest minor that is not above.
int embedded_architecture(int capability) {
  int best = 0;
  for (int i = 0; i < kEmbeddedKernelCount; ++i) {
    const int architecture = kEmbeddedKernels[i].architecture;
    if (architecture / 10 == capability / 10 && architecture <= capability) best = std::max(best, architecture);
  }
  return best;
}

bool is_attention_stage(const char* name) { return place(kStages, name) >= 0 || place(kStages8, name) >= 0; }

int Problem::dim() const { return heads * spec::kHeadDim; }

std::size_t workspace_bytes(const Problem& problem) {
  std::size_t end = 0;
  for (std::size_t size : scratch_sizes(problem)) end += aligned(size);
  return end;
}

bool can_serve(int compute_capability) { return embedded_architecture(compute_capability) != 0; }

Attention::Attention(int device, Element element) : context_(device), element_(element), modules_(context_) {
  multiprocessors_ = context_.attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
  const Context::Current current(context_);
  load();
}

void Attention::load() {
  const int capability = context_.compute_capability(), architecture = embedded_architecture(capability);
  if (architecture == 0) {
    throw std::runtime_error("no embedded kernel fits a GPU of compute capability " + std::to_string(capability / 10) +
                             "." + std::to_string(capability % 10));
  }
  const char* element = element_ == Element::kFloat16 ? "float16" : "bfloat16";
  for (int i = 0; i < kEmbeddedKernelCount; ++i) {
    const EmbeddedKernel& entry = kEmbeddedKernels[i];
    const bool typed = std::strcmp(entry.element, "float32") != 0;
    if (entry.architecture != architecture || (typed && std::strcmp(entry.element, element) != 0)) continue;
    if (!is_attention_stage(entry.name)) continue;
    const int halves = place(kStages, entry.name), eighths = place(kStages8, entry.name);
    Kernel kernel{entry.name, std::max(halves, eighths), halves >= 0, eighths >= 0, nullptr, entry.threads, entry.shared_bytes,
                  entry.scratch_pointers, entry.persistent, {}};
    for (int a = 0; a < entry.argument_count; ++a) {
      kernel.arguments.push_back({value_of(entry.arguments[a].name), kind_of(entry.arguments[a].kind)});
    }
    if (kernel.arguments.size() + kernel.scratch_pointers > kMaxArguments) {
      throw std::runtime_error("an embedded kernel has too many arguments");
    }
    kernel.function = modules_.load(entry.cubin, entry.symbol, entry.shared_bytes);
    kernels_.push_back(std::move(kernel));
  }
  std::sort(kernels_.begin(), kernels_.end(), [](const Kernel& a, const Kernel& b) { return a.stage < b.stage; });
}

const Attention::Kernel& Attention::last(bool Kernel::*type) const {
  const auto found = std::find_if(kernels_.begin(), kernels_.end(), [=](const Kernel& kernel) {
    return kernel.stage == static_cast<int>(std::size(kStages)) - 1 && kernel.*type;
  });
  if (found == kernels_.end()) throw std::runtime_error("no embedded attention of that type fits this GPU");
  return *found;
}

void Attention::enqueue(const Problem& problem, const Tensors& tensors, void* workspace, CUstream stream) const {
  const auto type = tensors.scales == nullptr ? &Kernel::halves : &Kernel::eighths;
  last(type);
  const Values values = values_of(problem, tensors, workspace);
  const Context::Current current(context_);
  for (const Kernel& kernel : kernels_) {
    if (kernel.*type) launch(kernel, values.data(), stream);
  }
}

void Attention::enqueue_whole(const Whole& sizes, const WholeTensors& tensors, CUstream stream) const {
  Values values{};
  const std::pair<int, const void*> pointers[] = {
      {kQ, tensors.q},         {kK, tensors.k},           {kV, tensors.v},         {kKCache, tensors.k},
      {kVCache, tensors.v},    {kOut, tensors.out},       {kLists, tensors.lists}, {kCounts, tensors.counts},
      {kOrder, tensors.order}, {kTicket, tensors.ticket},
  };
  for (const auto& [value, pointer] : pointers) values[value] = reinterpret_cast<std::uint64_t>(pointer);
  const std::pair<int, int> numbers[] = {{kQWindows, sizes.q_windows}, {kKWindows, sizes.k_windows},
                                         {kWin, sizes.k_windows},      {kDim, sizes.heads * spec::kHeadDim},
                                         {kItems, sizes.items()}};
  for (const auto& [value, number] : numbers) values[value] = static_cast<std::uint64_t>(number);
  const Context::Current current(context_);
  launch(last(&Kernel::halves), values.data(), stream);
}

void Attention::launch(const Kernel& kernel, const std::uint64_t* given, CUstream stream) const {
  Values values;
  std::copy(given, given + kValues, values.begin());
  std::array<CUtensorMap, kMaxArguments> maps;
  std::array<std::int32_t, kMaxArguments> integers;
  std::array<void*, kMaxArguments> parameters;
  std::uint64_t nothing = 0;
  int n = 0;
  for (const Argument& argument : kernel.arguments) {
    std::uint64_t& value = values[argument.value];
    if (argument.kind == kPointer) {
      parameters[n] = &value;
    } else if (argument.kind == kInt32) {
      integers[n] = static_cast<std::int32_t>(value);
      parameters[n] = &integers[n];
    } else {
      set_map(maps[n], value, argument.kind, values[kDim], element_);
      parameters[n] = &maps[n];
    }
    ++n;
  }
  for (int i = 0; i < kernel.scratch_pointers; ++i) parameters[n++] = &nothing;
  Grid grid = grid_of(kernel.stage, values);
  if (kernel.persistent) grid = {std::min(grid[0] * grid[1], static_cast<unsigned>(multiprocessors_)), 1};
  const Driver& driver = Driver::get();
  driver.check(driver.launch(kernel.function, grid[0], grid[1], 1, kernel.threads, 1, 1, kernel.shared_bytes, stream,
                             parameters.data(), nullptr),
               kernel.name);
}

}  // namespace flashvsr
