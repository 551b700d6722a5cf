// Option structs of the border, checked and turned into what the inside uses.
#pragma once

#include <cstring>
#include <memory>
#include <string>

#include "error.hpp"
#include "flashvsr.h"
#include "manifest.hpp"
#include "queue.hpp"
#include "stream.hpp"

namespace flashvsr {

inline constexpr std::size_t LARGEST_STRUCT = 4096;  // no struct of any version is larger; a stray size is refused

// A struct of the caller, who may have been built against an earlier or a later header. What a later one has set
// beyond this version's fields is refused rather than ignored.
template <typename T>
T read_struct(const T* from, const char* name) {
  if (from == nullptr) bad_argument(std::string(name) + " is NULL");
  const std::size_t size = from->struct_size;
  if (size < sizeof(T) || size > LARGEST_STRUCT)
    bad_argument(std::string(name) + ".struct_size is " + std::to_string(size) + "; expected: " +
                 std::to_string(sizeof(T)) + ", as sizeof or the _defaults function gives it");
  const auto* bytes = reinterpret_cast<const unsigned char*>(from);
  for (std::size_t i = sizeof(T); i < size; ++i)
    if (bytes[i] != 0) fail(FLASHVSR_ERROR_UNSUPPORTED, std::string(name) + " sets a field that this version lacks");
  T copy;
  std::memcpy(&copy, from, sizeof copy);
  return copy;
}

// Writes `value` into a struct of the caller that may be longer; its own size stays.
template <typename T>
void write_struct(T value, T* to, const char* name) {
  if (to == nullptr) bad_argument(std::string(name) + " is NULL");
  const std::size_t size = to->struct_size;
  if (size < sizeof(T) || size > LARGEST_STRUCT)
    bad_argument(std::string(name) + ".struct_size is " + std::to_string(size) + "; expected: " +
                 std::to_string(sizeof(T)));
  value.struct_size = size;
  std::memset(static_cast<void*>(to), 0, size);
  std::memcpy(static_cast<void*>(to), &value, sizeof value);
}

template <typename T>
void fill_defaults(T value, T* to, std::size_t size, const char* name) {
  if (to == nullptr) bad_argument(std::string(name) + " is NULL");
  if (size < sizeof(T) || size > LARGEST_STRUCT)
    bad_argument("struct_size is " + std::to_string(size) + "; expected: sizeof(*" + name + "), " +
                 std::to_string(sizeof(T)) + " bytes");
  to->struct_size = size;
  write_struct(value, to, name);
}

flashvsr_model_options default_model_options();
flashvsr_stream_options default_stream_options();

// Throws FLASHVSR_ERROR_ARGUMENT or _UNSUPPORTED for what cannot be honoured.
void check_model_options(const flashvsr_model_options& options);
Options make_options(const flashvsr_stream_options& options, const Manifest& manifest);
QueueOptions make_queue_options(const flashvsr_stream_options& options);

}  // namespace flashvsr
