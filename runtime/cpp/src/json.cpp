#include "json.hpp"

#include <fstream>
#include <iterator>

namespace flashvsr::json {

namespace fs = std::filesystem;

constexpr std::uintmax_t LARGEST_FILE = 64U << 20;  // real ones have some 100 kB

std::string read_file(const std::string& folder, const char* name, const std::string& todo) {
  const fs::path path = fs::path(folder) / name;
  std::error_code failed;
  const std::uintmax_t bytes = fs::file_size(path, failed);
  if (failed) bad_bundle(folder + " holds no " + name + todo);
  if (bytes > LARGEST_FILE) bad_bundle(path.string() + " has " + std::to_string(bytes) + " bytes" + todo);
  std::ifstream file(path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file) bad_bundle(path.string() + " cannot be read" + todo);
  return text;
}

void check_size(const std::string& folder, const std::string& name, std::uint64_t expected, const std::string& todo) {
  std::error_code failed;
  const std::uintmax_t size = fs::file_size(fs::path(folder) / name, failed);
  if (failed) bad_bundle(folder + "/" + name + " is missing" + todo);
  if (size != expected)
    bad_bundle(folder + "/" + name + " has " + std::to_string(size) + " bytes; expected: " + std::to_string(expected) +
               todo);
}

}  // namespace flashvsr::json
