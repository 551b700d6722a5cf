// A CUDA driver without a GPU, for tests: device memory is host memory, streams do their work in the worst order, and
// each launch is written to the file that FAKE_CUDA_LOG names. A "cubin" is the text of its kernel's arguments,
// "name:kind name:kind".
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

typedef struct { char symbol[128]; const char* arguments; int shared; } Function;
static void* contexts[64] = {NULL};  // current ones; a device's is its number plus 1
static int depth = 0;

int cuInit(unsigned flags) { return flags; }
int cuGetErrorString(int status, const char** text) { *text = status == 2 ? "out of memory" : "fake failure"; return 0; }
// FAKE_CUDA_DEVICES: their compute capabilities, e.g. "90,80".
int cuDeviceGetCount(int* count) {
  const char* devices = getenv("FAKE_CUDA_DEVICES");
  *count = 1;
  for (; devices != NULL && *devices; ++devices) *count += *devices == ',';
  return 0;
}
static int capability(int device) {
  const char* devices = getenv("FAKE_CUDA_DEVICES");
  while (devices != NULL && device-- > 0) devices = strchr(devices, ',') + 1;
  return devices == NULL ? 90 : atoi(devices);
}
int cuDeviceGet(int* device, int index) {
  int count;
  cuDeviceGetCount(&count);
  *device = index;
  return index >= count ? 101 : 0;
}
int cuDeviceGetName(char* name, int size, int device) { (void)device; snprintf(name, size, "Fake GPU"); return 0; }
int cuDeviceGetAttribute(int* value, int which, int device) {
  *value = which == 75 ? capability(device) / 10 : which == 76 ? capability(device) % 10 : which == 16 ? 132 : -1;
  return 0;
}
int cuCtxGetCurrent(void** context) { *context = contexts[depth]; return 0; }
int cuCtxGetDevice(int* device) {
  *device = (int)(intptr_t)contexts[depth] - 1;
  return contexts[depth] == NULL ? 201 : 0;
}
int cuCtxSetCurrent(void* context) { contexts[depth] = context; return 0; }
int cuDevicePrimaryCtxRetain(void** context, int device) {
  *context = (void*)(intptr_t)(device + 1);
  return getenv("FAKE_CUDA_FULL") != NULL && device == atoi(getenv("FAKE_CUDA_FULL")) ? 2 : 0;
}
int cuDevicePrimaryCtxRelease_v2(int device) { (void)device; return 0; }
int cuCtxPushCurrent_v2(void* context) { contexts[++depth] = context; return depth == 63; }
int cuCtxPopCurrent_v2(void** context) { *context = contexts[depth--]; return depth < 0; }

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
  if ((uintptr_t)map % 64 || rank < 2 || steps[0] != 1 || steps[1] != 1) return 1;
  const uint64_t words[16] = {type, (uintptr_t)pointer, sizes[0], sizes[1], strides[0], box[0], box[1],
                              interleave, swizzle, promotion, fill, rank};
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
    else if (!strcmp(kind, "tile") || !strcmp(kind, "tile8") || !strcmp(kind, "turned8")) {
      fprintf(log, " %s=", one);
      for (int i = 0; i < 16; ++i) fprintf(log, "%llx,", ((unsigned long long*)*parameters)[i]);
    } else fprintf(log, " %s=%llx", one, *(unsigned long long*)*parameters);
  }
  fprintf(log, "\n");
  free(arguments);
  return fclose(log);
}

// Work is done at once, unless FAKE_CUDA_ORDER tells otherwise. "late": only when somebody waits for it; "early": that for
// the first stream alone. So work that is not ordered behind what it needs, or behind what still needs its memory, does
// come too late or too early. `fake_call` is work of the program's own.
enum { FIRST_STREAM = 7, STREAMS = 16 };
typedef struct { struct timespec time; int stream; long place; } Event;
typedef struct { enum { COPY, SET, RECORD, WAIT, CALL } kind; void* target; const void* source; size_t size; Event wait; } Work;
typedef struct { Work* work; long done, given, room; } Stream;
static Stream streams[STREAMS];
static int created = 0;

