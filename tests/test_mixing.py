"""Mixup and cutmix: which pixels and labels come of which images, whatever alpha is; RandAugment in the pipeline."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmark.random_data import write_cifar10
from src.data.batches import Batches, Batching, Source
from src.data.mixing import mixer
from src.platform.errors import InputError
from tests.streams import epochs_of, read

COUNT, CLASSES = 6, 8
LABELS = [np.int32(label) for label in range(COUNT)]


def batch_of(number, **alphas):
    """Batch `number` of images whose pixels have the value of their label; as (images, labels)."""
    info = SimpleNamespace(get_batch_num=lambda: number)
    images = [np.full((3, 12, 16), label, np.float32) for label in LABELS]
    return mixer(CLASSES, alphas.get("mixup", 0.0), alphas.get("cutmix", 0.0), 5)(images, LABELS, info)


def parents(row, own):
    """The partner of image `own` and the share that it keeps, by its class probabilities."""
    others = [label for label in np.flatnonzero(row) if label != own]
    assert len(others) <= 1
    return (others[0] if others else own), row[own]


@pytest.mark.parametrize("number", range(4))
def test_mixup_blends_each_image_with_one_other_as_its_label_says(number):
    images, labels = batch_of(number, mixup=1.0)
    assert (images.dtype, labels.dtype, labels.shape) == (np.float32, np.float32, (COUNT, CLASSES))
    np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
    found = [parents(row, own) for own, row in enumerate(labels)]
    assert sorted(partner for partner, _ in found) == list(range(COUNT))  # each is a partner once
    assert len({round(float(share), 5) for own, (partner, share) in enumerate(found) if partner != own}) == 1
    for own, (partner, share) in enumerate(found):
        np.testing.assert_allclose(images[own], share * own + (1 - share) * partner, atol=1e-5)


@pytest.mark.parametrize("number", range(8))
def test_cutmix_pastes_a_rectangle_of_one_other_and_the_label_is_its_area(number):
    images, labels = batch_of(number, cutmix=1.0)
    for own, (image, row) in enumerate(zip(images, labels)):
        partner, share = parents(row, own)
        pasted = image != own
        assert set(np.unique(image)) <= {own, partner}
        assert partner == own or np.mean(~pasted) == pytest.approx(share)
        rows, columns = np.flatnonzero(pasted.any((0, 2))), np.flatnonzero(pasted.any((0, 1)))
        assert pasted.sum() == 3 * len(rows) * len(columns)
        for places in (rows, columns):
            assert np.array_equal(places, np.arange(places[0], places[0] + len(places)) if len(places) else places)


@pytest.mark.parametrize("alphas", [{"mixup": 1e-3}, {"cutmix": 1e-3}, {"mixup": 1e-2}, {"mixup": 100.0}], ids=str)
def test_any_alpha_gives_numbers(alphas):
    """Of a small one, both numbers that a share is the ratio of may be zero."""
    rows = np.concatenate([batch_of(number, **alphas)[1] for number in range(100)])
    assert np.isfinite(rows).all()
    np.testing.assert_allclose(rows.sum(1), 1, atol=1e-6)
    mixed = ((rows > 0.01) & (rows < 0.99)).any(1).mean()
    assert "cutmix" in alphas or (mixed < 0.2) == (alphas["mixup"] < 1)


def test_both_take_turns_and_follow_the_number_of_the_batch():
    batches = [batch_of(number, mixup=1.0, cutmix=1.0) for number in range(60)]
    pasted = sum(np.array_equal(images, np.rint(images)) for images, _ in batches)
    assert 15 < pasted < 45
    assert np.array_equal(batch_of(7, mixup=1.0, cutmix=1.0)[0], batches[7][0])
    assert len({images.tobytes() for images, _ in batches}) == 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_cifar10(tmp_path_factory.mktemp("mixing") / "cifar", 60, 6)


@pytest.mark.parametrize("options", [{"mixup": 0.4, "cutmix": 1.0}, {"rand_augment": 9}], ids=str)
def test_a_run_that_goes_on_in_an_epoch_sees_the_same_images(folder, options):
    data = read("cifar10", "train", 10, data_path=str(folder), **options)
    whole, resumed = epochs_of(data, 2), epochs_of(data, 2, skip=data.steps + 2)
    assert len(resumed[0]) == data.steps - 2
    for one, other in zip(whole[1][2:], resumed[0]):
        assert all(np.array_equal(a, b) for a, b in zip(one, other))


def test_rand_augment_changes_training_images_and_no_others(folder):
    def images(split, **options):
        return np.concatenate(
            [images for images, _ in epochs_of(read("cifar10", split, 6, data_path=str(folder), **options))[0]]
        )

    changed = (images("train") != images("train", rand_augment=9)).any((1, 2, 3))
    assert changed.mean() > 0.5
    assert np.array_equal(images("test"), images("test", rand_augment=9))


def test_rand_augment_needs_colours():
    with pytest.raises(InputError, match="rand_augment: only for colour images"):
        Batches(Source("digits"), "train", Batching(64, rand_augment=9))
