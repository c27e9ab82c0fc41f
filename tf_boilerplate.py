"""The graphs of the models, and in which order they are used: all that two scripts share.

1. transforms, p(z)    2. rates and losses    3. descent       4. the decoder
5. a method's graph    6. the compressor      7. training      8. the command line

Notation: x image; g_a, g_s analysis and synthesis transform; h_a, h_s their hyper versions;
y, z continuous latents and hyperlatents; y_tilde, z_tilde relaxed; y_hat, z_hat discrete (what
a decoder sees); lmbda the rate-distortion trade-off; N = num_filters; B images of H x W pixels;
h = ceil(H / 16), w = ceil(W / 16). Layers, files, options and the like are in `plumbing`.
"""

import argparse
import contextlib
import functools
import importlib
import os
import sys
import typing

from plumbing import (arguments, basics, clusters, coding, command_line, compressed_files,
                      decompression, fileformat, grid, image_files, layers, machine, patches,
                      progress, quality, result_files, runs, store, tasks, training, validation)
import numpy as np
import tqdm
import tensorflow.compat.v1 as tf
import tensorflow_compression as tfc

# What scripts use of the plumbing.
from plumbing.arguments import Option, count, natural, number, one_of, positive
from plumbing.basics import UserError
from plumbing.coding import BitsBackLatents, Latents, Unfitted
from plumbing.compressed_files import BITS_BACK, CENTRED, INTEGER
from plumbing.fileformat import MAX_ITS, Fit, split_batches
from plumbing.layers import GaussianConditional
from plumbing.progress import Iteration

tf.logging.set_verbosity(tf.logging.ERROR)  # its warnings are of functions that it uses itself

# For what builds a graph: AutoGraph would take seconds to convert tfc's layers.
do_not_convert = tf.autograph.experimental.do_not_convert


# ---------------------------------------------------------------- 1. transforms, p(z)
#
# Their variables have the names of the authors' checkpoints. They compute in the precision of their
# input.

# Constants of the trained models: p(y|z)'s table of scales for range coding, floor of likelihoods.
SCALES = np.exp(np.linspace(np.log(.11), np.log(256), 64))
LIKELIHOOD_BOUND = 1e-9


def analysis_transform(N):
    """g_a: x [B, H, W, 3] -> y [B, ceil(H/16), ceil(W/16), N]."""
    return layers.Transform("analysis_transform", [
        layers.conv(0, N, 5, corr=True, strides_down=2, activation=layers.gdn("gdn_0")),
        layers.fast_conv(1, N, 5, corr=True, strides_down=2, activation=layers.gdn("gdn_1")),
        layers.fast_conv(2, N, 5, corr=True, strides_down=2, activation=layers.gdn("gdn_2")),
        layers.fast_conv(3, N, 5, corr=True, strides_down=2)])


def synthesis_transform(N):
    """g_s: y [B, h, w, N] -> x [B, 16 h, 16 w, 3]."""
    up = dict(corr=False, strides_up=2)
    return layers.Transform("synthesis_transform", [
        layers.fast_conv(0, N, 5, **up, activation=layers.gdn("igdn_0", inverse=True)),
        layers.fast_conv(1, N, 5, **up, activation=layers.gdn("igdn_1", inverse=True)),
        layers.fast_conv(2, N, 5, **up, activation=layers.gdn("igdn_2", inverse=True)),
        layers.conv(3, 3, 5, **up)])


def hyper_analysis_transform(N, num_outputs):
    """h_a: y [B, h, w, N] -> z [B, ceil(h/4), ceil(w/4), num_outputs]."""
    return layers.Transform("hyper_analysis_transform", [
        layers.conv(0, N, 3, corr=True, activation=tf.nn.relu),
        layers.conv(1, N, 5, corr=True, strides_down=2, activation=tf.nn.relu),
        layers.conv(2, num_outputs, 5, corr=True, strides_down=2, use_bias=False)])


def hyper_synthesis_transform(N):
    """h_s: z [B, ceil(h/4), ceil(w/4), N] -> mu and log sigma, together [B, 4 ceil(h/4),
    4 ceil(w/4), 2 N]; cropped to y later."""
    plain = dict(corr=False, kernel_parameterizer=None)
    return layers.Transform("mb_t2018hyper_synthesis_transform", [
        layers.conv(0, N, 5, strides_up=2, activation=tf.nn.relu, **plain),
        layers.conv(1, int(1.5 * N), 5, strides_up=2, activation=tf.nn.relu, **plain),
        layers.conv(2, 2 * N, 3, **plain)])


def gaussian_parameters(h_s, z_tilde, y_shape):
    """mu and log sigma of p(y|z), each of y_shape [B, h, w, N], which may be a tensor."""
    return tf.split(h_s(z_tilde)[:, :y_shape[1], :y_shape[2]], 2, axis=-1)


def posterior(N, y):
    """z_mean and z_logvar of the bits-back model's q(z|y) = N(z_mean, exp(z_logvar)), by h_a."""
    return tuple(tf.split(hyper_analysis_transform(N, 2 * N)(y), 2, axis=-1))


def factorized_prior(num_channels, scope="", dtype=tf.float32):
    """p(z): a density per channel (Balle et al. 2018, appendix 6.1).

    Returns a function of z [..., num_channels] to (logits of the CDF, density), of z's shape; the
    density is at least LIKELIHOOD_BOUND. The variables of the bits-back model have no scope, those
    of the base model have PRIOR_SCOPE.
    """
    filters, init_scale, steps = (1, 3, 3, 3, 1), 10, []
    for i, (rows, columns) in enumerate(zip(filters[1:], filters)):
        shape = (num_channels, rows)
        init = np.log(np.expm1(init_scale ** -.25 / rows))
        with tf.variable_scope(scope):
            matrix = tf.get_variable("matrix_%d" % i, shape + (columns,), dtype,
                                     initializer=tf.initializers.constant(init))
            bias = tf.get_variable("bias_%d" % i, shape + (1,), dtype,
                                   initializer=tf.initializers.random_uniform(-.5, .5))
            factor = None if i == len(filters) - 2 else tf.get_variable(
                "factor_%d" % i, shape + (1,), dtype, initializer=tf.initializers.zeros())
        steps.append((matrix, bias, factor))

    def prior(z):
        values = tf.reshape(tf.transpose(tf.reshape(z, [-1, num_channels])), [num_channels, 1, -1])
        slopes = tf.ones_like(values)  # derivative of `values` with respect to z
        for matrix, bias, factor in steps:
            values = tf.matmul(tf.nn.softplus(matrix), values) + bias
            slopes = tf.matmul(tf.nn.softplus(matrix), slopes)
            if factor is not None:
                bent = tf.tanh(values)
                slopes *= 1 + tf.tanh(factor) * (1 - bent ** 2)
                values += tf.tanh(factor) * bent
        density = tf.sigmoid(values) * tf.sigmoid(-values) * slopes
        density = tfc.lower_bound(density, LIKELIHOOD_BOUND)
        as_z = lambda v: tf.reshape(tf.transpose(v[:, 0]), tf.shape(z))
        return as_z(values), as_z(density)
    return prior


