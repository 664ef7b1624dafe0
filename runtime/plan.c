/* From the graph of a file to maps in memory, packed weights and an order of tasks. */
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

/* What a strip of consecutive layers may touch: half of a usual second-level cache. */
static const double strip_bytes = 512 << 10;
/* Multiply-adds below which a task is not divided between threads. */
static const double task_work = 100000;
enum { LINE = 16 }; /* floats of a cache line, and of the widest vector */

struct step {
    int end, task;
};

/* What is known of a node while the plan is made. */
struct draft {
    const struct operation *op;
    int in[MAX_INPUTS], residual, out; /* maps */
    int reach;                         /* pixels behind an output's own place that its taps touch */
    uint64_t taps;
    struct step *steps;
    int step_count, step_room;
    int done, need;
};

/* Border, pitch and mask that all maps of one height and width share. */
struct geometry {
    int h, w, border;
    const uint32_t *mask;
};

struct slot {
    int geometry; /* -1: flat */
    bool split;
    size_t bytes, offset;
    int busy_until; /* segment */
    int map;        /* the latest one in it */
};

struct builder {
    struct plan *plan;
    const struct graph *graph;
    const struct kernels *kernels;
    struct geometry *geometries;
    struct draft *drafts;
    int *producer, *segment, *last_segment, *slot_of, *tensor_map, *slot_after;
    bool *is_split;
    struct slot *slots;
    int geometry_count, slot_count;
    char *error;
};

static int round_up(int value, int unit) { return (value + unit - 1) / unit * unit; }
static int least(int a, int b) { return a < b ? a : b; }
static int most(int a, int b) { return a > b ? a : b; }
static bool is_flat(struct shape shape) { return shape.h == 1 && shape.w == 1; }

static bool no_memory(struct builder *builder) {
    return fail(builder->error, "not enough memory, or more than is allowed");
}

/* Memory that lives as long as the plan; null where there is none. */
static void *own(struct plan *plan, size_t count, size_t size) {
    void **owned = realloc(plan->owned, (plan->owned_count + 1) * sizeof *owned);
    if (!owned) return NULL;
    plan->owned = owned;
    if (count > plan->room / size) return NULL;
    plan->room -= count * size;
    void *memory = calloc(count ? count : 1, size);
    if (memory) owned[plan->owned_count++] = memory;
    return memory;
}

/* Rows and columns that a window sees behind the first phase's pixel. */
static int halo(const struct window *window, int axis) {
    return (window->kernel[axis] - 1) * window->dilation[axis] / window->stride[axis];
}

/* Whether a convolution can read its input map as it is: stride 1, and an output of the same size. */
static bool is_direct(const struct operation *op, struct shape in) {
    return op->window.stride[0] == 1 && op->window.stride[1] == 1 && op->shape.h == in.h && op->shape.w == in.w;
}

/* Whether a strided convolution has so few taps a channel that it reads its input as it is, every second pixel of it. */
static bool is_strided(const struct operation *op, struct shape in) {
    const struct window *window = &op->window;
    return op->groups == in.c && op->inputs == 1 && window->stride[1] == 2 && window->dilation[0] == 1 &&
           window->dilation[1] == 1 && !is_flat(op->shape) && !is_flat(in);
}

static int geometry_of(struct builder *builder, int h, int w) {
    for (int i = 0; i < builder->geometry_count; i++)
        if (builder->geometries[i].h == h && builder->geometries[i].w == w) return i;
    builder->geometries[builder->geometry_count] = (struct geometry){h, w, 0, NULL};
    return builder->geometry_count++;
}

/* Widen the borders to what the convolutions reach over. */
static void find_borders(struct builder *builder) {
    const struct graph *graph = builder->graph;
    for (int i = 0; i <= graph->operations; i++) {
        struct shape shape = tensor_shape(graph, i);
        if (!is_flat(shape)) geometry_of(builder, shape.h, shape.w);
    }
    for (int i = 0; i < graph->operations; i++) {
        const struct operation *op = &graph->operation[i];
        if (op->kind != CONV || is_flat(op->shape)) continue;
        const struct window *window = &op->window;
        struct shape in = tensor_shape(graph, op->input[0]);
        if (is_strided(op, in)) {
            struct geometry *geometry = &builder->geometries[geometry_of(builder, in.h, in.w)];
            int behind[] = {(op->shape.h - 1) * window->stride[0] - in.h, (op->shape.w - 1) * window->stride[1] - in.w};
            for (int axis = 0; axis < 2; axis++)
                geometry->border =
                    most(geometry->border, most(window->before[axis], behind[axis] + window->kernel[axis] - window->before[axis]));
            continue;
        }
        struct geometry *geometry = &builder->geometries[geometry_of(builder, op->shape.h, op->shape.w)];
        for (int axis = 0; axis < 2; axis++) {
            int span = (window->kernel[axis] - 1) * window->dilation[axis];
            int border = is_direct(op, in)
                             ? most(window->before[axis], span - window->before[axis])
                             : halo(window, axis);
            geometry->border = most(geometry->border, border);
        }
    }
}

