"""The bytes of .iinc and .tfci files, checked.

An .iinc is a header and a body, whose layouts are HEADER, BODY and FIT below. A .tfci is what the
original writes, a tf.train.Example with five features, and our header as another; it is as
portable as the original's. Anybody can make a file: what can be in one is bounded here before it
is used, and a file that is damaged, or not one of ours, is a UserError. What the words of the
entropy coder mean is the business of `coding`.
"""

import contextlib
import io
import itertools
import os
import struct
import typing
import warnings

import google.protobuf.message
import numpy as np
import tensorflow.compat.v1 as tf

from plumbing import basics, grid


# Of latents; a header has the index.
KINDS = ("centred", "integer", "bits-back")

# The header: checksum of all that follows it, magic, version, index of the kind, checksums of the
# model and of all y and z, length of the names of script and run; then these names.
HEADER = struct.Struct("<8s4sBB8s8sB")
CHECKSUM_BYTES = 8
MAGIC, VERSION = b"iinc", 2

# The body of an .iinc: num_imgs, H, W, lowest and highest y, lowest and highest z; then a byte per
# image, the offset of its grid; of bits-back also FIT; then words of the entropy coder.
BODY = struct.Struct("<IHH4h")
# Iterations, rate and seed of the fit of q, and the number of bytes of --initial_bits; then, if
# that is not 0, their checksum.
FIT = struct.Struct("<IfII")

# The original's features of a .tfci: strings of y and of z, shapes of x, of y and of z.
TFCI_FEATURES = ("\x01", "\x02", "\x03", "\x04", "\x05")

BATCH_PIXELS = 10 ** 7  # of a batch of a .npy at most, unless a single image has more

# What is accepted at most.
MAX_ITS = 10 ** 5  # iterations of the fit of q
MAX_SEED = 2 ** 31 - 1
MAX_FILE_PIXELS = 2 ** 28  # of all images of a file
MAX_SIDE = 2 ** 16 - 1  # of an image
MAX_SYMBOL = 2 ** 15 - 1  # absolute values of y and z
MAX_Z_VALUES = 2 ** 13  # different values of z


class Header(typing.NamedTuple):
    """What a file says of its origin."""
    kind: str  # of latents, one of KINDS
    fingerprint: bytes  # checksum of the model's weights, as in Run
    symbols: bytes  # checksum of all y and z, see digest_symbols
    script: str  # that wrote the file
    run_name: str  # with the run of this name


class Fit(typing.NamedTuple):
    """Settings of the fit of q(z|y_hat), which a decoder repeats."""
    its: int  # iterations of Adam, at most MAX_ITS
    lr: float  # learning rate of Adam
    seed: int  # of the noise


class InitialBits(typing.NamedTuple):
    """What a chain of bits-back says of the file --initial_bits that it began with."""
    num_bytes: int  # of that file; 0 if there was none
    checksum: bytes  # of that file, empty if there was none


class File(typing.NamedTuple):
    """What is in a file but for its header, checked."""
    shape: tuple  # (num_imgs, H, W)
    y_range: typing.Optional[tuple]  # (lowest, highest) symbol y; None of a .tfci
    z_range: typing.Optional[tuple]  # (lowest, highest) symbol z; None of a .tfci
    offsets: bytes  # of the grid, one per image
    fit: typing.Optional[Fit]  # of bits-back; else None
    initial: InitialBits  # of bits-back
    payload: typing.Any  # [num_words] uint32 of the coder; of a .tfci, lists of strings of y and z


