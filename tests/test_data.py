"""The embedded digits: one fixed split, each image once, and an order that follows the seed."""

from itertools import chain

import numpy as np
import pytest

from src.data import digits
from tests.streams import epochs_of, read


def batches(split, seed=0, batch_size=64, skip=0, epochs=1):
    return list(chain(*epochs_of(read("digits", split, batch_size, seed=seed), epochs, skip)))


def test_split_is_fixed_disjoint_and_complete():
    train, test = digits.arrays("train"), digits.arrays("test")
    assert (len(train[0]), len(test[0])) == (1437, 360)
    assert np.array_equal(train[0], digits.arrays("train")[0])
    assert np.bincount(test[1]).min() >= 34  # stratified
    assert train[0].dtype == np.uint8
    assert train[0].max() == 255


def test_evaluation_sees_each_image_once():
    labels = np.concatenate([labels for _, labels in batches("test")])
    assert np.array_equal(labels, digits.arrays("test")[1])


def test_batches():
    train = batches("train")
    assert len(train) == 1437 // 64
    assert {images.shape for images, _ in train} == {(64, 1, 8, 8)}
    assert train[0][0].dtype == np.float32
    everything = np.concatenate([images for images, _ in train])
    assert abs(everything.mean()) < 0.1
    assert abs(everything.std() - 1) < 0.1


def test_order_and_augmentation_follow_the_seed():
    one, same, other = batches("train", 1), batches("train", 1), batches("train", 2)
    assert all(np.array_equal(a, b) for a, b in zip(one[0], same[0]))
    assert not np.array_equal(one[0][1], other[0][1])


def test_epochs_differ():
    two = batches("train", epochs=2)
    assert not np.array_equal(two[0][1], two[len(two) // 2][1])


@pytest.mark.parametrize("skip", [1, 22, 30, 44, 65])
def test_skipping_to_a_step_replays_the_same_samples(skip):
    """What resuming relies on: from step `skip` on, the stream is that of the uninterrupted run."""
    whole = batches("train", epochs=3)
    resumed = batches("train", skip=skip, epochs=3)
    assert len(resumed) == len(whole) - skip
    for expected, batch in zip(whole[skip:], resumed):
        assert np.array_equal(expected[0], batch[0])
        assert np.array_equal(expected[1], batch[1])


def test_batch_larger_than_the_data_is_an_error():
    with pytest.raises(ValueError, match="batch_size 2000 is larger than the 1437 training images"):
        read("digits", "train", 2000)
