#include "stream.hpp"

#include <chrono>

#include "flashvsr_contract.hpp"
#include "pixels.hpp"
#include "staged.hpp"

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

Stream::Stream(std::shared_ptr<const Model> model, const Options& options, std::shared_ptr<Queue> queue)
    : model_(model),
      options_(options),
      queue_(queue),
      to_canvas_(options.source, options.settings.canvas, queue->frames()),
      networks_(std::move(model), options.settings, std::move(queue)) {
  reset();
}

bool Stream::push(const flashvsr_image& image) {
  if (completes_step() && (!ready_.empty() || behind())) return false;
  const Frame lq = prepare(image);
  tags_.push_back(image.tag);
  ++pushed_;
  last_ = lq;
  broken_ = true;
  advance(lq);
  land(false);
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
  land(false);
  broken_ = false;
}

void Stream::reset() {
  networks_.reset();
  last_.reset();
  waiting_.clear();
  conditions_.clear();
  segment_.clear();
  flying_.clear();
  laps_.clear();
  ready_.clear();
  tags_.clear();
  step_ = pushed_ = pulled_ = 0;
  flushed_ = broken_ = false;
}

// Whether the frames of an earlier step than the last are still on their way: the device is kept busy with one step
// while the next one is being prepared, and no further ahead.
bool Stream::behind() const { return flying_.size() > 1; }

bool Stream::wait_for_frame() {
  if (!ready_.empty()) return true;
  if (flying_.empty()) return false;
  broken_ = true;
  land(flushed_ || behind());
  broken_ = false;
  return !ready_.empty();
}

std::int64_t Stream::give(const flashvsr_image& image) {
  Staged picture(*queue_, image);
  store(ready_.front()->data(), options_.settings.bits, picture.image());
  picture.send();
  const std::int64_t tag = tags_.front();
  ready_.pop_front();
  tags_.pop_front();
  ++pulled_;
  return tag;
}

Frame Stream::prepare(const flashvsr_image& given) {
  const Stopwatch watch(&seconds_.resize);
  Staged picture(*queue_, given);
  picture.fetch();
  const flashvsr_image& image = picture.image();
  const Canvas& canvas = options_.settings.canvas;
  const Frame lq = queue_->frame(static_cast<std::size_t>(canvas.size.height * canvas.size.width * 3));
  if (image.format == FLASHVSR_FORMAT_RGB24) {
    to_canvas_(static_cast<const std::uint8_t*>(image.plane[0]), image.stride[0], lq->data());
    return lq;
  }
  const auto row_bytes = static_cast<std::size_t>(options_.source.width * 3);
  const Frame rgb = queue_->frame(row_bytes * static_cast<std::size_t>(options_.source.height));
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
  const MarkPointer began = queue_->mark();
  const Buffer latents = networks_.denoise(step, waiting_);
  laps_.push_back({began, queue_->mark(), &seconds_.denoise});
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
  const MarkPointer began = queue_->mark();
  const auto end = conditions_.begin() + static_cast<std::ptrdiff_t>(step_output(step).count());
  std::vector<Frame> frames = networks_.decode(step, latents, {conditions_.begin(), end});
  conditions_.erase(conditions_.begin(), end);
  flying_.push_back({std::move(frames), queue_->mark()});
  laps_.push_back({began, flying_.back().mark, &seconds_.decode});
}

// Takes the frames of the steps that are finished; `wait`: of the next one in any case.
void Stream::land(bool wait) {
  while (!flying_.empty() && (wait || flying_.front().mark->passed())) {
    flying_.front().mark->wait();
    for (Frame& frame : flying_.front().frames) ready_.push_back(std::move(frame));
    flying_.pop_front();
    wait = false;
  }
  for (; !laps_.empty() && laps_.front().ended->passed(); laps_.pop_front())
    *laps_.front().sum += laps_.front().ended->seconds_since(*laps_.front().began);
  // What was made of repeated frames belongs to nobody.
  while (flushed_ && pulled_ + ready() > pushed_) ready_.pop_back();
}

}  // namespace flashvsr
