// Matrix products with bias, GELU and residual in one kernel, by the cuBLASLt that ONNX Runtime itself runs on.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>

#include "attention.hpp"

namespace flashvsr {

enum class Epilogue { kBias, kGelu, kAdd };

constexpr int kFirstWithFloat8 = 89;  // compute capability

// x [rows, inner] weight[columns, inner]^T + bias [columns], GELU of it, or plus residual [rows, columns]. Row-major.
struct Product {
  const void *x, *weight, *bias, *residual;  // residual: only with kAdd
  void* out;
  std::int64_t rows, columns, inner;
  // float8 only, on the device, 16 bytes apart: what a number of x and one of the weight stand for, and with kGelu the
  // inverse of what one of out does.
  const float* scales = nullptr;
};

// One layer: its plans by number of rows. Thread-safe. Errors are std::runtime_error.
class Linear {
 public:
  // Bytes of device memory that a call works in.
  static constexpr std::size_t kWorkspace = 32u << 20;

  // Whether a cuBLASLt is in this process or on the loader's path.
  static bool available();

  // float8: x, weight, and with kGelu out, are E4M3, inner and columns multiples of 16; all else is of `element`.
  Linear(int device, Element element, Epilogue epilogue, bool float8 = false);
  ~Linear();
  Linear(const Linear&) = delete;
  Linear& operator=(const Linear&) = delete;

  // Whether cuBLASLt has no kernel that gives this GELU in E4M3: then `out` gets it in `element`, to be rounded.
  bool leaves_rounding(const Product& product);

  void enqueue(const Product& product, void* workspace, CUstream stream);

 private:
  struct Algorithm {
    std::uint64_t data[8];
  };
  struct Plan {
    void *operation = nullptr, *weight = nullptr, *x = nullptr, *residual = nullptr, *out = nullptr;
    Algorithm algorithm{};
    bool found = false, rounds = false;
  };

  static void destroy(Plan& plan);
  Plan& plan(const Product& product);
  void make(Plan& plan, const Product& product) const;
  void choose(Plan& plan, const Product& product, int result) const;
  void set_scales(const Plan& plan, const Product& product) const;

  Element element_;
  Epilogue epilogue_;
  bool float8_;
  void* handle_;
  std::mutex mutex_;
  std::map<std::int64_t, Plan> plans_;
};

}  // namespace flashvsr
