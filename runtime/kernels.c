/* The kernels, compiled once per instruction set: -DNAME=avx2 with the compiler's options for it.
 *
 * A sparse convolution keeps a tile of consecutive output pixels in registers while its channel's taps run by, one load and
 * one multiply-add per tap and register. A plane is one long row, its borders included: the mask sets them to zero again.
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "model.h"

#define PASTE(a, b) a##b
#define JOIN(a, b) PASTE(a, b)
#define TEXT(a) #a
#define STRING(a) TEXT(a)
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define INLINE static inline __attribute__((always_inline))

/* Vectors are those of the compiler; only the smaller and the larger of two have no operator in C. */
#if defined(__AVX512F__)
#include <immintrin.h>
enum { LANES = 16, MAX_TILE = 16, ROW_TILE = 6 };
#define BREAK_EVENS 0.45, 0.12
#define MAX_PS _mm512_max_ps
#define MIN_PS _mm512_min_ps
#elif defined(__AVX__)
#include <immintrin.h>
enum { LANES = 8, MAX_TILE = 12, ROW_TILE = 3 };
#define BREAK_EVENS 0.45, 0.14
#define MAX_PS _mm256_max_ps
#define MIN_PS _mm256_min_ps
#elif defined(__aarch64__)
#include <arm_neon.h>
enum { LANES = 4, MAX_TILE = 16, ROW_TILE = 6 };
#define BREAK_EVENS 0.45, 0.24
#define MAX_PS vmaxq_f32
#define MIN_PS vminq_f32
#else
#include <emmintrin.h>
enum { LANES = 4, MAX_TILE = 8, ROW_TILE = 2 };
#define BREAK_EVENS 0.8, 0.24
#define MAX_PS _mm_max_ps
#define MIN_PS _mm_min_ps
#endif

/* Densities of layers from which ROW channels at once, and dense products of flat layers, are faster: about where
 * benchmark/sparse_break_even.py finds them equal (NEON: not measured); it builds with -DALL_FROM=DENSITY for both. */
#if defined(ALL_FROM)
#undef BREAK_EVENS
#define BREAK_EVENS ALL_FROM, ALL_FROM
#endif

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t iloose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE vec load(const void *at) { return *(const loose *)at; }
INLINE void store(float *at, vec value) { *(loose *)at = value; }
INLINE vec splat(float value) { return value - (vec){0}; }
INLINE vec larger(vec a, vec b) { return (vec)MAX_PS(a, b); }
INLINE vec smaller(vec a, vec b) { return (vec)MIN_PS(a, b); }
/* A register for an address: without it, GCC keeps one for every vector of a tile, and has too few. */
INLINE const char *address(const char *at) {
    __asm__("" : "+r"(at));
    return at;
}
INLINE vec masked(vec value, const uint32_t *mask) { return (vec)((ivec)value & *(const iloose *)mask); }

INLINE float sum_of(vec value) {
    float part[LANES];
    store(part, value);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) part[i] += part[i + half];
    return part[0];
}

/* e^x to 2 units in the last place: a power of two times a polynomial on [-ln 2 / 2, ln 2 / 2] (Cody and Waite). */
INLINE vec exponential(vec x) {
    x = larger(smaller(x, splat(88.0f)), splat(-87.0f));
    vec scaled = x * 1.44269504f + 12582912.0f; /* the number 1.5 * 2^23 rounds to a whole number */
    vec whole = scaled - 12582912.0f;
    vec r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    vec p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    ivec power = (__builtin_convertvector(whole, ivec) + 127) << 23;
    return p * (vec)power;
}

INLINE vec activate(vec x, int kind, vec low, vec high) {
    switch (kind) {
    case NONE: return x;
    case HARD_SIGMOID: return larger(smaller(x * low + high, splat(1)), splat(0));
    case HARD_SWISH: return x * larger(smaller(x * (1.0f / 6) + 0.5f, splat(1)), splat(0));
    case SIGMOID: return 1.0f / (1.0f + exponential(-x));
    case SWISH: return x / (1.0f + exponential(-x));
    default: return smaller(larger(x, low), high); /* RELU, CLIP */
    }
}

/* Activations other than bounds on sums in registers are out of line: they would be many copies. */
static __attribute__((noinline)) void activate_row(float *row, int begin, int end, const uint32_t *mask,
                                                   const struct node *node) {
    vec low = splat(node->low), high = splat(node->high);
    for (int i = begin; i < end; i += LANES)
        store(row + i, masked(activate(load(row + i), node->activation, low, high), mask + i));
}

