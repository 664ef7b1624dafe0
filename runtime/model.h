/* What the parts of the library share: the graph of a file, the plan made of it, and the kernels. */
#ifndef RPG_MODEL_H
#define RPG_MODEL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "rpg_sparse.h"

enum { CONV = 1, MAX_POOL, AVERAGE_POOL, ADD, MUL, CONCAT, ACTIVATION, SOFTMAX };
enum { NONE, RELU, CLIP, HARD_SIGMOID, HARD_SWISH, SIGMOID, SWISH };

/* Flags of an operation. */
enum { WITH_BIAS = 1, ALL_WEIGHTS = 2, PAD_COUNTS = 1 };
/* Flags of a file. */
enum { NORMALIZED = 1, PROBABILITIES = 2, DESCRIBED = 4 };

enum { MAX_CHANNELS = 1 << 16, MAX_LENGTH = 1 << 14, MAX_INPUTS = 64, MAX_OPERATIONS = 4096, MAX_THREADS = 64, MAX_PHASES = 256 };

/* Channels, height and width of what an operation gives. */
struct shape {
    int c, h, w;
};

/* A sliding window: kernel, stride, dilation by axis, and padding before and behind (vertical, horizontal). */
struct window {
    int kernel[2], stride[2], before[2], behind[2], dilation[2];
};

/* An operation as the file has it. Tensor 0 is the image, tensor i what operation i - 1 gives. */
struct operation {
    int kind, activation, flags, inputs, input[MAX_INPUTS];
    float low, high; /* of the activation: bounds (CLIP), slope and offset (HARD_SIGMOID) */
    struct shape shape;
    struct window window;
    int groups;
    uint32_t nonzeros;
    const uint8_t *bias, *values, *gaps; /* inside the file; gaps is null where every weight is there */
};

struct graph {
    struct shape input;
    int flags, operations, classes;
    struct operation *operation; /* owned */
    float *mean, *deviation;     /* owned, or null */
    char *names;                 /* owned, `classes` strings one after the other */
    uint64_t dense_work, work;
};

/* Parse and check a file (file.c). False leaves the reason in `error`; free_graph is due in both cases. */
bool read_graph(struct graph *graph, const uint8_t *bytes, size_t size, const rpg_options *limits, char *error);
void free_graph(struct graph *graph);
struct shape tensor_shape(const struct graph *graph, int tensor);
/* Call use(context, index, value) for every weight that is not zero, in rising order of its place in (out, in, h, w). */
void each_weight(const struct operation *op, void (*use)(void *, uint32_t, float), void *context);
bool fail(char *error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A map in memory: planes of `pitch` floats a row, the borders zero, the first pixel at `data`, planes `stride` apart.
 * A row's right border is the next row's left one. Maps of one pixel are flat: channels one after the other. */
struct map {
    float *data;
    struct shape shape;
    int pitch;
    int pixels; /* of a plane as one long row, borders between rows included; channels of a flat map */
    int planes; /* 1 of a flat map */
    bool flat;
    size_t stride;
    const uint32_t *mask; /* all ones on pixels, zero on borders */
    uint8_t *used;        /* per channel, whether anything reads it; all are computed of flat maps */
};

/* A weight that is not zero: where its input lies in bytes from the output's place, and its value. */
struct tap {
    int32_t offset;
    float value;
};

/* The same place for a row of output channels; zeros where they have no weight. */
enum { ROW = 4 };
struct row_tap {
    int32_t offset;
    float value[ROW];
};

enum { NODE_SPARSE, NODE_ROWS, NODE_STRIDED, NODE_FLAT_SPARSE, NODE_FLAT_DENSE, NODE_SPLIT, NODE_GATHER, NODE_POOL,
       NODE_POOL_FLAT, NODE_ADD, NODE_MUL, NODE_CONCAT, NODE_ACTIVATION, NODE_SOFTMAX };

/* A step of the plan: one kernel on one output map. */
struct node {
    int kind, activation, inputs;
    float low, high;
    struct map *in[MAX_INPUTS], *out;
    const struct map *residual;
    struct window window;
    bool average, pad_counts;
    int phases, start[MAX_PHASES][2]; /* of a split: the first row and column of each */
    int rows, columns;         /* of a split: what it fills of every plane; rows of pools and strided convolutions, too */
    const float *bias;
    const uint32_t *first; /* per channel, or per row of channels: where its taps begin; one more at the end */
    const struct tap *taps;
    const struct row_tap *row_taps;
    const float *weights; /* of a dense flat layer: (out, in), rows `pitch` apart */
    int tile;             /* vectors */
};

/* A part of a node's output: pixels (rows of splits and pools) and channels; tasks up to `after` have to be done before. */
struct task {
    const struct node *node;
    int begin, end, channel, last_channel, after;
};

/* Kernels compiled for one instruction set. */
struct kernels {
    const char *name;
    int lanes, max_tile;
    double row_density, flat_density; /* layers denser than this run ROW channels at once, flat ones as dense products */
    bool (*present)(void);
    void (*run)(const struct task *task, float *scratch);
};

extern const struct kernels *const rpg_kernels[]; /* the fastest first, null at the end (run.c) */

struct plan {
    size_t scratch;
    struct map *maps;
    struct node *nodes;
    struct task *tasks;
    int node_count, map_count, task_count;
    const struct map *input, *output;
    void **owned;
    int owned_count;
    size_t room; /* bytes that may still be taken */
};

/* Lay out maps and weights of a graph and order the work (plan.c). */
bool make_plan(struct plan *plan, const struct graph *graph, const struct kernels *kernels, int threads, size_t max_bytes,
               char *error);
void free_plan(struct plan *plan);

#endif