static bool make_masks(struct builder *builder) {
    for (int i = 0; i < builder->geometry_count; i++) {
        struct geometry *geometry = &builder->geometries[i];
        int pitch = geometry->w + geometry->border, size = round_up(geometry->h * pitch, LINE);
        uint32_t *mask = own(builder->plan, size, sizeof *mask);
        if (!mask) return false;
        for (int y = 0; y < geometry->h; y++) memset(mask + (size_t)y * pitch, 255, geometry->w * sizeof *mask);
        geometry->mask = mask;
    }
    return true;
}

static int add_map(struct builder *builder, struct shape shape, bool split, int producer) {
    int index = builder->plan->map_count++;
    struct map *map = &builder->plan->maps[index];
    map->shape = shape;
    builder->is_split[index] = split;
    builder->producer[index] = producer;
    if (is_flat(shape)) {
        *map = (struct map){NULL, shape, 1, shape.c, 1, true, 1, NULL, NULL};
        return index;
    }
    const struct geometry *geometry = &builder->geometries[geometry_of(builder, shape.h, shape.w)];
    map->pitch = shape.w + geometry->border;
    map->pixels = (shape.h - 1) * map->pitch + shape.w;
    map->planes = shape.c;
    map->mask = geometry->mask;
    int border = geometry->border * map->pitch + geometry->border;
    size_t stride = round_up(border, LINE) + round_up(round_up(map->pixels, LINE) + border, LINE);
    if (split) stride += LINE; /* its last row may be written with whole vectors */
    if (stride % 1024 == 0) stride += LINE; /* planes a multiple of 4 KiB apart would share cache sets */
    map->stride = stride;
    return index;
}

static struct node *add_node(struct builder *builder, int kind, const struct operation *op, int in, int out, bool last) {
    int index = builder->plan->node_count++;
    struct node *node = &builder->plan->nodes[index];
    struct draft *draft = &builder->drafts[index];
    *draft = (struct draft){.op = op, .residual = -1, .out = out};
    draft->in[0] = in;
    node->kind = kind;
    node->inputs = 1;
    node->window = op->window;
    node->activation = last ? op->activation : NONE;
    node->low = op->activation == RELU ? 0 : op->activation == NONE || !last ? -FLT_MAX : op->low;
    node->high = op->activation == RELU || op->activation == NONE || !last ? FLT_MAX : op->high;
    return node;
}

/* Taps of a layer while its weights stream by. */
struct packing {
    struct tap *taps;
    uint32_t *first;
    float *dense;
    int inputs, height, width, group_outputs; /* of a weight; channels of a group */
    uint64_t per_output;
    const struct node *node;
    int64_t *position; /* offset of (y, x) */
    int64_t stride;    /* bytes between channels */
    int64_t pitch;     /* of dense weights */
    uint32_t count;
    uint32_t next;
};

static void pack_weight(void *context, uint32_t index, float value) {
    struct packing *packing = context;
    if (value == 0) return;
    uint32_t output = index / packing->per_output, rest = index % packing->per_output;
    int area = packing->height * packing->width;
    int64_t channel = (int64_t)(output / packing->group_outputs) * packing->inputs + rest / area;
    if (packing->dense) {
        packing->dense[output * packing->pitch + channel * area + rest % area] = value;
        return;
    }
    while (packing->next <= output) packing->first[packing->next++] = packing->count;
    packing->taps[packing->count++] = (struct tap){channel * packing->stride + packing->position[rest % area], value};
}

/* ROW channels side by side, from taps channel by channel. */
static bool pack_rows(struct plan *plan, struct node *node, int channels) {
    int rows = (channels + ROW - 1) / ROW;
    uint32_t *first = own(plan, rows + 1, sizeof *first);
    struct row_tap *taps = NULL;
    if (!first) return false;
    for (int pass = 0; pass < 2; pass++) { /* count, then fill */
        uint32_t count = 0;
        for (int row = 0; row < rows; row++) {
            uint32_t at[ROW], end[ROW];
            for (int i = 0; i < ROW; i++) {
                int channel = row * ROW + i;
                at[i] = channel < channels ? node->first[channel] : 0;
                end[i] = channel < channels ? node->first[channel + 1] : 0;
            }
            first[row] = count;
            for (;;) {
                int32_t offset = INT32_MAX;
                for (int i = 0; i < ROW; i++)
                    if (at[i] < end[i]) offset = least(offset, node->taps[at[i]].offset);
                if (offset == INT32_MAX) break;
                if (taps) taps[count].offset = offset;
                for (int i = 0; i < ROW; i++)
                    if (at[i] < end[i] && node->taps[at[i]].offset == offset) {
                        if (taps) taps[count].value[i] = node->taps[at[i]].value;
                        at[i]++;
                    }
                count++;
            }
        }
        first[rows] = count;
        if (!taps && !(taps = own(plan, count, sizeof *taps))) return false;
    }
    node->first = first;
    node->row_taps = taps;
    node->kind = NODE_ROWS;
    return true;
}

