#include "ort_memory.hpp"

#include <mutex>
#include <set>
#include <string>
#include <utility>

#include "library.hpp"

namespace flashvsr {

namespace {

constexpr const char* WHAT = "ONNX Runtime's memory of the GPU";

std::mutex mutex;

// GPUs of environments, which a process has one of for each ONNX Runtime it has loaded.
std::set<std::pair<const OrtEnv*, int>>& taken() {
  static std::set<std::pair<const OrtEnv*, int>> places;
  return places;
}

OrtHandle<OrtArenaCfg> configuration(const Ort& ort) {
  // As runtime/backends/ort_memory.py has it: blocks as large as asked for, as the provider's own arenas have.
  constexpr const char* KEYS[] = {"max_mem", "arena_extend_strategy", "initial_chunk_size_bytes"};
  constexpr std::size_t VALUES[] = {0, 1, static_cast<std::size_t>(-1)};
  OrtArenaCfg* made = nullptr;
  ort.check(ort.api().CreateArenaCfgV2(KEYS, VALUES, std::size(KEYS), &made), WHAT);
  return {made, ort.api().ReleaseArenaCfg};
}

// A library's functions for sessions know the ONNX Runtime that registered them last.
void introduce(const Ort& ort, const std::string& library) {
  OrtSessionOptions* made = nullptr;
  ort.check(ort.api().CreateSessionOptions(&made), WHAT);
  const OrtHandle<OrtSessionOptions> options(made, ort.api().ReleaseSessionOptions);
  ort.check(ort.api().RegisterCustomOpsLibrary_V2(made, library.c_str()), library);
}

}  // namespace

std::unique_ptr<OrtMemory> OrtMemory::take(std::shared_ptr<const Ort> ort, int device, const std::string& library,
                                           const Say& say) {
  {
    const std::lock_guard<std::mutex> lock(mutex);
    if (!taken().emplace(ort->environment(), device).second) return nullptr;
  }
  std::unique_ptr<OrtMemory> made(new OrtMemory(std::move(ort), device));  // ends what is taken, also where this throws
  std::string why;
  try {
    if (!library.empty() && made->share_pool(library, why)) return made;
  } catch (const Error& error) {
    why = error.what();
  }
  if (!why.empty()) say(FLASHVSR_LOG_INFO, library + " shares no memory (" + why + "): more is taken");
  made->share_arena();
  return made;
}

OrtMemory::OrtMemory(std::shared_ptr<const Ort> ort, int device)
    : ort_(std::move(ort)), device_(device), arena_(nullptr, ort_->api().ReleaseMemoryInfo) {}

bool OrtMemory::share_pool(const std::string& path, std::string& why) {
  const char* (*share)(int) = nullptr;
  const Library library = op_library(path);
  if (!library.find("flashvsr_share_pool", share)) {
    why = "it is older than that";
    return false;
  }
  introduce(*ort_, path);
  if (const char* failed = share(device_)) {
    why = failed;
    return false;
  }
  library.bind("flashvsr_unshare_pool", unshare_);
  library.bind("flashvsr_pool_shortage", shortage_);
  library.bind("flashvsr_pool_trim", trim_);
  return true;
}

void OrtMemory::share_arena() {
  const OrtApi& api = ort_->api();
  OrtMemoryInfo* memory = nullptr;
  ort_->check(api.CreateMemoryInfo("Cuda", OrtArenaAllocator, device_, OrtMemTypeDefault, &memory), WHAT);
  arena_.reset(memory);
  const auto arena = configuration(*ort_);
  const std::string index = std::to_string(device_);
  const char *keys[] = {"device_id"}, *values[] = {index.c_str()};
  ort_->check(api.CreateAndRegisterAllocatorV2(ort_->environment(), "CUDAExecutionProvider", memory, arena.get(), keys,
                                               values, std::size(keys)),
              WHAT);
}

OrtMemory::~OrtMemory() {
  const std::lock_guard<std::mutex> lock(mutex);
  taken().erase({ort_->environment(), device_});
  if (unshare_ != nullptr) {
    unshare_(device_);
    trim();
  }
  if (arena_ == nullptr) return;
  const OrtHandle<OrtStatus> refused(ort_->api().UnregisterAllocator(ort_->environment(), arena_.get()),
                                     ort_->api().ReleaseStatus);
}

void OrtMemory::trim() const {
  if (trim_ != nullptr) trim_(device_);
}

void OrtMemory::check() const {
  const std::size_t lacked = shortage_ != nullptr ? shortage_(device_) : 0;
  if (lacked > 0)
    fail(FLASHVSR_ERROR_MEMORY, "out of memory: " + std::to_string(lacked) + " bytes more than the GPU has free");
}

}  // namespace flashvsr