# ---------------------------------------------------------------- 2. rates and losses
#
# Bits per pixel and squared errors of relaxed or discrete latents.

def gaussian_mass(y, mu, sigma):
    """p(y|z): probability under N(mu, sigma^2) of the unit-width bin around each element of y."""
    distance = tf.abs(y - mu)
    below = lambda value: .5 * tf.erfc(-value / (2 ** .5 * sigma))
    return below(.5 - distance) - below(-.5 - distance)


def bin_mass(prior, z, width=1.):
    """Probability under a factorized_prior of the bin around each z, precise in both tails."""
    lower, upper = prior(z - width / 2)[0], prior(z + width / 2)[0]
    sign = -tf.stop_gradient(tf.sign(lower + upper))
    return tf.abs(tf.sigmoid(sign * upper) - tf.sigmoid(sign * lower))


def log_likelihood(mass):
    """Natural logarithm of a probability, of LIKELIHOOD_BOUND where that is less."""
    return tf.log(tfc.lower_bound(mass, LIKELIHOOD_BOUND))


def sample(z_mean, z_logvar, noise):
    """z_tilde ~ q(z|y) = N(z_mean, exp(z_logvar)) from standard normal noise; log q(z_tilde|y)."""
    log_q = -.5 * (noise ** 2 + z_logvar + np.log(2 * np.pi))
    return z_mean + tf.exp(.5 * z_logvar) * noise, log_q


def bits_per_pixel(log_p, x_shape):
    """[B] information content of each image's latents, in bits per pixel of x."""
    nats = -tf.reduce_sum(log_p, axis=[1, 2, 3])
    return nats / (np.log(2) * int(x_shape[1]) * int(x_shape[2]))


def base_rates(y, z, x_shape, scale_bound=0.):
    """Rates of the base model as a dict of [B], est_y_bpp under p(y|z), est_z_bpp under p(z) and
    their sum est_bpp; and mu of p(y|z). scale_bound is sigma's, from below."""
    N = int(y.shape[-1])
    mu, log_sigma = gaussian_parameters(hyper_synthesis_transform(N), z, y.shape)
    y_mass = gaussian_mass(y, mu, tf.maximum(tf.exp(log_sigma), scale_bound))
    z_mass = bin_mass(factorized_prior(N, runs.PRIOR_SCOPE), z)
    rates = dict(est_y_bpp=bits_per_pixel(log_likelihood(y_mass), x_shape),
                 est_z_bpp=bits_per_pixel(log_likelihood(z_mass), x_shape))
    return dict(rates, est_bpp=rates["est_y_bpp"] + rates["est_z_bpp"]), mu


class BitsBackModel(typing.NamedTuple):
    """The bits-back model of y and z_tilde ~ q(z|y)."""
    # dict of [B]: bits per pixel of y under p(y|z_tilde), est_y_bpp, of z_tilde under p(z),
    # est_z_bpp, and back from q, est_bpp_back; and the net rate, est_bpp. The second and third are
    # of densities and may be negative: their difference alone is a number of bits
    rates: dict
    p_z: typing.Callable  # see `factorized_prior`
    z_tilde: tf.Tensor  # [B, ceil(h / 4), ceil(w / 4), N]
    mu: tf.Tensor  # of p(y|z_tilde), [B, h, w, N]
    log_sigma: tf.Tensor


def bits_back_rates(y, z_mean, z_logvar, key, x_shape):
    """BitsBackModel of y and of the mean and log variance of q(z|y).

    The noise, keyed by the int [2] `key`, is the same for every image.
    """
    N = int(y.shape[-1])
    noise = tf.random.stateless_normal(z_mean.shape[1:], key, dtype=z_mean.dtype)
    z_tilde, log_q = sample(z_mean, z_logvar, noise)
    p_z = factorized_prior(N, dtype=y.dtype)
    _, density = p_z(z_tilde)
    mu, log_sigma = gaussian_parameters(hyper_synthesis_transform(N), z_tilde, y.shape)
    mass = gaussian_mass(y, mu, tf.exp(log_sigma))
    rates = dict(est_y_bpp=bits_per_pixel(log_likelihood(mass), x_shape),
                 est_z_bpp=bits_per_pixel(tf.log(density), x_shape),
                 est_bpp_back=bits_per_pixel(log_q, x_shape))
    rates["est_bpp"] = rates["est_y_bpp"] + rates["est_z_bpp"] - rates["est_bpp_back"]
    return BitsBackModel(rates, p_z, z_tilde, mu, log_sigma)


def rd_losses(lmbda, x, x_tilde, bpp):
    """The R-D cost rd_loss = lmbda * mse + bpp and its two terms, each [B]; x, x_tilde in [0, 1].

    The mean squared error is that on the 0..255 scale.
    """
    mse = 255 ** 2 * tf.reduce_mean(tf.squared_difference(x, x_tilde), axis=[1, 2, 3])
    return dict(rd_loss=lmbda * mse + bpp, mse=mse, bpp=bpp)


def noise_key(seed, t, i):
    """Seed of tf.random.stateless_* for iteration t and latents i = 0 (y) or 1 (z)."""
    return tf.stack([seed, 2 * t + i])


def uniform_noise(shape, key):
    """float32 noise ~ U(-1/2, 1/2) of a shape, which stands for rounding in training."""
    return tf.random.stateless_uniform(shape, key, -.5, .5)


# ---------------------------------------------------------------- 3. descent
#
# Adam on free latents: how all iterative methods optimise, and how a decoder fits q(z|y_hat).

CHECK_EVERY = 100  # iterations


def free_variable(encoded):
    """Variable to optimise, initialised by the encoder; no part of the model or a checkpoint."""
    return tf.Variable(encoded, trainable=False, use_resource=True,
                       collections=[tf.GraphKeys.LOCAL_VARIABLES])


def adam_ops(losses, variables, lr):
    """Ops: one step of Adam on the mean of `losses` [B]; a restart of the variables and of Adam."""
    optimiser = tf.train.AdamOptimizer(lr)
    step = optimiser.minimize(tf.reduce_mean(losses), var_list=variables)
    return step, tf.variables_initializer(variables + optimiser.variables())


