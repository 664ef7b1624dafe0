/* rpg_sparse MODEL [--threads N] [--isa NAME] [--repeat N]: float32 images from standard input, outputs as text lines. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "rpg_sparse.h"

static double seconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec + 1e-9 * now.tv_nsec;
}

static int usage(void) {
    fprintf(stderr, "usage: rpg_sparse MODEL [--threads N] [--isa NAME] [--repeat N] < IMAGES\n"
                    "IMAGES: float32, as the network takes them. Each image's outputs are a line; with --repeat, the\n"
                    "first image is run N times, by two clocks, and the medians are the last line.\n");
    return 2;
}

static int compare(const void *a, const void *b) {
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

int main(int count, char **words) {
    rpg_options options = {0};
    int repeat = 0;
    char error[RPG_ERROR_SIZE];
    if (count < 2 || count % 2) return usage();
    for (int i = 2; i < count; i += 2) {
        if (!strcmp(words[i], "--threads")) options.threads = atoi(words[i + 1]);
        else if (!strcmp(words[i], "--isa")) options.isa = words[i + 1];
        else if (!strcmp(words[i], "--repeat")) repeat = atoi(words[i + 1]);
        else return usage();
    }
    rpg_model *model = rpg_load(words[1], &options, error);
    if (!model) {
        fprintf(stderr, "error: %s: %s\n", words[1], error);
        return 2;
    }
    int shape[3];
    rpg_input_shape(model, shape);
    size_t size = (size_t)shape[0] * shape[1] * shape[2], outputs = rpg_output_size(model);
    float *image = malloc(size * sizeof *image), *output = malloc(outputs * sizeof *output);
    double *times = malloc((repeat + 1) * sizeof *times);
    int status = image && output && times ? 0 : 1;
    while (!status && fread(image, sizeof *image, size, stdin) == size) {
        rpg_run(model, image, 1, output, 0);
        for (size_t i = 0; i < outputs; i++) printf("%.9g%c", output[i], i + 1 < outputs ? ' ' : '\n');
        if (!repeat) continue;
        static const clockid_t clocks[] = {CLOCK_PROCESS_CPUTIME_ID, CLOCK_MONOTONIC};
        for (int clock = 0; clock < 2; clock++) {
            for (int i = 0; i < repeat; i++) {
                double begin = seconds(clocks[clock]);
                rpg_run(model, image, 1, output, 0);
                times[i] = seconds(clocks[clock]) - begin;
            }
            qsort(times, repeat, sizeof *times, compare);
            printf(clock ? ", %.3f ms by the clock\n" : "%.3f ms of CPU time", 1000 * times[repeat / 2]);
        }
        break;
    }
    free(image);
    free(output);
    free(times);
    rpg_free(model);
    return status;
}