/* Where phase number `index` of a window begins along an axis. */
static int phase_start(const struct window *window, int axis, int index) {
    return index * window->dilation[axis] % window->stride[axis] - window->before[axis];
}

static bool pack(struct builder *builder, int index) {
    struct plan *plan = builder->plan;
    struct node *node = &plan->nodes[index];
    struct draft *draft = &builder->drafts[index];
    const struct operation *op = draft->op;
    const struct map *in = &plan->maps[draft->in[0]];
    struct shape source = tensor_shape(builder->graph, op->input[0]);
    bool flat = is_flat(op->shape), direct = in->shape.c == source.c && !builder->is_split[draft->in[0]];
    int channels = op->shape.c, area = op->window.kernel[0] * op->window.kernel[1];
    struct packing packing = {
        .inputs = source.c / op->groups,
        .height = op->window.kernel[0],
        .width = op->window.kernel[1],
        .group_outputs = channels / op->groups,
        .node = node,
    };
    packing.per_output = (uint64_t)packing.inputs * area;
    double density = (double)op->nonzeros / ((double)channels * packing.per_output);
    float *bias = own(plan, round_up(channels, ROW), sizeof *bias);
    if (!bias) return no_memory(builder);
    if (op->bias) memcpy(bias, op->bias, channels * sizeof *bias);
    node->bias = bias;

    if (flat && density > builder->kernels->flat_density && op->groups == 1) {
        node->kind = NODE_FLAT_DENSE;
        packing.pitch = node->columns = round_up(packing.per_output, LINE);
        node->weights = packing.dense = own(plan, (size_t)channels * packing.pitch, sizeof(float));
        if (!packing.dense) return no_memory(builder);
        each_weight(op, pack_weight, &packing);
        draft->taps = (uint64_t)channels * packing.per_output;
        return true;
    }
    packing.position = calloc(area, sizeof *packing.position);
    packing.taps = own(plan, op->nonzeros, sizeof *packing.taps);
    packing.first = own(plan, channels + 1, sizeof *packing.first);
    bool enough = packing.position && packing.taps && packing.first;
    for (int y = 0; enough && y < packing.height; y++)
        for (int x = 0; x < packing.width; x++) {
            int64_t *position = &packing.position[y * packing.width + x];
            int row = y * op->window.dilation[0], column = x * op->window.dilation[1];
            if (flat) {
                *position = 4 * (y * packing.width + x);
            } else if (direct) {
                *position = 4 * ((int64_t)(row - op->window.before[0]) * in->pitch + column - op->window.before[1]);
            } else {
                const struct node *split = &plan->nodes[builder->producer[draft->in[0]]];
                int phase = 0;
                while (split->start[phase][0] != phase_start(&op->window, 0, y) ||
                       split->start[phase][1] != phase_start(&op->window, 1, x))
                    phase++;
                *position = 4 * ((int64_t)phase * source.c * in->stride + row / op->window.stride[0] * in->pitch +
                                 column / op->window.stride[1]);
            }
        }
    packing.stride = flat ? 4 * area : 4 * (int64_t)in->stride;
    if (enough) {
        each_weight(op, pack_weight, &packing);
        while (packing.next <= (uint32_t)channels) packing.first[packing.next++] = packing.count;
    }
    free(packing.position);
    node->taps = packing.taps;
    node->first = packing.first;
    draft->taps = packing.count;
    if (enough && !flat && op->groups == 1 && density > builder->kernels->row_density) enough = pack_rows(plan, node, channels);
    return enough ? true : no_memory(builder);
}

/* Add the phases that an operation reads to a split, where they are missing. False if they are too many. */
static bool add_phases(struct node *split, const struct operation *op) {
    const struct window *window = &op->window;
    int count[2];
    for (int axis = 0; axis < 2; axis++) { /* the first one comes again after stride / (what it shares with dilation) steps */
        count[axis] = 1;
        while (count[axis] < window->kernel[axis] && count[axis] * window->dilation[axis] % window->stride[axis]) count[axis]++;
    }
    split->rows = most(split->rows, op->shape.h + halo(window, 0));
    split->columns = most(split->columns, op->shape.w + halo(window, 1));
    for (int y = 0; y < count[0]; y++)
        for (int x = 0; x < count[1]; x++) {
            int start[2] = {phase_start(window, 0, y), phase_start(window, 1, x)}, known = 0;
            while (known < split->phases && memcmp(split->start[known], start, sizeof start)) known++;
            if (known == MAX_PHASES) return false;
            memcpy(split->start[known], start, sizeof start);
            split->phases = most(split->phases, known + 1);
        }
    return true;
}