static __attribute__((noinline)) vec activate_vector(vec x, const struct node *node) {
    return activate(x, node->activation, splat(node->low), splat(node->high));
}

static float activate_one(float x, const struct node *node) { return activate_vector(splat(x), node)[0]; }

/* What happens to a tile of sums on its way to memory. */
INLINE void finish(const int tile, vec *sums, const struct node *node, int channel, size_t pixel) {
    float *out = (float *)address((const char *)(node->out->data + channel * node->out->stride + pixel));
    const uint32_t *mask = (const uint32_t *)address((const char *)(node->out->mask + pixel));
    if (node->residual) {
        const char *other = address((const char *)(node->residual->data + channel * node->residual->stride + pixel));
        UNROLL for (int i = 0; i < tile; i++) sums[i] += load(other + i * 4 * LANES);
    }
    bool bounds = node->activation <= CLIP; /* NONE has infinite ones */
    vec low = splat(bounds ? node->low : -FLT_MAX), high = splat(bounds ? node->high : FLT_MAX);
    UNROLL for (int i = 0; i < tile; i++) store(out + i * LANES, masked(smaller(larger(sums[i], low), high), mask + i * LANES));
    if (!bounds) activate_row(out, 0, tile * LANES, mask, node);
}

INLINE void sparse_tile(const int tile, const struct node *node, size_t pixel, int channel, int last) {
    const char *in = (const char *)(node->in[0]->data + pixel);
    const struct tap *tap = node->taps + node->first[channel];
    for (; channel < last; channel++) {
        const struct tap *end = node->taps + node->first[channel + 1];
        if (!node->out->used[channel]) {
            tap = end;
            continue;
        }
        vec sums[MAX_TILE];
        vec bias = splat(node->bias[channel]);
        UNROLL for (int i = 0; i < tile; i++) sums[i] = bias;
        if (tile <= 4) { /* too few sums to hide the latency of a multiply-add: two sets of them */
            vec others[4] = {{0}};
            for (; end - tap >= 2; tap += 2) {
                vec value = splat(tap[0].value), next = splat(tap[1].value);
                const char *at = address(in + tap[0].offset), *next_at = address(in + tap[1].offset);
                UNROLL for (int i = 0; i < tile; i++) {
                    sums[i] += value * load(at + i * 4 * LANES);
                    others[i] += next * load(next_at + i * 4 * LANES);
                }
            }
            UNROLL for (int i = 0; i < tile; i++) sums[i] += others[i];
        }
        for (; tap < end; tap++) {
            vec value = splat(tap->value);
            const char *at = address(in + tap->offset);
            UNROLL for (int i = 0; i < tile; i++) sums[i] += value * load(at + i * 4 * LANES);
        }
        finish(tile, sums, node, channel, pixel);
    }
}

/* ROW channels at once, for layers so dense that they mostly share their inputs. */
INLINE void row_tile(const int tile, const struct node *node, size_t pixel, int channel, int last) {
    const char *in = (const char *)(node->in[0]->data + pixel);
    for (; channel < last; channel += ROW) {
        const struct row_tap *tap = node->row_taps + node->first[channel / ROW];
        const struct row_tap *end = node->row_taps + node->first[channel / ROW + 1];
        vec sums[ROW][ROW_TILE];
        UNROLL for (int row = 0; row < ROW; row++)
            UNROLL for (int i = 0; i < tile; i++) sums[row][i] = splat(node->bias[channel + row]);
        for (; tap < end; tap++) {
            vec input[ROW_TILE];
            const char *at = address(in + tap->offset);
            UNROLL for (int i = 0; i < tile; i++) input[i] = load(at + i * 4 * LANES);
            UNROLL for (int row = 0; row < ROW; row++) {
                vec value = splat(tap->value[row]);
                UNROLL for (int i = 0; i < tile; i++) sums[row][i] += value * input[i];
            }
        }
        UNROLL for (int row = 0; row < ROW; row++)
            if (channel + row < last) finish(tile, sums[row], node, channel + row, pixel);
    }
}

#define SPARSE(n) static void sparse_##n(const struct node *node, size_t p, int c, int l) { sparse_tile(n, node, p, c, l); }
#define ROWS(n) static void rows_##n(const struct node *node, size_t p, int c, int l) { row_tile(n, node, p, c, l); }
typedef void tile_function(const struct node *, size_t, int, int);