def latent_learning_rate(t, its, lr, decay):
    """Adam's at iteration t: lr, which a cosine takes to lr / 100 in the last fraction `decay`."""
    share = max(0, 1 - (its - t) / (decay * its)) if decay else 0
    return lr * (.01 + .99 * .5 * (1 + np.cos(np.pi * share)))


def descend(sess, step, losses, its, feed, watchers, temperature=lambda t: np.nan,
            after_rounding=None, check_every=CHECK_EVERY):
    """Yield (t, losses before update t, whether t is a check) after each of `its` updates.

    feed(t) is what the op `step` and `losses`, a dict of tensors [B], need. Every check_every
    iterations, and after the last, is a check: UserError if a loss is not finite. The watchers are
    told each Iteration, with temperature(t) and after_rounding.
    """
    for t in tqdm.trange(its, disable=None if progress.has_bar(watchers) else True, leave=False):
        _, values = sess.run([step, losses], feed(t))
        is_check = progress.is_due(t, its, check_every)
        if is_check:
            progress.require_finite(t, values)
        for watch in watchers:
            watch(progress.Iteration(t, its, temperature(t), values, after_rounding))
        yield t, values, is_check


# ---------------------------------------------------------------- 4. the decoder
#
# What a decoder repeats: p(z), mu and sigma of p(y|z_hat), of bits-back the fit of q(z|y_hat), and
# the pixels. All are computed by a Decoder, in double precision on the CPU, and what the coder sees
# is rounded to a grid, where machines agree unless a number is next to an edge between two points.
# There, an encoder's Decoder raises grid.NearEdge, and `grid.first_offset` tries the next offset of
# the grid. The RangeCoder of a .tfci, as in the original, is in single precision.

STRIP = 16  # rows of y that g_s decodes at once


class Decoder:
    """A model for one image at a time, in double precision.

    `build` of a subclass returns p(z), and sets the tensors z, and mu and log_sigma of p(y|z).
    is_encoder: raise grid.NearEdge where another machine might round otherwise.
    """

    @do_not_convert
    def __init__(self, run, size, threads, is_encoder):
        self.edge, self.pixel_edge = (grid.EDGE, grid.PIXEL_EDGE) if is_encoder else (0, 0)
        self.run, self.watchers, N = run, (), run.num_filters
        self.set_size(*size)
        with tf.Graph().as_default() as graph, tf.device("/cpu:0"):
            self.strip = tf.placeholder(tf.float64, [1, None, None, N])
            self.points = tf.placeholder(tf.float64, [None, N])
            self.bin_width = tf.placeholder(tf.float64, [])
            self.x_hat = 255 * synthesis_transform(N)(self.strip)
            mass = bin_mass(self.build(N), self.points, self.bin_width)
            self.log2_mass = log_likelihood(mass) / np.log(2)
            # Before Adam adds its variables, which the run does not have.
            self.sess = runs.restored_session(graph, run, runs.session_config(threads, gpu=False))
            self.build_fit()
            graph.finalize()

    def set_size(self, height, width):
        """Set the size of the images, and with it the shapes of their latents."""
        _, y_sides, z_sides = fileformat.latent_shapes(height, width)
        self.x_shape = 1, height, width  # without channels
        self.y_shape, self.z_shape = ((1, *sides, self.run.num_filters)
                                      for sides in (y_sides, z_sides))

    def build_fit(self):
        """Add what fits q(z|y_hat), if the model has it, to the graph."""

    def snap(self, values, offset):
        """Numbers rounded to multiples of grid.GRID, moved by offset / grid.OFFSETS of it."""
        points = grid.nearest(values, grid.GRID, offset, self.edge) + offset / grid.OFFSETS
        return grid.GRID * points

    def prior_masses(self, bounds, offset, bin_width=1., origin=0.):
        """[K, N] probabilities under p(z) of origin + k * bin_width, for k within the bounds."""
        points = np.zeros(self.y_shape[-1]) + origin + bin_width * np.arange(
            bounds[0], bounds[1] + 1)[:, None]
        log2_mass = self.sess.run(self.log2_mass, {self.points: points, self.bin_width: bin_width})
        masses = grid.as_single(np.exp2(self.snap(log2_mass, offset)))
        return np.asfortranarray(masses)  # as the coder takes columns

    def conditional(self, z_hat, offset, is_centred=False):
        """p(y|z_hat) as coding.Conditional."""
        _, height, width, _ = self.y_shape
        mu, log_sigma = (v[:, :height, :width] for v in self.sess.run(
            [self.mu, self.log_sigma], {self.z: z_hat}))
        std = grid.as_std(self.snap(log_sigma, offset))
        if is_centred:  # mu reaches no coder
            return coding.Conditional(mu, np.zeros_like(mu), std)
        return coding.Conditional(0., np.clip(self.snap(mu, offset), *grid.MEAN_RANGE), std)

    def picture(self, y_hat, offset):
        """uint8 [1, H, W, 3] of y_hat; the offset moves the edges between two values of a pixel.

        It is computed in strips, which take less memory; pixels see at most two rows around theirs.
        """
        strips, (_, height, width) = [], self.x_shape
        for top in range(0, y_hat.shape[1], STRIP):
            above = min(top, 2)
            strip = y_hat[:, top - above:top + STRIP + 2]
            strips.append(self.sess.run(self.x_hat, {self.strip: strip})[
                :, 16 * above:16 * (above + STRIP), :width])
        x_hat = np.concatenate(strips, axis=1)[:, :height]
        return np.clip(grid.nearest(x_hat, 1, offset, self.pixel_edge), 0, 255).astype(np.uint8)


class BaseDecoder(Decoder):
    """The decoder of the base model: p(z) and p(y|z_hat). Its graph is of all sizes."""

    def build(self, N):
        """Tensors of p(y|z_hat); returns p(z)."""
        self.median = runs.medians(self.run).astype(np.float64)
        self.range_coder = functools.partial(kept_range_coder, self.run)  # for a .tfci
        self.z = tf.placeholder(tf.float64, [1, None, None, N])
        self.mu, self.log_sigma = tf.split(hyper_synthesis_transform(N)(self.z), 2, axis=-1)
        return factorized_prior(N, runs.PRIOR_SCOPE, tf.float64)


