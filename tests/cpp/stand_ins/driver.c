/* What libflashvsr calls of the CUDA driver from two threads, for streams, copies and events: copies happen at once; an
 * event that nobody has waited for has been passed at every third question. The rest is tests/fake_cuda/libcuda.c's. */
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
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

int cuCtxPushCurrent_v2(void* context) { return context == NULL; }
int cuCtxPopCurrent_v2(void** context) {
  *context = NULL;
  return 0;
}

static void* const STREAM = (void*)7; /* the only one */

int cuStreamCreate(void** stream, unsigned flags) {
  *stream = STREAM;
  return flags != 1;
}
int cuStreamDestroy_v2(void* stream) { return stream != STREAM; }
int cuStreamSynchronize(void* stream) { return stream != STREAM; }

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct timespec reached; /* of the last event waited for; an event is its time */

int cuEventCreate(void** event, unsigned flags) {
  *event = calloc(1, sizeof(struct timespec));
  return flags != 0;
}
int cuEventDestroy_v2(void* event) {
  free(event);
  return 0;
}
int cuEventRecord(void* event, void* stream) {
  clock_gettime(CLOCK_MONOTONIC, event);
  return stream != STREAM;
}
int cuEventSynchronize(void* event) {
  pthread_mutex_lock(&mutex);
  reached = *(const struct timespec*)event;
  pthread_mutex_unlock(&mutex);
  return 0;
}
int cuEventQuery(void* event) {
  static int asked = 0;
  const struct timespec* made = event;
  pthread_mutex_lock(&mutex);
  const int passed = made->tv_sec < reached.tv_sec || (made->tv_sec == reached.tv_sec && made->tv_nsec <= reached.tv_nsec);
  const int known = passed || ++asked % 3 == 0;
  pthread_mutex_unlock(&mutex);
  return known ? 0 : 600; /* CUDA_ERROR_NOT_READY */
}
int cuEventElapsedTime(float* milliseconds, void* from, void* to) {
  const struct timespec *a = from, *b = to;
  *milliseconds = (float)((double)(b->tv_sec - a->tv_sec) * 1e3 + (double)(b->tv_nsec - a->tv_nsec) * 1e-6);
  return 0;
}

int cuMemFree_v2(unsigned long long pointer) {
  free((void*)(uintptr_t)pointer);
  return 0;
}
int cuMemsetD8Async(unsigned long long pointer, unsigned char value, size_t size, void* stream) {
  memset((void*)(uintptr_t)pointer, value, size);
  return stream != STREAM;
}
int cuMemcpyHtoDAsync_v2(unsigned long long target, const void* source, size_t size, void* stream) {
  memcpy((void*)(uintptr_t)target, source, size);
  return stream != STREAM;
}
int cuMemcpyDtoHAsync_v2(void* target, unsigned long long source, size_t size, void* stream) {
  memcpy(target, (void*)(uintptr_t)source, size);
  return stream != STREAM;
}
int cuMemcpyDtoDAsync_v2(unsigned long long target, unsigned long long source, size_t size, void* stream) {
  memcpy((void*)(uintptr_t)target, (const void*)(uintptr_t)source, size);
  return stream != STREAM;
}
int cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D* copy, void* stream) {
  const int to_host = copy->source_kind == 2 && copy->target_kind == 1;
  if (stream != STREAM || (!to_host && (copy->source_kind != 1 || copy->target_kind != 2))) return 1;
  const char* source = to_host ? (const char*)(uintptr_t)copy->source_device : copy->source_host;
  char* target = to_host ? copy->target_host : (char*)(uintptr_t)copy->target_device;
  for (size_t y = 0; y < copy->height; ++y)
    memcpy(target + y * copy->target_pitch, source + y * copy->source_pitch, copy->width_bytes);
  return 0;
}
