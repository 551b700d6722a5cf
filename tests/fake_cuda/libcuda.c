// A CUDA driver without a GPU, for tests: device memory is host memory, copies happen at once, and each launch is
// written to the file that FAKE_CUDA_LOG names. A "cubin" is the text of its kernel's arguments, "name:kind name:kind".
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct { char symbol[128]; const char* arguments; int shared; } Function;
static int depth = 0;  // contexts pushed

int cuInit(unsigned flags) { return flags; }
int cuGetErrorString(int status, const char** text) { *text = status == 2 ? "out of memory" : "fake failure"; return 0; }
int cuDeviceGet(int* device, int index) { *device = index; return index > 0 ? 101 : 0; }
int cuDeviceGetName(char* name, int size, int device) { (void)device; snprintf(name, size, "Fake GPU"); return 0; }
int cuDeviceGetAttribute(int* value, int which, int device) {
  (void)device;
  *value = which == 75 ? 9 : which == 76 ? 0 : which == 16 ? 132 : -1;
  return 0;
}
int cuCtxGetDevice(int* device) { *device = 0; return 0; }
int cuCtxSetCurrent(void* context) { (void)context; return 0; }
int cuDevicePrimaryCtxRetain(void** context, int device) { (void)device; *context = (void*)1; return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { (void)device; return 0; }
int cuCtxPushCurrent_v2(void* context) { (void)context; ++depth; return 0; }
int cuCtxPopCurrent_v2(void** context) { *context = (void*)1; --depth; return 0; }

int cuModuleLoadData(void** module, const void* image) { *module = strdup(image); return 0; }
int cuModuleUnload(void* module) { free(module); return 0; }
int cuModuleGetFunction(void** function, void* module, const char* name) {
  Function* made = calloc(1, sizeof *made);
  snprintf(made->symbol, sizeof made->symbol, "%s", name);
  made->arguments = strdup(module);
  *function = made;
  return 0;
}
int cuFuncSetAttribute(void* function, int attribute, int value) {
  if (attribute != 8) return 1;
  ((Function*)function)->shared = value;
  return 0;
}
int cuTensorMapEncodeTiled(void* map, int type, unsigned rank, void* pointer, const uint64_t* sizes,
                           const uint64_t* strides, const uint32_t* box, const uint32_t* steps, int interleave,
                           int swizzle, int promotion, int fill) {
  if ((uintptr_t)map % 64 || rank != 2 || steps[0] != 1 || steps[1] != 1) return 1;
  const uint64_t words[16] = {type, (uintptr_t)pointer, sizes[0], sizes[1], strides[0], box[0], box[1],
                              interleave, swizzle, promotion, fill};
  memcpy(map, words, sizeof words);
  return 0;
}
int cuLaunchKernel(void* handle, unsigned x, unsigned y, unsigned z, unsigned tx, unsigned ty, unsigned tz,
                   unsigned shared, void* stream, void** parameters, void** extra) {
  Function* function = handle;
  if (extra != NULL || (shared > 48 * 1024 && function->shared != (int)shared)) return 1;
  FILE* log = fopen(getenv("FAKE_CUDA_LOG"), "a");
  fprintf(log, "%s %ux%ux%u %ux%ux%u %u stream %p", function->symbol, x, y, z, tx, ty, tz, shared, stream);
  char* arguments = strdup(function->arguments);
  for (char* one = strtok(arguments, " "); one; one = strtok(NULL, " "), ++parameters) {
    const char* kind = strchr(one, ':') + 1;
    if (!strcmp(kind, "i32")) fprintf(log, " %s=%d", one, *(int32_t*)*parameters);
    else if (!strcmp(kind, "tile")) {
      fprintf(log, " %s=", one);
      for (int i = 0; i < 16; ++i) fprintf(log, "%llx,", ((unsigned long long*)*parameters)[i]);
    } else fprintf(log, " %s=%llx", one, *(unsigned long long*)*parameters);
  }
  fprintf(log, "\n");
  free(arguments);
  return fclose(log);
}

int cuStreamCreate(void** stream, unsigned flags) { (void)flags; *stream = (void*)7; return 0; }
int cuStreamSynchronize(void* stream) { return stream != (void*)7; }
int cuMemAlloc_v2(uint64_t* pointer, size_t size) {
  if (size > (1ull << 40)) return 2;
  *pointer = (uint64_t)(uintptr_t)malloc(size);
  return *pointer == 0 ? 2 : 0;
}
int cuMemFree_v2(uint64_t pointer) { free((void*)(uintptr_t)pointer); return 0; }
int cuMemHostAlloc(void** pointer, size_t size, unsigned flags) { (void)flags; *pointer = malloc(size); return 0; }
int cuMemFreeHost(void* pointer) { free(pointer); return 0; }
int cuMemGetInfo_v2(size_t* free_bytes, size_t* total) { *free_bytes = *total = 1ull << 34; return 0; }
int cuMemsetD8Async(uint64_t pointer, unsigned char value, size_t size, void* stream) {
  memset((void*)(uintptr_t)pointer, value, size);
  return stream != (void*)7;
}
int cuMemcpyHtoDAsync_v2(uint64_t target, const void* source, size_t size, void* stream) {
  memcpy((void*)(uintptr_t)target, source, size);
  return stream != (void*)7;
}
int cuMemcpyDtoHAsync_v2(void* target, uint64_t source, size_t size, void* stream) {
  memcpy(target, (void*)(uintptr_t)source, size);
  return stream != (void*)7;
}
int cuEventCreate(void** event, unsigned flags) { (void)flags; *event = calloc(1, sizeof(struct timespec)); return 0; }
int cuEventDestroy_v2(void* event) { free(event); return 0; }
int cuEventRecord(void* event, void* stream) { clock_gettime(CLOCK_MONOTONIC, event); return stream != (void*)7; }
int cuEventSynchronize(void* event) { return event == NULL; }
int cuEventElapsedTime(float* milliseconds, void* from, void* to) {
  const struct timespec *a = from, *b = to;
  *milliseconds = (float)((double)(b->tv_sec - a->tv_sec) * 1e3 + (double)(b->tv_nsec - a->tv_nsec) * 1e-6);
  return 0;
}
