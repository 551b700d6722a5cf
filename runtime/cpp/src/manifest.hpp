// manifest.json of a bundle, as configs/manifest.py writes it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace flashvsr {

using Symbols = std::map<std::string, std::int64_t>;
using Shape = std::vector<std::int64_t>;

// An integer, a symbol, or symbol/integer.
struct Dim {
  std::string symbol;  // empty: `value` is the dimension, else its divisor
  std::int64_t value = 1;
};

struct Tensor {
  std::string name;
  std::string dtype;  // literal: what "f" stands for is filled in
  std::vector<Dim> shape;
};

struct Graph {
  std::string name;
  std::vector<Tensor> inputs, outputs;
  std::vector<std::pair<std::string, std::string>> state;  // an output and the input it feeds at the next call

  // Throws where there is none.
  const Tensor& tensor(const std::string& name) const;
};

struct Manifest {
  std::string model, about, model_version, precision;
  std::string colour_fix;  // what suits these weights
  std::string digest;  // of the file, which names the bundle
  std::int64_t op_abi = 0;
  std::int64_t local_range = 0;
  std::int64_t layers = 0;
  bool causal = false;  // whether the LQ projector carries caches
  bool meaningful = true;
  std::map<std::string, Graph> graphs;
  std::map<std::string, std::uint64_t> files;  // bytes of each file of the bundle

  // Throws where there is none.
  const Graph& graph(const std::string& name) const;
};

// Throws FLASHVSR_ERROR_BUNDLE for anything but a manifest of this schema.
Manifest parse_manifest(const std::string& text);

// Reads <folder>/manifest.json and compares the sizes of the files it lists.
Manifest load_manifest(const std::string& folder);

Shape evaluate(const std::vector<Dim>& shape, const Symbols& symbols);

// The symbolic dimensions of a graph's inputs, by their text, that stay for a whole stream, and their values.
Symbols lasting_dims(const Graph& graph, const Symbols& symbols);

// Bytes of one element; throws for a type no graph has.
std::size_t item_bytes(const std::string& dtype);

// Bytes of a dense tensor; throws where they do not fit 62 bits.
std::size_t tensor_bytes(const Shape& shape, const std::string& dtype);

}  // namespace flashvsr
