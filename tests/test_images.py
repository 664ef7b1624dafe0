"""Pictures are resized in one way, with antialiasing: against Pillow by torchvision's rules, in every pipeline."""

import os
from random import Random

import numpy as np
import pytest
from PIL import Image

from benchmark.random_data import noise, write_imagenet
from src.data import imagenet
from src.data.images import central_part, random_part
from src.data.sharding import WHOLE, Shard
from src.export.deployed import Interface
from src.export.inference import read_image
from src.platform.errors import InputError
from tests.streams import epochs_of, read

SIZES = [(500, 375), (375, 500), (256, 256), (257, 300), (1000, 750), (427, 640), (90, 61), (225, 700), (1301, 301)]
MEAN, STD = (tuple(255 * value for value in values) for values in (imagenet.MEAN, imagenet.STD))
INTERFACE = Interface(imagenet.IMAGE_SHAPE, 1, MEAN, STD, True, False, imagenet.CROP, ())


def photograph(width, height, seed):
    """Detail at all scales, as in photographs: noise whose amplitude falls with its frequency, and sharp edges."""
    random = np.random.default_rng(seed)
    rows, columns = np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij")
    falling = 1 / np.maximum(np.hypot(rows, columns), 1 / max(width, height))
    planes = [np.fft.ifft2(np.fft.fft2(random.standard_normal((height, width))) * falling).real for _ in range(3)]
    image = np.stack([128 + 50 * plane / plane.std() for plane in planes], 2)
    image[height // 3 : height // 2, width // 4 :] = random.integers(0, 256, 3)
    image[:, width // 2 : width // 2 + 3] = 255
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """An ImageNet folder whose test images are photographs of many sizes, as JPEG and PNG; their paths in order."""
    folder = write_imagenet(tmp_path_factory.mktemp("pictures") / "imagenet", 0, 0)
    for seed, (width, height) in enumerate(SIZES):
        image = Image.fromarray(photograph(width, height, seed))
        image.save(folder / "val" / f"n{2 * seed:08d}" / "a.JPEG", quality=90)
        image.convert("L" if seed == 1 else "RGB").save(folder / "val" / f"n{2 * seed + 1:08d}" / "a.png")
    return folder, sorted(folder.glob("val/*/*"))


def by_torchvision(path):
    """Resize(256) and CenterCrop(224) of torchvision on a Pillow image, written out."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    width, height = image.size
    short, long = min(width, height), max(width, height)
    longer = int(256 * long / short)
    width, height = (256, longer) if width <= height else (longer, 256)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - 224) / 2.0), round((height - 224) / 2.0)
    return np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32).transpose(2, 0, 1)


def grey_values(images):
    """Normalised images (n, 3, height, width) as grey values again."""
    mean, std = (np.float32(values).reshape(3, 1, 1) for values in (MEAN, STD))
    return images * std + mean


def test_evaluation_and_inference_see_what_published_weights_were_evaluated_with(pictures):
    folder, paths = pictures
    data = read("imagenet", "test", len(paths), num_workers=2, data_path=str(folder))
    evaluated = grey_values(epochs_of(data)[0][0][0])
    for path, image in zip(paths, evaluated):
        inferred = read_image(path, INTERFACE)
        assert np.abs(inferred - by_torchvision(path)).max() <= 1, path
        assert np.abs(image - inferred).max() < 0.01, path  # the float32 of normalising and back


def test_inference_normalises_as_evaluation_does(pictures):
    folder, paths = pictures
    images = epochs_of(read("imagenet", "test", 1, data_path=str(folder)))[0]
    image = read_image(paths[0], INTERFACE._replace(normalized=False))
    assert np.abs(images[0][0][0] - image).max() < 1e-5


def test_fine_detail_is_averaged_not_picked(tmp_path):
    """Of white noise four times as fine as the result, an average has a fraction of the deviation."""
    folder = write_imagenet(tmp_path / "imagenet", 16, 1, noise(1000, 1000))
    for split, most in (("test", 20), ("train", 60)):  # training sees a part, which it scales down less
        images = grey_values(epochs_of(read("imagenet", split, 1, data_path=str(folder)))[0][0][0])
        assert 10 < images.std() < most
    shrunk = [
        grey_values(batch[0]).std()
        for batch in epochs_of(read("imagenet", "train", 4, data_path=str(folder), seed=1))[0]
    ]
    assert np.mean(shrunk) < 40  # picked, single pixels would have some 60


@pytest.mark.parametrize("size", [(224, 224), (160, 160), (8, 8), (32, 32)])
@pytest.mark.parametrize("crop", [224 / 256, 1.0])
def test_rounding_is_torchvisions(size, crop, rng):
    resized = round(size[0] / crop)
    for width, height in [*rng.integers(size[0], 3000, (300, 2)).tolist(), [333, 333], [1, 9], [9, 1], [7000, 31]]:
        longer = int(resized * max(width, height) / min(width, height))
        scaled = (resized, longer) if width <= height else (longer, resized)
        corner = [round((whole - size[0]) / 2.0) for whole in scaled]
        scale = [width / scaled[0], height / scaled[1]]
        expected = [corner[i] * scale[i] for i in (0, 1)] + [(corner[i] + size[0]) * scale[i] for i in (0, 1)]
        found = central_part(size, crop)(width, height)
        assert found == pytest.approx(expected, abs=1e-6)
        assert min(found) >= 0
        assert found[2] <= width
        assert found[3] <= height


def test_networks_of_any_shape_see_the_middle(tmp_path):
    """Of a picture twice as wide as the network's input, the middle half; its own size is left as it is."""
    pixels = photograph(80, 20, 0)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    interface = INTERFACE._replace(image_shape=(3, 20, 40), crop=1.0)
    assert np.array_equal(read_image(tmp_path / "a.png", interface), pixels[:, 20:60].transpose(2, 0, 1))
    assert central_part((20, 40), 1.0)(40, 60) == (0, 20, 40, 40)


@pytest.mark.parametrize(("width", "height"), [(500, 375), (224, 224), (64, 80)])
def test_random_parts_have_the_published_shapes(width, height):
    random = Random(0)
    parts = np.array([random_part(random)(width, height) for _ in range(2000)], float)
    across, down = parts[:, 2] - parts[:, 0], parts[:, 3] - parts[:, 1]
    assert parts.min() >= 0
    assert parts[:, 2].max() == width
    assert parts[:, 3].max() == height
    areas, shapes = across * down / (width * height), across / down
    assert 0.07 < areas.min() < 0.1 < 0.9 < areas.max() <= 1
    assert abs(np.log(shapes).mean()) < 0.05  # as often wide as tall
    assert 0.7 < shapes.min() < 0.8 < 1.27 < shapes.max() < 1.4
    assert abs((parts[:, 0] / (width - across + 1e-9)).clip(0, 1).mean() - 0.5) < 0.05


def test_a_picture_too_long_for_any_part_gives_its_middle():
    assert random_part(Random(0))(3000, 30) == (1480, 0, 1520, 30)
    assert random_part(Random(0))(30, 3000) == (0, 1480, 30, 1520)


def train_images(folder, shard=WHOLE, **options):
    """The training images of two epochs, one batch of all, with their labels."""
    source = read("imagenet", "train", 24 // shard.count, shard, data_path=folder, seed=3, **options)
    return [epoch[0] for epoch in epochs_of(source, 2)]


@pytest.fixture(scope="module")
def ramps(tmp_path_factory):
    """Training images whose colour tells place and image: it rises to the right, and downwards."""

    def ramp(index):
        rows, columns = np.mgrid[:120, :160]
        return np.stack([columns, rows, np.full(rows.shape, 10 * index)], 2).astype(np.uint8)

    return str(write_imagenet(tmp_path_factory.mktemp("ramps") / "imagenet", 24, 0, ramp))


def test_training_images_are_random_parts_mirrored_at_random(ramps):
    one, two = (grey_values(images) for images, _ in train_images(ramps))
    rises = one[:, 0, 112, 200] - one[:, 0, 112, 24]
    assert 4 <= (rises > 0).sum() <= 20
    assert (one[:, 1, 200, 112] > one[:, 1, 24, 112]).all()  # never upside down
    assert np.ptp(np.abs(rises)) > 30  # parts of many sizes
    assert not np.allclose(one, two, atol=1)


def test_augmentation_is_that_of_the_image_whatever_threads_and_workers(ramps):
    alone = train_images(ramps, num_workers=1)
    threads = train_images(ramps, num_workers=2)
    shards = [train_images(ramps, Shard(3, index)) for index in range(3)]
    for epoch in range(2):
        images, labels = alone[epoch]
        assert np.array_equal(images, threads[epoch][0])
        assert np.array_equal(labels, threads[epoch][1])
        found = {label: image for part in shards for image, label in zip(*part[epoch])}
        assert len(found) == 24
        assert all(np.array_equal(found[label], image) for image, label in zip(images, labels))


def test_files_are_listed_once_for_all_epochs_in_the_order_of_their_names(tmp_path, monkeypatch):
    folder = write_imagenet(tmp_path / "imagenet", 12, 3, noise(30, 30))
    first = folder / "train" / "n00000000"
    for name in ("b.JPEG", "ä b.png", "Z.jpg"):
        Image.fromarray(noise(20, 20)(7)).save(first / name)
    (first / ".hidden.JPEG").write_text("left by a file manager")
    (first / "notes.txt").write_text("no image")
    data = read("imagenet", "train", 15, data_path=str(folder))
    names = [os.path.basename(os.fsdecode(path)) for path in data.loaded.images]
    assert names == ["0.JPEG", "Z.jpg", "b.JPEG", "ä b.png", *(f"{index}.JPEG" for index in range(1, 12))]
    assert data.loaded.labels.tolist() == [0, 0, 0, *range(12)]

    def refuse(*arguments):
        raise AssertionError("listed again")

    for module, name in ((os, "scandir"), (os, "listdir"), (os, "walk")):
        monkeypatch.setattr(module, name, refuse)
    (first / "late.JPEG").write_bytes((first / "b.JPEG").read_bytes())
    assert [sorted(epoch[0][1].tolist()) for epoch in epochs_of(data, 2)] == [data.loaded.labels.tolist()] * 2
    (first / "b.JPEG").unlink()
    with pytest.raises(InputError, match=r"data_path: cannot read .*n00000000/b\.JPEG: No such file"):
        epochs_of(data)
