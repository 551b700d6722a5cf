// The step graphs of a bundle on one canvas: buffers, state, and the calls of one step in order, as runtime/networks.py.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model.hpp"
#include "queue.hpp"
#include "ring.hpp"
#include "schedule.hpp"

namespace flashvsr {

struct Settings {
  Canvas canvas;
  double sparse_ratio = 0;
  double kv_ratio = 0;
  std::uint64_t seed = 0;
  std::string colour_fix;
  int bits = 8;
  bool vae = false;  // the Wan VAE's decoder in place of the TCDecoder
};

// A step graph, loaded on first use, with its own buffers; state is swapped after each run.
class BoundGraph {
 public:
  BoundGraph(std::shared_ptr<const Model> model, const std::string& name, Symbols symbols,
             std::shared_ptr<Queue> queue);

  Buffer make(const std::string& name) const;  // a zeroed buffer shaped like the named tensor
  void allocate(const std::string& name) { buffers_[name] = make(name); }
  void allocate_state();
  void zero_state();
  const Buffer& buffer(const std::string& name) const { return buffers_.at(name); }
  const Graph& graph() const { return *graph_; }

  template <typename T>
  void upload(const std::string& name, const std::vector<T>& values) {
    queue_->upload(values.data(), values.size() * sizeof(T), buffer(name));
  }

  // Runs with the buffers named in `bound` in place of, or beside, the graph's own.
  void run(const Binding& bound);
  // Gives the weights back; the buffers and the state stay.
  void release() { loaded_.reset(); }

 private:
  Binding choose(const std::vector<Tensor>& tensors, const Binding& bound) const;

  std::shared_ptr<const Model> model_;
  const Graph* graph_;
  Symbols symbols_;
  std::shared_ptr<Queue> queue_;
  std::shared_ptr<StepGraph> loaded_;
  Binding buffers_;
};

// One stream's networks. Call `denoise`, then `decode`, for step 0, 1, 2 ...
class Networks {
 public:
  Networks(std::shared_ptr<const Model> model, const Settings& settings, std::shared_ptr<Queue> queue);

  // Forgets the stream: the next step is step 0.
  void reset();
  // What `denoise` takes, on any thread.
  std::vector<std::uint16_t> noise_of(std::int64_t step) const;
  // lq: the 25 (step 0) or 8 LQ frames of the step. Gives latents [6 or 2, 16, H/8, W/8], written again by the next call.
  Buffer denoise(std::int64_t step, const std::vector<Frame>& lq, const std::vector<std::uint16_t>& noise);
  // lq: the 21 (step 0) or 8 LQ frames of the step's own output. Gives as many frames [output height, output width, 3],
  // whole once the queue has passed a later mark.
  std::vector<Frame> decode(std::int64_t step, const Buffer& latents, const std::vector<Frame>& lq);

  void release_denoise();
  void release_decode();
  // A copy of latents for decoding later, and its way back.
  Buffer keep(const Buffer& latents) const;
  Buffer restore(const Buffer& kept) const;

 private:
  void allocate_all();
  void project(std::int64_t step, const std::vector<Frame>& lq);
  void bind_slabs(Range slots, bool cached, Binding* bound);
  void allocate_decoder();
  void decode_tc(const Buffer& latents, std::vector<Frame> lq, std::size_t dropped, std::vector<Frame>* out);
  void decode_vae(const Buffer& latents, const std::vector<Frame>& lq, bool first, std::vector<Frame>* out);
  void upload_frames(const Frame* frames, std::int64_t count, const Buffer& whole);
  void finish(const Buffer& frames, const Buffer& lq, std::vector<Frame>* out);

  std::shared_ptr<const Model> model_;
  Settings settings_;
  std::shared_ptr<Queue> queue_;
  KvRing ring_;
  Symbols symbols_;
  std::optional<BoundGraph> projector_first_, decoder_first_;
  BoundGraph projector_, dit_first_, dit_, decoder_, post_;
  Buffer tokens_, latents_, slabs_, lq_;
};

}  // namespace flashvsr
