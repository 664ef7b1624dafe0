"""Mixing of a batch's images and labels: mixup (Zhang et al., 2018) and cutmix (Yun et al., 2019).

As functions of seed and batch number alone, so that threads do not change them and a run can go on in the middle of an
epoch. MindSpore's MixUpBatch draws its share as a ratio of two numbers that are both zero for a small alpha, and then
ends the run.
"""

import numpy as np


def mixer(classes, mixup, cutmix, seed):
    """A function of lists of images (C, H, W) and labels and MindSpore's BatchInfo -> images (N, C, H, W) and class
    probabilities (N, classes), for `per_batch_map`.

    mixup, cutmix: alpha of each; 0: never; of both, a batch gets either with the same chance. Each image is mixed with
    one of the same batch; what it keeps of itself is drawn from Beta(alpha, alpha), once for the batch.
    """

    def mix(images, labels, info):
        random = np.random.default_rng((seed, info.get_batch_num()))
        images, labels = np.stack(images), np.eye(classes, dtype=np.float32)[np.stack(labels)]
        partners = random.permutation(len(images))
        if cutmix and (not mixup or random.random() < 0.5):
            mixed, share = cut(images, partners, random.beta(cutmix, cutmix), random)
        else:
            share = random.beta(mixup, mixup)
            mixed = blend(images, partners, share)
        return mixed, blend(labels, partners, share)

    return mix


def blend(arrays, partners, share):
    """Each row with the one at `partners`, as float32."""
    return (np.float32(share) * arrays + np.float32(1 - share) * arrays[partners]).astype(np.float32)


def cut(images, partners, share, random):
    """Images in which a rectangle is that of the partner, and the share of their own pixels.

    The rectangle has the shape of the image and 1 - share of its area; it lies anywhere; what sticks out is cut off.
    """
    height, width = images.shape[2:]
    down, across = (round(side * np.sqrt(1 - share)) for side in (height, width))
    top, left = random.integers(height) - down // 2, random.integers(width) - across // 2
    rows = slice(max(top, 0), min(top + down, height))
    columns = slice(max(left, 0), min(left + across, width))
    mixed = images.copy()
    mixed[..., rows, columns] = images[partners][..., rows, columns]
    return mixed, 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
