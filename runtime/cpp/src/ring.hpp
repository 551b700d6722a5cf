// Which slots of the KV ring are valid, and which one the next slab goes to. Slot numbers only.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "schedule.hpp"

namespace flashvsr {

class KvRing {
 public:
  explicit KvRing(double kv_ratio) : kv_ratio_(kv_ratio), slots_(ring_slots(kv_ratio)) {}

  std::int64_t slots() const { return slots_; }
  const std::vector<std::int64_t>& valid() const { return valid_; }  // oldest first

  // Adjacent free slots for the slabs of the step that starts now.
  Range begin(std::int64_t slabs) const {
    std::int64_t run = 0;
    for (std::int64_t slot = 0; slot < slots_; ++slot) {
      run = std::find(valid_.begin(), valid_.end(), slot) == valid_.end() ? run + 1 : 0;
      if (run == slabs) return {slot + 1 - slabs, slot + 1};
    }
    throw std::logic_error("the KV ring has no adjacent free slots");
  }

  // The step is done: its slabs are valid, the oldest one may go.
  void commit(Range written) {
    for (std::int64_t slot = written.begin; slot < written.end; ++slot) valid_.push_back(slot);
    const auto kept = cached_slabs(static_cast<std::int64_t>(valid_.size()), kv_ratio_);
    valid_.erase(valid_.begin(), valid_.end() - kept);
  }

  void reset() { valid_.clear(); }

 private:
  double kv_ratio_;
  std::int64_t slots_;
  std::vector<std::int64_t> valid_;
};

}  // namespace flashvsr
