#include "cuda_queue.hpp"

#include <unordered_map>

namespace flashvsr {

namespace {

using cuda::Driver;

constexpr unsigned PORTABLE = 1;      // CU_MEMHOSTALLOC_PORTABLE
constexpr unsigned NON_BLOCKING = 1;  // CU_STREAM_NON_BLOCKING
constexpr std::size_t MIRRORED = 64;  // bytes

cuda::Pointer address(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); }

void* allocate_on_device(void*, std::size_t bytes, std::size_t) {
  cuda::Pointer pointer = 0;
  Driver::get().check(Driver::get().allocate(&pointer, bytes), "no device memory");
  return reinterpret_cast<void*>(static_cast<std::uintptr_t>(pointer));
}

// Waits for work that still uses it.
void deallocate_on_device(void*, void* memory, std::size_t) { Driver::get().deallocate(address(memory)); }

// Page-locked memory, kept for the next frame of that size: allocating it takes milliseconds. One thread at a time.
class PinnedPool {
 public:
  ~PinnedPool() {
    for (const auto& [bytes, memory] : free_) Driver::get().deallocate_host(memory);
  }

  static void* allocate(void* user, std::size_t bytes, std::size_t) {
    auto& pool = *static_cast<PinnedPool*>(user);
    const auto found = pool.free_.find(bytes);
    void* memory = nullptr;
    if (found != pool.free_.end()) {
      memory = found->second;
      pool.free_.erase(found);
    } else {
      Driver::get().check(Driver::get().allocate_host(&memory, bytes, PORTABLE), "no page-locked memory");
    }
    return memory;
  }

  static void deallocate(void* user, void* memory, std::size_t bytes) {
    auto& pool = *static_cast<PinnedPool*>(user);
    pool.free_.emplace(bytes, memory);
  }

 private:
  std::unordered_multimap<std::size_t, void*> free_;
};

std::shared_ptr<Allocator> frames_allocator(const Functions& given) {
  if (given.allocate != nullptr) return std::make_shared<Allocator>(given);
  auto pool = std::make_shared<PinnedPool>();
  const Functions pinned{PinnedPool::allocate, PinnedPool::deallocate, pool.get()};
  return std::make_shared<Allocator>(pinned, pool);
}

std::shared_ptr<Allocator> tensors_allocator(const Functions& given) {
  return std::make_shared<Allocator>(
      given.allocate != nullptr ? given : Functions{allocate_on_device, deallocate_on_device, nullptr});
}

class CudaMark : public Mark {
 public:
  explicit CudaMark(cuda::Stream stream) {
    Driver::get().check(Driver::get().event_create(&event_, 0), "an event");
    Driver::get().check(Driver::get().event_record(event_, stream), "an event");
  }
  ~CudaMark() override { Driver::get().event_destroy(event_); }

  bool passed() const override { return Driver::get().event_query(event_) == 0; }
  void wait() const override { Driver::get().check(Driver::get().event_wait(event_), "work on the GPU failed"); }
  double seconds_since(const Mark& earlier) const override {
    float milliseconds = 0;
    const auto& from = static_cast<const CudaMark&>(earlier);
    Driver::get().check(Driver::get().event_milliseconds(&milliseconds, from.event_, event_), "the time of an event");
    return milliseconds / 1000.0;
  }

 private:
  cuda::Event event_ = nullptr;
};

}  // namespace

CudaQueue::CudaQueue(std::shared_ptr<const cuda::Device> device, const QueueOptions& options)
    : Queue(frames_allocator(options.frames), tensors_allocator(options.tensors)),
      device_(std::move(device)),
      own_stream_(options.cuda_stream == nullptr),
      stream_(options.cuda_stream),
      pictures_(options.cuda_stream) {
  if (!own_stream_) return;
  device_->enter();
  const int made = Driver::get().stream_create(&stream_, NON_BLOCKING);
  const int other = made == 0 ? Driver::get().stream_create(&pictures_, NON_BLOCKING) : made;
  if (made == 0 && other != 0) Driver::get().stream_destroy(stream_);
  device_->leave();
  Driver::get().check(other, "a CUDA stream");
}

