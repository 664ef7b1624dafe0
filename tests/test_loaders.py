"""CIFAR and ImageNet in their real formats: each sample once for any number of workers, and files that are wrong."""

from itertools import chain

import mindspore.dataset as ds
import numpy as np
import pytest
from PIL import Image

from benchmark.random_data import write_cifar10, write_cifar100, write_imagenet
from src.data import DATASETS
from src.data.batches import published_steps
from src.data.sharding import Shard
from src.platform.errors import InputError
from tests import streams

WRITERS = {"cifar10": write_cifar10, "cifar100": write_cifar100, "imagenet": write_imagenet}
SIZES = {"train": 37, "test": 23}  # divide by none of the batch sizes and shards below


def grey(index):
    """An image of one colour, which crops and mirrors leave as it is and which tells its index."""
    size = (60, 50, 3)
    return np.full(size, 5 * (index % 50), np.uint8)


def small_grey(index):
    return grey(index)[:32, :32]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """All three data sets, tiny, the training images 0..36 and the test images 37..59."""
    root = tmp_path_factory.mktemp("data")
    return {
        name: write(root / name, SIZES["train"], SIZES["test"], grey if name == "imagenet" else small_grey)
        for name, write in WRITERS.items()
    }


def read(name, split, folder, batch_size, epochs=1, skip=0, **options):
    return streams.epochs_of(streams.read(name, split, batch_size, data_path=str(folder), **options), epochs, skip)


def samples(name, epoch):
    """(colour index, label) of every sample of an epoch; the centre pixel is never padding."""
    mean, std = DATASETS[name].MEAN[0], DATASETS[name].STD[0]
    pairs = []
    for images, labels in epoch:
        middle = images.shape[2] // 2
        colours = (images[:, 0, middle, middle] * std + mean) * 255
        pairs += zip(np.round(colours / 5).astype(int).tolist(), labels.tolist())
    return pairs


def written(name, split):
    start = 0 if split == "train" else SIZES["train"]
    classes = {"cifar10": 10, "cifar100": 100}.get(name)
    indices = range(start, start + SIZES[split])
    return [(index % 50, index % classes if classes else index - start) for index in indices]


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("shards", [1, 2, 3])
def test_evaluation_reads_every_image_exactly_once(name, shards, folders):
    parts = [
        samples(name, read(name, "test", folders[name], 4, shard=Shard(shards, index))[0]) for index in range(shards)
    ]
    assert sorted(chain(*parts)) == sorted(written(name, "test"))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("shards", [1, 2, 3])
def test_training_reads_no_image_twice_and_all_but_the_remainder(name, shards, folders):
    parts = [read(name, "train", folders[name], 4, epochs=3, shard=Shard(shards, index)) for index in range(shards)]
    left_out = set()
    for epoch in range(3):
        assert len({len(part[epoch]) for part in parts}) == 1  # the same number of batches for every worker
        seen = list(chain(*(samples(name, part[epoch]) for part in parts)))
        assert len(seen) == len(set(seen)) == SIZES["train"] // (4 * shards) * 4 * shards
        assert set(seen) <= set(written(name, "train"))
        left_out |= set(written(name, "train")) - set(seen)
    assert len(left_out) > SIZES["train"] - len(seen)  # another remainder each epoch


