/* Reading of .sparse files: every number is checked before it is used. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

static const uint8_t magic[8] = {'R', 'P', 'G', 'S', 'P', 'R', 'S', 1};

/* What is left of a file. `short_of` tells that something was read behind its end. */
struct reader {
    const uint8_t *at, *end;
    bool short_of;
};

bool fail(char *error, const char *format, ...) {
    if (error) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(error, RPG_ERROR_SIZE, format, arguments);
        va_end(arguments);
    }
    return false;
}

static const uint8_t *take(struct reader *reader, uint64_t size) {
    static const uint8_t nothing[8];
    if (size > (uint64_t)(reader->end - reader->at)) {
        reader->short_of = true;
        return size <= sizeof nothing ? nothing : NULL;
    }
    const uint8_t *bytes = reader->at;
    reader->at += size;
    return bytes;
}

static uint32_t number(struct reader *reader, int bytes) {
    const uint8_t *at = take(reader, bytes);
    uint32_t value = 0;
    for (int i = 0; i < bytes; i++) value |= (uint32_t)at[i] << 8 * i;
    return value;
}

static float real_at(const uint8_t *at) {
    uint32_t bits = at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static float real(struct reader *reader) { return real_at(take(reader, 4)); }

static uint32_t crc32(const uint8_t *bytes, size_t size) {
    uint32_t table[256], crc = ~0u;
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t entry = i;
        for (int bit = 0; bit < 8; bit++) entry = entry >> 1 ^ (entry & 1 ? 0xEDB88320u : 0);
        table[i] = entry;
    }
    for (size_t i = 0; i < size; i++) crc = table[(crc ^ bytes[i]) & 255] ^ crc >> 8;
    return ~crc;
}

struct shape tensor_shape(const struct graph *graph, int tensor) {
    return tensor ? graph->operation[tensor - 1].shape : graph->input;
}

/* One gap: 7 bits a byte, the lowest first, the top bit on all but the last. */
static uint32_t read_gap(const uint8_t **at) {
    uint32_t gap = 0;
    for (int shift = 0;; shift += 7) {
        uint8_t byte = *(*at)++;
        gap |= (uint32_t)(byte & 127) << shift;
        if (!(byte & 128)) return gap;
    }
}

void each_weight(const struct operation *op, void (*use)(void *, uint32_t, float), void *context) {
    const uint8_t *gaps = op->gaps;
    uint32_t index = 0;
    for (uint32_t i = 0; i < op->nonzeros; i++, index++) {
        if (gaps) index += read_gap(&gaps);
        use(context, index, real_at(op->values + 4 * (size_t)i));
    }
}

/* Whether the gaps are well formed, fill their bytes and stay below `total`. */
static bool check_gaps(const uint8_t *at, const uint8_t *end, uint32_t count, uint64_t total) {
    uint64_t index = 0;
    for (uint32_t i = 0; i < count; i++, index++) {
        uint64_t gap = 0;
        for (int shift = 0;; shift += 7) {
            if (at == end || shift > 28) return false;
            gap |= (uint64_t)(*at & 127) << shift;
            if (!(*at++ & 128)) break;
        }
        index += gap;
        if (index >= total) return false;
    }
    return at == end;
}

static bool check_reals(const uint8_t *at, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        if (!isfinite(real_at(at + 4 * (size_t)i))) return false;
    return true;
}

static void read_window(struct reader *reader, struct window *window, bool dilated) {
    for (int axis = 0; axis < 2; axis++) {
        window->kernel[axis] = number(reader, 1);
        window->stride[axis] = number(reader, 1);
        window->before[axis] = number(reader, 1);
        window->behind[axis] = number(reader, 1);
        window->dilation[axis] = dilated ? number(reader, 1) : 1;
    }
}

/* Size of the output along an axis, or 0 where the window does not fit. */
static int windows(const struct window *window, int axis, int size) {
    if (!window->kernel[axis] || !window->stride[axis] || !window->dilation[axis]) return 0;
    int span = (window->kernel[axis] - 1) * window->dilation[axis] + 1;
    int room = size + window->before[axis] + window->behind[axis] - span;
    if (window->before[axis] >= span || window->behind[axis] >= span) return 0; /* windows on padding alone */
    return room < 0 ? 0 : room / window->stride[axis] + 1;
}

