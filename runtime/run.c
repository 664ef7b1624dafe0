/* Loading, running and freeing of models; the threads of a run. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model.h"

#if defined(__x86_64__)
extern const struct kernels rpg_kernels_sse2, rpg_kernels_avx2, rpg_kernels_avx512;
const struct kernels *const rpg_kernels[] = {&rpg_kernels_avx512, &rpg_kernels_avx2, &rpg_kernels_sse2, NULL};
#elif defined(__aarch64__)
extern const struct kernels rpg_kernels_neon;
const struct kernels *const rpg_kernels[] = {&rpg_kernels_neon, NULL};
#else
#error "kernels are there for x86-64 and aarch64 only"
#endif

struct worker {
    pthread_t thread;
    rpg_model *model;
    float *scratch;
};

struct rpg_model {
    struct graph graph;
    struct plan plan;
    const struct kernels *kernels;
    uint64_t sparse_work;
    int threads, started;
    struct worker worker[MAX_THREADS]; /* number 0 is the caller */
    atomic_int next;                   /* task to be taken */
    atomic_uint *done;                 /* per task, the run in which it was done last */
    atomic_uint run;                   /* number of the current run */
    pthread_mutex_t mutex;
    pthread_cond_t wake, progress;
    atomic_int sleepers;               /* threads that sleep until a task is done */
    unsigned woken;
    bool stop;
};

static bool is_done(rpg_model *model, int task, unsigned run) { return atomic_load(&model->done[task]) == run; }

/* Most waits are shorter than it takes to fall asleep; but the thread waited for may not even be on a core. */
static void wait_for(rpg_model *model, int task, unsigned run) {
    for (int turn = 0; turn < 1000; turn++) {
        if (is_done(model, task, run)) return;
#if defined(__x86_64__)
        __builtin_ia32_pause();
#else
        __asm__ volatile("yield");
#endif
    }
    pthread_mutex_lock(&model->mutex);
    atomic_fetch_add(&model->sleepers, 1); /* before the task is looked at again: whoever ends it sees one of both */
    while (!is_done(model, task, run)) pthread_cond_wait(&model->progress, &model->mutex);
    atomic_fetch_sub(&model->sleepers, 1);
    pthread_mutex_unlock(&model->mutex);
}

static void set_done(rpg_model *model, int task, unsigned run) {
    atomic_store(&model->done[task], run);
    if (atomic_load(&model->sleepers) == 0) return;
    pthread_mutex_lock(&model->mutex);
    pthread_cond_broadcast(&model->progress);
    pthread_mutex_unlock(&model->mutex);
}

/* Take tasks in their order until none is left. A task waits for all tasks before its `after`, which others have taken
 * already: so there is always one that can go on, and whoever is free takes the next. */
static void work(rpg_model *model, float *scratch) {
    const struct plan *plan = &model->plan;
    int front = 0;         /* all tasks before it are done, */
    unsigned current = 0;  /* in this run */
    for (;;) {
        int index = atomic_fetch_add(&model->next, 1);
        if (index >= plan->task_count) return;
        const struct task *task = &plan->tasks[index];
        unsigned run = atomic_load_explicit(&model->run, memory_order_relaxed);
        if (run != current) front = 0;
        current = run;
        for (; front <= task->after; front++) wait_for(model, front, run);
        model->kernels->run(task, scratch);
        set_done(model, index, run);
    }
}

static void *serve(void *argument) {
    struct worker *worker = argument;
    rpg_model *model = worker->model;
    unsigned seen = 0;
    for (;;) {
        pthread_mutex_lock(&model->mutex);
        while (model->woken == seen && !model->stop) pthread_cond_wait(&model->wake, &model->mutex);
        seen = model->woken;
        bool stop = model->stop;
        pthread_mutex_unlock(&model->mutex);
        if (stop) return NULL;
        work(model, worker->scratch);
    }
}

static void run_tasks(rpg_model *model) {
    const struct plan *plan = &model->plan;
    if (model->started == 0) {
        for (int i = 0; i < plan->task_count; i++) model->kernels->run(&plan->tasks[i], model->worker[0].scratch);
        return;
    }
    unsigned run = atomic_fetch_add(&model->run, 1) + 1;
    atomic_store(&model->next, 0);
    pthread_mutex_lock(&model->mutex);
    model->woken++;
    pthread_cond_broadcast(&model->wake);
    pthread_mutex_unlock(&model->mutex);
    work(model, model->worker[0].scratch);
    for (int i = 0; i < plan->task_count; i++) wait_for(model, i, run);
}

int rpg_run(rpg_model *model, const float *images, size_t count, float *outputs, int probabilities) {
    const struct map *in = model->plan.input, *out = model->plan.output;
    size_t size = rpg_output_size(model);
    bool softmax = probabilities && !(model->graph.flags & PROBABILITIES);
    for (size_t n = 0; n < count; n++, outputs += size) {
        if (in->flat) {
            memcpy(in->data, images, in->shape.c * sizeof *images);
            images += in->shape.c;
        } else {
            for (int channel = 0; channel < in->shape.c; channel++)
                for (int y = 0; y < in->shape.h; y++, images += in->shape.w)
                    memcpy(in->data + channel * in->stride + (size_t)y * in->pitch, images, in->shape.w * sizeof *images);
        }
        run_tasks(model);
        memcpy(outputs, out->data, size * sizeof *outputs);
        if (softmax) {
            float largest = outputs[0], sum = 0;
            for (size_t i = 1; i < size; i++) largest = outputs[i] > largest ? outputs[i] : largest;
            for (size_t i = 0; i < size; i++) sum += outputs[i] = expf(outputs[i] - largest);
            for (size_t i = 0; i < size; i++) outputs[i] /= sum;
        }
    }
    return 0;
}

