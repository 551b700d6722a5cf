// JSON files of bundles and engine sets, whose every value is checked: they may be damaged, or come from anywhere.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "error.hpp"

namespace flashvsr::json {

using Json = nlohmann::json;

constexpr std::int64_t LARGEST_INTEGER = std::int64_t{1} << 31;  // of any size here: products stay far inside 64 bits

inline std::int64_t integer(const Json& value, const char* what) {
  if (!value.is_number_integer()) bad_bundle(std::string(what) + " is not an integer");
  const bool fits = value.is_number_unsigned() ? value.get<std::uint64_t>() <= static_cast<std::uint64_t>(LARGEST_INTEGER)
                                               : value.get<std::int64_t>() >= 0;
  if (!fits) bad_bundle(std::string(what) + " is negative or beyond 2^31");
  return value.get<std::int64_t>();
}

inline std::string string(const Json& value, const char* what) {
  if (!value.is_string()) bad_bundle(std::string(what) + " is not a string");
  auto text = value.get<std::string>();
  if (text.find('\0') != std::string::npos) bad_bundle(std::string(what) + " holds a zero byte");
  return text;
}

inline const Json& object(const Json& value, const char* what) {
  if (!value.is_object()) bad_bundle(std::string(what) + " is not an object");
  return value;
}

inline const Json& array(const Json& value, const char* what) {
  if (!value.is_array()) bad_bundle(std::string(what) + " is not an array");
  return value;
}

inline const Json& member(const Json& value, const char* key) {
  const auto found = value.find(key);
  if (found == value.end()) bad_bundle(std::string("it has no \"") + key + "\"");
  return *found;
}

// A count of bytes.
inline std::uint64_t bytes(const Json& value, const std::string& of) {
  if (!value.is_number_unsigned()) bad_bundle("the bytes of " + of + " are not a count");
  return value.get<std::uint64_t>();
}

// A file of a folder: neither outside nor unnamed.
inline void check_inside(const std::string& name) {
  const std::filesystem::path path(name);
  bool outside = name.empty() || name.find('\0') != std::string::npos || path.is_absolute();
  for (const auto& part : path) outside = outside || part == "..";
  if (outside) bad_bundle("file \"" + name + "\" lies outside its folder");
}

// The text of folder/name. Throws FLASHVSR_ERROR_BUNDLE with `todo` where there is none, or more than any such file has.
std::string read_file(const std::string& folder, const char* name, const std::string& todo);

// Throws FLASHVSR_ERROR_BUNDLE where folder/name has not `expected` bytes.
void check_size(const std::string& folder, const std::string& name, std::uint64_t expected, const std::string& todo);

// Runs `parse` on the text of a file called `name`; what it throws is told of that file.
template <typename Parse>
auto parsed(const std::string& text, const char* name, const std::string& todo, Parse parse) {
  try {
    return parse(Json::parse(text));
  } catch (const Json::exception& error) {
    bad_bundle(std::string(name) + " cannot be read: " + error.what() + todo);
  } catch (const Error& error) {
    fail(error.status(), std::string(name) + " is damaged: " + error.what() + todo);
  }
}

}  // namespace flashvsr::json
