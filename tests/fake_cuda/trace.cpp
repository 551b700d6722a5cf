// Launches one BlockSparseAttention on made-up addresses, or BlockSparseAttention8:
// trace ELEMENT SLABS CACHED ROWS COLUMNS HEADS LOCAL_RANGE [scales]
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>

#include "attention.hpp"

int main(int count, char** arguments) {
  const auto number = [&](int i) { return std::atoi(arguments[i]); };
  const auto at = [](std::uintptr_t address) { return reinterpret_cast<void*>(address); };
  const flashvsr::Problem problem{number(2), number(3), number(4), number(5), number(6), number(7)};
  const auto element = std::strcmp(arguments[1], "float16") ? flashvsr::Element::kBFloat16 : flashvsr::Element::kFloat16;
  try {
    const auto attention = flashvsr::shared_kernels<flashvsr::Attention>(0, element);
    const flashvsr::Tensors tensors{at(0x1000), at(0x2000), at(0x3000), at(0x4000), at(0x5000), at(0x6000), at(0x7000),
                                    at(0x8000), count > 8 ? at(0x9000) : nullptr};
    attention->enqueue(problem, tensors, at(0x100000), reinterpret_cast<CUstream>(std::uintptr_t{7}));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  std::printf("%zu\n", flashvsr::workspace_bytes(problem));
}
