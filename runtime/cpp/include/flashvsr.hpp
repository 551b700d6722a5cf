// flashvsr.h for C++17: handles that close themselves, failures as exceptions. Header only; thread rules and ownership
// are those of flashvsr.h.
//
//     flashvsr::Model model("bundle");
//     auto options = flashvsr::Stream::defaults();
//     options.width = 320, options.height = 180;
//     flashvsr::Stream stream(model, options);
//     stream.push(in);                 // false: pull first, then push this frame again
//     while (stream.pull(out)) ...     // false: nothing is ready; stream.ended() after flush()
#ifndef FLASHVSR_HPP
#define FLASHVSR_HPP

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

#include "flashvsr.h"

namespace flashvsr {

class Failure : public std::runtime_error {
 public:
  explicit Failure(flashvsr_status status)
      : std::runtime_error(std::string(flashvsr_status_name(status)) + ": " + flashvsr_last_error()), status_(status) {}
  flashvsr_status status() const noexcept { return status_; }

 private:
  flashvsr_status status_;
};

// Gives back what is no failure: FLASHVSR_OK, _AGAIN or _END.
inline flashvsr_status check(flashvsr_status status) {
  if (status < 0) throw Failure(status);
  return status;
}

// A packed RGB24 (bits = 8) or RGB48 (16) picture in the caller's memory.
inline flashvsr_image rgb_image(const void* pixels, std::int32_t width, std::int32_t height, int bits = 8) {
  flashvsr_image image{};
  image.struct_size = sizeof image;
  image.format = bits == 8 ? FLASHVSR_FORMAT_RGB24 : FLASHVSR_FORMAT_RGB48;
  image.width = width;
  image.height = height;
  image.plane[0] = const_cast<void*>(pixels);
  image.stride[0] = static_cast<std::size_t>(width) * 3 * static_cast<std::size_t>(bits / 8);
  return image;
}

class Model {
 public:
  static flashvsr_model_options defaults() {
    flashvsr_model_options options;
    check(flashvsr_model_options_defaults(&options, sizeof options));
    return options;
  }

  explicit Model(const std::string& folder, const flashvsr_model_options& options = defaults()) {
    flashvsr_model* model = nullptr;
    check(flashvsr_model_open(folder.c_str(), &options, &model));
    handle_.reset(model);
  }

  flashvsr_model_info info() const {
    flashvsr_model_info info{};
    info.struct_size = sizeof info;
    check(flashvsr_model_get_info(handle_.get(), &info));
    return info;
  }

  flashvsr_model* get() const noexcept { return handle_.get(); }

 private:
  struct Close {
    void operator()(flashvsr_model* model) const noexcept { flashvsr_model_close(model); }
  };
  std::unique_ptr<flashvsr_model, Close> handle_;
};

class Stream {
 public:
  static flashvsr_stream_options defaults() {
    flashvsr_stream_options options;
    check(flashvsr_stream_options_defaults(&options, sizeof options));
    return options;
  }

  Stream(const Model& model, const flashvsr_stream_options& options) {
    flashvsr_stream* stream = nullptr;
    check(flashvsr_stream_open(model.get(), &options, &stream));
    handle_.reset(stream);
  }

  flashvsr_stream_info info() const {
    flashvsr_stream_info info{};
    info.struct_size = sizeof info;
    check(flashvsr_stream_get_info(handle_.get(), &info));
    return info;
  }

  flashvsr_stats stats() const {
    flashvsr_stats stats{};
    stats.struct_size = sizeof stats;
    check(flashvsr_stream_get_stats(handle_.get(), &stats));
    return stats;
  }

  // False: frames are ready; pull them, then push this one again.
  bool push(const flashvsr_image& image) { return check(flashvsr_stream_push(handle_.get(), &image)) == FLASHVSR_OK; }

  // False: no frame is ready now, or, when ended(), ever.
  bool pull(flashvsr_image& image) {
    const flashvsr_status status = check(flashvsr_stream_pull(handle_.get(), &image));
    ended_ = status == FLASHVSR_END;
    return status == FLASHVSR_OK;
  }

  void flush() { check(flashvsr_stream_flush(handle_.get())); }

  void reset() {
    check(flashvsr_stream_reset(handle_.get()));
    ended_ = false;
  }

  bool ended() const noexcept { return ended_; }
  flashvsr_stream* get() const noexcept { return handle_.get(); }

 private:
  struct Close {
    void operator()(flashvsr_stream* stream) const noexcept { flashvsr_stream_close(stream); }
  };
  std::unique_ptr<flashvsr_stream, Close> handle_;
  bool ended_ = false;
};

}  // namespace flashvsr

#endif
