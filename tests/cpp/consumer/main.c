#include <flashvsr.h>
#include <stdio.h>

int main(void) {
  printf("flashvsr %s\n", flashvsr_version());
  return flashvsr_abi_version() == FLASHVSR_ABI_VERSION ? 0 : 1;
}