class BitsBackDecoder(Decoder):
    """The decoder of the bits-back model: p(z), p(y|z_hat), and the fit of q(z|y_hat)."""

    def build(self, N):
        """Tensors of the net rate and of p(y|z_hat), where z is sampled; returns p(z)."""
        self.y_hat = tf.placeholder(tf.float64, self.y_shape)
        self.t, self.seed = (tf.placeholder(tf.int64, []) for _ in range(2))
        self.lr = tf.placeholder(tf.float64, [])
        self.variables = [free_variable(v) for v in posterior(N, self.y_hat)]
        self.q = [v.read_value() for v in self.variables]  # `sampled_rates` feeds others
        model = bits_back_rates(self.y_hat, *self.q, noise_key(self.seed, self.t, 1),
                                self.x_shape)
        self.rates, self.mu, self.log_sigma = model.rates, model.mu, model.log_sigma
        self.z = model.z_tilde  # `conditional` feeds z_hat
        return model.p_z

    def build_fit(self):
        self.step, self.restart = adam_ops(self.rates["est_bpp"], self.variables, self.lr)

    def fit(self, y_hat, fit):
        """BitsBackLatents of y_hat [1, h, w, N], and the record of the fit: list of (t, bpp).

        From y_hat alone, by descent on the net rate, from h_a(y_hat).
        """
        self.sess.run(self.restart, {self.y_hat: y_hat})
        feed = lambda t: {self.y_hat: y_hat, self.t: t, self.lr: fit.lr, self.seed: fit.seed}
        losses, record = dict(bpp=self.rates["est_bpp"]), []
        for t, values, _ in descend(self.sess, self.step, losses, fit.its, feed, self.watchers):
            if progress.is_due(t, fit.its, progress.RECORD_EVERY):
                record.append((t, values["bpp"][0]))
        return BitsBackLatents(y_hat, *self.sess.run(self.q)), record

    def sampled_rates(self, latents, seed, iterations):
        """Dict of arrays: the rates for a draw of z from q per iteration, which keys its noise."""
        feed = {self.y_hat: latents.y, self.seed: seed, self.q[0]: latents.z_mean,
                self.q[1]: latents.z_logvar}
        rates = [self.sess.run(self.rates, {**feed, self.t: t}) for t in iterations]
        return {name: np.array([rate[name][0] for rate in rates]) for name in self.rates}


@functools.lru_cache(maxsize=2)  # both orientations of a picture
def kept_decoder(make, run, size, threads, is_encoder):
    """A Decoder of images (height, width); the last ones are kept, as each takes a second."""
    return make(run, size, threads, is_encoder)


def decoder_of(run, height, width, threads, is_encoder=False, watchers=()):
    """The Decoder of a run's model, whose fits of q the watchers are told."""
    if run.model == "base":  # of any size
        decoder = kept_decoder(BaseDecoder, run, (16, 16), threads, is_encoder)
    else:
        decoder = kept_decoder(BitsBackDecoder, run, (height, width), threads, is_encoder)
    decoder.set_size(height, width)
    decoder.watchers = watchers
    return decoder


class RangeCoder:
    """tfc's coder of a run's base model: integers of a batch to strings and back, of any size."""

    @do_not_convert
    def __init__(self, run):
        self.median, any_size = runs.medians(run), [None, None, None, run.num_filters]
        with tf.Graph().as_default() as graph, tf.device("/cpu:0"):
            # y less mu, and z_hat
            self.y_symbols, self.z_hat = (tf.placeholder(tf.float32, any_size) for _ in range(2))
            self.y_shape, self.z_shape = (tf.placeholder(tf.int32, [4]) for _ in range(2))
            self.mu, log_sigma = gaussian_parameters(
                hyper_synthesis_transform(run.num_filters), self.z_hat, self.y_shape)
            self.sigma = tf.exp(log_sigma)
            prior_z = tfc.EntropyBottleneck(name=runs.PRIOR_SCOPE)
            prior_y = tfc.GaussianConditional(self.sigma, SCALES, mean=self.mu,
                                              name="gaussian_conditional")
            self.strings = (prior_y.compress(self.y_symbols + self.mu),
                            prior_z.compress(self.z_hat))
            self.decoded = (prior_y.decompress(self.strings[0]),
                            prior_z.decompress(self.strings[1], shape=self.z_shape[1:]))
            self.sess = runs.restored_session(graph, run, runs.session_config(1, gpu=False))
            graph.finalize()

    def mu_and_sigma(self, z_hat, y_shape):
        """mu and sigma as arrays, always by this run of these ops: others may round otherwise."""
        feed = {self.z_hat: z_hat, self.y_shape: y_shape}
        return dict(zip([self.mu, self.sigma], self.sess.run([self.mu, self.sigma], feed)))

    def encode(self, y_symbols, z_symbols):
        """Strings of y_hat [B, h, w, N] less mu and of z_hat [B, ceil(h/4), ceil(w/4), N] less the
        medians, both integers."""
        z_hat = np.float32(z_symbols + self.median)
        return self.sess.run(self.strings, {self.y_symbols: y_symbols, self.z_hat: z_hat,
                                            **self.mu_and_sigma(z_hat, y_symbols.shape)})

    def decode(self, y_strings, z_strings, y_shape, z_shape):
        """What `encode` was given, of these shapes."""
        z_hat = self.sess.run(self.decoded[1], {self.strings[1]: z_strings, self.z_shape: z_shape})
        arrays = self.mu_and_sigma(z_hat, y_shape)
        y_hat = self.sess.run(self.decoded[0], {self.strings[0]: y_strings, **arrays})
        return np.rint(y_hat - arrays[self.mu]), np.rint(z_hat - self.median)


@functools.lru_cache(maxsize=1)
def kept_range_coder(run):
    """The RangeCoder of a run; the last one is kept, as it takes a second."""
    return RangeCoder(run)


# ---------------------------------------------------------------- 5. a method's graph
#
# A method: the graph of a model with free latents, their optimisation, and their rounding.

class Method(typing.NamedTuple):
    """What a method's script defines; a model's family follows from its codecs.

    `options` below is a namespace with the values of the method's options.
    """
    # (graph, x, options) -> what the codec encodes of x, uint8 [B, H, W, 3]: of CENTRED what
    # `centred` gives, of INTEGER what `integers` gives, of BITS_BACK Unfitted with y_hat integers
    infer: typing.Callable
    codecs: tuple  # CENTRED, INTEGER or BITS_BACK: how the latents become a file, the default first
    options: list = []  # of Option
    # (v, T, key, options) -> free latents v relaxed at temperature T; noise, if any, is without the
    # axis of images, of stateless seed `key`, an int [2]. Of bits-back for y alone. None if `infer`
    # optimises nothing
    relax: typing.Optional[typing.Callable] = None
    # (options) -> seed of the noise in `infer`; by default an option --seed has no effect there
    seed: typing.Callable = lambda options: 0
    presets: dict = {}  # flag -> dict of the options that it sets
    # whether anything is optimised, also if by the decoder alone: a loss can be recorded
    is_iterative: bool = True
    scale_bound: float = 0.  # of sigma of p(y|z), from below; of the base model alone
    # (options) -> number of draws of z that reported rates are means over; of bits-back alone
    rate_samples: typing.Callable = lambda options: 16
    # as rd_losses, with another rd_loss to optimise; the rd_cost of results is always that of MSE
    losses: typing.Callable = rd_losses
    # pattern of the name of its results, as in the authors' code; it begins with "rd-"
    result_name: str = "rd-%(script)s-lmbda=%(lmbda)g+%(run_name)s-input=%(source)s"

    @property
    def model(self):
        """The model whose latents it codes, "base" or "bits-back"."""
        return self.codecs[0].model

    @property
    def has_gradients(self):
        """Whether its graph has gradients through the whole model, which take memory."""
        return self.relax is not None


