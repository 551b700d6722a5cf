// Device memory for what graphs compute with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <vector>

#include "driver.hpp"

namespace flashvsr {

// One range of addresses, as long as the device's memory. Memory is put behind its front as more is asked for, so that all
// that is free side by side serves a larger tensor. An arena of separate allocations cannot merge them, and took half as
// much again.
//
// What is given back may be taken at once: whoever takes it must work behind on the same stream. All functions may be
// called from any thread.
class Pool {
 public:
  // Throws std::runtime_error where there is no such device, or it has no memory mapping.
  explicit Pool(int device);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // Memory of the range; null for 0 bytes. Where the device has no more, it is the host's, which the device reads and
  // writes slowly: nothing that runs is lost, and `shortage` tells. Throws std::runtime_error where that is gone too.
  void* take(std::size_t bytes);
  // Memory of its own, for what stays as long as a graph. Where the device has no more, as `take`.
  void* keep(std::size_t bytes);
  // Of either kind.
  void give(void* memory);

  // The bytes that the device lacked since the last call, 0 if none.
  std::size_t shortage();
  // Gives the device what lies behind all that is taken. Its stream must have been waited for.
  void trim();
  // Bytes that the range has of the device's memory.
  std::size_t mapped() const;

 private:
  struct Block {
    std::size_t size;
    bool free;
  };
  using Blocks = std::map<std::size_t, Block>;  // by offset, without gaps from 0 on

  Blocks::iterator extended(std::size_t size);
  bool map(std::size_t end);
  void* of_host(std::size_t bytes);

  const Context context_;
  CUmemAllocationProp kind_{};
  CUmemAccessDesc access_{};
  std::size_t grain_ = 0, reserved_ = 0, mapped_ = 0, lacked_ = 0;
  CUdeviceptr begin_ = 0;
  std::vector<std::size_t> pieces_;  // sizes of the memory mapped, in order
  Blocks blocks_;
  std::set<void*> hosted_;  // of the host's memory
  mutable std::mutex mutex_;
};

}  // namespace flashvsr
