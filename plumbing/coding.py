"""Latents to a file and back, by the numbers of a decoder."""

import collections
import functools
import os
import typing

import constriction
import numpy as np
import PIL.Image
import tensorflow.compat.v1 as tf

from plumbing import basics, fileformat, grid


# An image as a file has it, in integers: the grid's offset, y and z [1, h, w, N]; and what the
# decoder makes of these: latents (y_hat, z_hat; of bits-back y_hat, z_mean, z_logvar), x_hat.
Coded = collections.namedtuple("Coded", "offset y z latents x_hat")


class Codec(typing.NamedTuple):
    """How the latents of a method become a file.

    The latents are those of all images of the file, shape is its (num_imgs, H, W), file a File, and
    initial_bits the bytes of the file --initial_bits.
    """
    kind: str  # of latents, one of KINDS
    suffix: str  # of the file's name
    # (decoder, shape, latents, script, initial_bits)
    # -> (bytes, list of Coded, dict of values to report)
    encode: typing.Callable
    # (decoder, file, with_initial_bits) -> (list of Coded, initial bits if asked for)
    decode: typing.Callable

    @property
    def model(self):
        """Whose latents these are, as in Run."""
        return "bits-back" if self.kind == "bits-back" else "base"


# y under Gaussians and z under p(z), pushed to and popped from an ANS coder (a stack).

def push_y(coder, y, y_range, mean, std):
    model = constriction.stream.model.QuantizedGaussian(*y_range)
    coder.encode_reverse(y.ravel().astype(np.int32), model, mean.ravel(), std.ravel())


def pop_y(coder, y_range, mean, std):
    model = constriction.stream.model.QuantizedGaussian(*y_range)
    return coder.decode(model, mean.ravel(), std.ravel()).reshape(mean.shape)


def push_z(coder, z, z_range, pmf):
    """Integers z [..., N] in z_range under pmf [K, N]."""
    for channel in reversed(range(z.shape[-1])):
        symbols = (z[..., channel].ravel() - z_range[0]).astype(np.int32)
        coder.encode_reverse(symbols, constriction.stream.model.Categorical(pmf[:, channel]))


def pop_z(coder, shape, z_range, pmf):
    """Integers of `shape` that push_z pushed."""
    count = int(np.prod(shape[:-1]))
    channels = [coder.decode(constriction.stream.model.Categorical(pmf[:, channel]), count)
                for channel in range(shape[-1])]
    return np.stack(channels, -1).reshape(shape) + z_range[0]


# Centred and integer latents: one ANS coder for all images of the file; y of each image, and on
# top of it z under p(z). Centred: y around mu(z_hat), z around its median.

def settle(decoder, centred, y, z):
    """List of Coded of discrete y, z [num_imgs, h, w, N], each on the first grid that suits it."""
    origin = decoder.median if centred else 0.
    z = np.rint(z - origin)
    z_range = fileformat.value_range("z", z)

    def settled(y, z, offset):
        decoder.prior(z_range, offset, origin=origin)  # NearEdge here, and not when it is coded
        shift, _, _ = decoder.conditional(z + origin, offset, centred)
        integers = np.rint(y - shift)
        fileformat.value_range("y", integers)  # UserError before the picture is computed
        return Coded(offset, integers.astype(np.int32), z.astype(np.int32),
                     (integers + shift, z + origin), decoder.picture(integers + shift, offset))
    return [grid.first_offset(functools.partial(settled, y[k:k + 1], z[k:k + 1]))
            for k in range(len(y))]


def encode_base(centred, decoder, shape, latents, script, initial_bits=b""):
    """See Codec."""
    images = settle(decoder, centred, *latents)
    y_range, z_range = (fileformat.value_range(name, *arrays) for name, arrays in (
        ("y", [image.y for image in images]), ("z", [image.z for image in images])))
    coder = constriction.stream.stack.AnsCoder()
    for image in reversed(images):
        _, mean, std = decoder.conditional(image.latents[1], image.offset, centred)
        push_y(coder, image.y, y_range, mean, std)
        push_z(coder, image.z, z_range, decoder.prior(
            z_range, image.offset, origin=decoder.median if centred else 0.))
    content = fileformat.pack_iinc("centred" if centred else "integer", script, decoder.run, shape,
                        (y_range, z_range), images, coder)
    return content, images, {}


def decode_base(centred, decoder, file, with_initial_bits):
    """See Codec."""
    coder, images = constriction.stream.stack.AnsCoder(file.payload), []
    origin = decoder.median if centred else 0.
    for offset in file.offsets:
        z = pop_z(coder, decoder.z_shape, file.z_range,
                  decoder.prior(file.z_range, offset, origin=origin))
        shift, mean, std = decoder.conditional(z + origin, offset, centred)
        y = pop_y(coder, file.y_range, mean, std)
        images.append(Coded(offset, y, z, None, decoder.picture(y + shift, offset)))
    return images, b""


