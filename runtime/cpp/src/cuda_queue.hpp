// What the queues of an NVIDIA GPU share: device memory, page-locked frames, one CUDA stream, events.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <vector>

#include "cuda.hpp"
#include "queue.hpp"

namespace flashvsr {

class CudaQueue : public Queue {
 public:
  // Frames are page-locked unless the caller allocates them: then copies may wait for the GPU.
  CudaQueue(std::shared_ptr<const cuda::Device> device, const QueueOptions& options);
  ~CudaQueue() override;

  void enter() override { device_->enter(); }
  void leave() noexcept override { device_->leave(); }
  bool own_thread() const override { return own_stream_; }
  void zero(const Buffer& buffer) override;
  using Queue::upload;
  void upload(const Frame& block, const Buffer& buffer) override;
  void download(const Buffer& buffer, const Frame& block) override;
  void copy(const Buffer& from, const Buffer& to) override;
  std::shared_ptr<Mark> mark() override;
  void from_device(const Rows& device, const Rows& host) override;
  void to_device(const Frame& block, const Rows& host, const Rows& device) override;

  const cuda::Device& device() const { return *device_; }
  cuda::Stream stream() const { return stream_; }
  // Until all work is done.
  void wait() const;

 protected:
  // A host copy of the buffer's last upload, where it was small: what decides shapes is read on the host.
  const void* mirrored(const Buffer& buffer) const;

 private:
  void copy_rows(cuda::Copy2D copy, const Rows& rows, cuda::Stream stream) const;

  std::shared_ptr<const cuda::Device> device_;
  bool own_stream_;
  cuda::Stream stream_ = nullptr, pictures_ = nullptr;  // of all work, and of the caller's pictures
  std::vector<Frame> used_;                             // by copies enqueued since the last mark
  std::deque<std::pair<std::shared_ptr<Mark>, std::vector<Frame>>> flying_;
  std::map<const std::uint8_t*, std::vector<std::uint8_t>> mirror_;
};

}  // namespace flashvsr