static bool read_convolution(struct reader *reader, struct operation *op, struct graph *graph, struct shape in, char *error) {
    op->shape.c = number(reader, 4);
    op->groups = number(reader, 4);
    op->nonzeros = number(reader, 4);
    uint32_t gap_bytes = number(reader, 4);
    read_window(reader, &op->window, true);
    if (op->shape.c < 1 || op->shape.c > MAX_CHANNELS) return fail(error, "between 1 and %d channels", MAX_CHANNELS);
    if (op->groups < 1 || in.c % op->groups || op->shape.c % op->groups) return fail(error, "groups that divide the channels");
    op->shape.h = windows(&op->window, 0, in.h);
    op->shape.w = windows(&op->window, 1, in.w);
    if (!op->shape.h || !op->shape.w) return fail(error, "a kernel, stride and padding that fit");
    uint64_t total = (uint64_t)op->shape.c * (in.c / op->groups) * op->window.kernel[0] * op->window.kernel[1];
    if (total >= 1ull << 31) return fail(error, "fewer than 2^31 weights");
    if (op->nonzeros > total) return fail(error, "no more weights than fit");
    if (op->flags & WITH_BIAS) op->bias = take(reader, 4 * (uint64_t)op->shape.c);
    op->values = take(reader, 4 * (uint64_t)op->nonzeros);
    op->gaps = take(reader, gap_bytes);
    if (reader->short_of) return fail(error, "all its bytes; the file is too short");
    if (op->bias && !check_reals(op->bias, op->shape.c)) return fail(error, "finite biases");
    if (!check_reals(op->values, op->nonzeros)) return fail(error, "finite weights");
    if (op->flags & ALL_WEIGHTS) {
        if (op->nonzeros != total || gap_bytes) return fail(error, "every weight where it says so");
        op->gaps = NULL;
    } else if (!check_gaps(op->gaps, op->gaps + gap_bytes, op->nonzeros, total)) {
        return fail(error, "well-formed gaps between its weights");
    }
    uint64_t pixels = (uint64_t)op->shape.h * op->shape.w;
    graph->dense_work += pixels * total;
    graph->work += pixels * op->nonzeros;
    return true;
}

static bool read_pool(struct reader *reader, struct operation *op, struct graph *graph, struct shape in, char *error) {
    read_window(reader, &op->window, false);
    op->shape = (struct shape){in.c, windows(&op->window, 0, in.h), windows(&op->window, 1, in.w)};
    if (!op->shape.h || !op->shape.w) return fail(error, "a kernel, stride and padding that fit");
    graph->work += (uint64_t)op->shape.c * op->shape.h * op->shape.w * (op->window.kernel[0] + op->window.kernel[1]);
    return true;
}

static bool read_operation(struct reader *reader, struct graph *graph, int index, char *error) {
    struct operation *op = &graph->operation[index];
    op->kind = number(reader, 1);
    op->activation = number(reader, 1);
    op->flags = number(reader, 1);
    op->inputs = number(reader, 1);
    if (op->kind < CONV || op->kind > SOFTMAX) return fail(error, "a known kind, not %d", op->kind);
    if (op->activation > SWISH) return fail(error, "a known activation, not %d", op->activation);
    if (op->flags > 3 || (op->flags > 1 && op->kind != CONV)) return fail(error, "known flags, not %d", op->flags);
    int least = op->kind == ADD || op->kind == MUL ? 2 : 1;
    int most = op->kind == CONCAT ? MAX_INPUTS : op->kind == CONV ? 2 : least;
    if (op->inputs < least || op->inputs > most) return fail(error, "%d to %d inputs, not %d", least, most, op->inputs);
    for (int i = 0; i < op->inputs; i++) {
        op->input[i] = number(reader, 2);
        if (op->input[i] > index) return fail(error, "inputs that come before it");
    }
    if (op->activation == CLIP || op->activation == HARD_SIGMOID) {
        op->low = real(reader);
        op->high = real(reader);
        if (isnan(op->low) || isnan(op->high)) return fail(error, "numbers for its activation");
    }
    if (reader->short_of) return fail(error, "all its bytes; the file is too short");

    struct shape in = tensor_shape(graph, op->input[0]);
    uint64_t size = (uint64_t)in.c * in.h * in.w;
    op->shape = in;
    switch (op->kind) {
    case CONV:
        if (!read_convolution(reader, op, graph, in, error)) return false;
        if (op->inputs == 2) {
            struct shape other = tensor_shape(graph, op->input[1]);
            if (memcmp(&other, &op->shape, sizeof other)) return fail(error, "a second input of its output's shape");
        }
        break;
    case MAX_POOL:
    case AVERAGE_POOL:
        if (!read_pool(reader, op, graph, in, error)) return false;
        break;
    case ADD:
    case MUL: {
        struct shape other = tensor_shape(graph, op->input[1]);
        bool scalar = other.c == in.c && other.h == 1 && other.w == 1;
        if (memcmp(&other, &in, sizeof in) && !scalar) return fail(error, "inputs of one shape, or a second of one pixel");
        break;
    }
    case CONCAT:
        for (int i = 1; i < op->inputs; i++) {
            struct shape other = tensor_shape(graph, op->input[i]);
            if (other.h != in.h || other.w != in.w) return fail(error, "inputs of one size");
            op->shape.c += other.c;
        }
        if (op->shape.c > MAX_CHANNELS) return fail(error, "at most %d channels", MAX_CHANNELS);
        break;
    case SOFTMAX:
        if (in.h != 1 || in.w != 1) return fail(error, "an input of one pixel");
        break;
    }
    graph->work += size;
    return reader->short_of ? fail(error, "all its bytes; the file is too short") : true;
}

