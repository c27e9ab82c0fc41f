"""Patches of training images.

Patch k depends on the seed and k alone, whatever was interrupted and however many processes train.
"""

import contextlib
import functools
import glob
import itertools
import os

import numpy as np
import PIL.Image
import tensorflow.compat.v1 as tf

from plumbing import basics, image_files

IMAGE_CACHE_BYTES = 2 ** 31  # decoded training images are kept in memory up to so many in all

MOST_UNREADABLE = .1  # share of the training images that may turn out not to be readable


def training_files(pattern, patchsize, held_out=()):
    """Paths that match `pattern`, are not held out, and hold a patch; whether all fit in memory.

    UserError if there is none, or if one is not a training image.
    """
    excluded = set(map(os.path.realpath, held_out))
    paths = [path for path in matching(pattern) if os.path.realpath(path) not in excluded]
    if not paths:
        others = " that --eval_glob does not" if excluded else ""
        raise basics.UserError("--train_glob %s: no file matches%s" % (pattern, others))
    sizes = {path: training_image_size(path) for path in paths}
    large = [path for path in paths if min(sizes[path]) >= patchsize]
    if not large:
        height, width = max(sizes.values(), key=min)
        raise basics.UserError(
            "--patchsize %d: larger than every image of %s; the largest is %d x %d"
            % (patchsize, pattern, height, width))
    if len(large) < len(paths):
        basics.note("%d of %d training images are smaller than the patch and skipped"
                    % (len(paths) - len(large), len(paths)))
    num_bytes = sum(np.prod(sizes[path]) * (12 if path.endswith(".npy") else 3) for path in large)
    return large, num_bytes <= IMAGE_CACHE_BYTES


def matching(pattern):
    """Sorted paths of a glob, or of the images and .npy in a folder."""
    if not os.path.isdir(pattern):
        return sorted(glob.glob(pattern, recursive=True))
    return image_files.images_in_folder(pattern, (".npy",))


def held_out_images(pattern):
    """Paths that --eval_glob matches, which are not trained on; none if it is empty."""
    paths = matching(pattern)
    if pattern and not paths:
        raise basics.UserError("--eval_glob %s: no file matches" % pattern)
    return paths


def require_evaluable(paths, N, with_gradients):
    """UserError unless a model of N filters can compress each of the images."""
    for path in paths:
        shape = image_files.read_images(path).shape[:3]
        with basics.errors_of(path):
            image_files.require_compressible(shape, N, with_gradients)


def training_image_size(path):
    """(height, width) from the header of an image or float32 .npy; UserError if it is neither."""
    try:
        if path.endswith(".npy"):
            image = np.load(path, mmap_mode="r", allow_pickle=False)
            if image.dtype != np.float32 or image.ndim != 3 or image.shape[2] != 3:
                raise basics.UserError("holds %s %s, accepted is float32 (H, W, 3)"
                                       % (image.dtype, image.shape))
            return image.shape[:2]
        with PIL.Image.open(path) as image:
            image_files.require_8_bits(image)
            return image.size[::-1]
    except Exception as error:  # decoders raise many types on damaged files
        raise basics.UserError("%s: not a training image (%s)" % (path, error))


class Unreadable(Exception):
    """A training image can't be read."""


def training_patches(paths, batchsize, patchsize, seed, start=0, replica=0, num_replicas=1,
                     in_memory=True, readers=4):
    """Dataset of batches: number t, patches float32 [batchsize, patchsize, patchsize, 3] in [0, 1].

    A replica's batches have the numbers start * num_replicas + replica, and every num_replicas-th
    from there on; if it is started again, it repeats those since the checkpoint. Patch k depends on
    (seed, k) alone, so that training continued at step `start` sees what an uninterrupted run would
    see, and replicas together see what one process with a batch of num_replicas times the size
    would see. in_memory: whether images are kept, once decoded. In the place of an image that can't
    be read comes the next of the paths; UserError if too many can't.
    """
    read, unreadable = read_training_image, {}
    if in_memory:
        read = functools.lru_cache(maxsize=None)(read)

    def crop(place, key):
        for path in paths[place:] + paths[:place]:
            with contextlib.suppress(Unreadable):
                return random_patch(path, readable(path), patchsize, key)

    def readable(path):
        if path not in unreadable:
            try:
                return read(path)
            except basics.UserError as error:
                unreadable[path] = error
        if len(unreadable) > MOST_UNREADABLE * len(paths):
            raise basics.UserError("%s; of %d training images %d can't be read" % (
                unreadable[path], len(paths), len(unreadable)))
        basics.note("%s; others are in its place" % unreadable[path])
        raise Unreadable

    first = start * num_replicas + replica
    order = functools.partial(patch_order, len(paths), batchsize, seed, first, num_replicas)
    dataset = tf.data.Dataset.from_generator(order, (tf.int64, tf.int64), ([], [3]))
    dataset = dataset.map(lambda place, key: tf.py_func(crop, [place, key], tf.float32),
                          num_parallel_calls=readers)
    dataset = dataset.map(lambda x: tf.ensure_shape(x, [patchsize, patchsize, 3]))
    numbers = tf.data.Dataset.range(first, 2 ** 62, num_replicas)
    batches = dataset.batch(batchsize, drop_remainder=True)
    return tf.data.Dataset.zip((numbers, batches)).prefetch(2)


def read_training_image(path):
    """[H, W, 3] of a training image: float32 in [0, 1] of a .npy, else uint8."""
    if not path.endswith(".npy"):
        return image_files.read_image(path)
    try:
        return np.load(path, allow_pickle=False)
    except Exception as error:  # damaged files raise many types
        raise basics.UserError("%s: not a readable .npy file (%s)" % (path, error))


def patch_order(num_images, batchsize, seed, first_batch, stride):
    """Of every patch of batches first_batch, first_batch + stride, ...: number of image, and key.

    In each epoch, all images come in another order. A key has three integers, and is the seed of
    numpy's generator, which chooses where in the image the patch is.
    """
    shuffled_epoch = None
    for batch in itertools.count(first_batch, stride):
        for k in range(batch * batchsize, (batch + 1) * batchsize):
            epoch, i = divmod(k, num_images)
            if epoch != shuffled_epoch:
                shuffled = np.random.RandomState([seed, epoch]).permutation(num_images)
                shuffled_epoch = epoch
            yield shuffled[i], [seed, epoch, i]


def random_patch(path, image, patchsize, key):
    """float32 [patchsize, patchsize, 3] in [0, 1] of a training image, where `key` says.

    UserError if it has other values.
    """
    places = np.array(image.shape[:2]) - patchsize + 1
    top, left = (np.random.RandomState(key).random_sample(2) * places).astype(int)
    patch = image[top:top + patchsize, left:left + patchsize]
    patch = patch.astype(np.float32) / np.float32(255 if patch.dtype == np.uint8 else 1)
    if not (patch.min() >= 0 and patch.max() <= 1):
        raise basics.UserError("%s: has values from %g to %g, accepted are 0 to 1"
                               % (path, patch.min(), patch.max()))
    return patch
