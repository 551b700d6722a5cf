// Stages of shared memory that one warp fills and others empty, in turn.
#pragma once

#include <cstdint>

namespace stages {

// Position in a ring of stages, and the parity of the current round.
template <int kStages>
struct Cursor {
  int stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

}  // namespace stages
