#include "stream.hpp"

#include <chrono>

#include "flashvsr_contract.hpp"
#include "pixels.hpp"

namespace flashvsr {

namespace {

class Stopwatch {
 public:
  explicit Stopwatch(double* sum) : sum_(sum) {}
  ~Stopwatch() { *sum_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count(); }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  double* sum_;
  std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
};

}  // namespace

Stream::Stream(std::shared_ptr<const Model> model, const Options& options, std::shared_ptr<Allocator> allocator)
    : model_(model),
      options_(options),
      allocator_(allocator),
      to_canvas_(options.source, options.settings.canvas, allocator),
      networks_(std::move(model), options.settings, allocator) {
  reset();
}

bool Stream::push(const flashvsr_image& image) {
  if (completes_step() && !ready_.empty()) return false;
  const Frame lq = prepare(image);
  tags_.push_back(image.tag);
  ++pushed_;
  last_ = lq;
  broken_ = true;
  advance(lq);
  broken_ = false;
  return true;
}

void Stream::flush() {
  flushed_ = true;
  if (pushed_ == 0) return;
  broken_ = true;
  const std::int64_t padded = padded_frames(pushed_);
  for (std::int64_t i = pushed_; i < padded; ++i) advance(last_);
  decode_segment();
  // What was made of repeated frames belongs to nobody.
  while (pulled_ + ready() > pushed_) ready_.pop_back();
  broken_ = false;
}

void Stream::reset() {
  networks_.reset();
  last_.reset();
  waiting_.clear();
  conditions_.clear();
  segment_.clear();
  ready_.clear();
  tags_.clear();
  step_ = pushed_ = pulled_ = 0;
  flushed_ = broken_ = false;
}

void Stream::pop() {
  ready_.pop_front();
  tags_.pop_front();
  ++pulled_;
}

Frame Stream::prepare(const flashvsr_image& image) {
  const Stopwatch watch(&seconds_.resize);
  const Canvas& canvas = options_.settings.canvas;
  const Frame lq = make_block(allocator_, static_cast<std::size_t>(canvas.size.height * canvas.size.width * 3));
  if (image.format == FLASHVSR_FORMAT_RGB24) {
    to_canvas_(static_cast<const std::uint8_t*>(image.plane[0]), image.stride[0], lq->data());
    return lq;
  }
  const auto row_bytes = static_cast<std::size_t>(options_.source.width * 3);
  const Frame rgb = make_block(allocator_, row_bytes * static_cast<std::size_t>(options_.source.height));
  yuv_to_rgb(image, rgb->data());
  to_canvas_(rgb->data(), row_bytes, lq->data());
  return lq;
}

bool Stream::completes_step() const {
  return static_cast<std::int64_t>(waiting_.size()) + 1 == step_input(step_).count();
}

void Stream::advance(const Frame& lq) {
  const bool complete = completes_step();
  waiting_.push_back(lq);
  conditions_.push_back(lq);
  if (!complete) return;
  const std::int64_t step = step_;
  Buffer latents;
  {
    const Stopwatch watch(&seconds_.denoise);
    latents = networks_.denoise(step, waiting_);
  }
  waiting_.clear();
  ++step_;
  if (!options_.tiny) return decode(step, latents);
  segment_.emplace_back(step, networks_.keep(latents));
  if (static_cast<std::int64_t>(segment_.size()) == options_.segment_steps) decode_segment();
}

void Stream::decode_segment() {
  if (segment_.empty()) return;
  networks_.release_denoise();
  for (const auto& [step, latents] : segment_) decode(step, networks_.restore(latents));
  segment_.clear();
  networks_.release_decode();
}

void Stream::decode(std::int64_t step, const Buffer& latents) {
  const Stopwatch watch(&seconds_.decode);
  const auto end = conditions_.begin() + static_cast<std::ptrdiff_t>(step_output(step).count());
  for (Frame& frame : networks_.decode(step, latents, {conditions_.begin(), end})) ready_.push_back(std::move(frame));
  conditions_.erase(conditions_.begin(), end);
}

}  // namespace flashvsr
