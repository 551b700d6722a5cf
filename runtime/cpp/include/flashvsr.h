/* flashvsr: streaming 4x video super-resolution, embedded.
 *
 *     flashvsr_model_options model_options;
 *     flashvsr_model_options_defaults(&model_options, sizeof model_options);
 *     flashvsr_model *model;
 *     if (flashvsr_model_open("bundle", &model_options, &model) != FLASHVSR_OK) fail(flashvsr_last_error());
 *
 *     flashvsr_stream_options options;
 *     flashvsr_stream_options_defaults(&options, sizeof options);
 *     options.width = 320, options.height = 180;
 *     flashvsr_stream *stream;
 *     if (flashvsr_stream_open(model, &options, &stream) != FLASHVSR_OK) fail(flashvsr_last_error());
 *
 *     while (read_frame(&in)) {
 *         if (flashvsr_stream_push(stream, &in) != FLASHVSR_OK) fail(flashvsr_last_error());
 *         while ((status = flashvsr_stream_pull(stream, &out)) == FLASHVSR_OK) write_frame(&out);
 *     }
 *     if (flashvsr_stream_flush(stream) != FLASHVSR_OK) fail(flashvsr_last_error());
 *     while ((status = flashvsr_stream_pull(stream, &out)) == FLASHVSR_OK) write_frame(&out);
 *
 * As many frames leave as came in, the first after 25. A whole program: examples/embed.cpp.
 *
 * On a GPU push hands a step to a thread that the stream has for it and returns, and the frames of a step can be
 * pulled when they are finished: pull waits for them only once the next step has been handed over (8 frames later) or
 * after flush. So preparing and converting frames runs beside the GPU, and a loop like the one above never meets
 * FLASHVSR_AGAIN in push. What fails in a step is told by a later call. With options.cuda_stream there is no such
 * thread: push enqueues the step itself.
 *
 * Threads. A model may be used from any threads at once. A stream is for one thread at a time: a call that finds
 * another one at work returns FLASHVSR_ERROR_BUSY and changes nothing; only flashvsr_stream_get_stats may be called
 * at any time. flashvsr_last_error is per thread. A handle must not be closed while a call uses it. Large pictures are
 * converted on up to four threads, which end before the call does.
 *
 * Ownership. What _open gives, _close takes; closing NULL does nothing. A model may be closed before its streams.
 * push reads the caller's memory and keeps no pointer to it; pull writes into the caller's memory. Strings that the
 * library returns belong to it.
 *
 * Structs begin with struct_size, which _defaults sets (for flashvsr_image: sizeof the struct), so that a later
 * version can append fields. No C++ exception leaves the library. It never writes to stdout or stderr.
 */
#ifndef FLASHVSR_H
#define FLASHVSR_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__) || defined(__clang__)
#define FLASHVSR_API __attribute__((visibility("default")))
#else
#define FLASHVSR_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Binary interface that this header describes: compare with flashvsr_abi_version(). */
#define FLASHVSR_ABI_VERSION 1

typedef struct flashvsr_model flashvsr_model;
typedef struct flashvsr_stream flashvsr_stream;

typedef int32_t flashvsr_status;
enum {
  FLASHVSR_OK = 0,
  FLASHVSR_AGAIN = 1, /* pull: nothing is ready, push more. push: frames are ready, pull them first. */
  FLASHVSR_END = 2,   /* pull after flush: every frame has left */

  FLASHVSR_ERROR_ARGUMENT = -1,    /* an argument that cannot be honoured; nothing was changed */
  FLASHVSR_ERROR_STATE = -2,       /* a call out of order, e.g. push after flush; nothing was changed */
  FLASHVSR_ERROR_BUSY = -3,        /* another thread is inside this stream; nothing was changed */
  FLASHVSR_ERROR_BUNDLE = -4,      /* missing, damaged, of another schema version */
  FLASHVSR_ERROR_BACKEND = -5,     /* the inference library is missing or too old, or cannot run the bundle */
  FLASHVSR_ERROR_MEMORY = -6,      /* host or device memory */
  FLASHVSR_ERROR_UNSUPPORTED = -7, /* a feature that this build does not have */
  FLASHVSR_ERROR_INTERNAL = -8     /* anything else; the text says what */
};

enum { FLASHVSR_DEVICE_CPU = 0, FLASHVSR_DEVICE_CUDA = 1 };
enum { FLASHVSR_LOG_ERROR = 0, FLASHVSR_LOG_INFO = 1 };
enum { FLASHVSR_VARIANT_LONG = 0, FLASHVSR_VARIANT_TINY = 1, FLASHVSR_VARIANT_FULL = 2 };
enum {
  FLASHVSR_COLOUR_BUNDLE = -1, /* what the bundle says suits its weights */
  FLASHVSR_COLOUR_ADAIN = 0,
  FLASHVSR_COLOUR_WAVELET = 1,
  FLASHVSR_COLOUR_NONE = 2
};
enum { FLASHVSR_FIT_PAD = 0, FLASHVSR_FIT_CROP = 1 };
enum { FLASHVSR_MEMORY_HOST = 0, FLASHVSR_MEMORY_DEVICE = 1 };
enum { FLASHVSR_CHROMA_LEFT = 0, FLASHVSR_CHROMA_CENTRE = 1, FLASHVSR_CHROMA_TOP_LEFT = 2 };

