// The queue of a CPU: everything happens at once.
#pragma once

#include <chrono>

#include "queue.hpp"

namespace flashvsr {

class HostMark : public Mark {
 public:
  bool passed() const override { return true; }
  void wait() const override {}
  double seconds_since(const Mark& earlier) const override {
    return std::chrono::duration<double>(time_ - static_cast<const HostMark&>(earlier).time_).count();
  }

 private:
  std::chrono::steady_clock::time_point time_ = std::chrono::steady_clock::now();
};

class HostQueue : public Queue {
 public:
  explicit HostQueue(const std::shared_ptr<Allocator>& allocator) : Queue(allocator, allocator) {}

  bool own_thread() const override { return false; }
  void zero(const Buffer& buffer) override { std::memset(buffer.data, 0, buffer.bytes()); }
  void upload(const Frame& block, const Buffer& buffer) override { upload(block->data(), block->bytes(), buffer); }
  void upload(const void* data, std::size_t bytes, const Buffer& buffer) override {
    check_size(bytes, buffer);
    if (bytes > 0) std::memcpy(buffer.data, data, bytes);
  }
  void download(const Buffer& buffer, const Frame& block) override {
    std::memcpy(block->data(), buffer.data, block->bytes());
  }
  void copy(const Buffer& from, const Buffer& to) override { std::memcpy(to.data, from.data, from.bytes()); }
  std::shared_ptr<Mark> mark() override { return std::make_shared<HostMark>(); }
  void from_device(const Rows&, const Rows&) override { no_device(); }
  void to_device(const Frame&, const Rows&, const Rows&) override { no_device(); }

 private:
  [[noreturn]] static void no_device() {
    fail(FLASHVSR_ERROR_UNSUPPORTED, "image.memory is device memory; expected: host memory with FLASHVSR_DEVICE_CPU");
  }
};

}  // namespace flashvsr