SPARSE(1) SPARSE(2) SPARSE(3) SPARSE(4) SPARSE(5) SPARSE(6) SPARSE(7) SPARSE(8)
#if defined(__AVX__) || defined(__aarch64__)
SPARSE(10) SPARSE(12)
#endif
ROWS(1) ROWS(2)
#if defined(__AVX__) || defined(__aarch64__)
ROWS(3)
#endif
#if defined(__AVX512F__) || defined(__aarch64__)
SPARSE(14) SPARSE(16)
ROWS(4) ROWS(5) ROWS(6)
#endif

/* Above 8 there are even tiles only, to keep the library small. */
static tile_function *const sparse_tiles[] = {
    sparse_1, sparse_2, sparse_3, sparse_4, sparse_5, sparse_6, sparse_7, sparse_8,
#if defined(__AVX__) || defined(__aarch64__)
    NULL, sparse_10, NULL, sparse_12,
#endif
#if defined(__AVX512F__) || defined(__aarch64__)
    NULL, sparse_14, NULL, sparse_16,
#endif
};
static tile_function *const row_tiles[] = {
    rows_1, rows_2,
#if defined(__AVX__) || defined(__aarch64__)
    rows_3,
#endif
#if defined(__AVX512F__) || defined(__aarch64__)
    rows_4, rows_5, rows_6,
#endif
};

static void convolve(const struct task *task, tile_function *const *tiles, int most) {
    int begin = task->begin / LANES, end = (task->end + LANES - 1) / LANES;
    while (begin < end) {
        int tile = end - begin < most ? end - begin : most;
        if (tile > 8) tile &= ~1;
        tiles[tile - 1](task->node, (size_t)begin * LANES, task->channel, task->last_channel);
        begin += tile;
    }
}

static void flat_sparse(const struct task *task) {
    const struct node *node = task->node;
    const float *in = node->in[0]->data;
    float *out = node->out->data;
    for (int channel = task->channel; channel < task->last_channel; channel++) {
        const struct tap *tap = node->taps + node->first[channel], *end = node->taps + node->first[channel + 1];
        float sums[4] = {node->bias[channel]};
        for (; end - tap >= 4; tap += 4)
            for (int i = 0; i < 4; i++) sums[i] += tap[i].value * *(const float *)((const char *)in + tap[i].offset);
        for (; tap < end; tap++) sums[0] += tap->value * *(const float *)((const char *)in + tap->offset);
        out[channel] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
        if (node->residual) out[channel] += node->residual->data[channel];
        if (node->activation)
            out[channel] = activate_one(out[channel], node);
    }
}

static void flat_dense(const struct task *task) {
    const struct node *node = task->node;
    const float *in = node->in[0]->data;
    int length = node->in[0]->pixels;
    size_t pitch = node->columns;
    float *out = node->out->data;
    for (int channel = task->channel; channel < task->last_channel; channel++) {
        const float *weights = node->weights + channel * pitch;
        vec sums[4] = {{0}};
        int i = 0;
        for (; i + 4 * LANES <= length; i += 4 * LANES)
            for (int part = 0; part < 4; part++)
                sums[part] += load(weights + i + part * LANES) * load(in + i + part * LANES);
        vec all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
        float sum = node->bias[channel] + sum_of(all);
        for (; i < length; i++) sum += weights[i] * in[i];
        if (node->residual) sum += node->residual->data[channel];
        if (node->activation) sum = activate_one(sum, node);
        out[channel] = sum;
    }
}

#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ivec){__VA_ARGS__})
#endif

