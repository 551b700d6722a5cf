#include "manifest.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>

#include "error.hpp"
#include "flashvsr_contract.hpp"

namespace flashvsr {

namespace {

using Json = nlohmann::json;

constexpr const char* REDO = "; what to do: export the bundle again, or name another";
constexpr std::int64_t LARGEST = std::int64_t{1} << 31;  // of any integer here: sizes stay far inside 64 bits
constexpr std::uintmax_t LARGEST_FILE = 64U << 20;       // of a manifest; real ones have some 100 kB

std::int64_t integer(const Json& value, const char* what) {
  if (!value.is_number_integer()) bad_bundle(std::string(what) + " is not an integer");
  const bool fits = value.is_number_unsigned() ? value.get<std::uint64_t>() <= static_cast<std::uint64_t>(LARGEST)
                                               : value.get<std::int64_t>() >= 0;
  if (!fits) bad_bundle(std::string(what) + " is negative or beyond 2^31");
  return value.get<std::int64_t>();
}

std::string string(const Json& value, const char* what) {
  if (!value.is_string()) bad_bundle(std::string(what) + " is not a string");
  auto text = value.get<std::string>();
  if (text.find('\0') != std::string::npos) bad_bundle(std::string(what) + " holds a zero byte");
  return text;
}

const Json& object(const Json& value, const char* what) {
  if (!value.is_object()) bad_bundle(std::string(what) + " is not an object");
  return value;
}

const Json& array(const Json& value, const char* what) {
  if (!value.is_array()) bad_bundle(std::string(what) + " is not an array");
  return value;
}

const Json& member(const Json& value, const char* key) {
  const auto found = value.find(key);
  if (found == value.end()) bad_bundle(std::string("it has no \"") + key + "\"");
  return *found;
}

void check_keys(const Json& value, const std::set<std::string>& known, const char* what) {
  for (const auto& item : value.items())
    if (known.count(item.key()) == 0) bad_bundle(std::string(what) + " has an unknown \"" + item.key() + "\"");
}

template <typename Array>
bool contains(const Array& allowed, const std::string& value) {
  return std::find(allowed.begin(), allowed.end(), value) != allowed.end();
}

Dim parse_dim(const Json& value) {
  if (!value.is_string()) return {"", integer(value, "a dimension")};
  const std::string text = string(value, "a dimension");
  const auto slash = text.find('/');
  Dim dim{text.substr(0, slash), 1};
  if (slash == std::string::npos) return dim;
  const std::string divisor = text.substr(slash + 1);
  if (divisor.empty() || divisor.size() > 6 || divisor.find_first_not_of("0123456789") != std::string::npos)
    bad_bundle("dimension " + text + " is not symbol/integer");
  dim.value = std::stoll(divisor);
  if (dim.value < 1 || dim.symbol.empty()) bad_bundle("dimension " + text + " is not symbol/integer");
  return dim;
}

std::vector<Tensor> parse_tensors(const Json& values, const std::string& own_type) {
  std::vector<Tensor> tensors;
  for (const Json& value : array(values, "a list of tensors")) {
    object(value, "a tensor");
    Tensor tensor;
    tensor.name = string(member(value, "name"), "a tensor's name");
    tensor.dtype = string(member(value, "dtype"), "a tensor's dtype");
    if (tensor.dtype == "f") tensor.dtype = own_type;
    item_bytes(tensor.dtype);
    for (const Json& dim : array(member(value, "shape"), "a shape")) tensor.shape.push_back(parse_dim(dim));
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

Graph parse_graph(const Json& value, const std::string& own_type) {
  object(value, "a graph");
  Graph graph;
  graph.name = string(member(value, "name"), "a graph's name");
  // The name becomes a file name.
  if (graph.name.empty() || graph.name.find_first_of("/\\") != std::string::npos)
    bad_bundle("graph \"" + graph.name + "\" is not named like a file");
  graph.inputs = parse_tensors(member(value, "inputs"), own_type);
  graph.outputs = parse_tensors(member(value, "outputs"), own_type);
  for (const Json& pair : array(member(value, "state"), "state")) {
    if (!pair.is_array() || pair.size() != 2) bad_bundle("state is not pairs of names");
    graph.state.emplace_back(string(pair[0], "a state's name"), string(pair[1], "a state's name"));
    const Tensor &after = graph.tensor(graph.state.back().first), &before = graph.tensor(graph.state.back().second);
    const auto same = [](const Dim& a, const Dim& b) { return a.symbol == b.symbol && a.value == b.value; };
    if (after.dtype != before.dtype ||
        !std::equal(after.shape.begin(), after.shape.end(), before.shape.begin(), before.shape.end(), same))
      bad_bundle("state " + after.name + " is not shaped like " + before.name);
  }
  return graph;
}

std::string parse_precision(const Json& value, Manifest* manifest) {
  manifest->precision = string(value, "precision");
  for (const auto& [precision, dtype] : contract::DTYPES)
    if (precision == manifest->precision) return std::string(dtype);
  bad_bundle("precision \"" + manifest->precision + "\" is unknown");
}

void parse_files(const Json& files, Manifest* manifest) {
  for (const auto& item : object(files, "files").items()) {
    const std::filesystem::path path(item.key());
    const bool up = std::any_of(path.begin(), path.end(), [](const auto& part) { return part == ".."; });
    if (item.key().empty() || item.key().find('\0') != std::string::npos || path.is_absolute() || up)
      bad_bundle("file \"" + item.key() + "\" lies outside the bundle");
    const Json& bytes = member(object(item.value(), "a file"), "bytes");
    if (!bytes.is_number_unsigned()) bad_bundle("the bytes of " + item.key() + " are not a count");
    manifest->files[item.key()] = bytes.get<std::uint64_t>();
  }
}

Manifest parse(const Json& data) {
  object(data, "it");
  const std::int64_t schema = integer(member(data, "schema"), "schema");
  if (schema != contract::SCHEMA)
    bad_bundle("schema version " + std::to_string(schema) + "; expected: " + std::to_string(contract::SCHEMA));
  check_keys(data,
             {"about", "files", "graphs", "local_range", "meaningful", "model", "model_version", "op_abi", "precision",
              "schema", "sizes", "weights"},
             "the manifest");
  Manifest manifest;
  manifest.model = string(member(data, "model"), "model");
  manifest.about = string(member(data, "about"), "about");
  manifest.model_version = string(member(data, "model_version"), "model_version");
  if (!contains(contract::VERSIONS, manifest.model_version))
    bad_bundle("model_version \"" + manifest.model_version + "\" is unknown");
  manifest.causal = manifest.model_version != contract::VERSIONS.front();
  manifest.local_range = integer(member(data, "local_range"), "local_range");
  manifest.layers = integer(member(object(member(data, "sizes"), "sizes"), "layers"), "sizes.layers");
  if (const auto meaningful = data.find("meaningful"); meaningful != data.end()) {
    if (!meaningful->is_boolean()) bad_bundle("meaningful is neither true nor false");
    manifest.meaningful = meaningful->get<bool>();
  }
  const std::string own_type = parse_precision(member(data, "precision"), &manifest);
  for (const auto& item : object(member(data, "graphs"), "graphs").items())
    manifest.graphs.emplace(item.key(), parse_graph(item.value(), own_type));
  parse_files(member(data, "files"), &manifest);
  return manifest;
}

}  // namespace

const Tensor& Graph::tensor(const std::string& wanted) const {
  for (const auto* tensors : {&inputs, &outputs})
    for (const Tensor& tensor : *tensors)
      if (tensor.name == wanted) return tensor;
  bad_bundle("graph " + name + " has no tensor " + wanted + REDO);
}

const Graph& Manifest::graph(const std::string& name) const {
  const auto found = graphs.find(name);
  if (found == graphs.end()) bad_bundle("the bundle has no graph " + name + REDO);
  return found->second;
}

Manifest parse_manifest(const std::string& text) {
  try {
    return parse(Json::parse(text));
  } catch (const Json::exception& error) {
    bad_bundle(std::string(contract::MANIFEST_FILE) + " cannot be read: " + error.what() + REDO);
  } catch (const Error& error) {
    fail(error.status(), std::string(contract::MANIFEST_FILE) + " is not a manifest: " + error.what() + REDO);
  }
}

Manifest load_manifest(const std::string& folder) {
  namespace fs = std::filesystem;
  const fs::path path = fs::path(folder) / contract::MANIFEST_FILE;
  std::error_code failed;
  const std::uintmax_t bytes = fs::file_size(path, failed);
  if (failed) bad_bundle(folder + " holds no " + contract::MANIFEST_FILE + "; expected: a bundle folder" + REDO);
  if (bytes > LARGEST_FILE) bad_bundle(path.string() + " has " + std::to_string(bytes) + " bytes" + REDO);
  std::ifstream file(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file) bad_bundle(path.string() + " cannot be read" + REDO);
  Manifest manifest = parse_manifest(text);
  for (const auto& [name, expected] : manifest.files) {
    const std::uintmax_t size = fs::file_size(fs::path(folder) / name, failed);
    if (failed) bad_bundle(folder + "/" + name + " is missing" + REDO);
    if (size != expected)
      bad_bundle(folder + "/" + name + " has " + std::to_string(size) + " bytes; expected: " + std::to_string(expected) +
                 REDO);
  }
  return manifest;
}

Shape evaluate(const std::vector<Dim>& shape, const Symbols& symbols) {
  Shape values;
  for (const Dim& dim : shape) {
    if (dim.symbol.empty()) {
      values.push_back(dim.value);
      continue;
    }
    const auto found = symbols.find(dim.symbol);
    if (found == symbols.end()) bad_bundle("dimension " + dim.symbol + " is unknown" + REDO);
    if (found->second % dim.value != 0)
      bad_bundle(dim.symbol + "/" + std::to_string(dim.value) + " with " + dim.symbol + " = " +
                 std::to_string(found->second) + " is not an integer" + REDO);
    values.push_back(found->second / dim.value);
  }
  return values;
}

std::size_t item_bytes(const std::string& dtype) {
  static const std::map<std::string, std::size_t> BYTES{{"float32", 4}, {"float16", 2}, {"bfloat16", 2},
                                                        {"uint8", 1},   {"uint16", 2},  {"int64", 8}};
  const auto found = BYTES.find(dtype);
  if (found == BYTES.end()) bad_bundle("element type " + dtype + " is unknown");
  return found->second;
}

std::size_t tensor_bytes(const Shape& shape, const std::string& dtype) {
  std::uint64_t bytes = item_bytes(dtype);
  for (const std::int64_t dim : shape) {
    if (dim < 0 || (dim > 0 && bytes > (std::uint64_t{1} << 62) / static_cast<std::uint64_t>(dim)))
      bad_bundle("a tensor of the bundle is beyond any memory");
    bytes *= static_cast<std::uint64_t>(dim);
  }
  return static_cast<std::size_t>(bytes);
}

}  // namespace flashvsr
