// What runs a step graph: allocate buffers, copy, load a graph, run it on bound buffers, in order. Knows tensors, not
// the model.
#pragma once

#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "error.hpp"
#include "manifest.hpp"
#include "memory.hpp"

namespace flashvsr {

// Memory of a queue's device, dense and row-major; views share the block.
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
using Frame = std::shared_ptr<Block>;  // host memory

class StepGraph {
 public:
  virtual ~StepGraph() = default;
  // Runs once. Outputs are written into the buffers given; no input may overlap an output, except for KV slots that
  // the call's `slabs` do not list.
  virtual void run(const Binding& inputs, const Binding& outputs) = 0;
};

// A point in a queue.
class Mark {
 public:
  virtual ~Mark() = default;
  virtual bool passed() const = 0;
  // Until the queue has come here; throws what went wrong with earlier work.
  virtual void wait() const = 0;
  // Between two marks of one queue that it has passed.
  virtual double seconds_since(const Mark& earlier) const = 0;
};

// A rectangle of bytes in memory.
struct Rows {
  void* data;
  std::size_t stride, bytes, count;  // from row to row, in a row, rows
};

// One stream's memory and work: what is asked for happens in order, on a GPU while the caller goes on.
// Call everything between enter and leave, on one thread at a time but for what `own_thread` names.
class Queue {
 public:
  // frames: host memory of frames; tensors: device memory (on the CPU the same).
  Queue(std::shared_ptr<Allocator> frames, std::shared_ptr<Allocator> tensors)
      : frames_(std::move(frames)), tensors_(std::move(tensors)) {}
  virtual ~Queue() = default;
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  virtual void enter() {}
  virtual void leave() noexcept {}
  // Whether a thread of the library's own may ask for work: on a GPU, but not on a CUDA stream of the caller's. Beside
  // that thread another may make frames and marks' questions, and call from_device and to_device.
  virtual bool own_thread() const = 0;

  virtual void zero(const Buffer& buffer) = 0;
  // The block is not to change before a later mark has been passed.
  virtual void upload(const Frame& block, const Buffer& buffer) = 0;
  virtual void download(const Buffer& buffer, const Frame& block) = 0;
  virtual void copy(const Buffer& from, const Buffer& to) = 0;
  virtual std::shared_ptr<Mark> mark() = 0;
  // Copies a picture of the caller's from or to the device. On the queue itself where the caller has given the CUDA
  // stream, so that it is in order with the caller's work; else at once. `from_device` always waits for its result.
  virtual void from_device(const Rows& device, const Rows& host) = 0;
  virtual void to_device(const Frame& block, const Rows& host, const Rows& device) = 0;

  // Gives the device what graphs that are gone have computed in.
  virtual void trim() {}
  // symbols: of the graph's shapes; every run will have those of contract::LASTING.
  virtual std::shared_ptr<StepGraph> load(const std::string& path, const Graph& graph, const Symbols& symbols) = 0;

  const std::shared_ptr<Allocator>& frames() const { return frames_; }
  const std::shared_ptr<Allocator>& tensors() const { return tensors_; }

  Frame frame(std::size_t bytes) const { return make_block(frames_, bytes); }

  // A buffer of zeros.
  Buffer allocate(const Shape& shape, const std::string& dtype) {
    auto block = make_block(tensors_, tensor_bytes(shape, dtype));
    Buffer buffer{block, block->data(), shape, dtype};
    zero(buffer);
    return buffer;
  }

  virtual void upload(const void* data, std::size_t bytes, const Buffer& buffer) {
    const Frame block = frame(bytes);
    if (bytes > 0) std::memcpy(block->data(), data, bytes);
    upload(block, buffer);
  }

 protected:
  // Of an upload: it must fill the buffer.
  static void check_size(std::size_t bytes, const Buffer& buffer) {
    if (buffer.bytes() != bytes)
      bad_bundle("a tensor of the bundle takes " + std::to_string(buffer.bytes()) + " bytes where " +
                 std::to_string(bytes) + " are due");
  }

  std::shared_ptr<Allocator> frames_, tensors_;
};

// A queue's device is the calling thread's while this lives.
class Entered {
 public:
  explicit Entered(Queue& queue) : queue_(queue) { queue_.enter(); }
  ~Entered() { queue_.leave(); }
  Entered(const Entered&) = delete;
  Entered& operator=(const Entered&) = delete;

 private:
  Queue& queue_;
};

struct QueueOptions {
  Functions frames, tensors;  // of the caller, or none
  void* cuda_stream = nullptr;
};

// One device of one library. May be used from any threads.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::shared_ptr<Queue> open_queue(const QueueOptions& options) = 0;
  virtual bool on_gpu() const = 0;
  // Throws where this back end has no such graph.
  virtual void require(const std::string& graph) const = 0;
  // Library, version and device, for people.
  virtual std::string describe() const = 0;
};

}  // namespace flashvsr