@pytest.mark.parametrize("count", [1, 5, 6, 7, 12])
@pytest.mark.parametrize("shards", [1, 2, 3, 5])
def test_shards_of_any_size(count, shards):
    def indices(split, index):
        source = ds.NumpySlicesDataset(np.arange(count), sampler=Shard(shards, index).sampler(split, count))
        return [int(row[0]) for row in source.create_tuple_iterator(num_epochs=1, output_numpy=True)]

    for split in ("train", "test"):
        if count < shards:
            with pytest.raises(ValueError, match="too few"):
                Shard(shards, shards - 1).sampler(split, count)
            continue
        seen = [indices(split, index) for index in range(shards)]
        flat = list(chain(*seen))
        assert len(flat) == len(set(flat)) == (count // shards * shards if split == "train" else count)


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_the_global_batch_does_not_depend_on_the_number_of_workers(name, folders):
    def labels(shards):
        parts = [read(name, "train", folders.get(name), 12 // shards, shard=Shard(shards, i))[0] for i in range(shards)]
        return [sorted(np.concatenate([batch[1] for batch in step]).tolist()) for step in zip(*parts)]

    assert labels(1) == labels(2) == labels(3)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("options", [{}, {"num_workers": 2, "shard": Shard(2, 1)}], ids=str)
def test_skipping_to_a_step_replays_the_same_samples(name, options, folders):
    size = 6
    whole = list(chain(*read(name, "train", folders[name], size, epochs=3, **options)))
    per_epoch = len(whole) // 3
    for skip in (per_epoch, per_epoch + 2):
        resumed = list(chain(*read(name, "train", folders[name], size, epochs=3, skip=skip, **options)))
        assert len(resumed) == len(whole) - skip
        for one, other in zip(whole[skip:], resumed):
            assert all(np.array_equal(a, b) for a, b in zip(one, other))


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_shapes_and_types(name, split, folders):
    images, labels = read(name, split, folders[name], 5)[0][0]
    assert images.shape == (5, *DATASETS[name].IMAGE_SHAPE)
    assert (images.dtype, labels.dtype) == (np.float32, np.int32)


def test_cifar_test_images_are_the_normalised_pixels(tmp_path):
    folder = write_cifar100(tmp_path / "c", 5, 5)
    record = np.fromfile(folder / "test.bin", np.uint8).reshape(5, 3074)[3]
    images, labels = read("cifar100", "test", folder, 5)[0][0]
    mean, std = (np.reshape(value, (3, 1, 1)) for value in (DATASETS["cifar100"].MEAN, DATASETS["cifar100"].STD))
    assert np.allclose(images[3], (record[2:].reshape(3, 32, 32) / 255 - mean) / std, atol=1e-5)
    assert labels[3] == record[1] == 5 + 3


def test_imagenet_test_images_are_the_centre_of_the_resized_image(tmp_path):
    rows, columns = np.mgrid[:320, :512]
    image = np.stack([rows // 2, columns // 2, rows * 0 + 99], 2).astype(np.uint8)  # a gradient survives JPEG
    folder = write_imagenet(tmp_path / "i", 1, 1, lambda index: image)
    with Image.open(next((folder / "val").glob("*/*.JPEG"))) as file:  # by Pillow: shorter side 256, centre 224
        resized = np.asarray(file.resize((round(512 * 256 / 320), 256), Image.BILINEAR), np.float32)
    top, left = (resized.shape[0] - 224) // 2, (resized.shape[1] - 224) // 2
    expected = resized[top : top + 224, left : left + 224].transpose(2, 0, 1) / 255
    images, _ = read("imagenet", "test", folder, 1)[0][0]
    mean, std = (np.reshape(value, (3, 1, 1)) for value in (DATASETS["imagenet"].MEAN, DATASETS["imagenet"].STD))
    assert np.abs(images[0] * std + mean - expected).max() < 6 / 255


def test_augmentation_crops_and_mirrors(tmp_path):
    ramp = np.repeat(np.arange(32, dtype=np.uint8)[None, :, None] * 8, 32, 0).repeat(3, 2)
    folder = write_cifar10(tmp_path / "c", 64, 1, lambda index: ramp)
    images = np.concatenate([batch[0] for batch in read("cifar10", "train", folder, 64)[0]])
    rising = images[:, 0, 16, 20] > images[:, 0, 16, 12]
    assert 10 < rising.sum() < 54
    assert len({image.tobytes() for image in images}) > 40


def test_mixup_mixes_images_and_labels_alike(folders):
    images, labels = read("imagenet", "train", folders["imagenet"], 12, mixup=0.4)[0][0]
    assert labels.shape == (12, 1000)
    assert np.allclose(labels.sum(1), 1)
    assert ((labels > 0.02) & (labels < 0.98)).any()
    colours = images[:, 0, 112, 112] * DATASETS["imagenet"].STD[0] + DATASETS["imagenet"].MEAN[0]
    assert np.allclose(colours * 255 / 5, labels @ np.arange(1000), atol=0.5)  # the label of a colour is its index


def test_cifar_is_found_in_the_folder_that_the_archive_makes(tmp_path):
    write_cifar10(tmp_path / "cifar-10-batches-bin", 5, 5)
    assert len(read("cifar10", "test", tmp_path, 5)[0]) == 1


def test_published_sizes():
    assert published_steps("imagenet", 1024) == 1251
    assert published_steps("cifar10", 128) == 390
    with pytest.raises(ValueError, match="batch_size 60000 is larger than the 50000 training images of cifar100"):
        published_steps("cifar100", 60000)


def damage(folder, name, how):
    """Spoil one training file; returns what the error must name."""
    if name == "imagenet":
        file = sorted(folder.glob("train/*/*.JPEG"))[5]
    else:
        file = folder / ("data_batch_3.bin" if name == "cifar10" else "train.bin")
    content = file.read_bytes()
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(
            {"short": content[: len(content) // 2 + 1], "empty": b"", "noise": b"\xff" * len(content)}[how]
        )
    return file.name


@pytest.mark.parametrize(
    ("name", "how", "message"),
    [
        ("cifar10", "missing", "cannot read .*data_batch_3.bin: No such file"),
        ("cifar10", "short", "data_batch_3.bin has .* bytes, not a whole number of 3073-byte records"),
        ("cifar100", "empty", "train.bin has 0 bytes"),
        ("cifar10", "noise", "data_batch_3.bin has labels above 9; it is another data set"),
        ("cifar100", "noise", "train.bin has labels above 99"),
        ("imagenet", "short", r"cannot read .*n00000005/5\.JPEG: .*truncated"),
        ("imagenet", "empty", r"cannot read .*n00000005/5\.JPEG: not an image"),
        ("imagenet", "noise", r"cannot read .*n00000005/5\.JPEG: not an image"),
    ],
)
def test_a_bad_file_is_named(name, how, message, tmp_path):
    folder = WRITERS[name](tmp_path / "data", 12, 3)
    damage(folder, name, how)
    with pytest.raises(InputError, match=message):
        read(name, "train", folder, 4)


def test_class_folders_are_checked(tmp_path):
    folder = write_imagenet(tmp_path / "i", 4, 4, grey)
    names = DATASETS["imagenet"].class_names(folder, "test")
    read("imagenet", "test", folder, 4, classes=names)
    with pytest.raises(InputError, match="class 1 is n00000001 here, but dog in the network's training data"):
        read("imagenet", "test", folder, 4, classes=(names[0], "dog", *names[2:]))
    (folder / "val" / "n00000999").rename(folder / "val" / "stray")
    with pytest.raises(InputError, match=r"train and val in .* differ: n00000999, stray"):
        read("imagenet", "test", folder, 4)
    (folder / "val" / "stray").rmdir()
    with pytest.raises(InputError, match="val has 999 class folders; the network has 1000"):
        read("imagenet", "test", folder, 4)


@pytest.mark.parametrize("name", WRITERS)
def test_data_that_is_not_there(name, tmp_path):
    with pytest.raises(InputError, match="data_path: give the folder"):
        read(name, "train", "", 4)
    with pytest.raises(InputError, match=r"data_path: cannot read .*nowhere.*No such file"):
        read(name, "train", tmp_path / "nowhere", 4)


def test_class_folders_without_images(tmp_path):
    folder = write_imagenet(tmp_path / "i", 1, 0, grey)
    with pytest.raises(InputError, match="no images in the class folders"):
        read("imagenet", "test", folder, 4)
