// Memory of one stream, counted: from the caller's functions where some were given.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <utility>

#include "flashvsr.h"

namespace flashvsr {

struct Functions {
  flashvsr_allocate allocate = nullptr;
  flashvsr_deallocate deallocate = nullptr;
  void* user = nullptr;
};

// May be shared by threads; the functions are called by one at a time.
class Allocator {
 public:
  // Without functions: the C++ heap. `owner` lives as long as the allocator.
  explicit Allocator(Functions functions = {}, std::shared_ptr<void> owner = nullptr)
      : functions_(functions), owner_(std::move(owner)) {}

  // Throws std::bad_alloc where the function gives NULL.
  void* allocate(std::size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    void* memory = functions_.allocate != nullptr ? functions_.allocate(functions_.user, bytes, ALIGNMENT)
                                                  : ::operator new(bytes, std::align_val_t{ALIGNMENT});
    if (memory == nullptr) throw std::bad_alloc();
    const std::uint64_t held = held_.fetch_add(bytes) + bytes;
    if (held > peak_.load()) peak_.store(held);
    return memory;
  }

  void deallocate(void* memory, std::size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (functions_.deallocate != nullptr)
      functions_.deallocate(functions_.user, memory, bytes);
    else
      ::operator delete(memory, std::align_val_t{ALIGNMENT});
    held_.fetch_sub(bytes);
  }

  std::uint64_t held() const { return held_.load(); }
  std::uint64_t peak() const { return peak_.load(); }

 private:
  static constexpr std::size_t ALIGNMENT = 256;  // what cudaMalloc gives, and TensorRT wants

  Functions functions_;
  std::shared_ptr<void> owner_;
  std::mutex mutex_;
  std::atomic<std::uint64_t> held_{0};
  std::atomic<std::uint64_t> peak_{0};
};

// A piece of memory and its owner.
class Block {
 public:
  Block(std::shared_ptr<Allocator> allocator, std::size_t bytes)
      : allocator_(std::move(allocator)), bytes_(bytes), data_(allocator_->allocate(bytes > 0 ? bytes : 1)) {}
  ~Block() { allocator_->deallocate(data_, bytes_ > 0 ? bytes_ : 1); }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  std::uint8_t* data() const { return static_cast<std::uint8_t*>(data_); }
  std::size_t bytes() const { return bytes_; }

 private:
  std::shared_ptr<Allocator> allocator_;
  std::size_t bytes_;
  void* data_;
};

inline std::shared_ptr<Block> make_block(const std::shared_ptr<Allocator>& allocator, std::size_t bytes) {
  return std::make_shared<Block>(allocator, bytes);
}

}  // namespace flashvsr
