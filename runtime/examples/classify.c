/* Classify a picture: classify MODEL.sparse PICTURE.ppm (binary PPM or PGM of the network's size: convert -resize 32x32!). */
#include <stdio.h>
#include <stdlib.h>

#include "rpg_sparse.h"

int main(int count, char **words) {
    char error[RPG_ERROR_SIZE], kind;
    int shape[3], width, height;
    rpg_model *model = count == 3 ? rpg_load(words[1], NULL, error) : NULL;
    if (!model) return fprintf(stderr, "error: %s\n", count == 3 ? error : "usage: classify MODEL PICTURE"), 2;
    rpg_input_shape(model, shape);

    size_t size = (size_t)shape[0] * shape[1] * shape[2], classes = rpg_output_size(model), best = 0;
    uint8_t *pixels = malloc(size);
    float *image = malloc(size * sizeof *image), *probabilities = malloc(classes * sizeof *probabilities);
    FILE *file = fopen(words[2], "rb");
    if (!pixels || !image || !probabilities || !file || fscanf(file, "P%c %d %d 255", &kind, &width, &height) != 3 ||
        kind != (shape[0] == 3 ? '6' : '5') || height != shape[1] || width != shape[2] || fgetc(file) == EOF ||
        fread(pixels, 1, size, file) != size)
        return fprintf(stderr, "error: a PPM or PGM of %d x %d is needed\n", shape[2], shape[1]), 2;

    if (rpg_prepare(model, pixels, image)) return fprintf(stderr, "error: the model does not say how to normalise\n"), 2;
    rpg_run(model, image, 1, probabilities, 1);
    for (size_t i = 1; i < classes; i++)
        if (probabilities[i] > probabilities[best]) best = i;
    const char *name = rpg_class_name(model, best);
    printf("%s (%.1f %%)\n", name ? name : "?", 100 * probabilities[best]);
    rpg_free(model);
    free(pixels);
    free(image);
    free(probabilities);
    return fclose(file);
}