def encode_tfci(decoder, shape, latents, script, initial_bits=b""):
    """See Codec: the original's five features, its model identifier, offsets, and our header."""
    images = settle(decoder, True, *latents)
    example = tf.train.Example()
    feature = example.features.feature
    for batch in fileformat.split_batches(images, shape):
        y, z = (np.concatenate(arrays) for arrays in zip(*(image[1:3] for image in batch)))
        coder = decoder.range_coder(len(batch))
        for key, strings in zip(fileformat.TFCI_FEATURES, coder.encode(y, z)):
            feature[key].bytes_list.value.extend(strings)
    for key, sides in zip(fileformat.TFCI_FEATURES[2:], fileformat.latent_shapes(*shape[1:])):
        feature[key].int64_list.value[:] = sides
    feature["MD"].bytes_list.value[:] = [script.encode()]
    if any(image.offset for image in images):
        feature["offsets"].bytes_list.value[:] = [bytes(image.offset for image in images)]
    header = fileformat.pack_header("centred", "", decoder.run,
                         example.SerializeToString(deterministic=True), images)
    feature["header"].bytes_list.value[:] = [header]
    return example.SerializeToString(deterministic=True), images, {}


def decode_tfci(decoder, file, with_initial_bits):
    """See Codec."""
    images, offsets = [], iter(file.offsets)
    for strings in zip(*(fileformat.split_batches(strings, file.shape) for strings in file.payload)):
        coder = decoder.range_coder(len(strings[0]))
        for y, z, offset in zip(*(arrays[:, None] for arrays in coder.decode(*strings)), offsets):
            shift, _, _ = decoder.conditional(z + decoder.median, offset, centred=True)
            images.append(Coded(offset, y, z, None, decoder.picture(y + shift, offset)))
    return images, b""


TFCI = Codec("centred", ".tfci", encode_tfci, decode_tfci)

# Bits-back: one ANS coder for the chain of all images. An image pops its z, on a grid, under
# q(z|y_hat) from what the images before it (the first one: the initial bits) pushed, and pushes
# y_hat under p(y|z), then z under p(z). A decoder goes the other way, from the last image to the
# first, fits q(z|y_hat) anew, and pushes z back.

# Distance of the grid of z.
Z_WIDTH = 0.25
# q is coded within so many standard deviations of its mean.
Q_STDS = 8


def posterior_gaussians(decoder, z_range, z_mean, z_logvar, offset):
    """Coder's model of z in z_range under q(z|y_hat): family, means, stds in units of Z_WIDTH.

    And the q that this is: z_mean and z_logvar on the decoder's grid.
    """
    z_mean = np.clip(decoder.snap(z_mean, offset), *grid.MEAN_RANGE)
    z_logvar = 2 * decoder.snap(.5 * z_logvar, offset)
    std = grid.as_std(.5 * z_logvar)
    return (constriction.stream.model.QuantizedGaussian(*z_range),
            z_mean.ravel() / Z_WIDTH, std.ravel() / Z_WIDTH), (z_mean, z_logvar)


def posterior_range(z_mean, z_logvar):
    """Lowest and highest grid index to code z with, by Q_STDS."""
    width = Q_STDS * np.exp(.5 * z_logvar)
    edges = np.stack([z_mean - width, z_mean + width]) / Z_WIDTH
    if not np.isfinite(edges).all():
        raise basics.UserError("the model gives a q(z|y) that is not finite")
    return fileformat.value_range("z", np.rint(edges))