def latent_shapes(height, width):
    """((height, width) of x, of y, of z)."""
    y_shape = (-(-height // 16), -(-width // 16))
    return (height, width), y_shape, tuple(-(-side // 4) for side in y_shape)


def split_batches(items, shape):
    """The batches in which items that stand for images of (num_imgs, H, W) are processed."""
    size = max(1, BATCH_PIXELS // (shape[1] * shape[2]))
    return [items[i:i + size] for i in range(0, len(items), size)]


def pack_header(kind, script, run, body, images):
    """Bytes of the header of a file whose other bytes are `body`, of CodedImages."""
    names = ("%s %s" % (script, run.name)).encode()
    basics.bounded("the length of the names of script and run", len(names), 0, 255)
    header = HEADER.pack(bytes(CHECKSUM_BYTES), MAGIC, VERSION, KINDS.index(kind), run.fingerprint,
                         digest_symbols(images), len(names)) + names
    return basics.digest(header[CHECKSUM_BYTES:], body) + header[CHECKSUM_BYTES:]


def digest_symbols(images):
    """Checksum of all y and z of a list of CodedImage."""
    return basics.digest(*itertools.chain.from_iterable(
        (image.y.astype("<i4", copy=False), image.z.astype("<i4", copy=False))
        for image in images))


def parse_example(content):
    """tf.train.Example of bytes; raises DecodeError, and drops what is printed about damage.

    C++ prints to the file descriptor, Python warns.
    """
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


def is_iinc(content):
    """Whether bytes are an .iinc, damaged or not."""
    return content[CHECKSUM_BYTES:CHECKSUM_BYTES + len(MAGIC)] == MAGIC


def unpack(content):
    """(Header, body) of a file; the body is a tf.train.Example of a .tfci, else bytes.

    The header is None in a file of the original. Raises UserError if the file is neither ours and
    intact nor possibly the original's.
    """
    if is_iinc(content) and len(content) >= HEADER.size:
        end = HEADER.size + HEADER.unpack_from(content)[-1]
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
        raise basics.UserError("not a compressed file: a .tfci with the features %s"
                               % sorted(feature))
    return None, example


def unpack_header(header, body):
    """Header of a file; UserError unless it is intact and of this version."""
    if (len(header) < HEADER.size
            or header[:CHECKSUM_BYTES] != basics.digest(header[CHECKSUM_BYTES:], body)):
        raise basics.UserError("damaged: its checksum does not match")
    _, magic, version, kind, fingerprint, symbols, _ = HEADER.unpack_from(header)
    if (magic, version) != (MAGIC, VERSION):
        raise basics.UserError("format %r version %d; accepted is %r version %d"
                               % (magic, version, MAGIC, VERSION))
    basics.bounded("damaged: the kind of latents", kind, 0, len(KINDS) - 1)
    script, _, run_name = header[HEADER.size:].decode(errors="replace").partition(" ")
    return Header(KINDS[kind], fingerprint, symbols, script, run_name)


def check_shape(shape):
    """(num_imgs, H, W) as a tuple of int; UserError unless a file may have them."""
    num_imgs, height, width = map(int, shape)
    if (min(num_imgs, height, width) < 1 or max(height, width) > MAX_SIDE
            or num_imgs * height * width > MAX_FILE_PIXELS):
        raise basics.UserError(
            "%d images of %d x %d; accepted are sides under %d, 1 to %d pixels in all"
            % (num_imgs, height, width, MAX_SIDE + 1, MAX_FILE_PIXELS))
    return num_imgs, height, width


class OutOfRange(basics.UserError):
    """Latents that no coder takes."""


def value_range(name, *arrays):
    """(lowest, highest) integer of arrays, one apart at least, as constriction's coders need it.

    name: "y" or "z". OutOfRange if the range is not accepted, UserError if there is none.
    """
    grid.require_finite(*arrays)
    low = int(min(v.min() for v in arrays))
    high = max(low + 1, int(max(v.max() for v in arrays)))
    try:
        return check_range(name, low, high)
    except basics.UserError as error:
        raise OutOfRange(str(error))


def check_range(name, low, high):
    """(low, high); UserError unless they are a range that is accepted for "y" or "z"."""
    basics.bounded("the lowest %s" % name, low, -MAX_SYMBOL, MAX_SYMBOL - 1)
    most = MAX_SYMBOL if name == "y" else min(MAX_SYMBOL, low + MAX_Z_VALUES - 1)
    basics.bounded("the highest %s" % name, high, low + 1, most)
    return low, high


def pack_iinc(kind, script, run, shape, ranges, images, coder, extra=b""):
    """Bytes of an .iinc of a list of CodedImage.

    ranges: those of y and of z. coder: constriction's, with all that is coded. extra: FIT and the
    checksum after it, of bits-back.
    """
    body = (BODY.pack(*shape, *itertools.chain(*ranges))
            + bytes(image.offset for image in images) + extra + coder.get_compressed().tobytes())
    return pack_header(kind, script, run, body, images) + body


def parse_iinc(kind, body):
    """File of the body of an .iinc; UserError if a field is not what is accepted."""
    stream = io.BytesIO(body)
    fields = BODY.unpack(read_exactly(stream, BODY.size))
    shape = check_shape(fields[:3])
    y_range, z_range = check_range("y", *fields[3:5]), check_range("z", *fields[5:])
    offsets = read_exactly(stream, shape[0])
    fit, initial = None, InitialBits(0, b"")
    if kind == "bits-back":
        its, lr, seed, num_bytes = FIT.unpack(read_exactly(stream, FIT.size))
        fit = Fit(basics.bounded("the number of iterations", its, 0, MAX_ITS),
                  basics.bounded("the learning rate", lr, 0, 1e6),
                  basics.bounded("the seed", seed, 0, MAX_SEED))
        if num_bytes:
            initial = InitialBits(num_bytes, read_exactly(stream, CHECKSUM_BYTES))
    words = stream.read()
    if len(words) % 4 or words[-4:] == bytes(4):
        raise basics.UserError("damaged: not words of an ANS coder")
    return File(shape, y_range, z_range, offsets, fit, initial, np.frombuffer(words, "<u4"))


def read_exactly(stream, size):
    """So many bytes of a stream; UserError if there are fewer."""
    content = stream.read(size)
    if len(content) < size:
        raise basics.UserError("damaged: too short")
    return content


def parse_tfci(example):
    """File of a .tfci; UserError if its features don't belong together."""
    feature = example.features.feature
    strings = [list(feature[key].bytes_list.value) for key in TFCI_FEATURES[:2]]
    shapes = tuple(tuple(feature[key].int64_list.value) for key in TFCI_FEATURES[2:])
    num_imgs, x_shape = len(strings[0]), shapes[0]
    offsets = b"".join(feature["offsets"].bytes_list.value) or bytes(num_imgs)
    if len(x_shape) != 2 or not 0 < num_imgs == len(strings[1]) == len(offsets):
        raise basics.UserError("damaged: shapes %s of %d and %d strings, %d offsets"
                               % (shapes, num_imgs, len(strings[1]), len(offsets)))
    shape = check_shape((num_imgs,) + x_shape)
    if shapes != latent_shapes(*x_shape):
        raise basics.UserError("damaged: latents of %s for images of %s" % (shapes[1:], x_shape))
    return File(shape, y_range=None, z_range=None, offsets=offsets, fit=None,
                initial=InitialBits(0, b""), payload=strings)


def require_replaceable(path, initial_bits):
    """UserError if `path` is something that can't be made again.

    That is: no compressed file, or one that holds other bytes of --initial_bits than these.
    """
    if not os.path.isfile(path) or not os.path.getsize(path):
        return
    content = basics.read_bytes(path)
    if not is_iinc(content) and not is_tfci(content):
        raise basics.UserError("%s: is there and not a compressed file; %s" % (path, basics.QUOTE))
    initial = InitialBits(0, b"")
    with contextlib.suppress(basics.UserError):  # damaged
        header, body = unpack(content)
        if isinstance(body, bytes):  # an .iinc
            initial = parse_iinc(header.kind, body).initial
    if initial.num_bytes and initial.checksum != basics.digest(initial_bits):
        raise basics.UserError("%s: is there and holds %d bytes of other --initial_bits; "
                               "decompress them and remove it first" % (path, initial.num_bytes))


def is_tfci(content):
    """Whether bytes are a .tfci, ours or the original's."""
    with contextlib.suppress(google.protobuf.message.DecodeError):
        return set(TFCI_FEATURES) <= set(parse_example(content).features.feature)
    return False