static const struct kernels *choose_kernels(const char *name, char *error) {
    for (const struct kernels *const *kernels = rpg_kernels; *kernels; kernels++)
        if ((!name || !strcmp(name, (*kernels)->name)) && (*kernels)->present()) return *kernels;
    fail(error, "no kernels for %.100s on this processor", name ? name : "it");
    return NULL;
}

static bool start_threads(rpg_model *model, int threads, char *error) {
    model->threads = threads;
    model->done = calloc(model->plan.task_count, sizeof *model->done);
    if (!model->done) return fail(error, "out of memory");
    atomic_store(&model->next, model->plan.task_count);
    for (int i = 0; i < threads; i++) {
        model->worker[i].model = model;
        model->worker[i].scratch = calloc(model->plan.scratch + 1, sizeof(float));
        if (!model->worker[i].scratch) return fail(error, "out of memory");
        if (i == 0) continue;
        if (pthread_create(&model->worker[i].thread, NULL, serve, &model->worker[i])) return fail(error, "cannot start a thread");
        model->started = i;
    }
    return true;
}

rpg_model *rpg_load_memory(const void *bytes, size_t size, const rpg_options *options, char *error) {
    int threads = options && options->threads ? options->threads : 1;
    if (threads < 1 || threads > MAX_THREADS) {
        fail(error, "threads: between 1 and %d, not %d", MAX_THREADS, threads);
        return NULL;
    }
    const struct kernels *kernels = choose_kernels(options ? options->isa : NULL, error);
    if (!kernels) return NULL;
    rpg_model *model = calloc(1, sizeof *model);
    if (!model) {
        fail(error, "out of memory");
        return NULL;
    }
    model->kernels = kernels;
    pthread_mutex_init(&model->mutex, NULL);
    pthread_cond_init(&model->wake, NULL);
    pthread_cond_init(&model->progress, NULL);
    size_t max_bytes = options && options->max_bytes ? options->max_bytes : (size_t)1 << 30;
    if (!read_graph(&model->graph, bytes, size, options, error) ||
        !make_plan(&model->plan, &model->graph, kernels, threads, max_bytes, error) || !start_threads(model, threads, error)) {
        rpg_free(model);
        return NULL;
    }
    return model;
}

rpg_model *rpg_load(const char *path, const rpg_options *options, char *error) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (file < 0 || fstat(file, &status)) {
        fail(error, "cannot read the file: %s", strerror(errno));
        if (file >= 0) close(file);
        return NULL;
    }
    rpg_model *model = NULL;
    if (!S_ISREG(status.st_mode) || status.st_size == 0) {
        fail(error, "not a .sparse file");
    } else {
        void *bytes = mmap(NULL, status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
        if (bytes == MAP_FAILED) {
            fail(error, "cannot map the file: %s", strerror(errno));
        } else {
            model = rpg_load_memory(bytes, status.st_size, options, error);
            munmap(bytes, status.st_size);
        }
    }
    close(file);
    return model;
}

void rpg_free(rpg_model *model) {
    if (!model) return;
    pthread_mutex_lock(&model->mutex);
    model->stop = true;
    pthread_cond_broadcast(&model->wake);
    pthread_mutex_unlock(&model->mutex);
    for (int i = 1; i <= model->started; i++) pthread_join(model->worker[i].thread, NULL);
    for (int i = 0; i < MAX_THREADS; i++) free(model->worker[i].scratch);
    pthread_cond_destroy(&model->wake);
    pthread_cond_destroy(&model->progress);
    pthread_mutex_destroy(&model->mutex);
    free(model->done);
    free_plan(&model->plan);
    free_graph(&model->graph);
    free(model);
}

void rpg_input_shape(const rpg_model *model, int shape[3]) {
    shape[0] = model->graph.input.c;
    shape[1] = model->graph.input.h;
    shape[2] = model->graph.input.w;
}

size_t rpg_output_size(const rpg_model *model) { return model->plan.output->shape.c; }

const char *rpg_class_name(const rpg_model *model, size_t index) {
    if (index >= (size_t)model->graph.classes) return NULL;
    const char *name = model->graph.names;
    while (index--) name += strlen(name) + 1;
    return name;
}

int rpg_prepare(const rpg_model *model, const uint8_t *pixels, float *image) {
    const struct graph *graph = &model->graph;
    if (!(graph->flags & DESCRIBED)) return -1;
    int area = graph->input.h * graph->input.w, channels = graph->input.c;
    for (int channel = 0; channel < channels; channel++)
        for (int i = 0; i < area; i++) {
            float value = pixels[(size_t)i * channels + channel];
            if (!(graph->flags & NORMALIZED)) value = (value - graph->mean[channel]) / graph->deviation[channel];
            image[(size_t)channel * area + i] = value;
        }
    return 0;
}

const char *rpg_isa(const rpg_model *model) { return model->kernels->name; }

uint64_t rpg_work(const rpg_model *model, int dense) { return dense ? model->graph.dense_work : model->graph.work; }
