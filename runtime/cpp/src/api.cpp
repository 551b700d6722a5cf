// The C border: handles, status codes, and no exception past it.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <memory>
#include <mutex>
#include <new>

#include "backends.hpp"
#include "flashvsr.h"
#include "model.hpp"
#include "options.hpp"
#include "pixels.hpp"
#include "stream.hpp"

using namespace flashvsr;

struct flashvsr_model {
  std::shared_ptr<Model> model;
};

struct flashvsr_stream {
  flashvsr_stream(std::shared_ptr<const Model> opened, const Options& options, std::shared_ptr<Queue> work)
      : model(opened), queue(work), stream(std::move(opened), options, std::move(work)) {}

  std::shared_ptr<const Model> model;
  std::shared_ptr<Queue> queue;
  Stream stream;
  std::atomic<bool> busy{false};
  mutable std::mutex stats_mutex;
  flashvsr_stats stats{};
};

namespace {

// Fixed memory, so that telling of a failed allocation allocates nothing.
thread_local char last_error[1024];

flashvsr_status remember(flashvsr_status status, const char* text, const Model* model) noexcept {
  std::snprintf(last_error, sizeof last_error, "%s", text);
  try {
    if (model != nullptr && model->log != nullptr) model->log(model->log_user, FLASHVSR_LOG_ERROR, last_error);
  } catch (...) {
    return status;  // the caller's own callback threw; the status is what counts
  }
  return status;
}

template <typename Body>
flashvsr_status guarded(const Model* model, Body body) noexcept {
  try {
    return body();
  } catch (const Error& error) {
    return remember(error.status(), error.what(), model);
  } catch (const std::bad_alloc&) {
    return remember(FLASHVSR_ERROR_MEMORY, "out of host memory; what to do: use a smaller scale or variant tiny", model);
  } catch (const std::exception& error) {
    return remember(FLASHVSR_ERROR_INTERNAL, error.what(), model);
  } catch (...) {
    return remember(FLASHVSR_ERROR_INTERNAL, "an exception of unknown type", model);
  }
}

void update_stats(flashvsr_stream* handle) {
  const Stream& stream = handle->stream;
  flashvsr_stats stats{};
  stats.pushed = static_cast<std::uint64_t>(stream.pushed());
  stats.ready = static_cast<std::uint64_t>(stream.ready());
  stats.pulled = static_cast<std::uint64_t>(stream.pulled());
  stats.steps = static_cast<std::uint64_t>(stream.steps());
  stats.resize_seconds = stream.seconds().resize;
  stats.denoise_seconds = stream.seconds().denoise;
  stats.decode_seconds = stream.seconds().decode;
  const std::lock_guard<std::mutex> lock(handle->stats_mutex);
  handle->stats = stats;
}

// Runs `body` as the only call inside the stream.
template <typename Body>
flashvsr_status exclusively(flashvsr_stream* handle, Body body) noexcept {
  return guarded(handle == nullptr ? nullptr : handle->model.get(), [&] {
    if (handle == nullptr) bad_argument("stream is NULL");
    if (handle->busy.exchange(true, std::memory_order_acquire))
      fail(FLASHVSR_ERROR_BUSY, "another thread is inside this stream; a stream is for one thread at a time");
    struct Release {
      flashvsr_stream* handle;
      ~Release() {
        update_stats(handle);
        handle->busy.store(false, std::memory_order_release);
      }
    } const release{handle};
    const Entered entered(*handle->queue);
    return body(handle->stream);
  });
}

void check_usable(const Stream& stream) {
  if (stream.broken())
    fail(FLASHVSR_ERROR_STATE, "an earlier step of this stream failed; what to do: flashvsr_stream_reset");
}

void check_memory(const flashvsr_image& image, const Model& model) {
  if (image.memory == FLASHVSR_MEMORY_DEVICE && !model.backend->on_gpu())
    fail(FLASHVSR_ERROR_UNSUPPORTED, "image.memory is device memory; expected: host memory with FLASHVSR_DEVICE_CPU");
}

// Opens the back end of a bundle or of an engine set.
void open_backend(const char* folder, const flashvsr_model_options& options, const std::shared_ptr<Model>& model) {
  const auto text = [](const char* given) { return std::string(given != nullptr ? given : ""); };
  CudaOptions cuda{options.device_index, text(options.ort_library), text(options.op_library),
                   [model = model.get()](std::int32_t level, const std::string& line) { model->say(level, line); }};
  const bool on_gpu = options.device == FLASHVSR_DEVICE_CUDA;
  if (!is_engine_set(folder)) {
    model->folder = folder;
    model->manifest = load_manifest(folder);
    model->backend = on_gpu ? open_ort_cuda(cuda, model->manifest) : open_ort_cpu(cuda.library, options.threads);
    return;
  }
  if (!on_gpu)
    bad_argument(std::string(folder) + " is an engine set; expected: device FLASHVSR_DEVICE_CUDA, or a bundle folder");
  const EngineSet engines = load_engine_set(folder);
  model->folder = options.bundle != nullptr ? options.bundle : engines.source;
  model->manifest = load_manifest(model->folder);
  if (model->manifest.digest != engines.bundle)
    bad_bundle(model->folder + " is not the bundle that the engines were built from, or has changed since; what to do: "
                               "name that bundle, or build the engines again");
  cuda.library = text(options.tensorrt_library);
  model->backend = open_tensorrt(cuda, engines);
}

void check_pullable(const flashvsr_image& image, const Settings& settings) {
  check_image(image, settings.canvas.output);
  const bool rgb = image.format == FLASHVSR_FORMAT_RGB24 || image.format == FLASHVSR_FORMAT_RGB48;
  if (rgb && (image.format == FLASHVSR_FORMAT_RGB24) != (settings.bits == 8))
    bad_argument("image.format does not fit a stream of " + std::to_string(settings.bits) +
                 " bits; expected: RGB24 with 8 bits, RGB48 with 16, or NV12 or P010");
}

}  // namespace

