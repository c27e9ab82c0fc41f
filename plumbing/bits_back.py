"""Bits-back coding of z (section 3.3): y_hat to a file and back.

One ANS coder, a stack, is for the chain of all images. An image pops its z, on a grid, under
q(z|y_hat) from what the images before it (the first one: the initial bits) pushed, and pushes y_hat
under p(y|z), then z under p(z). A decoder goes the other way, from the last image to the first:
after it popped z and y_hat of an image, it fits q(z|y_hat) anew, and pushes z back.
"""

import functools
import typing

import numpy as np

from plumbing import basics, coding, fileformat, grid

Z_WIDTH = 0.25  # distance of the grid of z
Q_STDS = 8  # every q of a file is coded within at least so many standard deviations of its mean


class Posterior(typing.NamedTuple):
    """q(z|y_hat) of an image on a decoder's grid."""
    latents: coding.BitsBackLatents  # y_hat, z_mean and z_logvar
    # what AnsCoder takes: family, means and standard deviations in units of Z_WIDTH
    coder_model: tuple


def posterior_on_grid(decoder, z_range, latents, offset):
    """Posterior of the fitted BitsBackLatents of an image, for z in z_range."""
    z_mean = np.clip(decoder.snap(latents.z_mean, offset), *grid.MEAN_RANGE)
    log_std = decoder.snap(.5 * latents.z_logvar, offset)
    return Posterior(coding.BitsBackLatents(latents.y, z_mean, 2 * log_std), (
        coding.QuantizedGaussian(*z_range), z_mean.ravel() / Z_WIDTH,
        grid.as_std(log_std).ravel() / Z_WIDTH))


def posterior_range(z_mean, z_logvar):
    """Lowest and highest grid index to code z with, by Q_STDS."""
    reach = Q_STDS * np.exp(.5 * z_logvar)
    edges = np.stack([z_mean - reach, z_mean + reach]) / Z_WIDTH
    if not np.isfinite(edges).all():
        raise basics.UserError("the model gives a q(z|y) that is not finite")
    return fileformat.value_range("z", np.rint(edges))


