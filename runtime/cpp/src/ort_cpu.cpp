#include <map>
#include <mutex>

#include "backends.hpp"
#include "host_queue.hpp"
#include "ort.hpp"

namespace flashvsr {

namespace {

// Sessions by file. Streams of one model share the weights of a graph while one of them holds it.
class Sessions {
 public:
  Sessions(const std::string& library, int threads) : ort_(std::make_shared<const Ort>(library)), threads_(threads) {
    place_.configure = [this](OrtSessionOptions* options) {
      if (threads_ > 0) ort_->check(ort_->api().SetIntraOpNumThreads(options, threads_), "ONNX Runtime");
    };
  }

  std::shared_ptr<StepGraph> load(const std::string& path, const Graph& graph) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::weak_ptr<StepGraph>& slot = loaded_[path];
    auto session = slot.lock();
    if (session == nullptr) slot = session = std::make_shared<OrtGraph>(ort_, path, graph, place_);
    return session;
  }

  std::string describe() const {
    const std::string threads = threads_ > 0 ? std::to_string(threads_) + " threads" : "threads by default";
    return "ONNX Runtime " + ort_->version() + ", CPU, " + threads;
  }

 private:
  std::shared_ptr<const Ort> ort_;
  int threads_;
  OrtPlace place_;
  std::mutex mutex_;
  std::map<std::string, std::weak_ptr<StepGraph>> loaded_;
};

class OrtCpuQueue : public HostQueue {
 public:
  OrtCpuQueue(std::shared_ptr<Sessions> sessions, const Functions& memory)
      : HostQueue(std::make_shared<Allocator>(memory)), sessions_(std::move(sessions)) {}

  // The sessions are shared by streams of all sizes.
  std::shared_ptr<StepGraph> load(const std::string& path, const Graph& graph, const Symbols&) override {
    return sessions_->load(path, graph);
  }

 private:
  std::shared_ptr<Sessions> sessions_;
};

class OrtCpu : public Backend {
 public:
  OrtCpu(const std::string& library, int threads) : sessions_(std::make_shared<Sessions>(library, threads)) {}

  std::shared_ptr<Queue> open_queue(const QueueOptions& options) override {
    if (options.cuda_stream != nullptr)
      fail(FLASHVSR_ERROR_UNSUPPORTED, "cuda_stream is set; expected: NULL with FLASHVSR_DEVICE_CPU");
    return std::make_shared<OrtCpuQueue>(sessions_, options.frames);
  }
  bool on_gpu() const override { return false; }
  void require(const std::string&) const override {}
  std::string describe() const override { return sessions_->describe(); }

 private:
  std::shared_ptr<Sessions> sessions_;
};

}  // namespace

std::unique_ptr<Backend> open_ort_cpu(const std::string& library, int threads) {
  return std::make_unique<OrtCpu>(library, threads);
}

}  // namespace flashvsr
