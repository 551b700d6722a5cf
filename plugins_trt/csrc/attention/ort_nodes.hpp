// The custom ops: what makes a node of each.
#pragma once

#include <vector>

#include "ort_node.hpp"
#include "spec.hpp"

namespace flashvsr {

using MakeNode = Node*(const OrtApi& api, const OrtKernelInfo* info, Element element);

struct NodeKind {
  const spec::Op* spec;
  MakeNode* make;
  bool (*available)();  // whether this process has the libraries that it calls
};

const std::vector<NodeKind>& node_kinds();

// Whether such a GPU runs all ops of float8: the products with cuBLASLt, the attention with kernels compiled in.
bool can_run_float8(int compute_capability);

}  // namespace flashvsr
