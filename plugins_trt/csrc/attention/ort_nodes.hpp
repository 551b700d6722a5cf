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

// Whether Linear8 and its kin run on such a GPU: with cuBLASLt, and the kernel compiled in.
bool can_multiply_float8(int compute_capability);

}  // namespace flashvsr