/* The map of phases that a strided convolution reads: one for all that read `in` with this stride. False if they are too many. */
static bool find_split(struct builder *builder, const struct operation *op, int in, int *map) {
    struct plan *plan = builder->plan;
    const struct graph *graph = builder->graph;
    for (int i = 0; i < plan->node_count; i++) {
        const struct node *node = &plan->nodes[i];
        const struct shape *shape = &plan->maps[*map = builder->drafts[i].out].shape;
        if (node->kind == NODE_SPLIT && builder->drafts[i].in[0] == in && shape->h == op->shape.h && shape->w == op->shape.w &&
            !memcmp(node->window.stride, op->window.stride, sizeof op->window.stride))
            return true;
    }
    struct node phases = {.phases = 0};
    for (const struct operation *other = op; other < graph->operation + graph->operations; other++) {
        bool same = other->kind == CONV && other->input[0] == op->input[0] && other->shape.h == op->shape.h &&
                    other->shape.w == op->shape.w &&
                    !memcmp(other->window.stride, op->window.stride, sizeof op->window.stride);
        if (same && !add_phases(&phases, other)) return false;
    }
    struct shape source = tensor_shape(graph, op->input[0]);
    *map = add_map(builder, (struct shape){source.c * phases.phases, op->shape.h, op->shape.w}, true, plan->node_count);
    struct node *split = add_node(builder, NODE_SPLIT, op, in, *map, false);
    split->phases = phases.phases;
    split->rows = phases.rows;
    split->columns = phases.columns;
    memcpy(split->start, phases.start, sizeof split->start);
    return true;
}

static bool add_convolution(struct builder *builder, const struct operation *op, int in, int out) {
    struct plan *plan = builder->plan;
    struct shape source = tensor_shape(builder->graph, op->input[0]);
    const struct window *window = &op->window;
    bool flat = is_flat(op->shape), strided = false;
    int reach = 0;
    if (flat) {
        int area = window->kernel[0] * window->kernel[1];
        if (!is_flat(source) || area > 1) {
            if ((int64_t)source.c * area > INT_MAX / 16) return fail(builder->error, "a layer has too many inputs");
            int vector = add_map(builder, (struct shape){source.c * area, 1, 1}, false, plan->node_count);
            add_node(builder, NODE_GATHER, op, in, vector, false);
            in = vector;
        }
    } else if (is_direct(op, source)) {
        int pitch = plan->maps[in].pitch;
        reach = ((window->kernel[0] - 1) * window->dilation[0] - window->before[0]) * pitch +
                (window->kernel[1] - 1) * window->dilation[1] - window->before[1];
    } else if (is_strided(op, source)) {
        strided = true;
    } else {
        if (!find_split(builder, op, in, &in)) return fail(builder->error, "a stride is too large");
        reach = halo(window, 0) * plan->maps[in].pitch + halo(window, 1);
    }
    if (plan->maps[in].stride * plan->maps[in].shape.c > INT32_MAX / 4)
        return fail(builder->error, "a layer's input is too large");
    struct node *node = add_node(builder, flat ? NODE_FLAT_SPARSE : strided ? NODE_STRIDED : NODE_SPARSE, op, in, out, true);
    node->rows = op->shape.h;
    struct draft *draft = &builder->drafts[plan->node_count - 1];
    draft->reach = reach < 0 ? 0 : reach;
    if (op->inputs == 2) draft->residual = builder->tensor_map[op->input[1]];
    return pack(builder, plan->node_count - 1);
}

/* A node, or two, for every operation. */
static bool add_operations(struct builder *builder) {
    const struct graph *graph = builder->graph;
    struct plan *plan = builder->plan;
    static const int kinds[] = {[ADD] = NODE_ADD, [MUL] = NODE_MUL, [CONCAT] = NODE_CONCAT, [ACTIVATION] = NODE_ACTIVATION,
                                [SOFTMAX] = NODE_SOFTMAX};
    builder->tensor_map[0] = add_map(builder, graph->input, false, -1);
    for (int i = 0; i < graph->operations; i++) {
        const struct operation *op = &graph->operation[i];
        int in = builder->tensor_map[op->input[0]];
        int out = builder->tensor_map[i + 1] = add_map(builder, op->shape, false, 0);
        if (op->kind == CONV) {
            if (!add_convolution(builder, op, in, out)) return false;
        } else if (op->kind == MAX_POOL || op->kind == AVERAGE_POOL) {
            struct node *node = add_node(builder, is_flat(op->shape) ? NODE_POOL_FLAT : NODE_POOL, op, in, out, true);
            node->average = op->kind == AVERAGE_POOL;
            node->pad_counts = op->flags & PAD_COUNTS;
            node->rows = op->shape.h;
            size_t padded = op->window.before[1] + plan->maps[in].shape.w + op->window.behind[1];
            size_t scratch = 2 * (padded + 4 * LINE);
            if (plan->scratch < scratch) plan->scratch = scratch;
        } else {
            struct node *node = add_node(builder, kinds[op->kind], op, in, out, true);
            node->inputs = op->inputs;
            for (int j = 0; j < op->inputs; j++)
                builder->drafts[plan->node_count - 1].in[j] = builder->tensor_map[op->input[j]];
        }
        builder->producer[out] = plan->node_count - 1;
    }
    return true;
}

