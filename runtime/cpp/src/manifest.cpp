#include "manifest.hpp"

#include <algorithm>
#include <set>
#include <string_view>

#include "error.hpp"
#include "flashvsr_contract.hpp"
#include "json.hpp"
#include "sha256.hpp"

namespace flashvsr {

namespace {

using namespace json;

constexpr const char* REDO = "; what to do: export the bundle again, or name another";
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
    check_inside(item.key());
    manifest->files[item.key()] = bytes(member(object(item.value(), "a file"), "bytes"), item.key());
  }
}

Manifest parse(const Json& data) {
  object(data, "it");
  const std::int64_t schema = integer(member(data, "schema"), "schema");
  if (schema != contract::SCHEMA)
    bad_bundle("schema version " + std::to_string(schema) + "; expected: " + std::to_string(contract::SCHEMA));
  check_keys(data,
             {"about", "colour_fix", "files", "graphs", "local_range", "meaningful", "model", "model_version", "op_abi", "precision",
              "schema", "sizes", "weights"},
             "the manifest");
  Manifest manifest;
  manifest.model = string(member(data, "model"), "model");
  manifest.about = string(member(data, "about"), "about");
  manifest.model_version = string(member(data, "model_version"), "model_version");
  if (!contains(contract::VERSIONS, manifest.model_version))
    bad_bundle("model_version \"" + manifest.model_version + "\" is unknown");
  manifest.causal = manifest.model_version != contract::VERSIONS.front();
  manifest.op_abi = integer(member(data, "op_abi"), "op_abi");
  manifest.local_range = integer(member(data, "local_range"), "local_range");
  manifest.layers = integer(member(object(member(data, "sizes"), "sizes"), "layers"), "sizes.layers");
  manifest.colour_fix = contract::COLOUR_FIXES.front();
  if (const auto fix = data.find("colour_fix"); fix != data.end()) manifest.colour_fix = string(*fix, "colour_fix");
  if (!contains(contract::COLOUR_FIXES, manifest.colour_fix))
    bad_bundle("colour_fix \"" + manifest.colour_fix + "\" is unknown");
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

Manifest parse_manifest(const std::string& text) { return parsed(text, contract::MANIFEST_FILE, REDO, parse); }

Manifest load_manifest(const std::string& folder) {
  const std::string text = read_file(folder, contract::MANIFEST_FILE, std::string("; expected: a bundle folder") + REDO);
  Manifest manifest = parse_manifest(text);
  manifest.digest = sha256(text);
  for (const auto& [name, expected] : manifest.files) check_size(folder, name, expected, REDO);
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

Symbols lasting_dims(const Graph& graph, const Symbols& symbols) {
  Symbols sizes;
  for (const Tensor& tensor : graph.inputs) {
    for (const Dim& dim : tensor.shape) {
      if (!contains(contract::LASTING, dim.symbol) || symbols.count(dim.symbol) == 0) continue;
      const std::string name = dim.value == 1 ? dim.symbol : dim.symbol + "/" + std::to_string(dim.value);
      sizes[name] = evaluate({dim}, symbols).front();
    }
  }
  return sizes;
}

std::size_t item_bytes(const std::string& dtype) {
  static const std::map<std::string, std::size_t> BYTES{{"float32", 4}, {"float16", 2}, {"bfloat16", 2},
                                                        {"uint8", 1},   {"uint16", 2},  {"int64", 8},
                                                        {"float8e4m3fn", 1}};
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
