#include "options.hpp"

#include <algorithm>
#include <cmath>

#include "flashvsr_contract.hpp"

namespace flashvsr {

namespace {

constexpr double DEFAULT_SCALE = 4.0;
constexpr std::int32_t DEFAULT_SEGMENT_STEPS = 8;
constexpr double LARGEST_KV_RATIO = 1e6;
constexpr std::int32_t MOST_THREADS = 4096, MOST_DEVICES = 1023;

void check_range(const char* name, std::int64_t value, std::int64_t low, std::int64_t high) {
  if (value < low || value > high)
    bad_argument(std::string(name) + " is " + std::to_string(value) + "; expected: " + std::to_string(low) + " .. " +
                 std::to_string(high));
}

void check_range(const char* name, double value, double low, double high) {
  if (!(value >= low && value <= high))
    bad_argument(std::string(name) + " is " + std::to_string(value) + "; expected: " + std::to_string(low) + " .. " +
                 std::to_string(high));
}

Size output_size(const flashvsr_stream_options& options, Size source) {
  if (options.output_width == 0 && options.output_height == 0) return scaled(source, options.scale);
  return {options.output_height, options.output_width};  // make_canvas refuses a single 0
}

}  // namespace

flashvsr_model_options default_model_options() {
  flashvsr_model_options options{};
  options.struct_size = sizeof options;
  return options;
}

flashvsr_stream_options default_stream_options() {
  flashvsr_stream_options options{};
  options.struct_size = sizeof options;
  options.scale = DEFAULT_SCALE;
  options.segment_steps = DEFAULT_SEGMENT_STEPS;
  options.colour_fix = FLASHVSR_COLOUR_BUNDLE;
  options.bits = contract::BITS.front();
  options.sparse_ratio = contract::SPARSE_RATIO;
  options.kv_ratio = contract::KV_RATIO;
  options.seed = contract::SEED;
  return options;
}

void check_model_options(const flashvsr_model_options& options) {
  if (options.device != FLASHVSR_DEVICE_CPU && options.device != FLASHVSR_DEVICE_CUDA)
    fail(FLASHVSR_ERROR_UNSUPPORTED, "device " + std::to_string(options.device) +
                                         " is unknown; expected: FLASHVSR_DEVICE_CPU or FLASHVSR_DEVICE_CUDA");
  check_range("device_index", std::int64_t{options.device_index}, 0, MOST_DEVICES);
  check_range("threads", std::int64_t{options.threads}, 0, MOST_THREADS);
}

Options make_options(const flashvsr_stream_options& from, const Manifest& manifest) {
  check_range("variant", std::int64_t{from.variant}, FLASHVSR_VARIANT_LONG, FLASHVSR_VARIANT_FULL);
  check_range("fit", std::int64_t{from.fit}, FLASHVSR_FIT_PAD, FLASHVSR_FIT_CROP);
  check_range("colour_fix", std::int64_t{from.colour_fix}, FLASHVSR_COLOUR_BUNDLE,
              static_cast<std::int64_t>(contract::COLOUR_FIXES.size()) - 1);
  check_range("segment_steps", std::int64_t{from.segment_steps}, 1, std::int64_t{1} << 30);
  check_range("sparse_ratio", from.sparse_ratio, 1e-9, 1e9);
  check_range("kv_ratio", from.kv_ratio, 1.0, LARGEST_KV_RATIO);
  if (std::find(contract::BITS.begin(), contract::BITS.end(), from.bits) == contract::BITS.end())
    bad_argument("bits is " + std::to_string(from.bits) + "; expected: 8 or 16");
  if (from.local_range != 0 && from.local_range != manifest.local_range)
    bad_argument("local_range " + std::to_string(from.local_range) + " was asked of a bundle made with " +
                 std::to_string(manifest.local_range) + "; it is baked into a bundle, so leave it 0");
  Options options;
  options.source = {from.height, from.width};
  options.tiny = from.variant == FLASHVSR_VARIANT_TINY;
  options.segment_steps = from.segment_steps;
  options.settings.canvas =
      make_canvas(options.source, output_size(from, options.source), from.fit == FLASHVSR_FIT_CROP);
  options.settings.sparse_ratio = from.sparse_ratio;
  options.settings.kv_ratio = from.kv_ratio;
  options.settings.seed = from.seed;
  options.settings.vae = from.variant == FLASHVSR_VARIANT_FULL;
  options.settings.colour_fix = from.colour_fix == FLASHVSR_COLOUR_BUNDLE
                                    ? manifest.colour_fix
                                    : contract::COLOUR_FIXES[static_cast<std::size_t>(from.colour_fix)];
  options.settings.bits = from.bits;
  return options;
}

QueueOptions make_queue_options(const flashvsr_stream_options& from) {
  if ((from.allocate == nullptr) != (from.deallocate == nullptr) ||
      (from.allocate_device == nullptr) != (from.deallocate_device == nullptr))
    bad_argument("allocate and deallocate come together or not at all");
  return {{from.allocate, from.deallocate, from.allocator_user},
          {from.allocate_device, from.deallocate_device, from.allocator_user},
          from.cuda_stream};
}

}  // namespace flashvsr
