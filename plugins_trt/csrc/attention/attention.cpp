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
constexpr int kScoresGroup = 8;   // query windows of one block of group_scores, see csrc/kernels/selection.cu
constexpr int kMaxArguments = 32;

enum Value {
  kQ, kK, kV, kKCache, kVCache, kSlabs, kTopk, kOut,
  kQMeans, kKMeans, kScores, kThresholds, kLists, kCounts, kOrder, kTicket, kFinished,
  kQWindows, kKWindows, kCached, kWin, kRows, kColumns, kDim, kLocalRange, kCount, kItems,
  kValues
};
constexpr const char* kValueNames[kValues] = {
    "q", "k", "v", "k_cache", "v_cache", "slabs", "topk", "out",
    "q_means", "k_means", "scores", "thresholds", "lists", "counts", "order", "ticket", "finished",
    "q_windows", "k_windows", "cached", "win", "rows", "columns", "dim", "local_range", "count", "items"};
constexpr int kFirstScratch = kQMeans, kScratch = kQWindows - kQMeans;

enum Kind { kPointer, kInt32, kTile };

// In launch order.
constexpr const char* kStages[] = {"window_means",   "window_scores", "group_scores",          "select_threshold",
                                   "list_kept",      "select_windows", "block_sparse_attention"};

using Values = std::array<std::uint64_t, kValues>;

int find(const char* const* names, int count, const char* name, const char* what) {
  for (int i = 0; i < count; ++i) {
    if (std::strcmp(names[i], name) == 0) return i;
  }
  throw std::runtime_error(std::string("the embedded kernels have an unknown ") + what + " " + name);
}

int kind_of(const std::string& kind) {
  if (kind == "tile") return kTile;
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
                            cached ? tensors.v_cache : tensors.v, tensors.slabs, tensors.topk, tensors.out};
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

// Tensor map of [tokens, dim] numbers. It is told no end of the tokens: the ring's length is not known here, and every
// token read is a listed one.
CUtensorMap tile_map(std::uint64_t pointer, std::uint64_t dim, Element element) {
  const Driver& driver = Driver::get();
  if (driver.tensor_map == nullptr) throw std::runtime_error("the CUDA driver is older than 12.0: install a newer one");
  CUtensorMap map;
  const auto type =
      element == Element::kFloat16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const cuuint64_t sizes[] = {dim, 0x7FFFFFFF}, strides[] = {2 * dim};
  const cuuint32_t box[] = {64, 128}, steps[] = {1, 1};
  driver.check(driver.tensor_map(&map, type, 2, reinterpret_cast<void*>(pointer), sizes, strides, box, steps,
                                 CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
               "cuTensorMapEncodeTiled");
  return map;
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

bool is_attention_stage(const char* name) {
  return std::any_of(std::begin(kStages), std::end(kStages),
                     [name](const char* stage) { return std::strcmp(stage, name) == 0; });
}

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
    Kernel kernel{find(kStages, std::size(kStages), entry.name, "kernel"), nullptr, entry.threads, entry.shared_bytes,
                  entry.scratch_pointers, entry.persistent, {}};
    for (int a = 0; a < entry.argument_count; ++a) {
      kernel.arguments.push_back(
          {find(kValueNames, kValues, entry.arguments[a].name, "argument"), kind_of(entry.arguments[a].kind)});
    }
    if (kernel.arguments.size() + kernel.scratch_pointers > kMaxArguments) {
      throw std::runtime_error("an embedded kernel has too many arguments");
    }
    kernel.function = modules_.load(entry.cubin, entry.symbol, entry.shared_bytes);
    kernels_.push_back(std::move(kernel));
  }
  std::sort(kernels_.begin(), kernels_.end(), [](const Kernel& a, const Kernel& b) { return a.stage < b.stage; });
}

void Attention::enqueue(const Problem& problem, const Tensors& tensors, void* workspace, CUstream stream) const {
  const Values values = values_of(problem, tensors, workspace);
  const Context::Current current(context_);
  for (const Kernel& kernel : kernels_) launch(kernel, values.data(), stream);
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
  launch(kernels_.back(), values.data(), stream);
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
      maps[n] = tile_map(value, values[kDim], element_);
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
               kStages[kernel.stage]);
}

}  // namespace flashvsr
