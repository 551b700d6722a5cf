#include "ort_pool.hpp"

#include <memory>
#include <mutex>
#include <stdexcept>
#include <utility>

#include "ort_node.hpp"

namespace flashvsr {

namespace {

constexpr uint32_t kReserves = 18;  // the API from which on an allocator may tell weights from the rest

struct Shared : OrtAllocator {
  Pool pool;
  OrtMemoryInfo* place = nullptr;
  const OrtApi* sharer = nullptr;  // the ONNX Runtime whose sessions have it now

  explicit Shared(int device) : OrtAllocator{}, pool(device) {
    version = kReserves;
    Alloc = [](OrtAllocator* self, size_t bytes) { return own(self).pool.take(bytes); };
    Reserve = [](OrtAllocator* self, size_t bytes) { return own(self).pool.keep(bytes); };
    Free = [](OrtAllocator* self, void* memory) {
      try {
        own(self).pool.give(memory);
      } catch (const std::exception&) {  // the driver is gone with the process; ONNX Runtime frees in destructors
      }
    };
    Info = [](const OrtAllocator* self) -> const OrtMemoryInfo* { return static_cast<const Shared*>(self)->place; };
  }
  static Shared& own(OrtAllocator* self) { return *static_cast<Shared*>(self); }
};

std::mutex mutex;

// Never destroyed: ONNX Runtime's environment may outlive what is static here.
std::map<int, Shared*>& all() {
  static auto* const made = new std::map<int, Shared*>;
  return *made;
}

// Null before it is made. The mutex is held.
Shared* find(int device) {
  const auto found = all().find(device);
  return found == all().end() ? nullptr : found->second;
}

// The process has one environment for each ONNX Runtime it has loaded; more are references to it.
template <class Work>
void with_environment(const OrtApi& api, Work&& work) {
  OrtEnv* environment = nullptr;
  check(api, api.CreateEnv(ORT_LOGGING_LEVEL_FATAL, "flashvsr", &environment));
  const std::unique_ptr<OrtEnv, decltype(api.ReleaseEnv)> held(environment, api.ReleaseEnv);
  work(environment);
}

}  // namespace

void share_pool(const OrtApi& api, int device) {
  const std::lock_guard<std::mutex> lock(mutex);
  Shared* shared = find(device);
  if (shared == nullptr) {
    auto made = std::make_unique<Shared>(device);
    check(api, api.CreateMemoryInfo("Cuda", OrtDeviceAllocator, device, OrtMemTypeDefault, &made->place));
    shared = all()[device] = made.release();
  }
  if (shared->sharer != nullptr) throw std::runtime_error("somebody else's sessions have the pool of that GPU");
  with_environment(api, [&](OrtEnv* environment) { check(api, api.RegisterAllocator(environment, shared)); });
  shared->sharer = &api;
}

void unshare_pool(int device) {
  const std::lock_guard<std::mutex> lock(mutex);
  Shared* const shared = find(device);
  if (shared == nullptr || shared->sharer == nullptr) return;
  const OrtApi& api = *std::exchange(shared->sharer, nullptr);
  with_environment(api, [&](OrtEnv* environment) { check(api, api.UnregisterAllocator(environment, shared->place)); });
}

Pool* pool_of(int device) {
  const std::lock_guard<std::mutex> lock(mutex);
  Shared* const shared = find(device);
  return shared == nullptr ? nullptr : &shared->pool;
}

}  // namespace flashvsr
