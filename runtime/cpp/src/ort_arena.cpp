#include "ort_arena.hpp"

#include <mutex>
#include <set>
#include <string>
#include <utility>

namespace flashvsr {

namespace {

constexpr const char* WHAT = "ONNX Runtime's arena";

std::mutex mutex;

// GPUs of environments, which a process has one of for each ONNX Runtime it has loaded.
std::set<std::pair<const OrtEnv*, int>>& taken() {
  static std::set<std::pair<const OrtEnv*, int>> places;
  return places;
}

OrtHandle<OrtArenaCfg> configuration(const Ort& ort) {
  // As runtime/backends/onnxruntime_cuda.py has it: blocks as large as asked for, as the provider's own arenas have.
  constexpr const char* KEYS[] = {"max_mem", "arena_extend_strategy", "initial_chunk_size_bytes"};
  constexpr std::size_t VALUES[] = {0, 1, static_cast<std::size_t>(-1)};
  OrtArenaCfg* made = nullptr;
  ort.check(ort.api().CreateArenaCfgV2(KEYS, VALUES, std::size(KEYS), &made), WHAT);
  return {made, ort.api().ReleaseArenaCfg};
}

}  // namespace

std::unique_ptr<OrtArena> OrtArena::take(std::shared_ptr<const Ort> ort, int device) {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto [place, free] = taken().emplace(ort->environment(), device);
  if (!free) return nullptr;
  try {
    return std::unique_ptr<OrtArena>(new OrtArena(std::move(ort), device));
  } catch (...) {
    taken().erase(place);
    throw;
  }
}

OrtArena::OrtArena(std::shared_ptr<const Ort> ort, int device)
    : ort_(std::move(ort)), device_(device), memory_(nullptr, ort_->api().ReleaseMemoryInfo) {
  const OrtApi& api = ort_->api();
  OrtMemoryInfo* memory = nullptr;
  ort_->check(api.CreateMemoryInfo("Cuda", OrtArenaAllocator, device, OrtMemTypeDefault, &memory), WHAT);
  memory_.reset(memory);
  const auto arena = configuration(*ort_);
  const std::string index = std::to_string(device);
  const char *keys[] = {"device_id"}, *values[] = {index.c_str()};
  ort_->check(api.CreateAndRegisterAllocatorV2(ort_->environment(), "CUDAExecutionProvider", memory, arena.get(), keys,
                                               values, std::size(keys)),
              WHAT);
}

OrtArena::~OrtArena() {
  const std::lock_guard<std::mutex> lock(mutex);
  taken().erase({ort_->environment(), device_});
  const OrtHandle<OrtStatus> refused(ort_->api().UnregisterAllocator(ort_->environment(), memory_.get()),
                                     ort_->api().ReleaseStatus);
}

}  // namespace flashvsr