/* RGB is full range. 16-bit samples are in the machine's byte order. */
enum {
  FLASHVSR_FORMAT_RGB24 = 0, /* plane 0: 8-bit R, G, B */
  FLASHVSR_FORMAT_RGB48 = 1, /* plane 0: 16-bit R, G, B; pull only */
  FLASHVSR_FORMAT_NV12 = 2,  /* plane 0: 8-bit Y; plane 1: 8-bit U, V at half size (rounded up) */
  FLASHVSR_FORMAT_P010 = 3   /* as NV12 with 10 bits in the upper bits of 16 */
};

/* bytes at an address aligned to `alignment` (a power of two), or NULL. Called on the thread that called the library,
 * or on the stream's own; for host and for device memory by one thread at a time each. */
typedef void *(*flashvsr_allocate)(void *user, size_t bytes, size_t alignment);
typedef void (*flashvsr_deallocate)(void *user, void *memory, size_t bytes);
/* Called on the thread that called the library, or on a stream's own. */
typedef void (*flashvsr_log)(void *user, int32_t level, const char *text);

typedef struct flashvsr_model_options {
  size_t struct_size;
  int32_t device;                 /* FLASHVSR_DEVICE_ */
  int32_t device_index;           /* of the GPU, as CUDA_VISIBLE_DEVICES leaves it */
  int32_t threads;                /* CPU threads inside one operator; 0: as ONNX Runtime chooses */
  const char *ort_library;        /* path of libonnxruntime; NULL: $FLASHVSR_ORT_LIBRARY, else the loader's search */
  const char *tensorrt_library;   /* path of libtensorrt_rtx or libnvinfer; NULL: $FLASHVSR_TENSORRT_LIBRARY, else the
                                     loader's search for the flavour that the engine set is for */
  const char *op_library;         /* path of this project's kernels: libflashvsr_ort.so for ONNX Runtime on a GPU (NULL:
                                     attention runs many times slower, and log says so; a float32 bundle takes more
                                     memory), libflashvsr_trt.so for engines that do not carry them */
  const char *bundle;             /* of an engine set; NULL: where it was when the set was built */
  flashvsr_log log;               /* may be NULL */
  void *log_user;
} flashvsr_model_options;

typedef struct flashvsr_stream_options {
  size_t struct_size;
  int32_t width, height;              /* of the frames that will be pushed, pixels; no default */
  double scale;                       /* output is round(scale x input), both sides [4] */
  int32_t output_width, output_height; /* pixels, in place of scale; 0: by scale */
  int32_t variant;                    /* FLASHVSR_VARIANT_: long; tiny: same frames, one network at a time; full: VAE */
  int32_t segment_steps;              /* DiT steps before a decode, variant tiny */
  int32_t colour_fix;                 /* FLASHVSR_COLOUR_ [the bundle's] */
  int32_t bits;                       /* 8 or 16 a sample */
  int32_t fit;                        /* FLASHVSR_FIT_: pad keeps every pixel */
  int32_t local_range;                /* 0: the bundle's; another value than the bundle's is refused */
  double sparse_ratio;
  double kv_ratio;
  uint64_t seed;                      /* of the noise */
  flashvsr_allocate allocate;         /* host memory: frames, on a CPU also state and tensors; NULL: the C++ heap, on a
                                         GPU page-locked memory, which copies faster */
  flashvsr_deallocate deallocate;     /* with allocate, or neither */
  flashvsr_allocate allocate_device;  /* device memory: state, tensors, TensorRT's scratch; NULL: the CUDA driver's */
  flashvsr_deallocate deallocate_device; /* with allocate_device, or neither */
  void *allocator_user;
  void *cuda_stream;                  /* CUstream or cudaStream_t of the device's primary context that all work is
                                         ordered on, alive as long as this stream, and enqueued to by push; NULL: one
                                         of its own */
} flashvsr_stream_options;

/* One picture in the caller's memory. */
typedef struct flashvsr_image {
  size_t struct_size;
  int32_t format; /* FLASHVSR_FORMAT_ */
  int32_t memory; /* FLASHVSR_MEMORY_: device memory only with FLASHVSR_DEVICE_CUDA; it goes through host memory.
                     With options.cuda_stream in that stream's order; else push wants it finished, and pull gives it so */
  int32_t width, height;
  void *plane[2];   /* push only reads */
  size_t stride[2]; /* bytes from one row to the next, at least a row */
  int64_t tag;      /* anything, e.g. a time stamp: what was pushed with frame n is pulled with frame n */
  /* NV12 and P010 only, code points of ITU-T H.273: */
  int32_t matrix;     /* 1 BT.709, 5 or 6 BT.601, 9 BT.2020 non-constant luminance */
  int32_t full_range; /* 0 or 1 */
  int32_t chroma;     /* FLASHVSR_CHROMA_: where the chroma samples lie */
} flashvsr_image;