def initial_coder(posterior, initial_bits, seed):
    """AnsCoder with the initial bits: those given, or just enough random ones of `seed`.

    `posterior` is that of the first image. An empty coder would go on to give the lowest symbol:
    UserError if the initial bits are too few.
    """
    if initial_bits:
        words = np.frombuffer(initial_bits + b"\1" * (-len(initial_bits) % 4), np.uint32)
        if not suffice(words, posterior):
            raise basics.UserError("--initial_bits: %d bytes are too few for the first image"
                                   % len(initial_bits))
        return coding.AnsCoder(words, True)
    _, _, stds = posterior.coder_model
    entropy = np.sum(np.maximum(0, np.log2(stds * np.sqrt(2 * np.pi * np.e))))
    num_words = max(4, int(.9 * entropy / 32))
    while True:
        words = np.random.RandomState(seed).randint(0, 2 ** 32, num_words, np.uint64)
        words = words.astype(np.uint32)
        if suffice(words, posterior):
            return coding.AnsCoder(words, True)
        num_words += max(1, num_words // 50)


def suffice(words, posterior):
    """Whether an image can pop its z from uint32 words and leave some."""
    if len(words) < 4:
        return False
    coder = coding.AnsCoder(words, True)
    coder.decode(*posterior.coder_model)
    return coder.num_valid_bits() > 32


class Link:
    """An image of the chain: it is added to the stack, and takes and gives bits (section 3.3).

    With z_hat ~ q(z|y_hat) popped, and y_hat and z_hat pushed, the net bits of the image are

        pushed_y + pushed_z - popped_z
            = -log2 p(y_hat|z_hat) - log2 p(z_hat) + log2 q(z_hat|y_hat)
    """

    def __init__(self, coder):
        self.coder, self.popped_z, self.pushed_y, self.pushed_z = coder, 0, 0, 0

    def pop_z(self, posterior, shape):
        """Grid indices of z_hat, of `shape`: what the stack's bits mean under q(z|y_hat)."""
        before = self.coder.num_valid_bits()
        z = self.coder.decode(*posterior.coder_model).reshape(shape)
        self.popped_z += before - self.coder.num_valid_bits()
        return z

    def push_y(self, y, y_range, conditional):
        """y_hat under p(y|z_hat)."""
        before = self.coder.num_valid_bits()
        coding.push_y(self.coder, y, y_range, conditional)
        self.pushed_y += self.coder.num_valid_bits() - before

    def push_z(self, z, z_range, pmf):
        """z_hat under p(z)."""
        before = self.coder.num_valid_bits()
        coding.push_z(self.coder, z, z_range, pmf)
        self.pushed_z += self.coder.num_valid_bits() - before


def add_image(decoder, coder_for, y_range, z_range, latents, offset):
    """(Link, CodedImage) of fitted BitsBackLatents of an image, on the grid of an offset.

    coder_for(posterior) gives a stack to add it to, of its own, as another offset begins anew.
    """
    posterior = posterior_on_grid(decoder, z_range, latents, offset)
    link = Link(coder_for(posterior))
    z = link.pop_z(posterior, decoder.z_shape)
    link.push_y(latents.y, y_range, decoder.conditional(Z_WIDTH * z, offset))
    link.push_z(z, z_range, decoder.prior_masses(z_range, offset, Z_WIDTH))
    return link, coding.CodedImage(offset, latents.y.astype(np.int32), z, Z_WIDTH * z,
                                    decoder.picture(latents.y, offset), posterior.latents)


def fit_of(fit):
    """A Fit as the file will have it, whose learning rate is in single precision."""
    basics.bounded("the number of iterations of the fit of q", fit.its, 0, fileformat.MAX_ITS)
    return fit._replace(lr=float(np.float32(fit.lr)))


def encode(decoder, unfitted, script, initial_bits=b""):
    """See Codec; reports the bits popped and pushed of each image, and net_bpp of all together."""
    coding.require_integers(unfitted.y)
    fit, y_hat = fit_of(unfitted.fit), unfitted.y[:, None]
    fitted, records = zip(*[decoder.fit(y, fit) for y in y_hat])
    try:
        y_range = fileformat.value_range("y", y_hat)
        z_range = posterior_range(np.stack([latents.z_mean for latents in fitted]),
                                  np.stack([latents.z_logvar for latents in fitted]))
    except fileformat.OutOfRange as error:  # as of a model that was trained little
        return uncoded(decoder, fitted, records, str(error))
    links, images = [], []
    coder_for = functools.partial(initial_coder, initial_bits=initial_bits, seed=fit.seed)
    for latents in fitted:
        link, image = grid.first_offset(functools.partial(
            add_image, decoder, coder_for, y_range, z_range, latents))
        links.append(link)
        images.append(image)
        coder_for = functools.partial(copy_of, link.coder)
    extra = fileformat.FIT.pack(*fit, len(initial_bits))
    if initial_bits:
        extra += basics.digest(initial_bits)
    content = fileformat.pack_iinc(
        "bits-back", script, decoder.run, coding.shape_of(images, decoder), (y_range, z_range),
        images, links[-1].coder, extra)
    return coding.Encoded(content, images, bits_of(links, decoder.x_shape), list(records))


def uncoded(decoder, fitted, records, why):
    """Encoded without a file, of fitted latents whose rates can still be computed."""
    unknown = np.full(decoder.z_shape, np.nan)
    images = [coding.CodedImage(0, latents.y.astype(np.int32), unknown, unknown,
                                grid.first_offset(functools.partial(decoder.picture, latents.y)),
                                latents) for latents in fitted]
    names = ("popped_z_bits", "pushed_y_bits", "pushed_z_bits", "net_bpp")
    return coding.Encoded(None, images, dict.fromkeys(names, np.full(len(images), np.nan)),
                          list(records), why)


def copy_of(coder, posterior):
    """A copy of the stack as the image before left it."""
    return coder.clone()


def bits_of(links, x_shape):
    """What is reported of the Links of all images: arrays [num_imgs]."""
    popped_z, pushed_y, pushed_z = (np.array([getattr(link, name) for link in links])
                                    for name in ("popped_z", "pushed_y", "pushed_z"))
    num_pixels = len(links) * x_shape[1] * x_shape[2]
    net_bpp = (pushed_y + pushed_z - popped_z).sum() / num_pixels
    return dict(popped_z_bits=popped_z, pushed_y_bits=pushed_y, pushed_z_bits=pushed_z,
                net_bpp=np.full(len(links), net_bpp))


def decode(decoder, file, with_initial_bits):
    """See Codec. The fit of q of the first image only gives back the initial bits."""
    coder, images = coding.AnsCoder(file.payload), []
    for k in reversed(range(file.shape[0])):
        offset = file.offsets[k]
        z = coding.pop_z(coder, decoder.z_shape, file.z_range,
                         decoder.prior_masses(file.z_range, offset, Z_WIDTH))
        y = coding.pop_y(coder, file.y_range, decoder.conditional(Z_WIDTH * z, offset))
        images.insert(0, coding.CodedImage(offset, y, z, Z_WIDTH * z,
                                           decoder.picture(y, offset)))
        if k > 0 or with_initial_bits:
            latents, _ = decoder.fit(y, file.fit)
            posterior = posterior_on_grid(decoder, file.z_range, latents, offset)
            coder.encode_reverse(z.ravel(), *posterior.coder_model)
    if not with_initial_bits:
        return images, b""
    try:
        return images, coder.get_compressed(True).tobytes()
    except AssertionError:  # what is left is not what an encoder can have begun with
        return images, b""
