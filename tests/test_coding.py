"""Codecs on a decoder of a few lines of numpy: no model, no graph."""

import types

import numpy as np
import pytest

from plumbing import basics, bits_back, coding, compressed_files, fileformat, grid

N, HEIGHT, WIDTH = 3, 40, 50


class NumpyDecoder:
    """p(z) a discretised Laplace, p(y|z_hat) around its channel of z_hat, q a wide Gaussian."""
    x_shape, y_shape, z_shape = (1, HEIGHT, WIDTH), (1, 3, 4, N), (1, 1, 1, N)
    median = np.array([.25, 0., -.5])

    def __init__(self, model, near_edge=()):
        self.run = types.SimpleNamespace(name="lmbda=0.01", fingerprint=b"12345678", model=model,
                                         num_filters=N, checkpoint="a checkpoint")
        self.near_edge, self.fits = near_edge, []

    def snap(self, values, offset):
        if offset in self.near_edge:
            raise grid.NearEdge
        return np.round(np.asarray(values) * 256) / 256

    def prior_masses(self, bounds, offset, bin_width=1., origin=0.):
        points = origin + bin_width * np.arange(bounds[0], bounds[1] + 1)[:, None] + np.zeros(N)
        self.snap(points, offset)
        return np.asfortranarray(bin_width / 4 * np.exp(-abs(points) / 2))

    def conditional(self, z_hat, offset, is_centred=False):
        mu = self.snap(np.broadcast_to(2.1 * z_hat, self.y_shape), offset)
        std = np.full(self.y_shape, 1.5)
        if is_centred:
            return coding.Conditional(mu, np.zeros(self.y_shape), std)
        return coding.Conditional(0., mu, std)

    def picture(self, y_hat, offset):
        return np.full((1, HEIGHT, WIDTH, 3), int(y_hat.sum()) % 256, np.uint8)

    def fit(self, y_hat, fit):
        self.fits.append(fit)
        z_mean = y_hat.mean(axis=(1, 2), keepdims=True) / 2.1
        return coding.BitsBackLatents(y_hat, z_mean, np.full(self.z_shape, fit.lr)), [(0, 1.)]


def latents_of(model, num_imgs=4):
    """Discrete latents of some images."""
    random = np.random.RandomState(0)
    z = np.round(random.normal(0, 2, (num_imgs, 1, 1, N)))
    y = np.round(2.1 * z + random.normal(0, 1.5, (num_imgs, 3, 4, N)))
    if model == "bits-back":
        return coding.Unfitted(y, fileformat.Fit(its=2, lr=.3, seed=7))
    return coding.Latents(y, z)


KINDS = [("base", "centred"), ("base", "integer"), ("bits-back", "bits-back")]