/* Every second of 2 * LANES floats. */
INLINE vec every_second(const float *in) {
    vec a = load(in), b = load(in + LANES);
#if defined(__AVX512F__)
    return SHUFFLE(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
#elif defined(__AVX__)
    return SHUFFLE(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
#else
    return SHUFFLE(a, b, 0, 2, 4, 6);
#endif
}

/* Channel by channel with a horizontal stride of 2, straight from the input: cutting its phases out would take longer than
 * the few taps of a channel. The last vector of a row begins early enough to end with it. */
static void strided(const struct task *task) {
    const struct node *node = task->node;
    const struct map *in = node->in[0], *out = node->out;
    const int width = out->shape.w, last = width < LANES ? 0 : width - LANES;
    const bool bounds = node->activation <= CLIP;
    const vec low = splat(node->low), high = splat(node->high);
    for (int channel = task->channel; channel < task->last_channel; channel++) {
        if (!out->used[channel]) continue;
        const struct tap *first = node->taps + node->first[channel], *end = node->taps + node->first[channel + 1];
        const vec bias = splat(node->bias[channel]);
        for (int y = task->begin; y < task->end; y++) {
            const char *line = (const char *)(in->data + (size_t)y * node->window.stride[0] * in->pitch);
            float *to = out->data + channel * out->stride + (size_t)y * out->pitch;
            for (int x = 0;; x = x + LANES < last ? x + LANES : last) {
                vec sum = bias;
                for (const struct tap *tap = first; tap < end; tap++)
                    sum += splat(tap->value) * every_second((const float *)(line + tap->offset) + 2 * x);
                sum = bounds ? smaller(larger(sum, low), high) : activate_vector(sum, node);
                if (width < LANES)
                    memcpy(to, &sum, width * sizeof *to);
                else
                    store(to + x, sum);
                if (x == last) break;
            }
        }
    }
}

/* What of out[i] = in[start + i * step] lies inside [0, length) for i below `count`: `first` to `last` - 1. */
struct span {
    int start, step, first, last, count;
};

static struct span find_span(int count, int length, int start, int step) {
    struct span span = {start, step, 0, start >= length ? 0 : (length - start + step - 1) / step, count};
    if (span.last > count) span.last = count;
    if (start < 0) span.first = (step - 1 - start) / step;
    if (span.first > span.last) span.first = span.last;
    return span;
}

/* Fill a row: what lies outside is zero. */
static void take(float *out, const float *in, struct span span) {
    int i = 0;
    for (; i < span.first; i++) out[i] = 0;
    for (; i < span.last; i++) out[i] = in[span.start + i * span.step];
    for (; i < span.count; i++) out[i] = 0;
}

/* The same for many rows with whole vectors, which write up to LANES - 1 floats behind each: over rows that come later, or
 * behind the plane. At most EDGE zeros at either side. With a step of 2 they read as far as two vectors behind: the maps
 * have room for that. */
enum { EDGE = 4 };
static __attribute__((noinline)) void take_rows(float *out, size_t out_pitch, const float *in, size_t in_pitch, int rows,
                                                struct span span) {
    bool half = LANES == 16 && span.last - span.first <= LANES / 2; /* stores that cross a cache line cost more */
    for (in += span.start; rows > 0; rows--, out += out_pitch, in += in_pitch) {
        int i = span.first;
        if (i > 0) memset(out, 0, EDGE * sizeof *out);
        if (span.step == 1)
            for (; i < span.last; i += LANES) store(out + i, load(in + i));
        else if (half)
            memcpy(out + i, (vec[]){every_second(in + 2 * i)}, sizeof(vec) / 2);
        else
            for (; i < span.last; i += LANES) store(out + i, every_second(in + 2 * i));
        if (span.last < span.count) memset(out + span.last, 0, EDGE * sizeof *out);
    }
}

/* The phases of a map: plane (phase, channel) holds every stride-th row and column of a channel from the phase on, padding
 * included, so that a strided convolution becomes one of stride 1. */
static void split(const struct task *task) {
    const struct node *node = task->node;
    const struct map *in = node->in[0], *out = node->out;
    const struct window *window = &node->window;
    struct span empty = {0, 1, 0, 0, node->columns};
    for (int index = task->channel; index < task->last_channel; index++) { /* a channel's phases one after the other */
        int channel = index / node->phases, plane = index % node->phases * in->shape.c + channel;
        if (!out->used[plane]) continue;
        const int *start = node->start[index % node->phases];
        const float *from = in->data + channel * in->stride;
        float *to = out->data + plane * out->stride;
        struct span span = find_span(node->columns, in->shape.w, start[1], window->stride[1]);
        struct span rows = find_span(node->rows, in->shape.h, start[0], window->stride[0]);
        int y = task->begin;
        bool quick = span.step <= 2 && span.first <= EDGE && span.count - span.last <= EDGE;
        for (; y < task->end; y++) {
            const float *line = from + (rows.start + (size_t)y * rows.step) * in->pitch;
            bool inside = y >= rows.first && y < rows.last;
            int most = inside && quick ? (task->end < rows.last ? task->end : rows.last) - y : 0;
            if (most > 0) {
                take_rows(to + (size_t)y * out->pitch, out->pitch, line, rows.step * in->pitch, most, span);
                y += most - 1;
            } else {
                take(to + (size_t)y * out->pitch, inside ? line : from, inside ? span : empty);
            }
        }
    }
}

/* All that a kernel as large as the map sees, as one vector: (channel, y, x), padding included. */
static void gather(const struct task *task) {
    const struct node *node = task->node;
    const struct map *in = node->in[0];
    const struct window *window = &node->window;
    int height = window->kernel[0], width = window->kernel[1];
    for (int channel = task->channel; channel < task->last_channel; channel++)
        for (int y = 0; y < height; y++) {
            int row = y * window->dilation[0] - window->before[0];
            bool inside = row >= 0 && row < in->shape.h;
            const float *from = in->data + channel * in->stride + (inside ? (size_t)row * in->pitch : 0);
            struct span span = find_span(width, inside ? in->shape.w : 0, -window->before[1], window->dilation[1]);
            take(node->out->data + ((size_t)channel * height + y) * width, from, span);
        }
}

/* Pooling: down the columns into a row with its padding, along the row, then every stride-th. */
static void pool(const struct task *task, float *scratch) {
    const struct node *node = task->node;
    const struct map *in = node->in[0], *out = node->out;
    const struct window *window = &node->window;
    int width = in->shape.w, left = window->before[1], padded = left + width + window->behind[1];
    float empty = node->average || node->pad_counts ? 0 : -FLT_MAX;
    float *columns = scratch, *along = scratch + padded + 2 * LANES;
    for (int channel = task->channel; channel < task->last_channel; channel++) {
        const float *from = in->data + channel * in->stride;
        for (int y = task->begin; y < task->end; y++) {
            int top = y * window->stride[0] - window->before[0], bottom = top + window->kernel[0];
            int first = top < 0 ? 0 : top, last = bottom > in->shape.h ? in->shape.h : bottom;
            bool outside = !node->average && node->pad_counts && last - first < window->kernel[0];
            vec start = splat(outside || node->average ? 0 : -FLT_MAX);
            for (int x = 0; x < padded + LANES; x++) columns[x] = empty;
            for (int x = 0; x < width; x += LANES) {
                vec value = start;
                for (int row = first; row < last; row++) {
                    vec next = load(from + (size_t)row * in->pitch + x);
                    value = node->average ? value + next : larger(value, next);
                }
                store(columns + left + x, value);
            }
            for (int x = left + width; x < padded + LANES; x++) columns[x] = empty; /* the last vector went too far */
            int count = padded - window->kernel[1] + 1;
            for (int x = 0; x < count; x += LANES) {
                vec value = load(columns + x);
                for (int i = 1; i < window->kernel[1]; i++) {
                    vec next = load(columns + x + i);
                    value = node->average ? value + next : larger(value, next);
                }
                store(along + x, value);
            }
            float *to = out->data + channel * out->stride + (size_t)y * out->pitch;
            take(to, along, find_span(out->shape.w, count, 0, window->stride[1]));
            for (int x = 0; node->average && x < out->shape.w; x++) {
                int begin = x * window->stride[1] - left, end = begin + window->kernel[1];
                begin = begin < 0 ? 0 : begin;
                end = end > width ? width : end;
                int size = node->pad_counts ? window->kernel[0] * window->kernel[1] : (last - first) * (end - begin);
                to[x] /= size;
            }
            for (int x = 0; node->activation && x < out->shape.w; x++)
                to[x] = activate_one(to[x], node);
        }
    }
}

/* Pooling down to one pixel. */
static void pool_flat(const struct task *task) {
    const struct node *node = task->node;
    const struct map *in = node->in[0];
    const struct window *window = &node->window;
    int rows = window->kernel[0] - window->before[0], width = window->kernel[1] - window->before[1];
    rows = rows < in->shape.h ? rows : in->shape.h;
    width = width < in->shape.w ? width : in->shape.w;
    int size = node->pad_counts ? window->kernel[0] * window->kernel[1] : rows * width;
    bool zero = node->pad_counts && (rows < window->kernel[0] || width < window->kernel[1]);
    for (int channel = task->channel; channel < task->last_channel; channel++) {
        const float *from = in->data + channel * in->stride;
        float value = node->average || zero ? 0 : -FLT_MAX;
        vec values = splat(value);
        if (node->average && !in->flat && rows == in->shape.h && width == in->shape.w) { /* one long row, its borders zero */
            for (int pixel = 0; pixel < in->pixels; pixel += LANES) values += load(from + pixel);
            value = sum_of(values);
        } else {
            for (int y = 0; y < rows; y++, from += in->pitch) {
                int x = 0;
                if (node->average) {
                    for (; x + LANES <= width; x += LANES) values += load(from + x);
                    for (; x < width; x++) value += from[x];
                } else {
                    for (; x + LANES <= width; x += LANES) values = larger(values, load(from + x));
                    for (; x < width; x++) value = from[x] > value ? from[x] : value;
                }
            }
            for (int lane = 0; width >= LANES && lane < LANES; lane++)
                value = node->average ? value + values[lane] : values[lane] > value ? values[lane] : value;
        }
        if (node->average) value /= size;
        if (node->activation) value = activate_one(value, node);
        node->out->data[channel * node->out->stride] = value;
    }
}

/* Sums, products and activations, pixel by pixel; a second input of one pixel per channel counts for all of them. */
static void elementwise(const struct task *task) {
    const struct node *node = task->node;
    const struct map *in = node->in[0], *out = node->out, *other = node->inputs > 1 ? node->in[1] : NULL;
    bool scalar = other && other->flat && !in->flat;
    for (int plane = task->channel; plane < task->last_channel; plane++) {
        const float *a = in->data + plane * in->stride;
        const float *b = !other ? a : scalar ? other->data + plane : other->data + plane * other->stride;
        vec constant = splat(*b);
        float *to = out->data + plane * out->stride;
        for (int pixel = task->begin; pixel < task->end; pixel += LANES) {
            vec value = load(a + pixel), second = scalar ? constant : load(b + pixel);
            if (node->kind == NODE_ADD) value += second;
            if (node->kind == NODE_MUL) value *= second;
            store(to + pixel, masked(value, out->mask + pixel));
        }
        if (node->activation) activate_row(to, task->begin, task->end, out->mask, node);
    }
}

static void concatenate(const struct task *task) {
    const struct node *node = task->node;
    const struct map *out = node->out;
    int at = 0;
    for (int i = 0; i < node->inputs; i++) {
        const struct map *in = node->in[i];
        for (int channel = 0; channel < in->shape.c; channel++, at++) {
            if (at < task->channel || at >= task->last_channel) continue;
            const float *from = in->data + channel * in->stride;
            float *to = out->data + at * out->stride;
            if (out->flat) {
                *to = activate_one(*from, node);
                continue;
            }
            for (int pixel = task->begin; pixel < task->end; pixel += LANES) store(to + pixel, load(from + pixel));
            if (node->activation) activate_row(to, task->begin, task->end, out->mask, node);
        }
    }
}

static void softmax(const struct node *node) {
    const float *in = node->in[0]->data;
    float *out = node->out->data, most = in[0], sum = 0;
    int count = node->in[0]->shape.c;
    for (int i = 1; i < count; i++) most = in[i] > most ? in[i] : most;
    for (int i = 0; i < count; i++) sum += out[i] = expf(in[i] - most);
    for (int i = 0; i < count; i++) out[i] /= sum;
}

static void run(const struct task *task, float *scratch) {
    switch (task->node->kind) {
    case NODE_SPARSE: convolve(task, sparse_tiles, task->node->tile); break;
    case NODE_ROWS: convolve(task, row_tiles, ROW_TILE); break;
    case NODE_FLAT_SPARSE: flat_sparse(task); break;
    case NODE_FLAT_DENSE: flat_dense(task); break;
    case NODE_STRIDED: strided(task); break;
    case NODE_SPLIT: split(task); break;
    case NODE_GATHER: gather(task); break;
    case NODE_POOL: pool(task, scratch); break;
    case NODE_POOL_FLAT: pool_flat(task); break;
    case NODE_CONCAT: concatenate(task); break;
    case NODE_SOFTMAX: softmax(task->node); break;
    default: elementwise(task);
    }
}

static bool present(void) {
#if defined(__AVX512F__)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#elif defined(__AVX__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return true;
#endif
}

const struct kernels JOIN(rpg_kernels_, NAME) = {STRING(NAME), LANES, MAX_TILE, BREAK_EVENS, present, run};