static Stream* stream_of(void* handle) {
  const intptr_t index = (intptr_t)handle - FIRST_STREAM;
  return index >= 0 && index < created ? &streams[index] : NULL;
}
static void run_to(int index, long place) {
  Stream* stream = &streams[index];
  while (stream->done < place) {
    const Work work = stream->work[stream->done++];
    if (work.kind == WAIT) run_to(work.wait.stream, work.wait.place);
    if (work.kind == COPY) memcpy(work.target, work.source, work.size);
    if (work.kind == SET) memset(work.target, (int)(intptr_t)work.source, work.size);
    if (work.kind == CALL) ((void (*)(void))work.target)();
    if (work.kind == RECORD) clock_gettime(CLOCK_MONOTONIC, &((Event*)work.target)->time);
  }
}
static int give(void* handle, Work work) {
  Stream* stream = stream_of(handle);
  if (stream == NULL) return 1;
  if (stream->given == stream->room) {
    stream->room = 2 * stream->room + 64;
    stream->work = realloc(stream->work, sizeof(Work) * (size_t)stream->room);
  }
  stream->work[stream->given++] = work;
  const char* order = getenv("FAKE_CUDA_ORDER");
  if (order == NULL || (!strcmp(order, "early") && stream != streams)) run_to((int)(stream - streams), stream->given);
  return 0;
}
int fake_call(void* stream, void (*call)(void)) { return give(stream, (Work){.kind = CALL, .target = (void*)call}); }

int cuStreamCreate(void** stream, unsigned flags) {
  (void)flags;
  const int index = getenv("FAKE_CUDA_ORDER") == NULL ? 0 : created;
  *stream = (void*)(intptr_t)(FIRST_STREAM + index);
  created = index + 1;
  return created > STREAMS;
}
int cuStreamSynchronize(void* handle) {
  Stream* stream = stream_of(handle);
  if (stream == NULL) return 1;
  run_to((int)(stream - streams), stream->given);
  return 0;
}
int cuCtxSynchronize(void) {
  for (int i = 0; i < created; ++i) run_to(i, streams[i].given);
  return 0;
}
int cuStreamWaitEvent(void* stream, void* event, unsigned flags) {
  return give(stream, (Work){.kind = WAIT, .wait = *(Event*)event, .size = flags});
}
int cuMemAlloc_v2(uint64_t* pointer, size_t size) {
  if (size > (1ull << 40)) return 2;
  *pointer = (uint64_t)(uintptr_t)aligned_alloc(256, (size + 255) / 256 * 256);  // as the real one, at least
  return *pointer == 0 ? 2 : 0;
}
int cuMemFree_v2(uint64_t pointer) {
  for (int i = 0; i < created; ++i) run_to(i, streams[i].given);
  free((void*)(uintptr_t)pointer);
  return 0;
}

