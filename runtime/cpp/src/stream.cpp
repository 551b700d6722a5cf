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
      networks_(std::move(model), options.settings, queue),
      worker_(std::move(queue)) {
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
  worker_.restart();
  networks_.reset();
  last_.reset();
  waiting_.clear();
  conditions_.clear();
  segment_.clear();
  flying_.clear();
  latents_.clear();
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
  const std::int64_t step = step_++;
  worker_.post([this, step, lq = std::move(waiting_), noise = networks_.noise_of(step)] { denoise(step, lq, noise); });
  waiting_.clear();
  const auto end = conditions_.begin() + static_cast<std::ptrdiff_t>(step_output(step).count());
  segment_.push_back({step, {conditions_.begin(), end}});
  conditions_.erase(conditions_.begin(), end);
  if (!options_.tiny || static_cast<std::int64_t>(segment_.size()) == options_.segment_steps) decode_segment();
}

void Stream::decode_segment() {
  if (segment_.empty()) return;
  if (options_.tiny) worker_.post([this] { networks_.release_denoise(); });
  for (Step& step : segment_) flying_.push_back(worker_.post([this, step = std::move(step)] { return decode(step); }));
  segment_.clear();
  if (options_.tiny) worker_.post([this] { networks_.release_decode(); });
}

void Stream::denoise(std::int64_t step, const std::vector<Frame>& lq, const std::vector<std::uint16_t>& noise) {
  const MarkPointer began = queue_->mark();
  const Buffer latents = networks_.denoise(step, lq, noise);
  laps_.push_back({began, queue_->mark(), &Seconds::denoise});
  latents_.push_back(options_.tiny ? networks_.keep(latents) : latents);
}

Stream::Flight Stream::decode(const Step& step) {
  const Buffer latents = options_.tiny ? networks_.restore(latents_.front()) : latents_.front();
  const MarkPointer began = queue_->mark();
  Flight flight{networks_.decode(step.index, latents, step.lq), queue_->mark(), std::move(laps_)};
  flight.laps.push_back({began, flight.mark, &Seconds::decode});
  laps_.clear();
  latents_.pop_front();
  return flight;
}

// Takes the frames of the steps that are finished; `wait`: of the next one in any case.
void Stream::land(bool wait) {
  worker_.check();
  const auto finished = [](const std::shared_future<Flight>& flight) {
    return flight.wait_for(std::chrono::seconds(0)) == std::future_status::ready && flight.get().mark->passed();
  };
  for (; !flying_.empty() && (wait || finished(flying_.front())); wait = false) {
    land(flying_.front().get());
    flying_.pop_front();
  }
  // What was made of repeated frames belongs to nobody.
  while (flushed_ && pulled_ + ready() > pushed_) ready_.pop_back();
}

void Stream::land(const Flight& flight) {
  flight.mark->wait();
  ready_.insert(ready_.end(), flight.frames.begin(), flight.frames.end());
  for (const Lap& lap : flight.laps) seconds_.*lap.sum += lap.ended->seconds_since(*lap.began);
}

}  // namespace flashvsr