extern "C" {

uint32_t flashvsr_abi_version(void) { return FLASHVSR_ABI_VERSION; }

const char* flashvsr_version(void) { return FLASHVSR_VERSION; }

const char* flashvsr_last_error(void) { return last_error; }

const char* flashvsr_status_name(flashvsr_status status) {
  switch (status) {
    case FLASHVSR_OK: return "FLASHVSR_OK";
    case FLASHVSR_AGAIN: return "FLASHVSR_AGAIN";
    case FLASHVSR_END: return "FLASHVSR_END";
    case FLASHVSR_ERROR_ARGUMENT: return "FLASHVSR_ERROR_ARGUMENT";
    case FLASHVSR_ERROR_STATE: return "FLASHVSR_ERROR_STATE";
    case FLASHVSR_ERROR_BUSY: return "FLASHVSR_ERROR_BUSY";
    case FLASHVSR_ERROR_BUNDLE: return "FLASHVSR_ERROR_BUNDLE";
    case FLASHVSR_ERROR_BACKEND: return "FLASHVSR_ERROR_BACKEND";
    case FLASHVSR_ERROR_MEMORY: return "FLASHVSR_ERROR_MEMORY";
    case FLASHVSR_ERROR_UNSUPPORTED: return "FLASHVSR_ERROR_UNSUPPORTED";
    case FLASHVSR_ERROR_INTERNAL: return "FLASHVSR_ERROR_INTERNAL";
    default: return "unknown status";
  }
}

flashvsr_status flashvsr_model_options_defaults(flashvsr_model_options* options, size_t struct_size) {
  return guarded(nullptr, [&] {
    fill_defaults(default_model_options(), options, struct_size, "options");
    return FLASHVSR_OK;
  });
}

flashvsr_status flashvsr_stream_options_defaults(flashvsr_stream_options* options, size_t struct_size) {
  return guarded(nullptr, [&] {
    fill_defaults(default_stream_options(), options, struct_size, "options");
    return FLASHVSR_OK;
  });
}

flashvsr_status flashvsr_model_open(const char* folder, const flashvsr_model_options* given, flashvsr_model** model) {
  return guarded(nullptr, [&] {
    if (model == nullptr) bad_argument("model is NULL");
    *model = nullptr;
    if (folder == nullptr) bad_argument("folder is NULL");
    const auto options = given != nullptr ? read_struct(given, "options") : default_model_options();
    check_model_options(options);
    auto opened = std::make_shared<Model>();
    opened->log = options.log;
    opened->log_user = options.log_user;
    open_backend(folder, options, opened);
    opened->backend_text = opened->backend->describe();
    opened->say(FLASHVSR_LOG_INFO, opened->backend_text);
    *model = new flashvsr_model{std::move(opened)};
    return FLASHVSR_OK;
  });
}

flashvsr_status flashvsr_model_get_info(const flashvsr_model* handle, flashvsr_model_info* info) {
  return guarded(nullptr, [&] {
    if (handle == nullptr) bad_argument("model is NULL");
    const Manifest& manifest = handle->model->manifest;
    flashvsr_model_info value{};
    value.model = manifest.model.c_str();
    value.about = manifest.about.c_str();
    value.model_version = manifest.model_version.c_str();
    value.precision = manifest.precision.c_str();
    value.backend = handle->model->backend_text.c_str();
    value.local_range = static_cast<int32_t>(manifest.local_range);
    value.meaningful = manifest.meaningful ? 1 : 0;
    value.colour_fix = manifest.colour_fix.c_str();
    write_struct(value, info, "info");
    return FLASHVSR_OK;
  });
}

void flashvsr_model_close(flashvsr_model* handle) { delete handle; }

flashvsr_status flashvsr_stream_open(flashvsr_model* model, const flashvsr_stream_options* given,
                                     flashvsr_stream** stream) {
  return guarded(model == nullptr ? nullptr : model->model.get(), [&] {
    if (stream == nullptr) bad_argument("stream is NULL");
    *stream = nullptr;
    if (model == nullptr) bad_argument("model is NULL");
    const auto options = read_struct(given, "options");
    const Options inside = make_options(options, model->model->manifest);
    const std::shared_ptr<Queue> queue = model->model->backend->open_queue(make_queue_options(options));
    const Entered entered(*queue);
    *stream = new flashvsr_stream(model->model, inside, queue);
    return FLASHVSR_OK;
  });
}

flashvsr_status flashvsr_stream_get_info(const flashvsr_stream* handle, flashvsr_stream_info* info) {
  return guarded(nullptr, [&] {
    if (handle == nullptr) bad_argument("stream is NULL");
    const Canvas& canvas = handle->stream.options().settings.canvas;
    flashvsr_stream_info value{};
    value.output_width = static_cast<int32_t>(canvas.output.width);
    value.output_height = static_cast<int32_t>(canvas.output.height);
    value.canvas_width = static_cast<int32_t>(canvas.size.width);
    value.canvas_height = static_cast<int32_t>(canvas.size.height);
    write_struct(value, info, "info");
    return FLASHVSR_OK;
  });
}

flashvsr_status flashvsr_stream_push(flashvsr_stream* handle, const flashvsr_image* given) {
  return exclusively(handle, [&](Stream& stream) {
    const flashvsr_image image = read_struct(given, "image");
    check_image(image, stream.options().source);
    check_memory(image, *handle->model);
    if (image.format == FLASHVSR_FORMAT_RGB48) bad_argument("FLASHVSR_FORMAT_RGB48 can only be pulled");
    check_usable(stream);
    if (stream.flushed())
      fail(FLASHVSR_ERROR_STATE, "push after flush; what to do: pull until FLASHVSR_END, then flashvsr_stream_reset");
    return stream.push(image) ? FLASHVSR_OK : FLASHVSR_AGAIN;
  });
}

flashvsr_status flashvsr_stream_pull(flashvsr_stream* handle, flashvsr_image* given) {
  return exclusively(handle, [&](Stream& stream) {
    const flashvsr_image image = read_struct<flashvsr_image>(given, "image");
    const Settings& settings = stream.options().settings;
    check_pullable(image, settings);
    check_memory(image, *handle->model);
    check_usable(stream);
    if (!stream.wait_for_frame()) return stream.flushed() ? FLASHVSR_END : FLASHVSR_AGAIN;
    given->tag = stream.give(image);
    return FLASHVSR_OK;
  });
}

flashvsr_status flashvsr_stream_flush(flashvsr_stream* handle) {
  return exclusively(handle, [](Stream& stream) {
    check_usable(stream);
    if (stream.flushed()) fail(FLASHVSR_ERROR_STATE, "flush after flush; what to do: flashvsr_stream_reset");
    stream.flush();
    return FLASHVSR_OK;
  });
}

flashvsr_status flashvsr_stream_reset(flashvsr_stream* handle) {
  return exclusively(handle, [](Stream& stream) {
    stream.reset();
    return FLASHVSR_OK;
  });
}

flashvsr_status flashvsr_stream_get_stats(const flashvsr_stream* handle, flashvsr_stats* stats) {
  return guarded(nullptr, [&] {
    if (handle == nullptr) bad_argument("stream is NULL");
    flashvsr_stats value{};
    {
      const std::lock_guard<std::mutex> lock(handle->stats_mutex);
      value = handle->stats;
    }
    const Allocator &frames = *handle->queue->frames(), &tensors = *handle->queue->tensors();
    value.bytes = frames.held();
    value.peak_bytes = frames.peak();
    if (&tensors != &frames) {
      value.device_bytes = tensors.held();
      value.peak_device_bytes = tensors.peak();
    }
    write_struct(value, stats, "stats");
    return FLASHVSR_OK;
  });
}

void flashvsr_stream_close(flashvsr_stream* handle) {
  if (handle == nullptr) return;
  const std::shared_ptr<Queue> queue = handle->queue;  // ends after what it holds, and outside of its context
  guarded(nullptr, [&] {
    const Entered entered(*queue);
    delete handle;
    return FLASHVSR_OK;
  });
}

}  // extern "C"
