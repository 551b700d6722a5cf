#include "networks.hpp"

#include <utility>

#include "flashvsr_contract.hpp"
#include "noise.hpp"

namespace flashvsr {

using namespace contract;

namespace {

Symbols make_symbols(const Canvas& canvas, std::int64_t ring_slots) {
  return {{"H", canvas.size.height}, {"W", canvas.size.width},        {"T", STEP_FRAMES},
          {"ring", ring_slots},      {"height", canvas.output.height}, {"width", canvas.output.width}};
}

std::string post_name(const Settings& settings) {
  return graph::post_prefix + settings.colour_fix + std::to_string(settings.bits);
}

}  // namespace

BoundGraph::BoundGraph(std::shared_ptr<const Model> model, const std::string& name, Symbols symbols,
                       std::shared_ptr<Queue> queue)
    : model_(std::move(model)),
      graph_(&model_->manifest.graph(name)),
      symbols_(std::move(symbols)),
      queue_(std::move(queue)) {
  model_->backend->require(name);
}

Buffer BoundGraph::make(const std::string& name) const {
  const Tensor& tensor = graph_->tensor(name);
  return queue_->allocate(evaluate(tensor.shape, symbols_), tensor.dtype);
}

void BoundGraph::allocate_state() {
  for (const auto& [after, before] : graph_->state) {
    allocate(after);
    allocate(before);
  }
}

void BoundGraph::zero_state() {
  for (const auto& pair : graph_->state) queue_->zero(buffer(pair.second));
}

void BoundGraph::run(const Binding& bound) {
  if (loaded_ == nullptr) {
    model_->say(FLASHVSR_LOG_INFO, "loading " + graph_->name);
    loaded_ = queue_->load(model_->graph_path(graph_->name), *graph_, symbols_);
  }
  loaded_->run(choose(graph_->inputs, bound), choose(graph_->outputs, bound));
  for (const auto& [after, before] : graph_->state) std::swap(buffers_[after], buffers_[before]);
}

Binding BoundGraph::choose(const std::vector<Tensor>& tensors, const Binding& bound) const {
  Binding chosen;
  for (const Tensor& tensor : tensors) {
    auto found = bound.find(tensor.name);
    if (found == bound.end()) {
      found = buffers_.find(tensor.name);
      if (found == buffers_.end()) bad_bundle("graph " + graph_->name + " has an unknown tensor " + tensor.name);
    }
    chosen.insert(*found);
  }
  return chosen;
}

Networks::Networks(std::shared_ptr<const Model> model, const Settings& settings, std::shared_ptr<Queue> queue)
    : model_(std::move(model)),
      settings_(settings),
      queue_(std::move(queue)),
      ring_(settings.kv_ratio),
      symbols_(make_symbols(settings.canvas, ring_.slots())),
      projector_(model_, graph::lq_proj, symbols_, queue_),
      dit_first_(model_, graph::dit_first, symbols_, queue_),
      dit_(model_, graph::dit, symbols_, queue_),
      decoder_(model_, settings.vae ? graph::vae_decoder : graph::tc_decoder, symbols_, queue_),
      post_(model_, post_name(settings), symbols_, queue_) {
  if (model_->manifest.causal) projector_first_.emplace(model_, graph::lq_proj_first, symbols_, queue_);
  if (settings.vae) decoder_first_.emplace(model_, graph::vae_decoder_first, symbols_, queue_);
  allocate_all();
  allocate_decoder();
}

void Networks::allocate_all() {
  // Step 0 has the most latents; the other steps use the first of them.
  tokens_ = dit_first_.make(tensor::lq_tokens);
  latents_ = dit_first_.make(tensor::latents);
  if (latents_.shape.size() != 4) bad_bundle("the bundle's latents are not frames of channels");
  projector_.allocate(tensor::lq);
  projector_.allocate_state();
  if (projector_first_) projector_first_->allocate(tensor::lq);
  const std::vector<std::int64_t> blocks{topk(settings_.canvas.size, settings_.sparse_ratio)};
  for (BoundGraph* dit : {&dit_first_, &dit_}) {
    for (const char* name :
         {tensor::noise, tensor::rope_frames, tensor::rope_rows, tensor::rope_columns, tensor::topk})
      dit->allocate(name);
    for (const auto& [name, pairs] : {std::pair{tensor::rope_rows, ROPE_PAIRS[1]}, {tensor::rope_columns, ROPE_PAIRS[2]}}) {
      const Shape& shape = dit->buffer(name).shape;
      if (shape.empty()) bad_bundle(std::string(name) + " of the bundle has no length");
      dit->upload(name, rotary_table({0, shape[0]}, pairs));
    }
    dit->upload(tensor::topk, blocks);
  }
  for (std::int64_t layer = 0; layer < model_->manifest.layers; ++layer)
    for (const char* prefix : {tensor::k_cache_prefix, tensor::v_cache_prefix})
      dit_.allocate(prefix + std::to_string(layer));
  slabs_ = queue_->allocate({ring_.slots()}, "int64");
}

void Networks::allocate_decoder() {
  lq_ = post_.make(tensor::lq);
  decoder_.allocate(tensor::frames);
  decoder_.allocate_state();
  post_.allocate(tensor::size);
  post_.allocate(tensor::pixels);
  post_.upload(tensor::size,
               std::vector<std::int64_t>{settings_.canvas.output.height, settings_.canvas.output.width});
}

void Networks::reset() {
  ring_.reset();
  decoder_.zero_state();
}

std::vector<std::uint16_t> Networks::noise_of(std::int64_t step) const {
  return noise(settings_.seed, step_latents(step), latents_.shape[2], latents_.shape[3]);
}

Buffer Networks::denoise(std::int64_t step, const std::vector<Frame>& lq, const std::vector<std::uint16_t>& noise) {
  const Range latents = step_latents(step);
  project(step, lq);
  BoundGraph& dit = step == 0 ? dit_first_ : dit_;
  dit.upload(tensor::noise, noise);
  dit.upload(tensor::rope_frames, rotary_table(latents, ROPE_PAIRS[0]));
  const Range slots = ring_.begin(step == 0 ? FIRST_SLABS : 1);
  Binding bound{{tensor::lq_tokens, tokens_.slots(0, latents.count())},
                {tensor::latents, latents_.slots(0, latents.count())}};
  bind_slabs(slots, step > 0, &bound);
  dit.run(bound);
  ring_.commit(slots);
  if (step == 0) dit.release();  // used once a stream; its weights are the DiT's, held a second time
  return bound.at(tensor::latents);
}

void Networks::project(std::int64_t step, const std::vector<Frame>& lq) {
  std::size_t next = 0;
  if (step == 0) {
    if (projector_first_) {
      upload_frames(lq.data(), 1, projector_first_->buffer(tensor::lq));
      projector_first_->run({{tensor::lq_cache1_new, projector_.buffer(tensor::lq_cache1)},
                             {tensor::lq_cache2_new, projector_.buffer(tensor::lq_cache2)}});
      projector_first_->release();
    }
    next = 1;
  }
  for (std::int64_t i = 0; next < lq.size(); ++i, next += STEP_FRAMES) {
    upload_frames(lq.data() + next, STEP_FRAMES, projector_.buffer(tensor::lq));
    projector_.run({{tensor::lq_tokens, tokens_.slots(STEP_LATENTS * i, STEP_LATENTS)}});
  }
}

// New slabs are written straight into ring slots that the call does not read.
void Networks::bind_slabs(Range slots, bool cached, Binding* bound) {
  const std::pair<const char*, const char*> kinds[] = {{tensor::k_new_prefix, tensor::k_cache_prefix},
                                                       {tensor::v_new_prefix, tensor::v_cache_prefix}};
  for (std::int64_t layer = 0; layer < model_->manifest.layers; ++layer)
    for (const auto& [added, ring] : kinds)
      (*bound)[added + std::to_string(layer)] =
          dit_.buffer(ring + std::to_string(layer)).slots(slots.begin, slots.count());
  if (!cached) return;
  const auto& valid = ring_.valid();
  Buffer slabs = slabs_.slots(0, static_cast<std::int64_t>(valid.size()));
  queue_->upload(valid.data(), valid.size() * sizeof valid[0], slabs);
  (*bound)[tensor::slabs] = slabs;
}

std::vector<Frame> Networks::decode(std::int64_t step, const Buffer& latents, const std::vector<Frame>& lq) {
  std::vector<Frame> out;
  if (settings_.vae)
    decode_vae(latents, lq, step == 0, &out);
  else
    decode_tc(latents, lq, step == 0 ? DROPPED_FIRST : 0, &out);
  if (step == 0 && decoder_first_) decoder_first_->release();
  return out;
}

// Two latents and their LQ frames to eight frames, of which the first of a stream are dropped.
void Networks::decode_tc(const Buffer& latents, std::vector<Frame> lq, std::size_t dropped, std::vector<Frame>* out) {
  lq.insert(lq.begin(), dropped, Frame(lq.front()));
  for (std::int64_t call = 0; call < latents.shape[0] / STEP_LATENTS; ++call) {
    upload_frames(lq.data() + STEP_FRAMES * call, STEP_FRAMES, lq_);
    decoder_.run({{tensor::latents, latents.slots(STEP_LATENTS * call, STEP_LATENTS)}, {tensor::lq, lq_}});
    const auto begin = call == 0 ? static_cast<std::int64_t>(dropped) : 0;
    finish(decoder_.buffer(tensor::frames).slots(begin, STEP_FRAMES - begin), lq_.slots(begin, STEP_FRAMES - begin), out);
  }
}

// One latent to four frames, the first of a stream to one.
void Networks::decode_vae(const Buffer& latents, const std::vector<Frame>& lq, bool first, std::vector<Frame>* out) {
  std::int64_t done = 0;
  for (std::int64_t i = 0; i < latents.shape[0]; ++i) {
    const bool special = first && i == 0;
    const std::int64_t count = special ? 1 : LATENT_FRAMES;
    const Buffer frames = decoder_.buffer(tensor::frames).slots(0, count);
    Binding bound{{tensor::latents, latents.slots(i, 1)}, {tensor::frames, frames}};
    if (special)
      for (const auto& [after, before] : decoder_.graph().state) bound[after] = decoder_.buffer(before);
    (special ? *decoder_first_ : decoder_).run(bound);
    upload_frames(lq.data() + done, count, lq_);
    finish(frames, lq_.slots(0, count), out);
    done += count;
  }
}

void Networks::upload_frames(const Frame* frames, std::int64_t count, const Buffer& whole) {
  for (std::int64_t i = 0; i < count; ++i) queue_->upload(frames[i], whole.slots(i, 1));
}

// Colour fix, cut and integer pixels of frames and their LQ frames.
void Networks::finish(const Buffer& frames, const Buffer& lq, std::vector<Frame>* out) {
  const std::int64_t count = frames.shape[0];
  const Buffer pixels = post_.buffer(tensor::pixels).slots(0, count);
  post_.run({{tensor::frames, frames}, {tensor::lq, lq}, {tensor::pixels, pixels}});
  const auto bytes = static_cast<std::size_t>(settings_.canvas.output.height * settings_.canvas.output.width * 3 *
                                              (settings_.bits / 8));
  for (std::int64_t i = 0; i < count; ++i) {
    const Buffer one = pixels.slots(i, 1);
    if (one.bytes() != bytes) bad_bundle("the bundle's pixels are not pictures of " + std::to_string(bytes) + " bytes");
    out->push_back(queue_->frame(bytes));
    queue_->download(one, out->back());
  }
}

void Networks::release_denoise() {
  if (projector_first_) projector_first_->release();
  for (BoundGraph* graph : {&projector_, &dit_first_, &dit_}) graph->release();
  queue_->trim();
}

void Networks::release_decode() {
  if (decoder_first_) decoder_first_->release();
  decoder_.release();
  queue_->trim();
}

Buffer Networks::keep(const Buffer& latents) const {
  Buffer kept = queue_->allocate(latents.shape, latents.dtype);
  queue_->copy(latents, kept);
  return kept;
}

Buffer Networks::restore(const Buffer& kept) const {
  const Buffer latents = latents_.slots(0, kept.shape[0]);
  queue_->copy(kept, latents);
  return latents;
}

}  // namespace flashvsr
