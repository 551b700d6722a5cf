/* The C interface from outside:   border BUNDLE ORT_LIBRARY MODE
 *
 * arguments   wrong arguments give status codes
 * stream      counts, tags, order of calls, reset, stats, allocator
 * threads     two threads on one stream
 * memory      every allocation of a stream fails once
 * cycles      20 times open, run, close; prints the heap in use after each
 */
#include <malloc.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "flashvsr.h"

#define CHECK(condition)                                                                                 \
  do {                                                                                                   \
    if (!(condition)) {                                                                                  \
      fprintf(stderr, "%s:%d: %s; last error: %s\n", __FILE__, __LINE__, #condition, flashvsr_last_error()); \
      exit(1);                                                                                           \
    }                                                                                                    \
  } while (0)

enum { WIDTH = 20, HEIGHT = 12, SCALE = 4, FIRST = 25, STEP = 8 };

static const char *bundle;
static const char *ort_library;

static flashvsr_model *open_model(void) {
  flashvsr_model_options options;
  CHECK(flashvsr_model_options_defaults(&options, sizeof options) == FLASHVSR_OK);
  options.ort_library = ort_library;
  options.threads = 1;
  flashvsr_model *model = NULL;
  CHECK(flashvsr_model_open(bundle, &options, &model) == FLASHVSR_OK);
  CHECK(model != NULL);
  return model;
}

static flashvsr_stream_options stream_options(void) {
  flashvsr_stream_options options;
  CHECK(flashvsr_stream_options_defaults(&options, sizeof options) == FLASHVSR_OK);
  options.width = WIDTH;
  options.height = HEIGHT;
  return options;
}

static flashvsr_stream *open_stream(flashvsr_model *model) {
  const flashvsr_stream_options options = stream_options();
  flashvsr_stream *stream = NULL;
  CHECK(flashvsr_stream_open(model, &options, &stream) == FLASHVSR_OK);
  return stream;
}

static flashvsr_image image_on(unsigned char *pixels, int width, int height) {
  flashvsr_image image;
  memset(&image, 0, sizeof image);
  image.struct_size = sizeof image;
  image.format = FLASHVSR_FORMAT_RGB24;
  image.width = width;
  image.height = height;
  image.plane[0] = pixels;
  image.stride[0] = (size_t)width * 3;
  return image;
}

static unsigned char input[HEIGHT][WIDTH * 3];
static unsigned char output[SCALE * HEIGHT][SCALE * WIDTH * 3];

static flashvsr_image in_image(int frame) {
  for (int y = 0; y < HEIGHT; ++y)
    for (int x = 0; x < WIDTH * 3; ++x) input[y][x] = (unsigned char)(x * 5 + y * 11 + frame * 3);
  flashvsr_image image = image_on(&input[0][0], WIDTH, HEIGHT);
  image.tag = 1000 + frame;
  return image;
}

static flashvsr_image out_image(void) { return image_on(&output[0][0], SCALE * WIDTH, SCALE * HEIGHT); }

/* Pushes `count` frames, pulling what is ready; gives the number of frames pulled. */
static int push_frames(flashvsr_stream *stream, int count) {
  int pulled = 0;
  for (int frame = 0; frame < count; ++frame) {
    const flashvsr_image in = in_image(frame);
    flashvsr_image out = out_image();
    CHECK(flashvsr_stream_push(stream, &in) == FLASHVSR_OK);
    flashvsr_status status;
    while ((status = flashvsr_stream_pull(stream, &out)) == FLASHVSR_OK) {
      CHECK(out.tag == 1000 + pulled);
      ++pulled;
    }
    CHECK(status == FLASHVSR_AGAIN);
  }
  return pulled;
}

static int drain(flashvsr_stream *stream) {
  int pulled = 0;
  flashvsr_image out = out_image();
  flashvsr_status status;
  CHECK(flashvsr_stream_flush(stream) == FLASHVSR_OK);
  while ((status = flashvsr_stream_pull(stream, &out)) == FLASHVSR_OK) ++pulled;
  CHECK(status == FLASHVSR_END);
  CHECK(flashvsr_stream_pull(stream, &out) == FLASHVSR_END);
  return pulled;
}

static void check_refused(flashvsr_model *model, const flashvsr_stream_options *options, flashvsr_status expected) {
  flashvsr_stream *stream = (flashvsr_stream *)&input;
  const flashvsr_status status = flashvsr_stream_open(model, options, &stream);
  CHECK(status == expected);
  CHECK(stream == NULL);
  CHECK(strlen(flashvsr_last_error()) > 0);
}

#define REFUSED(field, value, expected)                     \
  do {                                                      \
    flashvsr_stream_options changed = stream_options();     \
    changed.field = (value);                                \
    check_refused(model, &changed, (expected));             \
  } while (0)

static void *never(void *user, size_t bytes, size_t alignment) {
  (void)user, (void)bytes, (void)alignment;
  return NULL;
}

static void test_stream_options(flashvsr_model *model) {
  REFUSED(struct_size, 0, FLASHVSR_ERROR_ARGUMENT);
  REFUSED(struct_size, (size_t)-1, FLASHVSR_ERROR_ARGUMENT);
  REFUSED(width, 0, FLASHVSR_ERROR_ARGUMENT);
  REFUSED(height, -3, FLASHVSR_ERROR_ARGUMENT);
  REFUSED(width, INT32_MAX, FLASHVSR_ERROR_ARGUMENT);
  REFUSED(scale, 0.0, FLASHVSR_ERROR_ARGUMENT);
  REFUSED(scale, -4.0, FLASHVSR_ERROR_ARGUMENT);
  REFUSED(scale, 1e300, FLASHVSR_ERROR_ARGUMENT);
  REFUSED(scale, NAN, FLASHVSR_ERROR_ARGUMENT);
  REFUSED(output_width, 100, FLASHVSR_ERROR_ARGUMENT);
  REFUSED(output_height, -1, FLASHVSR_ERROR_ARGUMENT);
  REFUSED(variant, 7, FLASHVSR_ERROR_ARGUMENT);
  REFUSED(segment_steps, 0, FLASHVSR_ERROR_ARGUMENT);
  REFUSED(colour_fix, 3, FLASHVSR_ERROR_ARGUMENT);
  REFUSED(colour_fix, -2, FLASHVSR_ERROR_ARGUMENT);
  REFUSED(bits, 12, FLASHVSR_ERROR_ARGUMENT);
  REFUSED(fit, 2, FLASHVSR_ERROR_ARGUMENT);
  REFUSED(fit, FLASHVSR_FIT_CROP, FLASHVSR_ERROR_ARGUMENT);
  REFUSED(local_range, 10, FLASHVSR_ERROR_ARGUMENT);
  REFUSED(sparse_ratio, 0.0, FLASHVSR_ERROR_ARGUMENT);
  REFUSED(kv_ratio, 0.5, FLASHVSR_ERROR_ARGUMENT);
  REFUSED(kv_ratio, 1e300, FLASHVSR_ERROR_ARGUMENT);
  REFUSED(allocate, never, FLASHVSR_ERROR_ARGUMENT);
  REFUSED(allocate_device, never, FLASHVSR_ERROR_ARGUMENT);
  REFUSED(cuda_stream, &input, FLASHVSR_ERROR_UNSUPPORTED);
  check_refused(model, NULL, FLASHVSR_ERROR_ARGUMENT);

  const flashvsr_stream_options options = stream_options();
  flashvsr_stream *stream = NULL;
  CHECK(flashvsr_stream_open(NULL, &options, &stream) == FLASHVSR_ERROR_ARGUMENT);
  CHECK(flashvsr_stream_open(model, &options, NULL) == FLASHVSR_ERROR_ARGUMENT);

  /* A later header: more bytes are fine while they are zero. */
  struct {
    flashvsr_stream_options known;
    int32_t later;
  } longer;
  CHECK(flashvsr_stream_options_defaults(&longer.known, sizeof longer) == FLASHVSR_OK);
  longer.known.width = WIDTH;
  longer.known.height = HEIGHT;
  CHECK(flashvsr_stream_open(model, &longer.known, &stream) == FLASHVSR_OK);
  flashvsr_stream_close(stream);
  longer.later = 1;
  check_refused(model, &longer.known, FLASHVSR_ERROR_UNSUPPORTED);
}

static void test_model_arguments(void) {
  flashvsr_model *model = NULL;
  flashvsr_model_options options;
  CHECK(flashvsr_model_options_defaults(NULL, sizeof options) == FLASHVSR_ERROR_ARGUMENT);
  CHECK(flashvsr_model_options_defaults(&options, 3) == FLASHVSR_ERROR_ARGUMENT);
  CHECK(flashvsr_model_options_defaults(&options, sizeof options) == FLASHVSR_OK);
  CHECK(flashvsr_model_open(NULL, &options, &model) == FLASHVSR_ERROR_ARGUMENT);
  CHECK(flashvsr_model_open(bundle, &options, NULL) == FLASHVSR_ERROR_ARGUMENT);
  CHECK(flashvsr_model_open("/no such folder", &options, &model) == FLASHVSR_ERROR_BUNDLE);
  options.threads = -1;
  CHECK(flashvsr_model_open(bundle, &options, &model) == FLASHVSR_ERROR_ARGUMENT);
  options.threads = 0;
  options.device = 9;
  CHECK(flashvsr_model_open(bundle, &options, &model) == FLASHVSR_ERROR_UNSUPPORTED);
  options.device = FLASHVSR_DEVICE_CUDA;
  options.device_index = -1;
  CHECK(flashvsr_model_open(bundle, &options, &model) == FLASHVSR_ERROR_ARGUMENT);
  options.device = FLASHVSR_DEVICE_CPU;
  options.device_index = 0;
  options.ort_library = "/no such library.so";
  CHECK(flashvsr_model_open(bundle, &options, &model) == FLASHVSR_ERROR_BACKEND);
  options.ort_library = "libm.so.6"; /* a library, but not ONNX Runtime */
  CHECK(flashvsr_model_open(bundle, &options, &model) == FLASHVSR_ERROR_BACKEND);
  CHECK(model == NULL);
  CHECK(flashvsr_model_get_info(NULL, NULL) == FLASHVSR_ERROR_ARGUMENT);
  flashvsr_model_close(NULL);
  CHECK(strcmp(flashvsr_status_name(FLASHVSR_AGAIN), "FLASHVSR_AGAIN") == 0);
  CHECK(strcmp(flashvsr_status_name(-77), "unknown status") == 0);
}

static void expect_push(flashvsr_stream *stream, flashvsr_image image, flashvsr_status expected) {
  const flashvsr_status status = flashvsr_stream_push(stream, &image);
  CHECK(status == expected);
}

static void test_images(flashvsr_stream *stream) {
  flashvsr_image image;
  CHECK(flashvsr_stream_push(NULL, NULL) == FLASHVSR_ERROR_ARGUMENT);
  CHECK(flashvsr_stream_push(stream, NULL) == FLASHVSR_ERROR_ARGUMENT);
  CHECK(flashvsr_stream_pull(NULL, NULL) == FLASHVSR_ERROR_ARGUMENT);
  CHECK(flashvsr_stream_pull(stream, NULL) == FLASHVSR_ERROR_ARGUMENT);
  CHECK(flashvsr_stream_flush(NULL) == FLASHVSR_ERROR_ARGUMENT);
  CHECK(flashvsr_stream_reset(NULL) == FLASHVSR_ERROR_ARGUMENT);
  CHECK(flashvsr_stream_get_info(stream, NULL) == FLASHVSR_ERROR_ARGUMENT);
  CHECK(flashvsr_stream_get_stats(NULL, NULL) == FLASHVSR_ERROR_ARGUMENT);
  flashvsr_stream_close(NULL);
#define BAD(field, value, expected) \
  image = in_image(0);              \
  image.field = (value);            \
  expect_push(stream, image, expected)
  BAD(struct_size, 8, FLASHVSR_ERROR_ARGUMENT);
  BAD(format, 9, FLASHVSR_ERROR_ARGUMENT);
  BAD(format, FLASHVSR_FORMAT_NV12, FLASHVSR_ERROR_ARGUMENT); /* no second plane, no matrix */
  BAD(memory, FLASHVSR_MEMORY_DEVICE, FLASHVSR_ERROR_UNSUPPORTED);
  BAD(memory, -1, FLASHVSR_ERROR_ARGUMENT);
  BAD(width, WIDTH + 1, FLASHVSR_ERROR_ARGUMENT);
  BAD(height, 0, FLASHVSR_ERROR_ARGUMENT);
  BAD(plane[0], NULL, FLASHVSR_ERROR_ARGUMENT);
  BAD(stride[0], WIDTH * 3 - 1, FLASHVSR_ERROR_ARGUMENT);
  BAD(stride[0], 0, FLASHVSR_ERROR_ARGUMENT);
  BAD(stride[0], (size_t)0 - WIDTH * 3, FLASHVSR_ERROR_ARGUMENT);
#undef BAD
  image = in_image(0);
  image.format = FLASHVSR_FORMAT_RGB48;
  image.stride[0] *= 2;
  expect_push(stream, image, FLASHVSR_ERROR_ARGUMENT);
  image = out_image();
  CHECK(flashvsr_stream_pull(stream, &image) == FLASHVSR_AGAIN); /* pull before push */
  image.stride[0] -= 1;
  CHECK(flashvsr_stream_pull(stream, &image) == FLASHVSR_ERROR_ARGUMENT);
  image = in_image(0);
  CHECK(flashvsr_stream_pull(stream, &image) == FLASHVSR_ERROR_ARGUMENT);
  flashvsr_stats stats = {.struct_size = sizeof stats};
  CHECK(flashvsr_stream_get_stats(stream, &stats) == FLASHVSR_OK);
  CHECK(stats.pushed == 0 && stats.pulled == 0 && stats.steps == 0);
}

static void test_arguments(void) {
  test_model_arguments();
  flashvsr_model *model = open_model();
  test_stream_options(model);
  flashvsr_stream *stream = open_stream(model);
  test_images(stream);
  flashvsr_model_close(model); /* before its stream */
  CHECK(flashvsr_stream_flush(stream) == FLASHVSR_OK); /* of nothing */
  flashvsr_image out = out_image();
  CHECK(flashvsr_stream_pull(stream, &out) == FLASHVSR_END);
  const flashvsr_image in = in_image(0);
  CHECK(flashvsr_stream_push(stream, &in) == FLASHVSR_ERROR_STATE); /* push after flush */
  CHECK(flashvsr_stream_flush(stream) == FLASHVSR_ERROR_STATE);
  flashvsr_stream_close(stream);
}

/* An allocator that counts, and fails at one call. */
typedef struct {
  long calls, fail_at, held;
} Counter;

static void *counted(void *user, size_t bytes, size_t alignment) {
  Counter *counter = user;
  if (counter->calls++ == counter->fail_at) return NULL;
  counter->held++;
  return aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}

static void released(void *user, void *memory, size_t bytes) {
  (void)bytes;
  ((Counter *)user)->held--;
  free(memory);
}

static void test_stream(void) {
  Counter counter = {0, -1, 0};
  flashvsr_model *model = open_model();
  flashvsr_model_info about = {.struct_size = sizeof about};
  CHECK(flashvsr_model_get_info(model, &about) == FLASHVSR_OK);
  CHECK(strstr(about.backend, "ONNX Runtime") != NULL && about.local_range == 11);
  CHECK(strcmp(about.colour_fix, "adain") == 0);
  flashvsr_stream_options options = stream_options();
  options.allocate = counted;
  options.deallocate = released;
  options.allocator_user = &counter;
  flashvsr_stream *stream = NULL;
  CHECK(flashvsr_stream_open(model, &options, &stream) == FLASHVSR_OK);
  flashvsr_stream_info info = {.struct_size = sizeof info};
  CHECK(flashvsr_stream_get_info(stream, &info) == FLASHVSR_OK);
  CHECK(info.output_width == SCALE * WIDTH && info.output_height == SCALE * HEIGHT);
  CHECK(info.canvas_width == 128 && info.canvas_height == 128);

  /* Frames that nobody pulls hold the stream up rather than the memory. */
  for (int frame = 0; frame < FIRST + STEP - 1; ++frame) expect_push(stream, in_image(frame), FLASHVSR_OK);
  expect_push(stream, in_image(FIRST + STEP), FLASHVSR_AGAIN);
  CHECK(flashvsr_stream_reset(stream) == FLASHVSR_OK);

  CHECK(push_frames(stream, FIRST + 2) == 21);
  unsigned char before[sizeof output];
  memcpy(before, output, sizeof output);
  flashvsr_stats stats = {.struct_size = sizeof stats};
  CHECK(flashvsr_stream_get_stats(stream, &stats) == FLASHVSR_OK);
  CHECK(stats.pushed == FIRST + 2 && stats.pulled == 21 && stats.ready == 0 && stats.steps == 1);
  CHECK(stats.bytes > 0 && stats.peak_bytes >= stats.bytes && stats.decode_seconds > 0);
  CHECK(drain(stream) == FIRST + 2 - 21);
  CHECK(flashvsr_stream_reset(stream) == FLASHVSR_OK);
  CHECK(push_frames(stream, FIRST + 2) == 21);
  CHECK(memcmp(before, output, sizeof output) == 0); /* nothing is left of the stream before */
  flashvsr_stream_close(stream);
  CHECK(counter.held == 0 && counter.calls > 0);
  flashvsr_model_close(model);
}

typedef struct {
  flashvsr_stream *stream;
  atomic_int done;
  int busy;
} Intruder;

static void *intrude(void *argument) {
  Intruder *intruder = argument;
  static unsigned char pixels[SCALE * HEIGHT][SCALE * WIDTH * 3];
  flashvsr_image image = image_on(&pixels[0][0], SCALE * WIDTH, SCALE * HEIGHT);
  flashvsr_stats stats = {.struct_size = sizeof stats};
  while (!atomic_load(&intruder->done)) {
    const flashvsr_status status = flashvsr_stream_pull(intruder->stream, &image);
    if (status == FLASHVSR_ERROR_BUSY) {
      intruder->busy++;
      CHECK(strstr(flashvsr_last_error(), "another thread") != NULL);
    } else {
      CHECK(status == FLASHVSR_OK || status == FLASHVSR_AGAIN);
    }
    CHECK(flashvsr_stream_get_stats(intruder->stream, &stats) == FLASHVSR_OK);
  }
  return NULL;
}

static void test_threads(void) {
  flashvsr_model *model = open_model();
  Intruder intruder = {open_stream(model), 0, 0};
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, intrude, &intruder) == 0);
  for (int frame = 0; frame < FIRST;) {
    const flashvsr_image in = in_image(frame);
    const flashvsr_status status = flashvsr_stream_push(intruder.stream, &in);
    CHECK(status == FLASHVSR_OK || status == FLASHVSR_ERROR_BUSY);
    frame += status == FLASHVSR_OK;
  }
  atomic_store(&intruder.done, 1);
  pthread_join(thread, NULL);
  CHECK(intruder.busy > 0);
  flashvsr_stream_close(intruder.stream);
  flashvsr_model_close(model);
}

