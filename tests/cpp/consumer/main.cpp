#include <cstdio>
#include <flashvsr.hpp>

int main() {
  try {
    const flashvsr::Model model("no such folder");
  } catch (const flashvsr::Failure& failure) {
    std::printf("%s\n", failure.what());
    return failure.status() == FLASHVSR_ERROR_BUNDLE ? 0 : 1;
  }
  return 1;
}