@pytest.mark.parametrize("model, kind", KINDS)
@pytest.mark.parametrize("near_edge", [(), (0, 1)])
def test_round_trip(model, kind, near_edge):
    """The latents and pictures come back, and the grid avoids offsets that do not suit."""
    decoder, codec = NumpyDecoder(model, near_edge), compressed_files.IINC[kind]
    latents = latents_of(model)
    if kind == "centred":
        z_hat = latents.z + decoder.median
        mu = np.concatenate([decoder.conditional(z[None], 9, True).shift for z in z_hat])
        latents = coding.Latents(latents.y + mu, z_hat)
    encoded = codec.encode(decoder, latents, "sga")
    assert {image.offset for image in encoded.images} == {len(near_edge)}
    parsed = compressed_files.parse_file(encoded.content, decoder.run)
    assert parsed.header.script == "sga" and parsed.file.shape == (4, HEIGHT, WIDTH)
    reader = NumpyDecoder(model)
    images, _ = parsed.codec.decode(reader, parsed.file, False)
    for image, expected in zip(images, encoded.images):
        np.testing.assert_array_equal(image.y, expected.y)
        np.testing.assert_array_equal(image.z, expected.z)
        np.testing.assert_array_equal(image.z_hat, expected.z_hat)
        np.testing.assert_array_equal(image.x_hat, expected.x_hat)
    np.testing.assert_array_equal(
        np.concatenate([image.latents.y for image in encoded.images]), latents.y)
    pictures, _ = compressed_files.decode(reader, parsed)
    assert pictures.shape == (4, HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_latents_that_are_not_finite(value):
    with pytest.raises(basics.UserError, match="not finite"):
        fileformat.value_range("y", np.array([1.]), np.array([0, value]))


def test_integers_cost_their_information():
    """The words of the coder are within two of what the probabilities say."""
    decoder, latents = NumpyDecoder("base"), latents_of("base", num_imgs=30)
    encoded = compressed_files.IINC["integer"].encode(decoder, latents, "sga")
    words = compressed_files.parse_file(encoded.content, decoder.run).file.payload
    z_range = fileformat.value_range("z", latents.z)
    pmf = decoder.prior_masses(z_range, 0)
    nats = 0
    for y, z in zip(latents.y, latents.z):
        p_z = (pmf / pmf.sum(axis=0))[(z - z_range[0]).astype(int), range(N)]
        deviation = (y - 2.1 * z) / 1.5
        nats += .5 * (deviation ** 2).sum() + y.size * np.log(1.5 * np.sqrt(2 * np.pi))
        nats -= np.log(p_z).sum()
    assert abs(32 * len(words) - nats / np.log(2)) < 64 + .01 * nats


def test_bits_of_a_chain():
    """The net bits are those of the whole stack less the initial ones, word for word."""
    decoder, payload = NumpyDecoder("bits-back"), bytes(range(1, 65))
    encoded = compressed_files.IINC["bits-back"].encode(
        decoder, latents_of("bits-back", num_imgs=20), "bb_sga", payload)
    words = compressed_files.parse_file(encoded.content, decoder.run).file.payload
    bits = encoded.reported
    net = bits["pushed_y_bits"] + bits["pushed_z_bits"] - bits["popped_z_bits"]
    assert bits["net_bpp"] == pytest.approx(np.full(20, net.sum() / (20 * HEIGHT * WIDTH)))
    assert abs(32 * len(words) - (net.sum() + 8 * len(payload))) <= 64
    assert np.all(bits["popped_z_bits"] > 0) and encoded.fits == [[(0, 1.)]] * 20


def test_the_payload_comes_back_after_the_last_fit():
    decoder, payload = NumpyDecoder("bits-back"), bytes(range(1, 65))
    encoded = compressed_files.IINC["bits-back"].encode(
        decoder, latents_of("bits-back"), "bb_sga", payload)
    parsed = compressed_files.parse_file(encoded.content, decoder.run)
    for with_initial_bits, expected, num_fits in ((True, payload, 4), (False, b"", 3)):
        reader = NumpyDecoder("bits-back")
        _, bits = compressed_files.decode(reader, parsed, with_initial_bits)
        assert bits == expected
        # With the encoder's learning rate, which is the file's: 0.3 in single precision.
        assert reader.fits == decoder.fits[:num_fits]


def test_too_few_initial_bits_are_an_error():
    with pytest.raises(basics.UserError, match="4 bytes are too few"):
        bits_back.encode(NumpyDecoder("bits-back"), latents_of("bits-back"), "bb_sga", b"abcd")


def test_a_file_is_of_its_run():
    decoder = NumpyDecoder("base")
    content = compressed_files.IINC["integer"].encode(decoder, latents_of("base"), "sga").content
    for changed, message in (
            (dict(fingerprint=bytes(8)), "of another model"),
            (dict(name="other", fingerprint=bytes(8)), "with the run lmbda=0.01, not other"),
            (dict(model="bits-back"), "bits-back model does not have")):
        run = types.SimpleNamespace(**{**vars(decoder.run), **changed})
        with pytest.raises(basics.UserError, match=message):
            compressed_files.parse_file(content, run)


def test_a_renamed_run_decodes_its_files(capfd):
    """The checksum of its weights counts; its name is a note."""
    decoder = NumpyDecoder("base")
    content = compressed_files.IINC["integer"].encode(decoder, latents_of("base"), "sga").content
    decoder.run.name = "renamed"
    parsed = compressed_files.parse_file(content, decoder.run)
    assert len(compressed_files.decode(decoder, parsed)[0]) == 4
    assert "names the run lmbda=0.01, whose weights renamed has" in capfd.readouterr().err