class Graph(typing.NamedTuple):
    """A method and a run for a batch of images of one shape; tensors, unless said otherwise."""
    sess: tf.Session  # with the model's weights
    x: tf.Tensor  # placeholder, uint8 [B, H, W, 3]; only needed by `restart` and losses
    t: tf.Tensor  # placeholder, iteration
    T: tf.Tensor  # placeholder, temperature
    lr: tf.Tensor  # placeholder, learning rate of Adam
    # Latents or BitsBackLatents: what is optimised, which starts from the encoder's output; and
    # relaxed, y_tilde and z_tilde (or z_mean, z_logvar). Feed discrete latents to the latter to
    # score those.
    free: typing.Any
    relaxed: typing.Any
    # dict of [B]: rd_loss, which is optimised, its terms mse and bpp, and what bpp consists of:
    # est_y_bpp, est_z_bpp, est_bpp_back, together est_bpp
    losses: dict
    restart: tf.Operation  # the free latents become the encoder's output, Adam forgets its moments
    step: tf.Operation  # one step of Adam on the free latents; None without a relaxation
    # What the base model's latents are rounded around; None of bits-back.
    mu: tf.Tensor  # of p(y|z_tilde), [B, h, w, N]
    medians: np.ndarray  # of p(z), [N]
    watchers: tuple  # functions that are told each Iteration


@do_not_convert
def inference_graph(method, run, shape, options, lmbda, threads=None, watchers=()):
    """Graph of a method and a run for a batch of static shape [B, H, W, 3].

    options: namespace of the method's. lmbda: weight of the distortion.
    """
    N, is_base, seed = run.num_filters, run.model == "base", method.seed(options)
    relax = method.relax or (lambda v, T, key, options: v)
    with tf.Graph().as_default() as graph:
        x, t = tf.placeholder(tf.uint8, shape), tf.placeholder(tf.int64, [])
        T, lr = tf.placeholder(tf.float32, []), tf.placeholder(tf.float32, [])
        x_float = tf.to_float(x) / 255
        y = analysis_transform(N)(x_float)
        if is_base:
            encoded = Latents(y, hyper_analysis_transform(N, N)(y))
        else:
            encoded = BitsBackLatents(y, *posterior(N, y))
        variables = [free_variable(v) for v in encoded]
        free = type(encoded)(*[v.read_value() for v in variables])
        relaxed = free._replace(y=relax(free.y, T, noise_key(seed, t, 0), options))
        mu = None
        if is_base:
            relaxed = relaxed._replace(z=relax(free.z, T, noise_key(seed, t, 1), options))
            rates, mu = base_rates(*relaxed, shape, method.scale_bound)
        else:
            rates = bits_back_rates(*relaxed, noise_key(seed, t, 1), shape).rates
        x_tilde = synthesis_transform(N)(relaxed.y)[:, :shape[1], :shape[2]]
        losses = dict(method.losses(lmbda, x_float, x_tilde, rates["est_bpp"]), **rates)
        # Before Adam adds its variables, which the run does not have.
        sess = runs.restored_session(graph, run, runs.session_config(threads))
        step, restart = None, tf.variables_initializer(variables)
        if method.has_gradients:
            step, restart = adam_ops(losses["rd_loss"], variables, lr)
        graph.finalize()
    return Graph(sess, x, t, T, lr, free, relaxed, losses, restart, step, mu,
                 runs.medians(run) if is_base else None, tuple(watchers))


def encoder_output(graph, x):
    """The encoder's continuous latents, at which the free ones restart."""
    graph.sess.run(graph.restart, {graph.x: x})
    return graph.sess.run(graph.free)


def score(graph, x, latents):
    """graph.losses of rounded latents; of bits-back for one draw of z, that of iteration 0."""
    feed = dict(zip(graph.relaxed, latents))
    return graph.sess.run(graph.losses, {graph.x: x, graph.t: 0, **feed})


def optimise(graph, x, its, lr, rounding, temperature=lambda t: np.nan, lr_decay=0, stop=None,
             check_every=CHECK_EVERY):
    """The free latents after `its` iterations of Adam at rate lr, or where `stop` ends them.

    They begin at the encoder's output, also in another call (`descend` alone does not restart).
    rounding(graph, latents) gives rounded latents; temperature(t) is T; lr_decay, see
    `latent_learning_rate`. Every check_every iterations, and after the last, is a check: stop(cost,
    previous cost) is asked of the mean cost after rounding; if it holds, the latents are those of
    the check before. graph.watchers are told each iteration, with the losses before its update.
    """
    if graph.step is None:
        raise TypeError("nothing to optimise: the method has no relax")

    def feed(t):
        return {graph.x: x, graph.t: t, graph.T: temperature(t),
                graph.lr: latent_learning_rate(t, its, lr, lr_decay)}

    def after_rounding():
        return score(graph, x, rounding(graph, graph.sess.run(graph.free)))

    previous, kept = np.inf, encoder_output(graph, x)
    for t, _, is_check in descend(graph.sess, graph.step, graph.losses, its, feed, graph.watchers,
                                  temperature, after_rounding, check_every):
        if stop and is_check:
            cost = np.mean(after_rounding()["rd_loss"])
            progress.require_finite(t, dict(rd_loss=cost))
            if stop(cost, previous):
                return kept
            previous, kept = cost, graph.sess.run(graph.free)
    return graph.sess.run(graph.free)


def atanh_logits(distance):
    """Logits of rounding to an integer at a distance in [0, 1] (section 3.2)."""
    return -tf.atanh(tf.minimum(distance, 1 - 1e-5))


