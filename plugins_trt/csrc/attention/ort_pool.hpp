// The pool as an allocator of ONNX Runtime.
#pragma once

#include <onnxruntime_c_api.h>

#include "pool.hpp"

namespace flashvsr {

// Sessions of this ONNX Runtime that ask for the environment's allocators work in that device's pool from now on; the
// pool is made with the first call. Throws std::runtime_error, also where it is shared already.
void share_pool(const OrtApi& api, int device);
// No session asked for from now on does. Throws std::runtime_error.
void unshare_pool(int device);
// Null before it is made.
Pool* pool_of(int device);

}  // namespace flashvsr
