// Frames in, upscaled frames out, exactly as many, in constant memory: runtime/upscaler.py.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "canvas.hpp"
#include "flashvsr.h"
#include "networks.hpp"
#include "worker.hpp"

namespace flashvsr {

struct Options {
  Size source;
  Settings settings;
  bool tiny = false;
  std::int64_t segment_steps = 8;
};

// On the host and, of denoise and decode, on the device.
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
  struct Lap {
    MarkPointer began, ended;
    double Seconds::*sum;
  };
  // The frames of a step, whole when the queue has passed the mark.
  struct Flight {
    std::vector<Frame> frames;
    MarkPointer mark;
    std::vector<Lap> laps;  // of this step, and of what was done before it
  };
  // A step that is denoised or about to be, and not decoded.
  struct Step {
    std::int64_t index;
    std::vector<Frame> lq;  // of its output
  };

  Frame prepare(const flashvsr_image& image);
  bool completes_step() const;
  bool behind() const;
  void advance(const Frame& lq);
  void decode_segment();
  void land(bool wait);
  void land(const Flight& flight);
  // By the worker, for step 0, 1, 2 ...
  void denoise(std::int64_t step, const std::vector<Frame>& lq, const std::vector<std::uint16_t>& noise);
  Flight decode(const Step& step);

  std::shared_ptr<const Model> model_;
  Options options_;
  std::shared_ptr<Queue> queue_;
  CanvasMaker to_canvas_;
  Networks networks_;
  Frame last_;
  std::vector<Frame> waiting_;    // LQ frames that the next step reads
  std::deque<Frame> conditions_;  // LQ frames whose output is still owed
  std::vector<Step> segment_;     // variant tiny: some; else one at most
  std::deque<std::shared_future<Flight>> flying_;
  std::deque<Frame> ready_;
  std::deque<std::int64_t> tags_;  // of the frames pushed and not yet pulled
  std::int64_t step_ = 0, pushed_ = 0, pulled_ = 0;
  bool flushed_ = false;
  bool broken_ = false;  // a step failed half way: the state is that of no step
  Seconds seconds_;
  // The worker's own, as the networks are while it works.
  std::deque<Buffer> latents_;  // of steps that are not decoded
  std::vector<Lap> laps_;
  Worker worker_;  // ends first
};

}  // namespace flashvsr