/* Find the channels that nothing reads, back from the output: at high sparsity whole channels die. */
static bool mark_used(struct builder *builder) {
    struct plan *plan = builder->plan;
    for (int i = 0; i < plan->map_count; i++)
        if (!(plan->maps[i].used = own(plan, plan->maps[i].shape.c, 1))) return false;
    for (int n = plan->node_count - 1; n >= 0; n--) {
        const struct node *node = &plan->nodes[n];
        const struct draft *draft = &builder->drafts[n];
        const struct map *out = &plan->maps[draft->out], *in = &plan->maps[draft->in[0]];
        if (node->kind == NODE_SPARSE || node->kind == NODE_STRIDED) {
            int border = in->pitch - in->shape.w, lead = border * in->pitch + border;
            for (int c = 0; c < out->shape.c; c++) {
                if (!out->used[c]) continue;
                for (uint32_t t = node->first[c]; t < node->first[c + 1]; t++)
                    in->used[(node->taps[t].offset / 4 + lead) / (int64_t)in->stride] = 1;
                if (draft->residual >= 0) plan->maps[draft->residual].used[c] = 1;
            }
        } else if (node->kind == NODE_SPLIT) {
            for (int c = 0; c < out->shape.c; c++)
                if (out->used[c]) in->used[c % in->shape.c] = 1;
        } else {
            for (int j = -1; j < node->inputs; j++) {
                int map = j < 0 ? draft->residual : draft->in[j];
                if (map >= 0) memset(plan->maps[map].used, 1, plan->maps[map].shape.c);
            }
        }
    }
    return true;
}

/* What a node's progress is counted in: rows of splits, pools and strided convolutions, pixels of long rows, all or nothing of flat maps. */
static bool by_rows(const struct node *node) {
    return node->kind == NODE_SPLIT || node->kind == NODE_POOL || node->kind == NODE_STRIDED;
}
static bool is_long(const struct builder *builder, int index) {
    return !by_rows(&builder->plan->nodes[index]) && !builder->plan->maps[builder->drafts[index].out].flat;
}
static bool strippable(const struct builder *builder, int index) {
    return by_rows(&builder->plan->nodes[index]) || is_long(builder, index);
}

static int full(const struct builder *builder, int index) {
    const struct node *node = &builder->plan->nodes[index];
    return by_rows(node) ? node->rows : builder->plan->maps[builder->drafts[index].out].pixels;
}

/* Pixels of its input number `which` (-1: the residual) that a node needs for its own output up to `end`. */
static int needed(const struct builder *builder, int index, int which, int end) {
    const struct node *node = &builder->plan->nodes[index];
    const struct draft *draft = &builder->drafts[index];
    const struct map *in = &builder->plan->maps[which < 0 ? draft->residual : draft->in[which]];
    const struct window *window = &node->window;
    if (in->flat) return in->pixels;
    if (by_rows(node)) {
        int last = window->kernel[0] - 1 - window->before[0];
        for (int phase = 0; phase < node->phases; phase++) last = most(phase ? last : INT_MIN, node->start[phase][0]);
        int rows = (end - 1) * window->stride[0] + last + 1;
        return rows >= in->shape.h ? in->pixels : most(rows, 0) * in->pitch;
    }
    if (!is_long(builder, index)) return in->pixels;
    return which < 0 ? end : end + draft->reach; /* `progress` knows where the map ends */
}

/* Pixels of a node's output as its own progress, rounded to what it computes at once. */
static int progress(const struct builder *builder, int index, int pixels) {
    const struct node *node = &builder->plan->nodes[index];
    int whole = full(builder, index);
    int pitch = builder->plan->maps[builder->drafts[index].out].pitch;
    if (by_rows(node)) return least((pixels + pitch - 1) / pitch, whole);
    if (!is_long(builder, index)) return whole;
    return least(round_up(pixels, node->tile * builder->kernels->lanes), whole);
}

static void choose_tiles(struct builder *builder) {
    int lanes = builder->kernels->lanes;
    for (int i = 0; i < builder->plan->node_count; i++) {
        if (!is_long(builder, i)) continue;
        int vectors = (full(builder, i) + lanes - 1) / lanes;
        int tiles = (vectors + builder->kernels->max_tile - 1) / builder->kernels->max_tile;
        int tile = (vectors + tiles - 1) / tiles;
        builder->plan->nodes[i].tile = tile > 8 ? round_up(tile, 2) : tile;
    }
}

static double map_bytes(const struct map *map) { return 4.0 * map->pixels * map->planes; }

/* Group nodes into segments that run strip by strip, so that a layer reads what is still in the cache. */
static int cut_segments(struct builder *builder, int *strips) {
    struct plan *plan = builder->plan;
    int segments = 0;
    double maps = 0, weights = 0;
    for (int i = 0; i < plan->node_count; i++) {
        struct draft *draft = &builder->drafts[i];
        double bytes = map_bytes(&plan->maps[draft->out]), taps = 8.0 * draft->taps;
        if (draft->residual >= 0) bytes += map_bytes(&plan->maps[draft->residual]);
        int parts = 1;
        if (strippable(builder, i)) {
            int unit = by_rows(&plan->nodes[i]) ? 4 : plan->nodes[i].tile * builder->kernels->lanes;
            parts = (full(builder, i) + unit - 1) / unit;
        }
        int both = segments ? least(parts, strips[segments - 1]) : 0;
        if (segments && both > 1 && weights + taps + (maps + bytes) / both <= strip_bytes) {
            maps += bytes;
            weights += taps;
            strips[segments - 1] = both;
        } else {
            maps = bytes + map_bytes(&plan->maps[draft->in[0]]);
            weights = taps;
            strips[segments++] = parts;
        }
        builder->segment[i] = segments - 1;
    }
    return segments;
}

