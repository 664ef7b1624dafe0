/* fuzz COUNT FILE...: load and run COUNT mutations of .sparse files; fuzz --rounds COUNT FILE: load, run and free one.
 *
 * Built with sanitizers by scripts/build_runtime.sh --sanitize. Most mutations get a checksum and length that fit them, so
 * that the checks behind those are reached. Prints how many could be loaded.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rpg_sparse.h"

static uint64_t state = 88172645463325252ull;

static uint32_t next_random(uint32_t below) { /* xorshift (Marsaglia, 2003) */
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (state >> 20) % below;
}

static void seal(uint8_t *bytes, size_t size) {
    uint32_t length = size, crc = ~0u;
    memcpy(bytes + 12, &length, 4);
    for (size_t i = 12; i < size; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    }
    crc = ~crc;
    memcpy(bytes + 8, &crc, 4);
}

static size_t mutate(uint8_t *bytes, size_t size) {
    static const uint32_t edges[] = {0, 1, 2, 127, 128, 255, 256, 32767, 65535, 65536, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7F800000};
    size_t head = size < 400 ? size : 400; /* most numbers that matter come early */
    for (int change = 1 + next_random(4); change; change--) {
        size_t at = next_random(next_random(2) ? head : size);
        switch (next_random(5)) {
        case 0: bytes[at] ^= 1 << next_random(8); break;
        case 1: bytes[at] = next_random(256); break;
        case 2:
            if (at + 4 <= size) memcpy(bytes + at, &edges[next_random(sizeof edges / sizeof *edges)], 1 << next_random(3));
            break;
        case 3: bytes[at] = next_random(10); break;
        case 4:
            if (next_random(8) == 0) size = size > 60 ? size - next_random(20) : size;
            break;
        }
    }
    if (size >= 16 && next_random(20)) seal(bytes, size);
    return size;
}

/* Whether the file could be loaded; then it is run too. */
static int try(const uint8_t *bytes, size_t size, int threads, bool any_isa) {
    rpg_options options = {.threads = threads, .max_bytes = 8 << 20, .max_work = 3000000};
    static const char *const isas[] = {"sse2", "avx2", "avx512", "neon", NULL};
    char error[RPG_ERROR_SIZE] = "";
    if (any_isa) options.isa = isas[next_random(5)];
    rpg_model *model = rpg_load_memory(bytes, size, &options, error);
    if (!model) {
        if (!*error || strchr(error, '\n')) abort();
        return 0;
    }
    int shape[3];
    rpg_input_shape(model, shape);
    size_t pixels = (size_t)shape[0] * shape[1] * shape[2];
    float *image = malloc(pixels * sizeof *image), *output = malloc(rpg_output_size(model) * sizeof *output);
    uint8_t *grey = malloc(pixels);
    if (!image || !output || !grey) abort();
    memset(grey, 100, pixels);
    if (rpg_prepare(model, grey, image))
        for (size_t i = 0; i < pixels; i++) image[i] = (int)(i % 7) - 3;
    rpg_run(model, image, 1, output, 1);
    rpg_class_name(model, next_random(20));
    free(image);
    free(output);
    free(grey);
    rpg_free(model);
    return 1;
}

int main(int count, char **words) {
    int rounds = count > 3 && !strcmp(words[1], "--rounds"), first = rounds ? 3 : 2;
    if (count <= first) return fprintf(stderr, "usage: fuzz [--rounds] COUNT FILE...\n"), 2;
    long number = atol(words[first - 1]), loaded = 0;
    uint8_t **files = calloc(count, sizeof *files), *copy = NULL;
    size_t *sizes = calloc(count, sizeof *sizes);
    for (int i = first; i < count; i++) {
        FILE *file = fopen(words[i], "rb");
        if (!file || !(files[i] = malloc(1 << 20))) return fprintf(stderr, "error: cannot read %s\n", words[i]), 2;
        sizes[i] = fread(files[i], 1, 1 << 20, file);
        fclose(file);
        if (!try(files[i], sizes[i], 1, false)) return fprintf(stderr, "error: %s cannot be loaded\n", words[i]), 2;
    }
    for (long n = 0; n < number; n++) {
        int i = first + next_random(count - first);
        copy = realloc(copy, sizes[i]); /* of the exact size, so that reading on is noticed */
        memcpy(copy, files[i], sizes[i]);
        size_t size = rounds ? sizes[i] : mutate(copy, sizes[i]);
        copy = realloc(copy, size);
        loaded += try(copy, size, n % 50 ? 1 : 3, !rounds);
    }
    printf("%ld of %ld loaded\n", loaded, number);
    for (int i = first; i < count; i++) free(files[i]);
    free(files);
    free(sizes);
    free(copy);
    return 0;
}
