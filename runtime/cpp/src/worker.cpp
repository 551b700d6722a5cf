#include "worker.hpp"

#include <pthread.h>
#include <signal.h>

namespace flashvsr {

namespace {

// Threads started meanwhile take no signals: those are for the threads of the program.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

}  // namespace

Worker::Worker(std::shared_ptr<Queue> queue) : queue_(std::move(queue)) {
  if (!queue_->own_thread()) return;
  const SignalsBlocked blocked;
  thread_ = std::thread([this] { loop(); });
}

Worker::~Worker() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ended_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Worker::check() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (failure_ != nullptr) std::rethrow_exception(failure_);
}

void Worker::restart() {
  std::unique_lock<std::mutex> lock(mutex_);
  waiting_.clear();
  changed_.wait(lock, [this] { return !busy_; });
  failure_ = nullptr;
}

void Worker::enqueue(std::function<void()> task) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    waiting_.push_back(std::move(task));
  }
  changed_.notify_all();
}

void Worker::loop() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return ended_ || !waiting_.empty(); });
    if (ended_) return;
    busy_ = true;
    std::function<void()> task = std::move(waiting_.front());
    waiting_.pop_front();
    lock.unlock();
    task();
    task = nullptr;
    lock.lock();
    busy_ = false;
    changed_.notify_all();
  }
}

}  // namespace flashvsr