/* Whether a node may write over its residual: nobody reads it later, and every other reader is ahead by its own reach. */
static bool may_overwrite(const struct builder *builder, int index) {
    const struct plan *plan = builder->plan;
    int residual = builder->drafts[index].residual, ahead[64];
    if (residual == builder->tensor_map[0] || residual == builder->drafts[index].in[0]) return false;
    for (int i = index + 1; i < plan->node_count; i++) {
        if (builder->drafts[i].residual == residual) return false;
        for (int j = 0; j < plan->nodes[i].inputs; j++)
            if (builder->drafts[i].in[j] == residual) return false;
    }
    for (int back = 0; back <= index; back++) { /* ahead: how far a node is ahead of this one, at least; -1: unknown */
        int reader = index - back;
        const struct draft *draft = &builder->drafts[reader];
        bool reads = draft->residual == residual;
        for (int j = 0; j < plan->nodes[reader].inputs; j++) reads |= draft->in[j] == residual;
        if (back >= 64) {
            if (reads) return false;
            continue;
        }
        ahead[back] = back ? -1 : 0;
        for (int user = 0; user < back; user++) {
            const struct draft *other = &builder->drafts[index - user];
            if (ahead[user] < 0 || !is_long(builder, index - user) || builder->is_split[other->in[0]]) continue;
            if (other->in[0] == draft->out) ahead[back] = most(ahead[back], ahead[user] + other->reach);
        }
        if (reads && back && (!is_long(builder, reader) || ahead[back] < draft->reach)) return false;
        if (builder->producer[residual] == reader) return true;
    }
    return false;
}

/* Memory for every map: one that is no longer read leaves its place to another of the same geometry. */
static bool place_maps(struct builder *builder, int segments) {
    struct plan *plan = builder->plan;
    for (int i = 0; i < plan->map_count; i++) builder->last_segment[i] = 0;
    for (int i = 0; i < plan->node_count; i++) {
        struct draft *draft = &builder->drafts[i];
        for (int j = 0; j < plan->nodes[i].inputs; j++) builder->last_segment[draft->in[j]] = builder->segment[i];
        if (draft->residual >= 0) builder->last_segment[draft->residual] = builder->segment[i];
        builder->last_segment[draft->out] = most(builder->last_segment[draft->out], builder->segment[i]);
    }
    builder->last_segment[builder->tensor_map[builder->graph->operations]] = segments;
    builder->last_segment[builder->tensor_map[0]] = segments;
    double total = 0;
    for (int n = -1; n < plan->node_count; n++) { /* -1: the image */
        int index = n < 0 ? builder->tensor_map[0] : builder->drafts[n].out;
        struct map *map = &plan->maps[index];
        int segment = n < 0 ? 0 : builder->segment[n], found = -1;
        int geometry = map->flat ? -1 : geometry_of(builder, map->shape.h, map->shape.w);
        size_t bytes = (map->stride * map->shape.c + LINE) * sizeof(float);
        builder->slot_after[index] = -1;
        if (n >= 0 && is_long(builder, n) && builder->drafts[n].residual >= 0 && may_overwrite(builder, n)) {
            found = builder->slot_of[builder->drafts[n].residual];
        } else {
            for (int i = 0; i < builder->slot_count; i++) {
                struct slot *slot = &builder->slots[i];
                if (slot->geometry != geometry || slot->split != builder->is_split[index] || slot->busy_until >= segment) continue;
                if (found < 0 || slot->bytes > builder->slots[found].bytes) found = i;
            }
            if (found >= 0) builder->slot_after[index] = builder->slots[found].map;
        }
        if (found < 0) {
            found = builder->slot_count++;
            builder->slots[found] = (struct slot){geometry, builder->is_split[index], 0, 0, 0, index};
        }
        struct slot *slot = &builder->slots[found];
        if (bytes > slot->bytes) {
            total += bytes - slot->bytes;
            slot->bytes = bytes;
        }
        slot->busy_until = most(slot->busy_until, builder->last_segment[index]);
        slot->map = index;
        builder->slot_of[index] = found;
        if (total > plan->room) return no_memory(builder);
    }
    size_t offset = 4 * LINE * sizeof(float);
    for (int i = 0; i < builder->slot_count; i++) {
        builder->slots[i].offset = offset;
        offset += builder->slots[i].bytes + 2 * LINE * sizeof(float);
    }
    char *memory = own(plan, offset + 64 * LINE, 1); /* the last vectors read on behind their maps */
    if (!memory) return no_memory(builder);
    memory += -(uintptr_t)memory & 63;
    for (int i = 0; i < plan->map_count; i++) {
        struct map *map = &plan->maps[i];
        int border = map->flat ? 0 : map->pitch - map->shape.w;
        map->data = (float *)(memory + builder->slots[builder->slot_of[i]].offset) + round_up(border * map->pitch + border, LINE);
    }
    return true;
}

