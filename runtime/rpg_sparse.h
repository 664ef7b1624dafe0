/* Sparse convolutional networks on CPUs: load a .sparse file, run float32 images through it.
 *
 * A model is used by one thread at a time; several models are independent of each other. The library is C11 with pthreads and
 * nothing else. The file format and a walk-through: docs/sparse_runtime.md.
 */
#ifndef RPG_SPARSE_H
#define RPG_SPARSE_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Room for any error text, its final zero included. */
#define RPG_ERROR_SIZE 256

typedef struct rpg_model rpg_model;

/* How to load a model. All zeros, or a null pointer in its place, means the defaults.
 *
 * threads:    threads of a run, the caller's included; 0 is 1. At most 64.
 * isa:        "sse2", "avx2", "avx512" or "neon" to demand one; null for the fastest this processor has.
 * max_bytes:  memory that a file may ask for, apart from its own size; 0 is 1 GiB.
 * max_work:   multiply-adds for one image that a file may ask for; 0 is 10^12.
 */
typedef struct rpg_options {
    int threads;
    const char *isa;
    size_t max_bytes;
    uint64_t max_work;
} rpg_options;

/* Load a model from a file, or from `size` bytes that may be freed or unmapped afterwards. Everything in it is checked.
 *
 * Returns null on failure and leaves one line of text in `error` (RPG_ERROR_SIZE characters, or null).
 */
rpg_model *rpg_load(const char *path, const rpg_options *options, char *error);
rpg_model *rpg_load_memory(const void *bytes, size_t size, const rpg_options *options, char *error);

/* Run `count` images, one after the other.
 *
 * images:  float32, count x channels x height x width, as the network takes them (rpg_prepare makes them of pixels).
 * outputs: room for count x rpg_output_size(model) floats: logits, or what the network's last operation gives.
 * probabilities: not zero to have a softmax taken of outputs that are not probabilities already.
 * Returns 0; a loaded model cannot fail.
 */
int rpg_run(rpg_model *model, const float *images, size_t count, float *outputs, int probabilities);

/* Free a model; null is allowed. */
void rpg_free(rpg_model *model);

/* Channels, height and width of an image. */
void rpg_input_shape(const rpg_model *model, int shape[3]);

/* Floats that one image gives. */
size_t rpg_output_size(const rpg_model *model);

/* Name of a class, or null where the file has no names or not so many. */
const char *rpg_class_name(const rpg_model *model, size_t index);

/* One image from pixels: bytes 0 to 255, height x width x channels as image files hold them, to the float32 planes that the
 * network takes, normalised where it wants them so. Returns 0, or -1 where the file does not say how. */
int rpg_prepare(const rpg_model *model, const uint8_t *pixels, float *image);

/* What the model runs on: "sse2", "avx2", "avx512" or "neon". */
const char *rpg_isa(const rpg_model *model);

/* Multiply-adds that one image costs: with all weights, or with those that are not zero. */
uint64_t rpg_work(const rpg_model *model, int dense);

#ifdef __cplusplus
}
#endif

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#endif
