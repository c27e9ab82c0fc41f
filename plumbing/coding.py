"""Latents to a file and back, by the numbers of a decoder.

A codec encodes the latents of all images of a file and decodes them again. Here are those of the
base model, whose latents are centred or integers; `bits_back` has the third. The numbers on which
encoder and decoder must agree come from a decoder, which the caller gives: p(z), p(y|z_hat) and the
picture of y_hat, all on the grid of an offset (see `grid`) that the encoder chooses per image.
"""

import functools
import typing

import constriction
import numpy as np
import tensorflow.compat.v1 as tf

from plumbing import fileformat, grid

QuantizedGaussian = constriction.stream.model.QuantizedGaussian
Categorical = constriction.stream.model.Categorical
AnsCoder = constriction.stream.stack.AnsCoder


class Latents(typing.NamedTuple):
    """Latents of the base model."""
    y: typing.Any  # [B, h, w, N]
    z: typing.Any  # [B, ceil(h / 4), ceil(w / 4), N]


class BitsBackLatents(typing.NamedTuple):
    """Latents of the bits-back model, whose q(z|y) is N(z_mean, exp(z_logvar))."""
    y: typing.Any  # [B, h, w, N]
    z_mean: typing.Any  # [B, ceil(h / 4), ceil(w / 4), N]
    z_logvar: typing.Any  # of the same shape


class Unfitted(typing.NamedTuple):
    """What bits-back encodes: y_hat, and how encoder and decoder both fit q(z|y_hat) to it."""
    y: np.ndarray  # [B, h, w, N]
    fit: fileformat.Fit


class CodedImage(typing.NamedTuple):
    """An image as a file has it, and what a decoder makes of that."""
    offset: int  # of the grid
    y: np.ndarray  # integers [1, h, w, N]
    z: np.ndarray  # integers [1, ceil(h / 4), ceil(w / 4), N]
    z_hat: np.ndarray  # what the integers z stand for, of the same shape
    x_hat: np.ndarray  # uint8 [1, H, W, 3]
    latents: typing.Any = None  # discrete Latents, or BitsBackLatents; only the encoder has them


class Encoded(typing.NamedTuple):
    """What a codec makes of latents."""
    content: typing.Optional[bytes]  # the file; None if the latents can't be coded
    images: list  # of CodedImage
    reported: dict = {}  # arrays to report, by name
    fits: list = []  # of bits-back: for each image, the record of the fit of q
    uncodable: str = ""  # why they can't


class Conditional(typing.NamedTuple):
    """p(y|z_hat): y_hat is `shift` plus an integer, which is N(mean, std^2)."""
    shift: typing.Any  # array, or 0
    mean: np.ndarray  # [1, h, w, N]
    std: np.ndarray  # [1, h, w, N]


class Codec(typing.NamedTuple):
    """How the latents of a method become a file."""
    kind: str  # of latents, one of fileformat.KINDS
    suffix: str  # of the file's name
    encode: typing.Callable  # (decoder, latents, script, initial_bits=b"") -> Encoded
    # (decoder, file, with_initial_bits) -> (list of CodedImage, initial bits, b"" if not asked for)
    decode: typing.Callable

    @property
    def model(self):
        """Whose latents these are, as in Run."""
        return "bits-back" if self.kind == "bits-back" else "base"


def joined(parts):
    """The first of a list of namedtuples, with the arrays of all, concatenated over images."""
    arrays = {name: np.concatenate([getattr(one, name) for one in parts])
              for name, value in parts[0]._asdict().items() if isinstance(value, np.ndarray)}
    return parts[0]._replace(**arrays)


# ---------------------------------------------------------------- symbols to an ANS coder, a stack

def push_y(coder, y, y_range, conditional):
    """Push integers y [1, h, w, N] in y_range under a Conditional."""
    coder.encode_reverse(y.ravel().astype(np.int32), QuantizedGaussian(*y_range),
                         conditional.mean.ravel(), conditional.std.ravel())


def pop_y(coder, y_range, conditional):
    """Integers [1, h, w, N] that push_y pushed."""
    y = coder.decode(QuantizedGaussian(*y_range), conditional.mean.ravel(),
                     conditional.std.ravel())
    return y.reshape(conditional.mean.shape)


def push_z(coder, z, z_range, pmf):
    """Push integers z [..., N] in z_range under pmf [K, N]."""
    for channel in reversed(range(z.shape[-1])):
        symbols = (z[..., channel].ravel() - z_range[0]).astype(np.int32)
        coder.encode_reverse(symbols, Categorical(pmf[:, channel]))


def pop_z(coder, shape, z_range, pmf):
    """Integers of `shape` that push_z pushed."""
    num_symbols = int(np.prod(shape[:-1]))
    channels = [coder.decode(Categorical(pmf[:, channel]), num_symbols)
                for channel in range(shape[-1])]
    return np.stack(channels, -1).reshape(shape) + z_range[0]


# ---------------------------------------------------------------- centred and integer latents
#
# One ANS coder for all images of the file: y of each image and, on top of it, z under p(z). Centred
# latents are rounded around mu(z_hat) and p(z)'s medians, and what is coded is the difference.

def shape_of(images, decoder):
    """(num_imgs, H, W) of a list of images."""
    return (len(images),) + decoder.x_shape[1:]