/* The masks of flat maps: ones for as many channels as there are. */
static bool mask_flat_maps(struct plan *plan) {
    int longest = 0;
    for (int i = 0; i < plan->map_count; i++)
        if (plan->maps[i].flat) longest = most(longest, plan->maps[i].pixels);
    uint32_t *mask = own(plan, longest + LINE, sizeof *mask);
    if (!mask) return false;
    memset(mask, 255, (longest + LINE) * sizeof *mask);
    for (int i = 0; i < plan->map_count; i++)
        if (plan->maps[i].flat) plan->maps[i].mask = mask;
    return true;
}

static bool add_task(struct plan *plan, int *room, struct task task) {
    if (plan->task_count == *room) {
        *room = *room ? 2 * *room : 256;
        struct task *tasks = realloc(plan->tasks, *room * sizeof *tasks);
        if (!tasks) return false;
        plan->tasks = tasks;
    }
    plan->tasks[plan->task_count++] = task;
    return true;
}

/* The last task that has to be done before a node can compute its output up to `end`. */
static int after(const struct builder *builder, int index, int end) {
    const struct draft *draft = &builder->drafts[index];
    int last = -1;
    for (int j = -1; j < builder->plan->nodes[index].inputs; j++) {
        int map = j < 0 ? draft->residual : draft->in[j];
        int producer = map < 0 ? -1 : builder->producer[map];
        if (producer < 0) continue;
        const struct draft *source = &builder->drafts[producer];
        int goal = progress(builder, producer, needed(builder, index, j, end)), step = 0;
        if (goal == 0) continue; /* padding alone */
        while (step < source->step_count - 1 && source->steps[step].end < goal) step++;
        last = most(last, source->steps[step].task);
    }
    int former = builder->slot_after[draft->out]; /* what lay there before is read no more */
    for (int i = 0; former >= 0 && i < index; i++) {
        const struct draft *reader = &builder->drafts[i];
        bool uses = reader->out == former || reader->residual == former;
        for (int j = 0; j < builder->plan->nodes[i].inputs; j++) uses |= reader->in[j] == former;
        if (uses && reader->step_count) last = most(last, reader->steps[reader->step_count - 1].task);
    }
    return last;
}

/* Tasks for a node's output up to `end`, divided by pixels and channels where several threads share them. */
static bool add_step(struct builder *builder, int index, int end, int threads, int *room) {
    struct plan *plan = builder->plan;
    struct draft *draft = &builder->drafts[index];
    const struct node *node = &plan->nodes[index];
    const struct map *out = &plan->maps[draft->out];
    if (end <= draft->done) return true;
    bool flat_convolution = node->kind == NODE_FLAT_SPARSE || node->kind == NODE_FLAT_DENSE;
    bool elementwise = node->kind == NODE_ADD || node->kind == NODE_MUL || node->kind == NODE_ACTIVATION;
    int channels = out->flat && elementwise ? 1 : node->kind == NODE_GATHER ? plan->maps[draft->in[0]].shape.c : out->shape.c;
    if (out->flat) draft->done = 0;
    double size = (double)(end - draft->done) * (by_rows(node) ? out->pitch : 1);
    double work = flat_convolution ? draft->taps : draft->taps ? size * draft->taps : size * 10 * channels;
    int parts = threads == 1 || node->kind == NODE_SOFTMAX ? 1 : least(most(work / task_work, 1), 4 * threads);
    int previous = after(builder, index, end);
    int unit = by_rows(node) ? 1 : most(node->tile, 1) * builder->kernels->lanes;
    int tiles = strippable(builder, index) ? (end - draft->done + unit - 1) / unit : 1;
    if (node->kind == NODE_SPLIT) { /* rows in order: each may write a little too far */
        tiles = 1;
        if (draft->step_count) previous = most(previous, draft->steps[draft->step_count - 1].task);
    }
    int pixel_parts = least(parts, tiles), channel_parts = least((parts + pixel_parts - 1) / pixel_parts, channels);
    if (node->kind == NODE_CONCAT || !plan->maps[draft->out].shape.c) channel_parts = 1;
    for (int p = 0; p < pixel_parts; p++) {
        int from = draft->done + tiles * p / pixel_parts * unit, to = draft->done + tiles * (p + 1) / pixel_parts * unit;
        if (p == pixel_parts - 1) to = end;
        int channel = 0;
        for (int c = 0; c < channel_parts; c++) {
            int last = round_up((int64_t)channels * (c + 1) / channel_parts, ROW);
            if (node->kind == NODE_SPARSE || node->kind == NODE_FLAT_SPARSE) { /* equal numbers of weights */
                uint64_t goal = draft->taps * (c + 1) / channel_parts;
                last = channel;
                while (last < channels && node->first[last] < goal) last++;
            }
            if (c == channel_parts - 1) last = channels;
            last = least(last, channels);
            if (last > channel && !add_task(plan, room, (struct task){node, from, to, channel, last, previous}))
                return no_memory(builder);
            channel = most(channel, last);
        }
    }
    draft->done = end;
    if (draft->step_count == draft->step_room) {
        draft->step_room = draft->step_room ? 2 * draft->step_room : 4;
        struct step *steps = realloc(draft->steps, draft->step_room * sizeof *steps);
        if (!steps) return no_memory(builder);
        draft->steps = steps;
    }
    draft->steps[draft->step_count++] = (struct step){end, plan->task_count - 1};
    return true;
}

