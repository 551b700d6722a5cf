/* The C interface on a GPU, real or stand-in:   device BUNDLE_OR_ENGINES OP_LIBRARY_OR_EMPTY
 *
 * The same frames whichever way they come and go: host and device memory, RGB and NV12 and P010, rows with gaps, a
 * CUDA stream and allocators of the caller's. Prints a checksum of the RGB frames.
 */
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "flashvsr.h"

#define CHECK(condition)                                                                                     \
  do {                                                                                                       \
    if (!(condition)) {                                                                                      \
      fprintf(stderr, "%s:%d: %s; last error: %s\n", __FILE__, __LINE__, #condition, flashvsr_last_error()); \
      exit(1);                                                                                               \
    }                                                                                                        \
  } while (0)

enum { WIDTH = 36, HEIGHT = 20, SCALE = 4, COUNT = 42, GAP = 12, OUT_BYTES = 3 * SCALE * SCALE * WIDTH * HEIGHT };

typedef unsigned long long Address;

/* What the program itself takes from the CUDA driver. */
static struct {
  int (*init)(unsigned);
  int (*device_get)(int *, int);
  int (*retain)(void **, int);
  int (*set_current)(void *);
  int (*allocate)(Address *, size_t);
  int (*release)(Address);
  int (*to_device)(Address, const void *, size_t, void *);
  int (*to_host)(void *, Address, size_t, void *);
  int (*stream_create)(void **, unsigned);
  int (*stream_wait)(void *);
} cuda;
static void *own_stream;

static void *symbol(const char *name) {
  void *library = dlopen("libcuda.so.1", RTLD_NOW);
  void *found = library != NULL ? dlsym(library, name) : NULL;
  if (found == NULL) fprintf(stderr, "no %s: %s\n", name, dlerror());
  CHECK(found != NULL);
  return found;
}

static void start_cuda(void) {
  *(void **)&cuda.init = symbol("cuInit");
  *(void **)&cuda.device_get = symbol("cuDeviceGet");
  *(void **)&cuda.retain = symbol("cuDevicePrimaryCtxRetain");
  *(void **)&cuda.set_current = symbol("cuCtxSetCurrent");
  *(void **)&cuda.allocate = symbol("cuMemAlloc_v2");
  *(void **)&cuda.release = symbol("cuMemFree_v2");
  *(void **)&cuda.to_device = symbol("cuMemcpyHtoDAsync_v2");
  *(void **)&cuda.to_host = symbol("cuMemcpyDtoHAsync_v2");
  *(void **)&cuda.stream_create = symbol("cuStreamCreate");
  *(void **)&cuda.stream_wait = symbol("cuStreamSynchronize");
  int device = 0;
  void *context = NULL;
  CHECK(cuda.init(0) == 0 && cuda.device_get(&device, 0) == 0 && cuda.retain(&context, device) == 0);
  CHECK(cuda.set_current(context) == 0 && cuda.stream_create(&own_stream, 1) == 0);
}

typedef struct {
  int32_t format, memory, variant;
  int external, counted;
} Way;

/* Memory of a picture of at most RGB24's size with gaps; on the device where the way says so. */
typedef struct {
  flashvsr_image image;
  size_t bytes;
  unsigned char *host;
  Address device;
} Picture;

static Picture make_picture(const Way *way, int width, int height) {
  Picture made;
  memset(&made, 0, sizeof made);
  flashvsr_image *image = &made.image;
  const size_t sample = way->format == FLASHVSR_FORMAT_P010 ? 2 : 1;
  image->struct_size = sizeof *image;
  image->format = way->format;
  image->memory = way->memory;
  image->width = width;
  image->height = height;
  image->matrix = 6;
  image->stride[0] = (way->format == FLASHVSR_FORMAT_RGB24 ? 3 : sample) * (size_t)width + GAP;
  image->stride[1] = sample * (size_t)width + GAP;
  made.bytes = image->stride[0] * (size_t)height + image->stride[1] * (size_t)height / 2;
  made.host = calloc(1, made.bytes);
  CHECK(made.host != NULL);
  unsigned char *base = made.host;
  if (way->memory == FLASHVSR_MEMORY_DEVICE) {
    CHECK(cuda.allocate(&made.device, made.bytes) == 0);
    base = (unsigned char *)(uintptr_t)made.device;
  }
  image->plane[0] = base;
  image->plane[1] = base + image->stride[0] * (size_t)height;
  return made;
}

static void free_picture(Picture *picture) {
  if (picture->device != 0) CHECK(cuda.release(picture->device) == 0);
  free(picture->host);
}

static void fill(Picture *picture, int frame) {
  for (size_t i = 0; i < picture->bytes; ++i) {
    const size_t x = i % picture->image.stride[0], y = i / picture->image.stride[0];
    picture->host[i] = (unsigned char)(40 + (x * 3 + y * 5 + (size_t)frame * 2) % 160);
  }
  if (picture->device == 0) return;
  CHECK(cuda.to_device(picture->device, picture->host, picture->bytes, own_stream) == 0);
  CHECK(cuda.stream_wait(own_stream) == 0);
}

/* Appends the picture without its gaps. */
static size_t unpack(Picture *picture, unsigned char *to) {
  if (picture->device != 0) {
    CHECK(cuda.to_host(picture->host, picture->device, picture->bytes, own_stream) == 0);
    CHECK(cuda.stream_wait(own_stream) == 0);
  }
  const flashvsr_image *image = &picture->image;
  const int planes = image->format == FLASHVSR_FORMAT_RGB24 ? 1 : 2;
  const unsigned char *from = picture->host;
  size_t written = 0;
  for (int plane = 0; plane < planes; ++plane) {
    const size_t row = image->stride[plane] - GAP, rows = (size_t)image->height / (plane == 0 ? 1 : 2);
    for (size_t y = 0; y < rows; ++y, from += image->stride[plane], written += row) memcpy(to + written, from, row);
  }
  return written;
}

typedef struct {
  long host, device, calls;
} Held;

static void *allocate_host(void *user, size_t bytes, size_t alignment) {
  ((Held *)user)->host++;
  return aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}
static void release_host(void *user, void *memory, size_t bytes) {
  (void)bytes;
  ((Held *)user)->host--;
  free(memory);
}
static void *allocate_device(void *user, size_t bytes, size_t alignment) {
  (void)alignment;
  Address address = 0;
  ((Held *)user)->device++;
  ((Held *)user)->calls++;
  return cuda.allocate(&address, bytes) == 0 ? (void *)(uintptr_t)address : NULL;
}
static void release_device(void *user, void *memory, size_t bytes) {
  (void)bytes;
  ((Held *)user)->device--;
  CHECK(cuda.release((Address)(uintptr_t)memory) == 0);
}

static int pull_all(flashvsr_stream *stream, Picture *out, unsigned char *frames, size_t *bytes, int done,
                    flashvsr_status end) {
  flashvsr_status status;
  while ((status = flashvsr_stream_pull(stream, &out->image)) == FLASHVSR_OK) {
    CHECK(out->image.tag == 100 + done);
    *bytes += unpack(out, frames + *bytes);
    ++done;
  }
  CHECK(status == end);
  return done;
}

/* Pushes COUNT frames and pulls as many, as the header's example does; gives their bytes. */
static size_t run(flashvsr_model *model, const Way *way, unsigned char *frames) {
  Held held = {0, 0, 0};
  flashvsr_stream_options options;
  CHECK(flashvsr_stream_options_defaults(&options, sizeof options) == FLASHVSR_OK);
  options.width = WIDTH;
  options.height = HEIGHT;
  options.variant = way->variant;
  if (way->external) options.cuda_stream = own_stream;
  if (way->counted) {
    options.allocate = allocate_host;
    options.deallocate = release_host;
    options.allocate_device = allocate_device;
    options.deallocate_device = release_device;
    options.allocator_user = &held;
  }
  flashvsr_stream *stream = NULL;
  CHECK(flashvsr_stream_open(model, &options, &stream) == FLASHVSR_OK);
  Picture in = make_picture(way, WIDTH, HEIGHT), out = make_picture(way, SCALE * WIDTH, SCALE * HEIGHT);
  size_t bytes = 0;
  int done = 0;
  for (int frame = 0; frame < COUNT; ++frame) {
    fill(&in, frame);
    in.image.tag = 100 + frame;
    CHECK(flashvsr_stream_push(stream, &in.image) == FLASHVSR_OK);
    done = pull_all(stream, &out, frames, &bytes, done, FLASHVSR_AGAIN);
  }
  CHECK(done > 0 || way->variant == FLASHVSR_VARIANT_TINY);
  CHECK(flashvsr_stream_flush(stream) == FLASHVSR_OK);
  CHECK(pull_all(stream, &out, frames, &bytes, done, FLASHVSR_END) == COUNT);
  flashvsr_stats stats = {.struct_size = sizeof stats};
  CHECK(flashvsr_stream_get_stats(stream, &stats) == FLASHVSR_OK);
  CHECK(stats.pulled == COUNT && stats.device_bytes > 0 && stats.peak_device_bytes >= stats.device_bytes);
  CHECK(stats.denoise_seconds > 0 && stats.decode_seconds > 0);
  flashvsr_stream_close(stream);
  CHECK(held.host == 0 && held.device == 0 && (held.calls > 0) == (way->counted != 0));
  free_picture(&in);
  free_picture(&out);
  return bytes;
}

static flashvsr_stream *open_plain(flashvsr_model *model) {
  flashvsr_stream_options options;
  CHECK(flashvsr_stream_options_defaults(&options, sizeof options) == FLASHVSR_OK);
  options.width = WIDTH;
  options.height = HEIGHT;
  flashvsr_stream *stream = NULL;
  CHECK(flashvsr_stream_open(model, &options, &stream) == FLASHVSR_OK);
  return stream;
}

/* A step at work does not hold up the frames of the next one: the library tells that it loads a graph of step 0, and
 * is let go on once all frames before step 1's last have been pushed. */
enum { BEFORE_STEP_1 = 25 + 8 - 1 };
static atomic_int pushed, awaited;

static void hold_up(void *user, int32_t level, const char *text) {
  (void)user, (void)level;
  if (strncmp(text, "loading", 7) != 0) return;
  const struct timespec moment = {0, 1000000};
  for (int i = 0; i < 60000 && atomic_load(&pushed) < atomic_load(&awaited); ++i) nanosleep(&moment, NULL);
  CHECK(atomic_load(&pushed) >= atomic_load(&awaited));
}

static void run_beside(flashvsr_model *model, unsigned char *got, const unsigned char *expected) {
  const Way way = {FLASHVSR_FORMAT_RGB24, FLASHVSR_MEMORY_HOST, FLASHVSR_VARIANT_LONG, 0, 0};
  flashvsr_stream *stream = open_plain(model);
  Picture in = make_picture(&way, WIDTH, HEIGHT);
  atomic_store(&awaited, BEFORE_STEP_1);
  for (int frame = 0; frame < BEFORE_STEP_1; ++frame) {
    fill(&in, frame);
    CHECK(flashvsr_stream_push(stream, &in.image) == FLASHVSR_OK);
    atomic_fetch_add(&pushed, 1);
  }
  const size_t bytes = run(model, &way, got); /* another stream beside it */
  CHECK(memcmp(got, expected, bytes) == 0);
  CHECK(flashvsr_stream_reset(stream) == FLASHVSR_OK); /* with work on its way */
  CHECK(flashvsr_stream_push(stream, &in.image) == FLASHVSR_OK);
  flashvsr_stream_close(stream);
  free_picture(&in);
}

/* A caller who pulls late is held up, not stuck. */
static void run_late(flashvsr_model *model) {
  const Way way = {FLASHVSR_FORMAT_RGB24, FLASHVSR_MEMORY_HOST, FLASHVSR_VARIANT_LONG, 0, 0};
  flashvsr_stream *stream = open_plain(model);
  Picture in = make_picture(&way, WIDTH, HEIGHT), out = make_picture(&way, SCALE * WIDTH, SCALE * HEIGHT);
  int held_up = 0, done = 0;
  for (int frame = 0; frame < 2 * COUNT;) {
    const flashvsr_status status = flashvsr_stream_push(stream, &in.image);
    CHECK(status == FLASHVSR_OK || status == FLASHVSR_AGAIN);
    frame += status == FLASHVSR_OK;
    if (status == FLASHVSR_OK) continue;
    ++held_up;
    CHECK(flashvsr_stream_pull(stream, &out.image) == FLASHVSR_OK);
    ++done;
  }
  CHECK(held_up > 0);
  flashvsr_stream_close(stream); /* with work on its way */
  free_picture(&in);
  free_picture(&out);
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  start_cuda();
  flashvsr_model_options options;
  CHECK(flashvsr_model_options_defaults(&options, sizeof options) == FLASHVSR_OK);
  options.device = FLASHVSR_DEVICE_CUDA;
  options.log = hold_up;
  if (argv[2][0] != '\0') options.op_library = argv[2];
  flashvsr_model *model = NULL;
  CHECK(flashvsr_model_open(argv[1], &options, &model) == FLASHVSR_OK);
  flashvsr_model_info info = {.struct_size = sizeof info};
  CHECK(flashvsr_model_get_info(model, &info) == FLASHVSR_OK);
  fprintf(stderr, "%s\n", info.backend);

  unsigned char *expected = malloc((size_t)COUNT * OUT_BYTES), *got = malloc((size_t)COUNT * OUT_BYTES);
  CHECK(expected != NULL && got != NULL);
  for (int32_t format = FLASHVSR_FORMAT_RGB24; format <= FLASHVSR_FORMAT_P010; ++format) {
    if (format == FLASHVSR_FORMAT_RGB48) continue;
    const Way plain = {format, FLASHVSR_MEMORY_HOST, FLASHVSR_VARIANT_LONG, 0, 0};
    const Way others[] = {{format, FLASHVSR_MEMORY_DEVICE, FLASHVSR_VARIANT_LONG, 1, 1},
                          {format, FLASHVSR_MEMORY_DEVICE, FLASHVSR_VARIANT_TINY, 0, 0}};
    const size_t bytes = run(model, &plain, expected);
    uint64_t sum = 14695981039346656037ull;
    for (size_t i = 0; i < bytes; ++i) sum = (sum ^ expected[i]) * 1099511628211ull; /* FNV-1a */
    printf("format %d: %zu bytes, %016llx\n", (int)format, bytes, (unsigned long long)sum);
    for (size_t i = 0; i < (format == FLASHVSR_FORMAT_RGB24 ? 2 : 1); ++i) {
      CHECK(run(model, &others[i], got) == bytes);
      CHECK(memcmp(got, expected, bytes) == 0);
    }
  }
  run_late(model);
  run(model, &(Way){FLASHVSR_FORMAT_RGB24, FLASHVSR_MEMORY_HOST, FLASHVSR_VARIANT_LONG, 0, 0}, expected);
  run_beside(model, got, expected);
  free(expected);
  free(got);
  flashvsr_model_close(model);
  return 0;
}
