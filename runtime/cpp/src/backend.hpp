// What runs a step graph: allocate buffers, load a graph, run it on bound buffers. Knows tensors, not the model.
#pragma once

#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "error.hpp"
#include "manifest.hpp"
#include "memory.hpp"

namespace flashvsr {

// Memory of a back end, dense and row-major; views share the block.
struct Buffer {
  std::shared_ptr<Block> block;
  std::uint8_t* data = nullptr;
  Shape shape;
  std::string dtype;

  std::size_t bytes() const { return tensor_bytes(shape, dtype); }

  // Entries [begin, begin + count) of the first axis.
  Buffer slots(std::int64_t begin, std::int64_t count) const {
    if (shape.empty() || begin < 0 || count < 0 || begin > shape[0] - count)
      bad_bundle("slots " + std::to_string(begin) + " .. " + std::to_string(begin + count) +
                 " lie outside a tensor of the bundle");
    Buffer view = *this;
    view.shape[0] = 1;
    view.data += static_cast<std::size_t>(begin) * view.bytes();
    view.shape[0] = count;
    return view;
  }
};

using Binding = std::map<std::string, Buffer>;

class StepGraph {
 public:
  virtual ~StepGraph() = default;
  // Runs once. Outputs are written into the buffers given; no input may overlap an output, except for KV slots that
  // the call's `slabs` do not list. May be called from several threads at once.
  virtual void run(const Binding& inputs, const Binding& outputs) = 0;
};

// One device of one library, on host memory.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::shared_ptr<StepGraph> load(const std::string& path, const Graph& graph) = 0;
  // Library, version and device, for people.
  virtual std::string describe() const = 0;
};

inline Buffer allocate(const std::shared_ptr<Allocator>& allocator, const Shape& shape, const std::string& dtype) {
  const std::size_t bytes = tensor_bytes(shape, dtype);
  auto block = make_block(allocator, bytes);
  std::memset(block->data(), 0, bytes);
  return {block, block->data(), shape, dtype};
}

inline void upload(const void* data, std::size_t bytes, const Buffer& buffer) {
  if (buffer.bytes() != bytes)
    bad_bundle("a tensor of the bundle takes " + std::to_string(buffer.bytes()) + " bytes where " +
               std::to_string(bytes) + " are due");
  std::memcpy(buffer.data, data, bytes);
}

}  // namespace flashvsr