// Mapped memory: FAKE_CUDA_MEMORY bytes at most in all, if that is set. What has none behind it cannot be touched.
enum { GRAIN = 1 << 21 };
static size_t created_bytes = 0;
static struct { uint64_t address; size_t size; } mapped[4096];
int cuMemGetAllocationGranularity(size_t* grain, const void* kind, int option) {
  (void)kind;
  *grain = GRAIN;
  return option > 1;
}
int cuMemAddressReserve(uint64_t* address, size_t size, size_t alignment, uint64_t wish, uint64_t flags) {
  void* made = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  *address = (uint64_t)(uintptr_t)made;
  return made == MAP_FAILED || size % GRAIN || alignment || wish || flags;
}
int cuMemAddressFree(uint64_t address, size_t size) { return munmap((void*)(uintptr_t)address, size) != 0; }
int cuMemCreate(uint64_t* handle, size_t size, const void* kind, uint64_t flags) {
  const char* most = getenv("FAKE_CUDA_MEMORY");
  (void)kind;
  if (size % GRAIN || flags) return 1;
  if (most != NULL && created_bytes + size > strtoull(most, NULL, 10)) return 2;
  created_bytes += size;
  *handle = size;
  return 0;
}
int cuMemRelease(uint64_t handle) { return handle == 0; }
int cuMemMap(uint64_t address, size_t size, size_t offset, uint64_t handle, uint64_t flags) {
  for (int i = 0; i < 4096; ++i) {
    if (mapped[i].size != 0) continue;
    mapped[i].address = address;
    mapped[i].size = size;
    return size != handle || offset || flags || address % GRAIN;
  }
  return 2;
}
int cuMemSetAccess(uint64_t address, size_t size, const void* access, size_t count) {
  (void)access;
  if (getenv("FAKE_CUDA_NO_ACCESS") != NULL) return 2;
  return count != 1 || mprotect((void*)(uintptr_t)address, size, PROT_READ | PROT_WRITE) != 0;
}
int cuMemUnmap(uint64_t address, size_t size) {
  for (int i = 0; i < 4096; ++i) {
    if (mapped[i].address != address || mapped[i].size != size) continue;
    mapped[i].size = 0;
    created_bytes -= size;
    madvise((void*)(uintptr_t)address, size, MADV_DONTNEED);
    return mprotect((void*)(uintptr_t)address, size, PROT_NONE) != 0;
  }
  return 1;
}
int cuMemHostAlloc(void** pointer, size_t size, unsigned flags) {
  (void)flags;
  *pointer = malloc(size);
  return getenv("FAKE_CUDA_NO_HOST") != NULL ? 2 : 0;
}
int cuMemFreeHost(void* pointer) { free(pointer); return 0; }
int cuMemGetInfo_v2(size_t* free_bytes, size_t* total) { *free_bytes = *total = 1ull << 34; return 0; }
int cuMemsetD8Async(uint64_t pointer, unsigned char value, size_t size, void* stream) {
  return give(stream, (Work){.kind = SET, .target = (void*)(uintptr_t)pointer, .source = (void*)(intptr_t)value, .size = size});
}
int cuMemcpyHtoDAsync_v2(uint64_t target, const void* source, size_t size, void* stream) {
  return give(stream, (Work){.kind = COPY, .target = (void*)(uintptr_t)target, .source = source, .size = size});
}
int cuMemcpyDtoHAsync_v2(void* target, uint64_t source, size_t size, void* stream) {
  return give(stream, (Work){.kind = COPY, .target = target, .source = (void*)(uintptr_t)source, .size = size});
}
// An event's memory stays: work put off may still tell its time.
int cuEventCreate(void** event, unsigned flags) { (void)flags; *event = calloc(1, sizeof(Event)); return 0; }
int cuEventDestroy_v2(void* event) { return event == NULL; }
int cuEventRecord(void* handle, void* stream) {
  Event* event = handle;
  if (stream_of(stream) == NULL) return 1;
  event->stream = (int)(stream_of(stream) - streams);
  event->place = streams[event->stream].given + 1;
  return give(stream, (Work){.kind = RECORD, .target = event});
}
int cuEventSynchronize(void* handle) {
  const Event* event = handle;
  if (event == NULL) return 1;
  run_to(event->stream, event->place);
  return 0;
}
int cuEventElapsedTime(float* milliseconds, void* from, void* to) {
  const Event *a = from, *b = to;
  if (streams[a->stream].done < a->place || streams[b->stream].done < b->place) return 600;  // CUDA_ERROR_NOT_READY
  *milliseconds = (float)((double)(b->time.tv_sec - a->time.tv_sec) * 1e3 + (double)(b->time.tv_nsec - a->time.tv_nsec) * 1e-6);
  return 0;
}
