// BlockSparseAttention and BlockSparseAttention8 on a GPU from C++: the same kernels in the same order as plugins_trt/attention_op.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "driver.hpp"

namespace flashvsr {

enum class Element { kFloat16, kBFloat16 };

// The kernels of that kind for a device and element type: one object for all callers of the process.
template <class Kernels>
std::shared_ptr<const Kernels> shared_kernels(int device, Element element) {
  static std::mutex mutex;
  static std::map<std::pair<int, Element>, std::weak_ptr<const Kernels>> loaded;
  const std::lock_guard<std::mutex> lock(mutex);
  auto& place = loaded[{device, element}];
  auto kernels = place.lock();
  if (kernels == nullptr) place = kernels = std::make_shared<const Kernels>(device, element);
  return kernels;
}

// Sizes of one call: query slabs, cached slabs, windows of a slab as rows x columns, heads, local range.
struct Problem {
  int slabs, cached_slabs, rows, columns, heads, local_range;

  int win() const { return rows * columns; }
  int dim() const;
  int q_windows() const { return slabs * win(); }
  int k_windows() const { return (slabs + cached_slabs) * win(); }
  int items() const { return heads * q_windows(); }
};

// Device addresses, as in plugins_trt/spec.py. `k_cache`, `v_cache` and `slabs` may be null without cached slabs; with
// `scales` all but `out` are in 8 bits.
struct Tensors {
  const void *q, *k, *v, *k_cache, *v_cache, *slabs, *topk;
  void* out;
  const void* scales = nullptr;
};

// Bytes of device memory that a call works in, 256-byte aligned.
std::size_t workspace_bytes(const Problem& problem);

// The embedded architecture for a device of that compute capability, e.g. 90; 0: none.
int embedded_architecture(int compute_capability);

// Whether a kernel of that name is part of BlockSparseAttention or BlockSparseAttention8.
bool is_attention_stage(const char* name);

// Attention of all query windows to all key windows.
struct Whole {
  int heads, q_windows, k_windows;

  int items() const { return heads * q_windows; }
};

// Device addresses of a whole attention; `lists`, `counts`, `order` and `ticket` are filled by the kernel list_all.
struct WholeTensors {
  const void *q, *k, *v;
  void* out;
  const void *lists, *counts, *order, *ticket;
};

// Whether the embedded kernels run on a device of that compute capability, e.g. 90.
bool can_serve(int compute_capability);

// The kernels of one element type on one device. Thread-safe. Errors are std::runtime_error.
class Attention {
 public:
  Attention(int device, Element element);
  Attention(const Attention&) = delete;
  Attention& operator=(const Attention&) = delete;

  // Launches selection and attention on `stream`, in the device's primary context. Allocates nothing.
  void enqueue(const Problem& problem, const Tensors& tensors, void* workspace, CUstream stream) const;

  // The attention's last stage alone, over given lists.
  void enqueue_whole(const Whole& sizes, const WholeTensors& tensors, CUstream stream) const;

 private:
  struct Argument {
    int value;  // index of its value in a call
    int kind;
  };
  struct Kernel {
    const char* name;
    int stage;
    bool halves, eighths;  // whether it is a stage in 16 bits, in 8 bits
    CUfunction function;
    int threads, shared_bytes, scratch_pointers;
    bool persistent;
    std::vector<Argument> arguments;
  };

  void load();
  // The last stage; throws where the GPU has none for that type.
  const Kernel& last(bool Kernel::*type) const;
  void launch(const Kernel& kernel, const std::uint64_t* values, CUstream stream) const;

  Context context_;
  Element element_;
  int multiprocessors_ = 0;
  Modules modules_;
  std::vector<Kernel> kernels_;  // in launch order
};

}  // namespace flashvsr
