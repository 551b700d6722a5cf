#include "pool.hpp"

#include <iterator>
#include <stdexcept>
#include <utility>

namespace flashvsr {

namespace {

constexpr std::size_t kAligned = 512;  // at least, as by cuMemAlloc

std::size_t rounded(std::size_t bytes, std::size_t to) { return (bytes + to - 1) / to * to; }

void* pointer(CUdeviceptr address) { return reinterpret_cast<void*>(address); }

}  // namespace

Pool::Pool(int device) : context_(device) {
  const Driver& driver = Driver::get();
  if (driver.address_reserve == nullptr || !context_.attribute(CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED)) {
    throw std::runtime_error("the driver or the GPU maps no memory");
  }
  kind_.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  kind_.location = {CU_MEM_LOCATION_TYPE_DEVICE, {device}};
  access_ = {kind_.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  driver.check(driver.memory_grain(&grain_, &kind_, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED), "cuMemGetAllocationGranularity");
  const Context::Current current(context_);
  std::size_t unused = 0, total = 0;
  driver.check(driver.memory_info(&unused, &total), "cuMemGetInfo");
  reserved_ = rounded(total, grain_);
  driver.check(driver.address_reserve(&begin_, reserved_, 0, 0, 0), "cuMemAddressReserve");
}

Pool::~Pool() {
  blocks_.clear();
  trim();
  Driver::get().address_free(begin_, reserved_);
}

void* Pool::take(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  const std::lock_guard<std::mutex> lock(mutex_);
  const std::size_t size = rounded(bytes, kAligned);
  auto best = blocks_.end();
  for (auto block = blocks_.begin(); block != blocks_.end(); ++block) {
    if (!block->second.free || block->second.size < size) continue;
    if (best == blocks_.end() || block->second.size < best->second.size) best = block;
  }
  if (best == blocks_.end()) best = extended(size);
  if (best == blocks_.end()) return of_host(bytes);
  const std::size_t rest = best->second.size - size;
  if (rest > 0) blocks_.emplace(best->first + size, Block{rest, true});
  best->second = {size, false};
  return pointer(begin_ + best->first);
}

// A free block of that size at the end; none where the device has no more memory.
Pool::Blocks::iterator Pool::extended(std::size_t size) {
  const bool merges = !blocks_.empty() && blocks_.rbegin()->second.free;
  const std::size_t end = blocks_.empty() ? 0 : blocks_.rbegin()->first + blocks_.rbegin()->second.size;
  const std::size_t start = merges ? blocks_.rbegin()->first : end;
  if (size > reserved_ - start || !map(start + size)) return blocks_.end();
  return blocks_.insert_or_assign(start, Block{size, true}).first;
}

// Whether there is memory behind all of the range up to `end`.
bool Pool::map(std::size_t end) {
  if (end <= mapped_) return true;
  const Driver& driver = Driver::get();
  const std::size_t size = rounded(end - mapped_, grain_);
  CUmemGenericAllocationHandle made = 0;
  if (driver.memory_create(&made, size, &kind_, 0) != CUDA_SUCCESS) return false;
  const bool put = driver.memory_map(begin_ + mapped_, size, 0, made, 0) == CUDA_SUCCESS;
  driver.memory_release(made);  // it goes with the mapping
  if (!put) return false;
  if (driver.memory_access(begin_ + mapped_, size, &access_, 1) != CUDA_SUCCESS) {
    driver.memory_unmap(begin_ + mapped_, size);
    return false;
  }
  pieces_.push_back(size);
  mapped_ += size;
  return true;
}

void* Pool::keep(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  const std::lock_guard<std::mutex> lock(mutex_);
  const Context::Current current(context_);
  CUdeviceptr address = 0;
  return Driver::get().memory_alloc(&address, bytes) == CUDA_SUCCESS ? pointer(address) : of_host(bytes);
}

// ONNX Runtime takes no null pointer for an answer: kernels would write there.
void* Pool::of_host(std::size_t bytes) {
  const Context::Current current(context_);
  void* memory = nullptr;
  Driver::get().check(Driver::get().host_alloc(&memory, bytes, CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP),
                      "out of memory: cuMemHostAlloc");
  hosted_.insert(memory);
  lacked_ += bytes;
  return memory;
}

void Pool::give(void* memory) {
  if (memory == nullptr) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto address = reinterpret_cast<CUdeviceptr>(memory);
  if (address < begin_ || address >= begin_ + reserved_) {
    const Context::Current current(context_);
    if (hosted_.erase(memory) > 0) {
      Driver::get().context_wait();  // kernels that were given it may not have run yet
      Driver::get().host_free(memory);
    } else {
      Driver::get().memory_free(address);
    }
    return;
  }
  auto block = blocks_.find(address - begin_);
  if (block == blocks_.end() || block->second.free) throw std::logic_error("memory given back that was not taken");
  block->second.free = true;
  const auto next = std::next(block);
  if (next != blocks_.end() && next->second.free) {
    block->second.size += next->second.size;
    blocks_.erase(next);
  }
  if (block == blocks_.begin()) return;
  const auto previous = std::prev(block);
  if (!previous->second.free) return;
  previous->second.size += block->second.size;
  blocks_.erase(block);
}

std::size_t Pool::shortage() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return std::exchange(lacked_, 0);
}

void Pool::trim() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!blocks_.empty() && blocks_.rbegin()->second.free) blocks_.erase(std::prev(blocks_.end()));
  const std::size_t end = blocks_.empty() ? 0 : blocks_.rbegin()->first + blocks_.rbegin()->second.size;
  while (!pieces_.empty() && mapped_ - pieces_.back() >= end) {
    mapped_ -= pieces_.back();
    Driver::get().memory_unmap(begin_ + mapped_, pieces_.back());
    pieces_.pop_back();
  }
}

std::size_t Pool::mapped() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return mapped_;
}

}  // namespace flashvsr