def origin_of(decoder, centred):
    """What z_hat is an integer apart from: p(z)'s medians [N], or 0."""
    return decoder.median if centred else 0.


def require_integers(*arrays):
    """TypeError unless all are integers: the coder would round them without a word."""
    if any((array % 1 > 0).any() for array in arrays):
        raise TypeError("latents are no integers; Method.infer says what each codec encodes")


def settle(decoder, centred, latents):
    """List of CodedImage of discrete Latents, each on the first grid that suits it."""
    if not centred:
        require_integers(*latents)
    z = np.rint(latents.z - origin_of(decoder, centred))
    settled = functools.partial(settled_on, decoder, centred, fileformat.value_range("z", z))
    return [grid.first_offset(functools.partial(settled, one_y, one_z))
            for one_y, one_z in zip(latents.y[:, None], z[:, None])]


def settled_on(decoder, centred, z_range, y, z, offset):
    """CodedImage of y, and z less its origin, on the grid of an offset; else NearEdge."""
    origin = origin_of(decoder, centred)
    decoder.prior_masses(z_range, offset, origin=origin)  # NearEdge here, and not when it is coded
    shift = decoder.conditional(z + origin, offset, centred).shift
    symbols = np.rint(y - shift)
    fileformat.value_range("y", symbols)  # UserError before the picture is computed
    y_hat, z_hat = symbols + shift, z + origin
    return CodedImage(offset, symbols.astype(np.int32), z.astype(np.int32), z_hat,
                      decoder.picture(y_hat, offset), Latents(y_hat, z_hat))


def encode_base(centred, decoder, latents, script, initial_bits=b""):
    """See Codec."""
    images = settle(decoder, centred, latents)
    y_range = fileformat.value_range("y", *[image.y for image in images])
    z_range = fileformat.value_range("z", *[image.z for image in images])
    coder = AnsCoder()
    for image in reversed(images):
        conditional = decoder.conditional(image.latents.z, image.offset, centred)
        push_y(coder, image.y, y_range, conditional)
        push_z(coder, image.z, z_range, decoder.prior_masses(
            z_range, image.offset, origin=origin_of(decoder, centred)))
    kind = "centred" if centred else "integer"
    return Encoded(fileformat.pack_iinc(kind, script, decoder.run, shape_of(images, decoder),
                                        (y_range, z_range), images, coder), images)


def decode_base(centred, decoder, file, with_initial_bits):
    """See Codec."""
    coder, images = AnsCoder(file.payload), []
    origin = origin_of(decoder, centred)
    for offset in file.offsets:
        z = pop_z(coder, decoder.z_shape, file.z_range,
                  decoder.prior_masses(file.z_range, offset, origin=origin))
        conditional = decoder.conditional(z + origin, offset, centred)
        y = pop_y(coder, file.y_range, conditional)
        images.append(CodedImage(offset, y, z, z + origin,
                                 decoder.picture(y + conditional.shift, offset)))
    return images, b""


# ---------------------------------------------------------------- centred latents as a .tfci
#
# The original's file: tfc's range coder in single precision, with one thread, and our header. It is
# as portable as the original's: if mu or sigma come out otherwise on another machine, that refuses
# it. Images are coded in the batches in which they were processed.

def encode_tfci(decoder, latents, script, initial_bits=b""):
    """See Codec: the original's five features, its model identifier, offsets, and our header."""
    images = settle(decoder, True, latents)
    example = tf.train.Example()
    feature = example.features.feature
    for batch in fileformat.split_batches(images, shape_of(images, decoder)):
        strings_of_batch = decoder.range_coder().encode(
            np.concatenate([image.y for image in batch]),
            np.concatenate([image.z for image in batch]))
        for key, strings in zip(fileformat.TFCI_FEATURES, strings_of_batch):
            feature[key].bytes_list.value.extend(strings)
    shapes = fileformat.latent_shapes(*decoder.x_shape[1:])
    for key, sides in zip(fileformat.TFCI_FEATURES[2:], shapes):
        feature[key].int64_list.value[:] = sides
    feature["MD"].bytes_list.value[:] = [script.encode()]
    if any(image.offset for image in images):
        feature["offsets"].bytes_list.value[:] = [bytes(image.offset for image in images)]
    header = fileformat.pack_header("centred", "", decoder.run,
                                    example.SerializeToString(deterministic=True), images)
    feature["header"].bytes_list.value[:] = [header]
    return Encoded(example.SerializeToString(deterministic=True), images)


def decode_tfci(decoder, file, with_initial_bits):
    """See Codec."""
    images, offsets = [], iter(file.offsets)
    y_strings, z_strings = (fileformat.split_batches(strings, file.shape)
                            for strings in file.payload)
    for y_batch, z_batch in zip(y_strings, z_strings):
        shapes = ((len(y_batch),) + shape[1:] for shape in (decoder.y_shape, decoder.z_shape))
        all_y, all_z = decoder.range_coder().decode(y_batch, z_batch, *shapes)
        for y, z, offset in zip(all_y[:, None], all_z[:, None], offsets):
            z_hat = z + decoder.median
            shift = decoder.conditional(z_hat, offset, is_centred=True).shift
            images.append(CodedImage(offset, y, z, z_hat, decoder.picture(y + shift, offset)))
    return images, b""