static bool read_description(struct reader *reader, struct graph *graph, char *error) {
    if (graph->flags & DESCRIBED) {
        number(reader, 4); /* the share of the picture, for programs that scale */
        graph->mean = calloc(2 * (size_t)graph->input.c, sizeof *graph->mean);
        if (!graph->mean) return fail(error, "out of memory");
        graph->deviation = graph->mean + graph->input.c;
        for (int i = 0; i < 2 * graph->input.c && !reader->short_of; i++) graph->mean[i] = real(reader);
        for (int i = 0; i < graph->input.c; i++)
            if (!isfinite(graph->mean[i]) || !(graph->deviation[i] > 0)) return fail(error, "the normalisation is damaged");
    }
    graph->classes = number(reader, 4);
    uint32_t length = number(reader, 4);
    const uint8_t *names = take(reader, length);
    if (reader->short_of) return fail(error, "the file is too short");
    int zeros = 0;
    for (uint32_t i = 0; i < length; i++) zeros += !names[i];
    if (zeros != graph->classes || (length && names[length - 1])) return fail(error, "the names of the classes are damaged");
    graph->names = malloc((size_t)length + 1);
    if (!graph->names) return fail(error, "out of memory");
    memcpy(graph->names, names, length);
    graph->names[length] = 0;
    return true;
}

bool read_graph(struct graph *graph, const uint8_t *bytes, size_t size, const rpg_options *limits, char *error) {
    memset(graph, 0, sizeof *graph);
    if (size < 36 || memcmp(bytes, magic, 7)) return fail(error, "not a .sparse file");
    if (bytes[7] != magic[7]) return fail(error, "version %d is not known here, only %d", bytes[7], magic[7]);
    struct reader reader = {bytes + 8, bytes + size, false};
    uint32_t checksum = number(&reader, 4), length = number(&reader, 4);
    if (length != size) return fail(error, "damaged: %zu bytes instead of %u", size, length);
    if (checksum != crc32(bytes + 12, size - 12)) return fail(error, "damaged: the checksum does not match");
    graph->input.c = number(&reader, 4);
    graph->input.h = number(&reader, 4);
    graph->input.w = number(&reader, 4);
    graph->operations = number(&reader, 2);
    graph->flags = number(&reader, 2);
    struct shape in = graph->input;
    if (in.c < 1 || in.c > MAX_CHANNELS || in.h < 1 || in.h > MAX_LENGTH || in.w < 1 || in.w > MAX_LENGTH)
        return fail(error, "an image of %d x %d x %d is not possible", in.c, in.h, in.w);
    if (graph->flags > 7) return fail(error, "unknown flags");
    if (!graph->operations || graph->operations > MAX_OPERATIONS) return fail(error, "no or too many operations");
    if (!read_description(&reader, graph, error)) return false;
    graph->operation = calloc(graph->operations, sizeof *graph->operation);
    if (!graph->operation) return fail(error, "out of memory");
    uint64_t most = limits && limits->max_work ? limits->max_work : 1000000000000ull;
    for (int i = 0; i < graph->operations; i++) {
        char reason[RPG_ERROR_SIZE];
        if (!read_operation(&reader, graph, i, reason)) return fail(error, "operation %d does not have %.200s", i, reason);
        if (graph->work > most) return fail(error, "more than %llu multiply-adds for an image", (unsigned long long)most);
    }
    if (reader.at != reader.end) return fail(error, "%zu bytes too many", (size_t)(reader.end - reader.at));
    struct shape out = graph->operation[graph->operations - 1].shape;
    if (out.h != 1 || out.w != 1) return fail(error, "the last operation gives more than one pixel");
    return true;
}

void free_graph(struct graph *graph) {
    free(graph->operation);
    free(graph->mean);
    free(graph->names);
    memset(graph, 0, sizeof *graph);
}