def floor_and_ceil(v):
    """The two integers around v, and their distances from it in [0, 1], both [..., 2].

    The integers have no gradient: that of v flows through the distances alone.
    """
    neighbours = tf.stack([tf.floor(v), tf.ceil(v)], -1)
    return neighbours, tf.abs(tf.expand_dims(v, -1) - neighbours)


def integers(graph, latents):
    """y_hat = round(y), z_hat = round(z); + 0 makes 0.0 of -0.0, which a file can't tell apart."""
    return Latents(np.round(latents.y) + 0, np.round(latents.z) + 0)


def integer_y(graph, latents):
    """y_hat = round(y), as in `integers`; z stays continuous."""
    return latents._replace(y=np.round(latents.y) + 0)


def centred(graph, latents):
    """z_hat = z rounded around its median, then y_hat = y rounded around mu(z_hat)."""
    z_hat = round_around(graph.medians, latents.z)
    mu = graph.sess.run(graph.mu, {graph.relaxed.z: z_hat})
    return Latents(round_around(mu, latents.y), z_hat)


def round_around(centre, v):
    """v rounded so that it is an integer apart from the centre."""
    return np.round(v - centre) + centre


# ---------------------------------------------------------------- 6. the compressor
#
# A method on a run, for images of any shape: the compressed file, its metrics, and the way back.

def load(folder):
    """Run of a folder with a trained model; UserError if there is none."""
    return runs.find_run(*os.path.split(os.path.abspath(folder)))


class Compressed(typing.NamedTuple):
    """What a Compressor makes of images."""
    content: typing.Optional[bytes]  # the compressed file; None if bits-back can't code the latents
    x_hat: np.ndarray  # uint8 [num_imgs, H, W, 3], the pixels that it decodes to
    y_hat: np.ndarray  # [num_imgs, h, w, N]
    z_hat: np.ndarray  # [num_imgs, ceil(h / 4), ceil(w / 4), N]
    results: dict  # by field, of results/settings.md: one per image or, in batch_*, per batch
    records: list  # of each batch, if they are kept: dict of arrays, the losses over the iterations
    uncodable: str  # why the latents can't be coded, as of a weak model of bits-back; or ""


class Compressor:
    """A method on a run. The graphs for batches of the last two shapes are kept.

    options: namespace with all of the method's. lmbda: weight of the distortion, by default that of
    the run. threads: of an operation, by default one per core. codec: one of method.codecs, by
    default the first. watchers: functions that are told each Iteration. script: name of the script
    that the file gets, by default the module of method.infer. keeps_records: whether the losses
    over the iterations are kept.
    """

    def __init__(self, method, run, options, lmbda=None, threads=None, codec=None, watchers=(),
                 keeps_records=False, script=None):
        runs.require_usable(run, method.model)
        self.method, self.run, self.options, self.threads = method, run, options, threads
        self.lmbda = runs.require_lmbda(run.name) if lmbda is None else lmbda
        self.codec = codec or method.codecs[0]
        self.record, self.watchers = progress.Record(keeps_records), tuple(watchers)
        self.script = script or method.infer.__module__
        # Two are kept: of both orientations of a picture, or a batch and the last, smaller one.
        self.graph_for = functools.lru_cache(2)(self.build_graph)

    def build_graph(self, shape):
        """The Graph for a batch [B, H, W, 3]."""
        return inference_graph(self.method, self.run, shape, self.options, self.lmbda,
                               self.threads, (self.record,) + self.watchers)

    def compress(self, images, initial_bits=b""):
        """Compressed of uint8 [num_imgs, H, W, 3]; UserError if images are something else.

        initial_bits: bytes of which bits-back takes the first image's z, in the place of random
        ones; `decompress --initial_bits` gives them back.
        """
        image_files.require_images("images", images)
        image_files.require_compressible(images.shape[:3], self.run.num_filters,
                                         self.method.has_gradients)
        if initial_bits and self.run.model == "base":
            raise UserError("initial_bits: only for models of bits-back")
        num_imgs, height, width, _ = images.shape
        inferred, entries = [], []
        for x in split_batches(images, images.shape):
            inferred.append(self.method.infer(self.graph_for(x.shape), x, self.options))
            entries.append(self.record.entries)
        latents = coding.joined(inferred)  # Latents or, of bits-back, Unfitted
        decoder = decoder_of(self.run, height, width, self.threads, True, self.watchers)
        encoded = self.codec.encode(decoder, latents, self.script, initial_bits)
        batches = list(zip(split_batches(images, images.shape),
                           split_batches(encoded.images, images.shape)))
        metrics = [self.metrics_of(decoder, x, coded, latents) for x, coded in batches]
        results = {name: np.concatenate([values[name] for values in metrics])
                   for name in metrics[0]}
        bits_per_image = np.nan if encoded.uncodable else 8 * len(encoded.content) / num_imgs
        results.update(encoded.reported, rd_cost=self.lmbda * results["mse"] + results["est_bpp"],
                       actual_bpp=np.full(num_imgs, bits_per_image / (height * width)),
                       grid_offset=np.array([image.offset for image in encoded.images]))
        records = []
        if self.record.is_kept:
            fits = split_batches(encoded.fits or [()] * num_imgs, images.shape)
            records = [self.record_of(x, coded, of_method, of_fit)
                       for (x, coded), of_method, of_fit in zip(batches, entries, fits)]
        y_hat = coding.joined([image.latents for image in encoded.images]).y
        whole = coding.joined(encoded.images)
        return Compressed(encoded.content, whole.x_hat, y_hat, whole.z_hat, results, records,
                          encoded.uncodable)

    def metrics_of(self, decoder, x, images, latents):
        """Dict of [B]: what is reported of the batch x, coded as a list of CodedImage.

        latents: those of all images; of bits-back, they share a `fit`.
        """
        quality_of_pictures = quality.measure(x, coding.joined(images).x_hat, self.threads)
        if self.run.model == "base":
            return dict(quality_of_pictures, **self.rates_of(x, images))
        return dict(quality_of_pictures, **self.net_rates_of(decoder, images, latents.fit))

    def rates_of(self, x, images):
        """Dict of [B]: rates of the base model."""
        graph = self.graph_for(x.shape)
        rates = {name: graph.losses[name] for name in ("est_bpp", "est_y_bpp", "est_z_bpp")}
        feed = dict(zip(graph.relaxed, coding.joined([image.latents for image in images])))
        return graph.sess.run(rates, feed)

    def net_rates_of(self, decoder, images, fit):
        """Dict of [B]: rates of bits-back, means over draws of z from q; their standard error.

        The draws are of iterations that neither phase was optimised for; q is on the coder's grid.
        """
        first, samples = max(self.record.its, fit.its), self.method.rate_samples(self.options)
        draws = [decoder.sampled_rates(image.latents, fit.seed, range(first, first + samples))
                 for image in images]
        rates = {name: np.array([draw[name].mean() for draw in draws]) for name in draws[0]}
        rates["est_bpp_stderr"] = np.array(
            [draw["est_bpp"].std(ddof=1) / np.sqrt(samples) for draw in draws])
        return rates

    def record_of(self, x, images, entries, fits):
        """The record of the batch x: a dict of arrays, empty if nothing was optimised.

        Of the method see `progress.arrays_of`; of the fits of q rate_its [K], rate [K, B].
        """
        arrays = {}
        if entries:
            latents = coding.joined([image.latents for image in images])
            reported = score(self.graph_for(x.shape), x, latents)["rd_loss"]
            arrays.update(progress.arrays_of(entries, reported))
        if fits[0]:
            t, bpp = np.transpose(fits)
            arrays.update(rate_its=t[:, 0], rate=bpp)
        return arrays


