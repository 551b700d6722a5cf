/* What libflashvsr calls of the CUDA driver beyond tests/fake_cuda/libcuda.c, with which it is compiled. Copies happen
 * at once; an event that nobody has waited for has been passed at every third question. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

typedef struct {
  size_t source_x, source_y;
  int source_kind;
  const void* source_host;
  unsigned long long source_device;
  void* source_array;
  size_t source_pitch, target_x, target_y;
  int target_kind;
  void* target_host;
  unsigned long long target_device;
  void* target_array;
  size_t target_pitch, width_bytes, height;
} CUDA_MEMCPY2D;

static struct timespec reached; /* of the last event waited for; libcuda.c keeps an event as its time */

int cuStreamDestroy_v2(void* stream) { return stream != (void*)7; }
int cuEventSynchronize(void* event) {
  reached = *(const struct timespec*)event;
  return 0;
}
int cuEventQuery(void* event) {
  static int asked = 0;
  const struct timespec* made = event;
  const int passed = made->tv_sec < reached.tv_sec || (made->tv_sec == reached.tv_sec && made->tv_nsec <= reached.tv_nsec);
  return passed || ++asked % 3 == 0 ? 0 : 600; /* CUDA_ERROR_NOT_READY */
}
int cuMemcpyDtoDAsync_v2(unsigned long long target, unsigned long long source, size_t size, void* stream) {
  memcpy((void*)(uintptr_t)target, (const void*)(uintptr_t)source, size);
  return stream != (void*)7;
}
int cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D* copy, void* stream) {
  const int to_host = copy->source_kind == 2 && copy->target_kind == 1;
  if (stream != (void*)7 || (!to_host && (copy->source_kind != 1 || copy->target_kind != 2))) return 1;
  const char* source = to_host ? (const char*)(uintptr_t)copy->source_device : copy->source_host;
  char* target = to_host ? copy->target_host : (char*)(uintptr_t)copy->target_device;
  for (size_t y = 0; y < copy->height; ++y)
    memcpy(target + y * copy->target_pitch, source + y * copy->source_pitch, copy->width_bytes);
  return 0;
}
