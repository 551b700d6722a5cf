// Frames in, upscaled frames out, exactly as many, in constant memory: runtime/upscaler.py.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "canvas.hpp"
#include "flashvsr.h"
#include "networks.hpp"

namespace flashvsr {

struct Options {
  Size source;
  Settings settings;
  bool tiny = false;
  std::int64_t segment_steps = 8;
};

struct Seconds {
  double resize = 0, denoise = 0, decode = 0;
};

// One thread at a time, between enter and leave of the queue.
class Stream {
 public:
  Stream(std::shared_ptr<const Model> model, const Options& options, std::shared_ptr<Queue> queue);

  const Options& options() const { return options_; }

  // False: a step is due while frames wait; nothing was taken.
  bool push(const flashvsr_image& image);
  void flush();
  void reset();

  // Whether there is a frame to give; waits for one where the device works and no other is to come before it.
  bool wait_for_frame();
  // Writes the next frame and gives its tag.
  std::int64_t give(const flashvsr_image& image);
  bool flushed() const { return flushed_; }
  bool broken() const { return broken_; }

  std::int64_t pushed() const { return pushed_; }
  std::int64_t pulled() const { return pulled_; }
  std::int64_t ready() const { return static_cast<std::int64_t>(ready_.size()); }
  std::int64_t steps() const { return step_; }
  const Seconds& seconds() const { return seconds_; }

 private:
  using MarkPointer = std::shared_ptr<Mark>;
  // The frames of a step, whole when the queue has passed the mark.
  struct Flight {
    std::vector<Frame> frames;
    MarkPointer mark;
  };
  struct Lap {
    MarkPointer began, ended;
    double* sum;
  };

  Frame prepare(const flashvsr_image& image);
  bool completes_step() const;
  bool behind() const;
  void advance(const Frame& lq);
  void decode(std::int64_t step, const Buffer& latents);
  void decode_segment();
  void land(bool wait);

  std::shared_ptr<const Model> model_;
  Options options_;
  std::shared_ptr<Queue> queue_;
  CanvasMaker to_canvas_;
  Networks networks_;
  Frame last_;
  std::vector<Frame> waiting_;                            // LQ frames that the next step reads
  std::deque<Frame> conditions_;                          // LQ frames whose output is still owed
  std::vector<std::pair<std::int64_t, Buffer>> segment_;  // steps to be decoded, variant tiny
  std::deque<Flight> flying_;
  std::deque<Lap> laps_;
  std::deque<Frame> ready_;
  std::deque<std::int64_t> tags_;  // of the frames pushed and not yet pulled
  std::int64_t step_ = 0, pushed_ = 0, pulled_ = 0;
  bool flushed_ = false;
  bool broken_ = false;  // a step failed half way: the state is that of no step
  Seconds seconds_;
};

}  // namespace flashvsr