static bool order_tasks(struct builder *builder, int segments, const int *strips, int threads) {
    struct plan *plan = builder->plan;
    int room = 0, first = 0;
    for (int segment = 0; segment < segments; segment++) {
        int end = first;
        while (end < plan->node_count && builder->segment[end] == segment) end++;
        int count = end - first == 1 ? 1 : most(strips[segment] / threads, 1); /* a node alone loops over its tiles */
        for (int strip = 1; strip <= count; strip++) {
            for (int i = first; i < end; i++) {
                const struct map *out = &plan->maps[builder->drafts[i].out];
                int pixels = (int64_t)out->pixels * strip / count;
                builder->drafts[i].need = strip == count ? full(builder, i) : i == end - 1 ? progress(builder, i, pixels) : 0;
            }
            for (int i = end - 1; i >= first; i--) {
                struct draft *draft = &builder->drafts[i];
                for (int j = -1; j < plan->nodes[i].inputs; j++) {
                    int map = j < 0 ? draft->residual : draft->in[j];
                    int producer = map < 0 ? -1 : builder->producer[map];
                    if (producer < first || !draft->need) continue;
                    int need = progress(builder, producer, needed(builder, i, j, draft->need));
                    builder->drafts[producer].need = most(builder->drafts[producer].need, need);
                }
            }
            for (int i = first; i < end; i++)
                if (!add_step(builder, i, builder->drafts[i].need, threads, &room)) return false;
        }
        first = end;
    }
    return true;
}

static void connect(struct builder *builder) {
    struct plan *plan = builder->plan;
    for (int i = 0; i < plan->node_count; i++) {
        struct draft *draft = &builder->drafts[i];
        struct node *node = &plan->nodes[i];
        for (int j = 0; j < node->inputs; j++) node->in[j] = &plan->maps[draft->in[j]];
        node->residual = draft->residual < 0 ? NULL : &plan->maps[draft->residual];
        node->out = &plan->maps[draft->out];
    }
    plan->input = &plan->maps[builder->tensor_map[0]];
    plan->output = &plan->maps[builder->tensor_map[builder->graph->operations]];
}

static bool build(struct builder *builder, int threads) {
    struct plan *plan = builder->plan;
    size_t nodes = 2 * (size_t)builder->graph->operations, maps = nodes + 1;
    plan->nodes = own(plan, nodes, sizeof *plan->nodes);
    plan->maps = own(plan, maps, sizeof *plan->maps);
    builder->drafts = calloc(nodes, sizeof *builder->drafts);
    builder->geometries = calloc(maps, sizeof *builder->geometries);
    builder->slots = calloc(maps, sizeof *builder->slots);
    builder->is_split = calloc(maps, sizeof *builder->is_split);
    int *numbers = own(plan, 7 * maps, sizeof *numbers);
    if (!plan->nodes || !plan->maps || !builder->drafts || !builder->geometries || !builder->slots || !builder->is_split || !numbers)
        return no_memory(builder);
    builder->producer = numbers;
    builder->segment = numbers + maps;
    builder->last_segment = numbers + 2 * maps;
    builder->slot_of = numbers + 3 * maps;
    builder->tensor_map = numbers + 4 * maps;
    builder->slot_after = numbers + 5 * maps;
    int *strips = numbers + 6 * maps;

    find_borders(builder);
    if (!make_masks(builder)) return no_memory(builder);
    if (!add_operations(builder)) return false;
    choose_tiles(builder);
    int segments = cut_segments(builder, strips);
    if (!place_maps(builder, segments)) return false;
    if (!mask_flat_maps(plan) || !mark_used(builder)) return no_memory(builder);
    connect(builder);
    return order_tasks(builder, segments, strips, threads);
}

bool make_plan(struct plan *plan, const struct graph *graph, const struct kernels *kernels, int threads, size_t max_bytes,
               char *error) {
    struct builder builder = {.plan = plan, .graph = graph, .kernels = kernels, .error = error};
    memset(plan, 0, sizeof *plan);
    plan->room = max_bytes;
    bool done = build(&builder, threads);
    for (int i = 0; builder.drafts && i < plan->node_count; i++) free(builder.drafts[i].steps);
    free(builder.drafts);
    free(builder.geometries);
    free(builder.slots);
    free(builder.is_split);
    return done;
}

void free_plan(struct plan *plan) {
    for (int i = 0; i < plan->owned_count; i++) free(plan->owned[i]);
    free(plan->owned);
    free(plan->tasks);
    memset(plan, 0, sizeof *plan);
}