def make_compressor(run, method, preset=None, lmbda=None, threads=None, codec=None, watchers=(),
                    keeps_records=False, script=None, **options):
    """Compressor of a method, with the options that are given, by name, of a preset or default.

    The others are those of Compressor. UserError if an option, preset or value is not accepted.
    """
    values = arguments.from_keywords(method.options, method.presets, preset, options)
    return Compressor(method, run, values, lmbda, threads, codec, watchers, keeps_records, script)


def decode(run, content, threads=None):
    """Pictures uint8 [num_imgs, H, W, 3] of the bytes of a compressed file.

    UserError if it is damaged or not of this run.
    """
    parsed = compressed_files.parse_file(content, run)
    decoder = decoder_of(run, *parsed.file.shape[1:], threads)
    pictures, _ = compressed_files.decode(decoder, parsed)
    return pictures


# ---------------------------------------------------------------- 7. training
#
# Adam on the weights of a model whose objective is the script's.

def likelihood_in_training(prior, latents):
    """log probability of the unit-width bin around each latent under a tfc entropy model.

    Calling the model, which must have been done before as it makes the variables, would first round
    the latents or add other noise to them.
    """
    return log_likelihood(prior._likelihood(latents))


def training_scalars(lmbda, x, x_tilde, bpp, **parts):
    """Scalars to report of a batch, `loss` to minimise: means of rd_losses and parts, each [B]."""
    values = dict(rd_losses(lmbda, x, x_tilde, bpp), **parts)
    values.update(loss=values.pop("rd_loss"), psnr=tf.image.psnr(x, x_tilde, 1, name="psnr_db"))
    return {name: tf.reduce_mean(value) for name, value in values.items()}


@do_not_convert
def train(args, objective, method):
    """Train a run, from its newest checkpoint if there is one, to step args.last_step.

    objective(x, t, N, lmbda, seed) maps batch t, x [B, H, W, 3] in [0, 1], to (scalars, x_tilde,
    updates): a dict of scalar tensors with the `loss` that Adam minimises among them, the
    reconstruction, and a function that gives ops to run with each of Adam's steps. Its noise is
    keyed by t: on one machine, training that was interrupted ends as it would have without.
    Checkpoints are evaluated by `method`. With TF_CONFIG in the environment, this process is one
    task of the cluster there.
    """
    if args.patchsize % 64:
        raise UserError("--patchsize %d: must be a multiple of 64" % args.patchsize)
    N = args.num_filters or 192
    run_name = args.run_name or "%s-num_filters=%d-lmbda=%s" % (args.script, N, args.lmbda)
    args = argparse.Namespace(**{**vars(args), "num_filters": N, "run_name": run_name})
    folder = os.path.join(args.checkpoint_dir, run_name)
    cluster = clusters.join_cluster(runs.session_config(args.threads))
    if cluster.job != "ps":
        worked = train_replica(args, N, folder, objective, method, cluster)
    if cluster.server and (cluster.job != "worker" or worked):
        clusters.finish(cluster)


def train_replica(args, N, folder, objective, method, cluster):
    """Train as the chief or a worker of the cluster, or alone; whether there was a step to do."""
    run = named_run(args, method) if runs.newest_checkpoint(folder) else None
    held_out = patches.held_out_images(args.eval_glob)
    is_chief, source = cluster.replica == 0, None
    if run and run.step >= args.last_step:
        basics.print_line("%s is at step %d already" % (folder, run.step))
        for evaluation in validations(args, N, folder, held_out if is_chief else [], method):
            evaluation.complete(run.step)
        return False
    if run and not run.resumable:
        raise UserError("%s is stored without optimiser slots and can't be continued; "
                        "--init_from begins another run with its weights" % run.checkpoint)
    paths, in_memory = patches.training_files(args.train_glob, args.patchsize, held_out)
    settings = training.settings_of(vars(args), paths, cluster.num_replicas)
    if is_chief:
        training.require_run_folder(folder)
        listeners = validations(args, N, folder, held_out, method)
        if run:
            settings = training.require_same_training(settings, folder, args.force)
        else:
            source = training.source_of_new_run(args)
    basics.print_line("%s: building the graph, to train on %d images" % (folder, len(paths)))
    with tf.Graph().as_default(), tf.device(cluster.device):
        tf.set_random_seed(args.seed)
        # t is the batch's number, not the step's: a replica may compute several batches of a step.
        t, x = tf.data.make_one_shot_iterator(patches.training_patches(
            paths, args.batchsize, args.patchsize, args.seed, run.step if run else 0,
            cluster.replica, cluster.num_replicas, in_memory, args.preprocess_threads)).get_next()
        scalars, x_tilde, updates = objective(x, t, N, args.lmbda, args.seed)
        # After the variables, whose random initial values depend on the number of ops before them.
        scalars["lr"] = training.learning_rate(tf.train.get_or_create_global_step(), args.last_step,
                                               args.lr, args.lr_warmup, args.lr_decay)
        train_op, hooks = training.minimise(training.Adam(scalars["lr"], updates),
                                            scalars["loss"], cluster)
        # Paths relative to the folder, so that a run can be moved and go on.
        saver = tf.train.Saver(sharded=True, save_relative_paths=True)
        if is_chief:
            hooks += [validation.CheckpointSaver(folder, args.save_checkpoint_secs, saver,
                                                 listeners)]
            hooks += training.summary_hooks(
                training.summary_folder(args.logdir, folder), args.save_summary_secs, scalars,
                dict(original=x, reconstruction=x_tilde))
        scaffold = tf.train.Scaffold(saver=saver, init_fn=source and training.initialiser(source))
        with (training.prepared_folder(folder, settings, run) if is_chief
              else contextlib.nullcontext()):
            training.training_loop(train_op, scalars, args.last_step, folder, cluster, scaffold,
                                   hooks)
    return True