CudaQueue::~CudaQueue() {
  const bool entered = device_->try_enter();  // false once the driver has shut down
  Driver::get().stream_wait(stream_);
  flying_.clear();
  used_.clear();
  if (own_stream_) {
    Driver::get().stream_destroy(stream_);
    Driver::get().stream_destroy(pictures_);
  }
  frames_ = tensors_ = nullptr;  // while the context is current
  if (entered) device_->leave();
}

void CudaQueue::zero(const Buffer& buffer) {
  Driver::get().check(Driver::get().set(address(buffer.data), 0, buffer.bytes(), stream_), "zeroing failed");
}

void CudaQueue::upload(const Frame& block, const Buffer& buffer) {
  check_size(block->bytes(), buffer);
  Driver::get().check(Driver::get().to_device(address(buffer.data), block->data(), block->bytes(), stream_),
                      "a copy to the GPU failed");
  used_.push_back(block);
  if (block->bytes() <= MIRRORED) mirror_[buffer.data].assign(block->data(), block->data() + block->bytes());
}

void CudaQueue::download(const Buffer& buffer, const Frame& block) {
  Driver::get().check(Driver::get().to_host(block->data(), address(buffer.data), block->bytes(), stream_),
                      "a copy from the GPU failed");
  used_.push_back(block);
}

void CudaQueue::copy(const Buffer& from, const Buffer& to) {
  Driver::get().check(Driver::get().in_device(address(to.data), address(from.data), from.bytes(), stream_),
                      "a copy on the GPU failed");
}

std::shared_ptr<Mark> CudaQueue::mark() {
  while (!flying_.empty() && flying_.front().first->passed()) flying_.pop_front();
  auto made = std::make_shared<CudaMark>(stream_);
  if (!used_.empty()) flying_.emplace_back(made, std::move(used_));
  used_.clear();
  return made;
}

void CudaQueue::from_device(const Rows& device, const Rows& host) {
  cuda::Copy2D copy{};
  copy.source_kind = cuda::DEVICE_MEMORY;
  copy.source_device = address(device.data);
  copy.source_pitch = device.stride;
  copy.target_kind = cuda::HOST_MEMORY;
  copy.target_host = host.data;
  copy.target_pitch = host.stride;
  copy_rows(copy, host, pictures_);
  Driver::get().check(Driver::get().stream_wait(pictures_), "work on the GPU failed");
}

void CudaQueue::to_device(const Frame& block, const Rows& host, const Rows& device) {
  cuda::Copy2D copy{};
  copy.source_kind = cuda::HOST_MEMORY;
  copy.source_host = host.data;
  copy.source_pitch = host.stride;
  copy.target_kind = cuda::DEVICE_MEMORY;
  copy.target_device = address(device.data);
  copy.target_pitch = device.stride;
  copy_rows(copy, host, pictures_);
  if (own_stream_)
    Driver::get().check(Driver::get().stream_wait(pictures_), "work on the GPU failed");
  else
    used_.push_back(block);
}

void CudaQueue::copy_rows(cuda::Copy2D copy, const Rows& rows, cuda::Stream stream) const {
  copy.width_bytes = rows.bytes;
  copy.height = rows.count;
  Driver::get().check(Driver::get().copy_2d(&copy, stream), "a picture cannot be copied; is it device memory?");
}

void CudaQueue::wait() const { Driver::get().check(Driver::get().stream_wait(stream_), "work on the GPU failed"); }

const void* CudaQueue::mirrored(const Buffer& buffer) const {
  const auto found = mirror_.find(buffer.data);
  if (found == mirror_.end() || found->second.size() != buffer.bytes())
    fail(FLASHVSR_ERROR_INTERNAL, "a tensor that decides shapes was never uploaded");
  return found->second.data();
}

}  // namespace flashvsr
