// Loops over rows of a picture, on some processors at once.
#pragma once

#include <algorithm>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

namespace flashvsr {

// Calls body(begin, end) for parts of [0, count) that make up the whole; on threads of their own where the samples in
// all are worth it. Parts must not depend on each other, and `body` must not throw.
template <typename Body>
void in_parts(std::int64_t count, std::int64_t samples, const Body& body) {
  constexpr std::int64_t MOST = 4, WORTH_A_THREAD = 1 << 16;
  const std::int64_t processors = std::max(1U, std::thread::hardware_concurrency());
  const std::int64_t parts = std::max<std::int64_t>(1, std::min({MOST, processors, samples / WORTH_A_THREAD, count}));
  std::vector<std::thread> threads;
  threads.reserve(static_cast<std::size_t>(parts));
  std::int64_t end = count;
  try {
    for (std::int64_t part = parts - 1; part > 0; --part) {
      const std::int64_t begin = count * part / parts;
      threads.emplace_back([&body, begin, end] { body(begin, end); });
      end = begin;
    }
  } catch (const std::system_error&) {
    // No more threads can be had: the rest is done here.
  }
  body(0, end);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace flashvsr
