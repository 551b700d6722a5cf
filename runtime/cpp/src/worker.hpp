// The work of one stream in order, beside the thread that asks for it.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "queue.hpp"

namespace flashvsr {

// A library of inference may wait for the GPU in the middle of a graph: ONNX Runtime does where a shape is computed
// there. On a thread of its own that does not hold up the caller, who prepares the next frames meanwhile. Where the
// queue allows no such thread, work is done at once.
class Worker {
 public:
  explicit Worker(std::shared_ptr<Queue> queue);
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Does `work` behind all earlier work, with the queue's device entered. The future gives its result or what it
  // threw; without a thread this call throws that itself. Behind work that has failed all fails the same way.
  template <typename Work>
  auto post(Work work) -> std::shared_future<decltype(work())> {
    using Result = decltype(work());
    const auto task = std::make_shared<std::packaged_task<Result()>>([this, work = std::move(work)]() mutable {
      const Work once = std::move(work);  // what it holds is given back when it is done, not with the future
      return attempt(once);
    });
    std::shared_future<Result> result = task->get_future().share();
    if (!thread_.joinable()) {
      (*task)();
      result.get();
    } else {
      enqueue([task] { (*task)(); });
    }
    return result;
  }

  // Throws what work has failed with, if any has.
  void check() const;
  // Waits for the work that has begun, drops the rest, and forgets what has failed.
  void restart();

 private:
  template <typename Work>
  auto attempt(const Work& work) {
    check();
    try {
      const Entered entered(*queue_);
      return work();
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex_);
      failure_ = std::current_exception();
      throw;
    }
  }

  void enqueue(std::function<void()> task);
  void loop();

  std::shared_ptr<Queue> queue_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> waiting_;
  std::exception_ptr failure_;
  bool busy_ = false, ended_ = false;
  std::thread thread_;
};

}  // namespace flashvsr