typedef struct flashvsr_model_info {
  size_t struct_size;
  const char *model;         /* e.g. "flashvsr" */
  const char *about;         /* one line for people */
  const char *model_version; /* "v1" or "v1.1" */
  const char *precision;     /* "fp32", "fp16", "bf16" or "fp8" */
  const char *backend;       /* library, version and device, for people */
  int32_t local_range;
  int32_t meaningful;        /* 0: random weights, the pictures mean nothing */
  const char *colour_fix;    /* what FLASHVSR_COLOUR_BUNDLE stands for: "adain", "wavelet" or "none" */
} flashvsr_model_info;

typedef struct flashvsr_stream_info {
  size_t struct_size;
  int32_t output_width, output_height; /* of what is pulled */
  int32_t canvas_width, canvas_height; /* of what the networks see */
} flashvsr_stream_info;

typedef struct flashvsr_stats {
  size_t struct_size;
  uint64_t pushed, ready, pulled; /* frames of this stream since open or reset: in, made and not yet pulled, out */
  uint64_t steps;                 /* steps of the networks, since open or reset */
  double resize_seconds, denoise_seconds, decode_seconds; /* since open */
  uint64_t bytes, peak_bytes;     /* host memory held by this stream; on a CPU with state and tensors */
  uint64_t device_bytes, peak_device_bytes; /* the same of device memory; what the library of inference holds itself,
                                     weights first of all, is not counted */
} flashvsr_stats;

/* The numbers of the library that is loaded. */
FLASHVSR_API uint32_t flashvsr_abi_version(void);
FLASHVSR_API const char *flashvsr_version(void);
/* The name of a status, e.g. "FLASHVSR_OK". */
FLASHVSR_API const char *flashvsr_status_name(flashvsr_status status);
/* What the last call of this thread that failed had to say; "" before the first. Valid until the next failure. */
FLASHVSR_API const char *flashvsr_last_error(void);

/* Fill `options` of struct_size bytes with the defaults. */
FLASHVSR_API flashvsr_status flashvsr_model_options_defaults(flashvsr_model_options *options, size_t struct_size);
FLASHVSR_API flashvsr_status flashvsr_stream_options_defaults(flashvsr_stream_options *options, size_t struct_size);

/* Opens a bundle folder, which ONNX Runtime runs, or an engine set, which TensorRT runs, and that library.
 * options may be NULL. *model is NULL on failure. Plans of an engine set are programs: take them only from where you
 * trust. */
FLASHVSR_API flashvsr_status flashvsr_model_open(const char *folder, const flashvsr_model_options *options,
                                                 flashvsr_model **model);
/* info->struct_size must be set; the strings live as long as the model. */
FLASHVSR_API flashvsr_status flashvsr_model_get_info(const flashvsr_model *model, flashvsr_model_info *info);
FLASHVSR_API void flashvsr_model_close(flashvsr_model *model);

/* Allocates all tensors of a stream; graphs are loaded by the first step. *stream is NULL on failure. */
FLASHVSR_API flashvsr_status flashvsr_stream_open(flashvsr_model *model, const flashvsr_stream_options *options,
                                                  flashvsr_stream **stream);
FLASHVSR_API flashvsr_status flashvsr_stream_get_info(const flashvsr_stream *stream, flashvsr_stream_info *info);
/* Takes the next frame; runs a step when enough have come (25, then every 8), on a CPU before it returns.
 * FLASHVSR_AGAIN: a step is due while frames of an earlier one wait; pull them, then push this frame again.
 * After an error of a step (BUNDLE, BACKEND, MEMORY, INTERNAL) the stream only takes reset and close. */
FLASHVSR_API flashvsr_status flashvsr_stream_push(flashvsr_stream *stream, const flashvsr_image *image);
/* Writes the next frame, if one is ready, in the format and size that `image` asks for: RGB24, NV12 or P010 with
 * 8 bits, RGB48 with 16. Sets image->tag. */
FLASHVSR_API flashvsr_status flashvsr_stream_pull(flashvsr_stream *stream, flashvsr_image *image);
/* No more frames will come: makes all frames that are still owed. Then pull until FLASHVSR_END. */
FLASHVSR_API flashvsr_status flashvsr_stream_flush(flashvsr_stream *stream);
/* Begins a new stream with the same options, e.g. at a scene cut: frames not pulled yet are dropped, so flush and
 * pull first to keep them. */
FLASHVSR_API flashvsr_status flashvsr_stream_reset(flashvsr_stream *stream);
FLASHVSR_API flashvsr_status flashvsr_stream_get_stats(const flashvsr_stream *stream, flashvsr_stats *stats);
FLASHVSR_API void flashvsr_stream_close(flashvsr_stream *stream);

#ifdef __cplusplus
}
#endif
#endif