def initial_coder(model, initial_bits, seed):
    """ANS coder with the initial bits: those given, or just enough random ones of `seed`.

    model: posterior_gaussians of the first image. An empty coder would go on to give the lowest
    symbol: UserError if the initial bits are too few.
    """
    entropy = np.sum(np.maximum(0, np.log2(model[2] * np.sqrt(2 * np.pi * np.e))))
    num_words = max(4, int(.9 * entropy / 32))
    while True:
        words = np.frombuffer(initial_bits + b"\1" * (-len(initial_bits) % 4), np.uint32)
        if not initial_bits:
            words = np.random.RandomState(seed).randint(0, 2 ** 32, num_words, np.uint64)
        coder = constriction.stream.stack.AnsCoder(words.astype(np.uint32), True)
        if len(words) >= 4:
            popped = coder.clone()
            popped.decode(*model)
            if popped.num_valid_bits() > 32:
                return coder
        if initial_bits:
            raise basics.UserError("--initial_bits: %d bytes are too few for the first image"
                             % len(initial_bits))
        num_words += max(1, num_words // 50)


def encode_bits_back(decoder, shape, latents, script, initial_bits=b""):
    """See Codec; latents are y_hat and the Fit of q.

    Reports bits popped and pushed per image, and the record of each fit.
    """
    y_hat, fit = np.rint(latents[0])[:, None], latents[1]
    fit = fit._replace(lr=float(np.float32(fit.lr)))
    basics.bounded("the number of iterations of the fit of q", fit.its, 0, fileformat.MAX_ITS)
    posteriors, records = zip(*(decoder.fit(y, fit) for y in y_hat))
    y_range, z_range = fileformat.value_range("y", y_hat), posterior_range(*map(np.stack, zip(*posteriors)))
    coder, images, bits = None, [], []

    def coded(y, q, offset):
        """Coder with the image, bits in it before and after each of three steps, Coded."""
        model, q_hat = posterior_gaussians(decoder, z_range, *q, offset)
        after = coder.clone() if images else initial_coder(model, initial_bits, fit.seed)
        steps = [after.num_valid_bits()]
        z = after.decode(*model).reshape(decoder.z_shape)
        steps.append(after.num_valid_bits())
        push_y(after, y, y_range, *decoder.conditional(Z_WIDTH * z, offset)[1:])
        steps.append(after.num_valid_bits())
        push_z(after, z, z_range, decoder.prior(z_range, offset, Z_WIDTH))
        steps.append(after.num_valid_bits())
        return after, steps, Coded(offset, y.astype(np.int32), z, (y,) + q_hat,
                                   decoder.picture(y, offset))

    for y, q in zip(y_hat, posteriors):
        coder, steps, image = grid.first_offset(functools.partial(coded, y, q))
        bits.append(steps)
        images.append(image)
    popped, pushed_y, pushed_z = (np.diff(bits, axis=1) * [-1, 1, 1]).T
    values = dict(popped_z_bits=popped, pushed_y_bits=pushed_y, pushed_z_bits=pushed_z,
                  net_bpp=np.full(shape[0], (pushed_y + pushed_z - popped).sum() / np.prod(shape)),
                  rate_records=records)
    extra = fileformat.FIT.pack(*fit, len(initial_bits)) + (basics.digest(initial_bits) if initial_bits else b"")
    content = fileformat.pack_iinc("bits-back", script, decoder.run, shape, (y_range, z_range), images, coder,
                        extra)
    return content, images, values


def decode_bits_back(decoder, file, with_initial_bits):
    """See Codec. The fit of q of the first image only gives back the initial bits."""
    coder, images = constriction.stream.stack.AnsCoder(file.payload), []
    for k in reversed(range(file.shape[0])):
        offset = file.offsets[k]
        z = pop_z(coder, decoder.z_shape, file.z_range,
                  decoder.prior(file.z_range, offset, Z_WIDTH))
        y = pop_y(coder, file.y_range, *decoder.conditional(Z_WIDTH * z, offset)[1:])
        images.insert(0, Coded(offset, y, z, None, decoder.picture(y, offset)))
        if k > 0 or with_initial_bits:
            q, _ = decoder.fit(y, file.fit)
            model, _ = posterior_gaussians(decoder, file.z_range, *q, offset)
            coder.encode_reverse(z.ravel(), *model)
    try:
        return images, coder.get_compressed(True).tobytes() if with_initial_bits else b""
    except AssertionError:  # what is left is not what an encoder can have begun with
        return images, b""


IINC = {
    "centred": Codec("centred", ".iinc", functools.partial(encode_base, True),
                     functools.partial(decode_base, True)),
    "integer": Codec("integer", ".iinc", functools.partial(encode_base, False),
                     functools.partial(decode_base, False)),
    "bits-back": Codec("bits-back", ".iinc", encode_bits_back, decode_bits_back)}

# Codecs of a method, the default first.
CENTRED, INTEGER, BITS_BACK = (TFCI, IINC["centred"]), (IINC["integer"],), (IINC["bits-back"],)


def parse_file(content, run):
    """Header, Codec and File of bytes, checked; the header is None in a file of the original.

    UserError if it is damaged or not of this run.
    """
    header, body = fileformat.unpack(content)
    codec = IINC[header.kind] if isinstance(body, bytes) else TFCI
    if not header and run.model != "base":
        raise basics.UserError("a file of the original's mbt2018.py, which ours decodes")
    if header and header.run_name != run.name:
        raise basics.UserError("written by %s.py with the run %s, not %s"
                         % (header.script, header.run_name, run.name))
    if header and header.fingerprint != run.fingerprint:
        raise basics.UserError("of another model: the weights of %s are not those it was written with"
                         % run.checkpoint)
    if header and header.kind != codec.kind:
        raise basics.UserError("a .tfci of %s latents; accepted are centred ones" % header.kind)
    if codec.model != run.model:
        raise basics.UserError("of %s latents, which %s model does not have" % (codec.kind, run.model))
    return header, codec, fileformat.parse_tfci(body) if codec is TFCI else fileformat.parse_iinc(codec.kind, body)


def codec_for(method, output):
    """The method's codec that writes such a name; UserError if another kind of file has it."""
    suffix = os.path.splitext(output)[1].lower()
    for codec in method.codecs:
        if suffix == codec.suffix:
            return codec
    if suffix in {".iinc", ".tfci", ".npy", *PIL.Image.registered_extensions()}:
        raise basics.UserError("%s: accepted are names in %s; %s" % (
            output, " or ".join(codec.suffix for codec in method.codecs), basics.QUOTE))
    return method.codecs[0]
