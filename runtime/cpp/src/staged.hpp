// A picture of the caller as host memory: itself, or a copy where it lies on the device.
#pragma once

#include "flashvsr.h"
#include "pixels.hpp"
#include "queue.hpp"

namespace flashvsr {

class Staged {
 public:
  Staged(Queue& queue, const flashvsr_image& image) : queue_(queue), given_(image), image_(image) {
    if (image.memory != FLASHVSR_MEMORY_DEVICE) return;
    planes_ = planes_of(image.format, {image.height, image.width});
    std::size_t bytes = 0;
    for (const Plane& plane : planes_) bytes += plane.row_bytes * plane.rows;
    memory_ = queue.frame(bytes);
    std::uint8_t* next = memory_->data();
    for (std::size_t i = 0; i < planes_.size(); ++i) {
      image_.plane[i] = next;
      image_.stride[i] = planes_[i].row_bytes;
      next += planes_[i].row_bytes * planes_[i].rows;
    }
  }

  const flashvsr_image& image() const { return image_; }

  void fetch() {
    for (std::size_t i = 0; i < planes_.size(); ++i) queue_.from_device(rows(given_, i), rows(image_, i));
  }
  void send() {
    for (std::size_t i = 0; i < planes_.size(); ++i) queue_.to_device(memory_, rows(image_, i), rows(given_, i));
  }

 private:
  Rows rows(const flashvsr_image& image, std::size_t i) const {
    return {image.plane[i], image.stride[i], planes_[i].row_bytes, planes_[i].rows};
  }

  Queue& queue_;
  flashvsr_image given_, image_;
  std::vector<Plane> planes_;  // none: the caller's memory is host memory
  Frame memory_;
};

}  // namespace flashvsr
