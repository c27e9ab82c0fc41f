"""The bytes of .iinc and .tfci files, checked."""

import collections
import contextlib
import itertools
import os
import struct
import warnings

import google.protobuf.message
import numpy as np
import tensorflow.compat.v1 as tf

from plumbing import basics


def latent_shapes(height, width):
    """((height, width) of x, of y, of z)."""
    y_shape = (-(-height // 16), -(-width // 16))
    return (height, width), y_shape, tuple(-(-side // 4) for side in y_shape)


# Settings of the fit of q(z|y_hat), which a decoder repeats: iterations (at most MAX_ITS) and rate
# of Adam, seed.
MAX_ITS = 10 ** 5
Fit = collections.namedtuple("Fit", "its lr seed")

KINDS = ("centred", "integer", "bits-back")

# Before the body: checksum of all that follows; then magic, version, index of the kind, checksums
# of the model and of all y and z, and length of the names of script and run, which follow.
HEADER = struct.Struct("<8s4sBB8s8sB")
MAGIC, VERSION = b"iinc", 2
Header = collections.namedtuple("Header", "kind fingerprint symbols script run_name")
# The body of an .iinc: num_imgs, H, W, lowest and highest y and z. An offset per image follows, of
# bits-back iterations, rate and seed of the fit of q and the bytes of --initial_bits, then their
# checksum if there are any. The rest is the coder's.
BODY, FIT = struct.Struct("<IHH4h"), struct.Struct("<IfII")
# What is in a file, checked: shape (num_imgs, H, W); ranges of y and z; the grid's offset of every
# image; Fit; length and checksum of --initial_bits; words of the coder, or strings of a .tfci.
File = collections.namedtuple("File", "shape y_range z_range offsets fit initial payload")
BATCH_PIXELS = 10 ** 7  # of a batch of a .npy at most, unless a single image has more
MAX_FILE_PIXELS, MAX_SYMBOL, MAX_Z_VALUES, MAX_SEED = 2 ** 28, 2 ** 15 - 1, 2 ** 13, 2 ** 31 - 1


def split_batches(items, shape):
    """The batches in which items that stand for images of (num_imgs, H, W) are processed."""
    size = max(1, BATCH_PIXELS // (shape[1] * shape[2]))
    return [items[i:i + size] for i in range(0, len(items), size)]


def pack_header(kind, script, run, body, images):
    """Bytes of the header of a file whose other bytes are `body`."""
    names = ("%s %s" % (script, run.name)).encode()
    basics.bounded("the length of the names of script and run", len(names), 0, 255)
    header = HEADER.pack(b"", MAGIC, VERSION, KINDS.index(kind), run.fingerprint,
                         digest_symbols(images), len(names))[8:] + names
    return basics.digest(header, body) + header


def digest_symbols(images):
    """Checksum of all y and z of a list of Coded."""
    return basics.digest(*itertools.chain.from_iterable(
        (image.y.astype("<i4", copy=False), image.z.astype("<i4", copy=False))
        for image in images))


def parse_example(content):
    """tf.train.Example of bytes, or DecodeError; drops what C++ and Python print about damage."""
    stderr = os.dup(2)
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return tf.train.Example.FromString(content)
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def unpack(content):
    """Header and body of a file: of a .tfci a tf.train.Example, else bytes.

    The header is None in a file of the original. Raises UserError if the file is neither ours and
    intact nor possibly the original's.
    """
    if content[8:12] == MAGIC and len(content) >= HEADER.size:
        end = HEADER.size + content[HEADER.size - 1]
        return unpack_header(content[:end], content[end:]), content[end:]
    try:
        example = parse_example(content)
    except google.protobuf.message.DecodeError:
        raise basics.UserError("not a compressed file of these scripts, or a damaged one")
    feature = example.features.feature
    if "header" in feature:
        packed = b"".join(feature.pop("header").bytes_list.value)
        header = unpack_header(packed, example.SerializeToString(deterministic=True))
        script = b"".join(feature["MD"].bytes_list.value).decode(errors="replace")
        return header._replace(script=script), example
    if not feature:
        raise basics.UserError("not a compressed file of these scripts, or a damaged one")
    if set(feature) != set(TFCI_FEATURES):
        raise basics.UserError("not a compressed file: a .tfci with the features %s" % sorted(feature))
    return None, example


def unpack_header(header, body):
    """Header of a file; UserError unless it is intact and of this version."""
    if len(header) < HEADER.size or header[:8] != basics.digest(header[8:], body):
        raise basics.UserError("damaged: its checksum does not match")
    _, magic, version, kind, model, symbols, _ = HEADER.unpack(header[:HEADER.size])
    if (magic, version) != (MAGIC, VERSION):
        raise basics.UserError("format %r version %d; accepted is %r version %d"
                         % (magic, version, MAGIC, VERSION))
    basics.bounded("damaged: the kind of latents", kind, 0, len(KINDS) - 1)
    script, _, run_name = header[HEADER.size:].decode(errors="replace").partition(" ")
    return Header(KINDS[kind], model, symbols, script, run_name)


def check_shape(shape):
    """(num_imgs, H, W) as a tuple; UserError unless a file may have them."""
    if min(shape) < 1 or max(shape[1:]) >= 2 ** 16 or np.prod(
            shape, dtype=np.float64) > MAX_FILE_PIXELS:
        raise basics.UserError("%d images of %d x %d; accepted are sides under %d, 1 to %d pixels in all"
                         % (tuple(shape) + (2 ** 16, MAX_FILE_PIXELS)))
    return tuple(map(int, shape))


# The range of symbols: constriction's coders need it, tight and stored.

def value_range(name, *arrays):
    """(lowest, highest) integer of arrays, one apart at least, as the coder needs it."""
    low = int(min(v.min() for v in arrays))
    high = max(low + 1, int(max(v.max() for v in arrays)))
    return check_range(name, low, high)


def check_range(name, low, high):
    """(low, high); UserError unless they are a range that is accepted for y or z."""
    basics.bounded("the lowest %s" % name, low, -MAX_SYMBOL, MAX_SYMBOL - 1)
    most = MAX_SYMBOL if name == "y" else min(MAX_SYMBOL, low + MAX_Z_VALUES - 1)
    return low, basics.bounded("the highest %s" % name, high, low + 1, most)


def pack_iinc(kind, script, run, shape, ranges, images, coder, extra=b""):
    """Bytes of an .iinc."""
    body = (BODY.pack(*shape, *itertools.chain(*ranges))
            + bytes(image.offset for image in images) + extra + coder.get_compressed().tobytes())
    return pack_header(kind, script, run, body, images) + body


def parse_iinc(kind, body):
    """File of the body of an .iinc; UserError if a field is not what is accepted."""
    def take(size):
        nonlocal body
        if len(body) < size:
            raise basics.UserError("damaged: too short")
        taken, body = body[:size], body[size:]
        return taken
    fields = BODY.unpack(take(BODY.size))
    shape = check_shape(fields[:3])
    y_range, z_range = check_range("y", *fields[3:5]), check_range("z", *fields[5:])
    offsets, fit, initial = take(shape[0]), None, (0, b"")
    if kind == "bits-back":
        its, lr, seed, num_bytes = FIT.unpack(take(FIT.size))
        fit = Fit(basics.bounded("the number of iterations", its, 0, MAX_ITS),
                  basics.bounded("the learning rate", lr, 0, 1e6),
                  basics.bounded("the seed", seed, 0, MAX_SEED))
        initial = num_bytes, take(8) if num_bytes else b""
    if len(body) % 4 or body[-4:] == bytes(4):
        raise basics.UserError("damaged: not words of an ANS coder")
    return File(shape, y_range, z_range, offsets, fit, initial, np.frombuffer(body, "<u4"))


# Centred latents as the original has them, a .tfci: tfc's range coder in single precision, with one
# thread, and our header. It is as portable as the original's: if mu or sigma come out otherwise on
# another machine, that refuses it. Images are coded in the batches in which they were processed.

TFCI_FEATURES = ("\x01", "\x02", "\x03", "\x04", "\x05")


def parse_tfci(example):
    """File of a .tfci; UserError if its features don't belong together."""
    feature = example.features.feature
    strings = [list(feature[key].bytes_list.value) for key in TFCI_FEATURES[:2]]
    shapes = tuple(tuple(feature[key].int64_list.value) for key in TFCI_FEATURES[2:])
    offsets = b"".join(feature["offsets"].bytes_list.value) or bytes(len(strings[0]))
    if len(shapes[0]) != 2 or not 0 < len(strings[0]) == len(strings[1]) == len(offsets):
        raise basics.UserError("damaged: shapes %s of %d and %d strings, %d offsets"
                         % (shapes, len(strings[0]), len(strings[1]), len(offsets)))
    shape = check_shape((len(strings[0]),) + shapes[0])
    if shapes != latent_shapes(*shapes[0]):
        raise basics.UserError("damaged: latents of %s for images of %s" % (shapes[1:], shapes[0]))
    return File(shape, None, None, offsets, None, (0, b""), strings)


def require_replaceable(path, initial_bits):
    """UserError if `path` is something that can't be made again.

    That is: no compressed file, or one that holds other initial bits.
    """
    if not os.path.isfile(path) or not os.path.getsize(path):
        return
    content, num_bytes, is_ours = basics.read_bytes(path), 0, False
    with contextlib.suppress(google.protobuf.message.DecodeError):
        is_ours = content[8:12] == MAGIC or set(TFCI_FEATURES) <= set(
            parse_example(content).features.feature)
    if not is_ours:
        raise basics.UserError("%s: is there and not a compressed file; %s" % (path, basics.QUOTE))
    with contextlib.suppress(basics.UserError):  # damaged
        header, body = unpack(content)
        if isinstance(body, bytes):  # an .iinc
            num_bytes, checksum = parse_iinc(header.kind, body).initial
    if num_bytes and checksum != basics.digest(initial_bits):
        raise basics.UserError("%s: is there and holds %d bytes of other --initial_bits; decompress them "
                         "and remove it first" % (path, num_bytes))