def validations(args, N, folder, held_out, method):
    """List of what evaluates checkpoints in a folder: one, or none if no images are held out."""
    with basics.errors_of("--eval_glob %s" % args.eval_glob):
        patches.require_evaluable(held_out, N, method.has_gradients)
    evaluate = functools.partial(results_on, held_out, folder, method, args.lmbda, args.threads)
    logdir = training.summary_folder(args.logdir, folder)
    return [validation.Validation(folder, logdir, evaluate)] if held_out else []


def results_on(paths, folder, method, lmbda, threads):
    """List of the results on images of the newest checkpoint in a folder, as compress has them."""
    compressor = make_compressor(load(folder), method, lmbda=lmbda, threads=threads)
    return [compressor.compress(image_files.read_images(path)).results for path in paths]


# ---------------------------------------------------------------- 8. the command line

def named_run(args, method):
    """The run that the arguments name; UserError if there is none or not for the method."""
    run = runs.find_run(args.checkpoint_dir, args.run_name)
    runs.require_usable(run, method.model, args.num_filters)
    return run


def compress_command(method, args):
    """Compress and evaluate every image of args.imgs; print averages, save and return the results.

    Of a folder or glob, each image's results are kept as a part as soon as they are there, until
    all are; Incomplete if an image fails.
    """
    run = named_run(args, method)
    source = image_files.find_images(args.imgs)
    require = fileformat.check_shape if args.scheduler else functools.partial(
        image_files.require_compressible, N=run.num_filters, with_gradients=method.has_gradients,
        jobs=min(args.jobs, len(source.paths)))
    plan = tasks.plan_of(method, args, run, source,
                         lambda: store.look_at(source.paths, require, source.many))
    store.require_targets(plan)
    watchers = (progress.LossPrinter(),)

    def compress_here(task):
        with progress.about(task.path) if source.many else contextlib.nullcontext():
            return compress_task(task, watchers)

    (results,), failures = tasks.run_plans(compress_task, [plan], args.jobs, args.scheduler,
                                           compress_here)
    if failures and not source.many:
        raise failures[0].error
    if failures:
        kept = "the same command continues" if plan.base else "no results are kept"
        raise basics.Incomplete("%d of %d images failed, %s; all others are done, and %s" % (
            len(failures), len(source.paths), ", ".join(one.path for one in failures), kept))
    result_files.print_averages(results)
    store.print_targets(plan)
    return results


@functools.lru_cache(maxsize=1)
def kept_compressor(folder, settings, keeps_records, watchers):
    """The Compressor for results of such settings, (name, value) pairs; the last one is kept."""
    settings, run = dict(settings), load(folder)
    try:
        method = importlib.import_module(settings["script"]).METHOD
    except ModuleNotFoundError as error:
        raise UserError("%s; PYTHONPATH of all workers must have this checkout, and methods of "
                        "yours" % error)
    if (run.fingerprint.hex(), store.code_of(settings["script"])) != (
            settings["model"], settings["code"]):
        raise UserError("%s or %s.py is not what it was when the command began; start workers anew "
                        "after a change" % (folder, settings["script"]))
    options = argparse.Namespace(**{option.name: settings[option.name]
                                    for option in method.options})
    codecs = {codec.suffix: codec for codec in method.codecs}
    return Compressor(method, run, options, settings["lmbda"], settings["threads"] or None,
                      codecs["." + settings["codec"]], watchers, keeps_records, settings["script"])


def compress_task(task, watchers=()):
    """tasks.Done of a Task; UserError if the image can't be compressed here."""
    compressor = kept_compressor(task.folder, tuple(sorted(task.settings.items())),
                                 "opt" in task.kept, watchers)
    images = image_files.read_images(task.path)
    if basics.digest(images).hex() != task.image:
        raise UserError("%s: has changed since the command began" % task.path)
    compressed = compressor.compress(images, task.initial_bits)
    if compressed.uncodable and task.needs_file:
        raise UserError(compressed.uncodable)
    if compressed.uncodable:
        basics.note("%s: can't be coded, actual_bpp is nan: %s"
                    % (os.path.basename(task.path), compressed.uncodable))
    if min(images.shape[1:3]) < quality.MSSSIM_MIN_SIDE:
        basics.note("MS-SSIM is nan of images with a side under %d pixels"
                    % quality.MSSSIM_MIN_SIDE)
    results = dict(**compressed.results, **task.settings, image=task.image,
                   files=np.repeat(os.path.basename(task.path), len(images)),
                   num_threads=machine.num_threads(compressor.threads),
                   file_checksum=basics.digest(compressed.content or b"").hex())
    return tasks.done(task, results, compressed)


def decompress_command(method, args):
    """Decode args.input_file, or all of a folder or glob."""
    decompression.decompress(args, method.model, functools.partial(
        decoder_of, threads=args.threads, watchers=(progress.LossPrinter(),)))


def make_parser(script, doc, method=None, train=None, train_options=()):
    """Command line of a script; the arguments are those of `main`."""
    parser = command_line.Parser(prog=script + ".py", description=doc,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    command_line.add_global_options(parser)
    parser.set_defaults(checkpoint_dir="./checkpoints", script=script)
    add_command = command_line.commands_of(parser, bool(train), bool(method))
    if train:
        command_line.add_train_options(add_command(
            "train", "train or continue a run", train, clusters.CLUSTER_HELP), train_options)
    if method:
        compressing = add_command("compress", "compress images and evaluate the result",
                                  functools.partial(compress_command, method))
        command_line.add_compress_options(compressing, method)
        decompressing = add_command("decompress", "decode a compressed file",
                                    functools.partial(decompress_command, method))
        command_line.add_decompress_options(decompressing)
        if method.model == "bits-back":
            command_line.add_bits_back_options(compressing)
            command_line.add_bits_back_options(decompressing)
    return parser


def main(argv, file, doc, method=None, train=None, train_options=()):
    """Run the script `file`, which can train(args) a model, or has a Method to compress with.

    method: the script's METHOD, which is what workers import.
    train_options: Options of `train` beside those that all models have, with constant defaults.

    Returns what the subcommand does; compress, the dict of arrays that it saves.
    """
    script = os.path.splitext(os.path.basename(file))[0]
    argv = sys.argv[1:] if argv is None else [str(word) for word in argv]
    parser = make_parser(script, doc, method, train, train_options)
    args = command_line.parse_arguments(parser, method, argv)
    return command_line.run_or_exit(parser, vars(args).pop("function"), args)