static void test_memory(void) {
  flashvsr_model *model = open_model();
  flashvsr_stream_options options = stream_options();
  Counter counter = {0, 0, 0};
  options.allocate = counted;
  options.deallocate = released;
  options.allocator_user = &counter;
  flashvsr_stream *stream = NULL;
  while (flashvsr_stream_open(model, &options, &stream) == FLASHVSR_ERROR_MEMORY) {
    CHECK(stream == NULL && counter.held == 0);
    counter.fail_at++;
    counter.calls = 0;
  }
  CHECK(stream != NULL && counter.fail_at > 10);
  /* While a frame is taken: it is refused, and may come again. While a step runs: the stream has to be reset. */
  counter.calls = counter.fail_at = 0;
  expect_push(stream, in_image(0), FLASHVSR_ERROR_MEMORY);
  counter.fail_at = FIRST + 1;
  for (int frame = 0; frame + 1 < FIRST; ++frame) expect_push(stream, in_image(frame), FLASHVSR_OK);
  expect_push(stream, in_image(FIRST), FLASHVSR_ERROR_MEMORY);
  expect_push(stream, in_image(FIRST), FLASHVSR_ERROR_STATE);
  CHECK(flashvsr_stream_reset(stream) == FLASHVSR_OK);
  CHECK(push_frames(stream, FIRST) == 21);
  flashvsr_stream_close(stream);
  CHECK(counter.held == 0);
  flashvsr_model_close(model);
}

static void test_cycles(void) {
  for (int cycle = 0; cycle < 20; ++cycle) {
    flashvsr_model *model = open_model();
    flashvsr_stream *stream = open_stream(model);
    CHECK(push_frames(stream, FIRST) == 21);
    CHECK(drain(stream) == FIRST - 21);
    flashvsr_stream_close(stream);
    flashvsr_model_close(model);
    printf("%zu\n", mallinfo2().uordblks);
  }
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  bundle = argv[1];
  ort_library = argv[2];
  if (strcmp(argv[3], "arguments") == 0)
    test_arguments();
  else if (strcmp(argv[3], "stream") == 0)
    test_stream();
  else if (strcmp(argv[3], "threads") == 0)
    test_threads();
  else if (strcmp(argv[3], "memory") == 0)
    test_memory();
  else if (strcmp(argv[3], "cycles") == 0)
    test_cycles();
  else
    return 2;
  return 0;
}
