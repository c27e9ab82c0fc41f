"""Everything that two scripts share, in reading order; a room uses those above it.

1. model            2. rate, distortion, descent      3. decoder        4. files
5. inference        6. images in, results out         7. training       8. command line

Notation: x image; g_a, g_s analysis and synthesis transform; h_a, h_s their hyper versions;
y, z continuous latents and hyperlatents; y_tilde, z_tilde relaxed; y_hat, z_hat discrete (what
a decoder sees); lmbda the rate-distortion trade-off; N = num_filters; B images of H x W pixels.
"""

import argparse
import collections
import contextlib
import functools
import itertools
import os
import sys
import typing

import numpy as np
import pillow_avif  # with it, Pillow reads AVIF
import tqdm
import tensorflow.compat.v1 as tf
import tensorflow_compression as tfc

from plumbing import basics, clusters, coding, command_line, fileformat, grid, image_files, layers, machine, runs, store, training, workers
from plumbing.command_line import Option, count, natural, number, one_of, positive
from plumbing.coding import BITS_BACK, CENTRED, INTEGER
from plumbing.fileformat import Fit, MAX_ITS, split_batches
from plumbing.basics import UserError

with contextlib.suppress(ImportError):  # it may be installed for HEIC
    import pillow_heif
    pillow_heif.register_heif_opener()

# For what builds a graph: AutoGraph would take seconds to convert tfc's layers.
do_not_convert = tf.autograph.experimental.do_not_convert


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
    return layers.Transform("synthesis_transform", [
        layers.fast_conv(0, N, 5, corr=False, strides_up=2, activation=layers.gdn("igdn_0", inverse=True)),
        layers.fast_conv(1, N, 5, corr=False, strides_up=2, activation=layers.gdn("igdn_1", inverse=True)),
        layers.fast_conv(2, N, 5, corr=False, strides_up=2, activation=layers.gdn("igdn_2", inverse=True)),
        layers.conv(3, 3, 5, corr=False, strides_up=2)])


def hyper_analysis_transform(N, num_outputs):
    """h_a: y [B, h, w, N] -> z [B, ceil(h/4), ceil(w/4), num_outputs]."""
    return layers.Transform("hyper_analysis_transform", [
        layers.conv(0, N, 3, corr=True, activation=tf.nn.relu),
        layers.conv(1, N, 5, corr=True, strides_down=2, activation=tf.nn.relu),
        layers.conv(2, num_outputs, 5, corr=True, strides_down=2, use_bias=False)])


def hyper_synthesis_transform(N):
    """h_s: z [B, h, w, N] -> mu and log sigma, together [B, 4 h, 4 w, 2 N]."""
    plain = dict(corr=False, kernel_parameterizer=None)
    return layers.Transform("mb_t2018hyper_synthesis_transform", [
        layers.conv(0, N, 5, strides_up=2, activation=tf.nn.relu, **plain),
        layers.conv(1, int(1.5 * N), 5, strides_up=2, activation=tf.nn.relu, **plain),
        layers.conv(2, 2 * N, 3, **plain)])


def gaussian_parameters(h_s, z_tilde, y_shape):
    """mu and log sigma of p(y|z), each of y's static shape [B, h, w, N]."""
    return tf.split(h_s(z_tilde)[:, :y_shape[1], :y_shape[2]], 2, axis=-1)


def posterior(N, y):
    """z_mean and z_logvar of the bits-back model's q(z|y) = N(z_mean, exp(z_logvar)), by h_a."""
    return tuple(tf.split(hyper_analysis_transform(N, 2 * N)(y), 2, axis=-1))


def factorized_prior(num_channels, scope="", dtype=tf.float32):
    """p(z): a density per channel (Balle et al. 2018, appendix 6.1).

    Returns a function of z [..., num_channels] to (logits of the CDF, density), of z's shape. The
    variables of the bits-back model have no scope, those of the base model have PRIOR_SCOPE.
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


MSSSIM_MIN_SIDE = 161


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
    """log of a probability, which is bounded from below."""
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


def bits_back_rates(y, z_mean, z_logvar, key, x_shape):
    """Rates of the bits-back model, p(z), z_tilde ~ q(z|y), and mu, log sigma of p(y|z_tilde).

    The rates are a dict of [B]: bits per pixel of y under p(y|z_tilde), of z_tilde under p(z), and
    back from q. The noise, keyed by the int [2] `key`, is the same for every image.
    """
    N = int(y.shape[-1])
    noise = tf.random.stateless_normal(z_mean.shape[1:], key, dtype=z_mean.dtype)
    z_tilde, log_q = sample(z_mean, z_logvar, noise)
    prior = factorized_prior(N, dtype=y.dtype)
    _, p_z = prior(z_tilde)
    mu, log_sigma = gaussian_parameters(hyper_synthesis_transform(N), z_tilde, y.shape)
    mass = gaussian_mass(y, mu, tf.exp(log_sigma))
    rates = dict(est_y_bpp=bits_per_pixel(log_likelihood(mass), x_shape),
                 est_z_bpp=bits_per_pixel(tf.log(p_z), x_shape),
                 est_bpp_back=bits_per_pixel(log_q, x_shape))
    rates["est_bpp"] = rates["est_y_bpp"] + rates["est_z_bpp"] - rates["est_bpp_back"]
    return rates, prior, z_tilde, mu, log_sigma


def rd_losses(lmbda, x, x_tilde, bpp):
    """The R-D cost rd_loss = lmbda * mse + bpp and its two terms, each [B]; x, x_tilde in [0, 1].

    The mean squared error is that on the 0..255 scale.
    """
    mse = 255 ** 2 * tf.reduce_mean(tf.squared_difference(x, x_tilde), axis=[1, 2, 3])
    return dict(rd_loss=lmbda * mse + bpp, mse=mse, bpp=bpp)


def quality_meter(shape, threads):
    """Function of uint8 images and reconstructions, [B, H, W, 3] = shape: metrics, arrays [B]."""
    with tf.Graph().as_default() as graph:
        inputs = tf.placeholder(tf.uint8, shape), tf.placeholder(tf.uint8, shape)
        original, decoded = (tf.cast(images, tf.float32) for images in inputs)
        msssim = tf.fill([shape[0]], np.nan)
        if min(shape[1:3]) >= MSSSIM_MIN_SIDE:
            msssim = tf.image.ssim_multiscale(decoded, original, 255)
        metrics = dict(
            mse=tf.reduce_mean(tf.squared_difference(original, decoded), axis=[1, 2, 3]),
            psnr=tf.image.psnr(decoded, original, 255),
            msssim=msssim,
            msssim_db=-10 * tf.log(1 - msssim) / np.log(10))
    sess = tf.Session(graph=graph, config=runs.session_config(threads))
    return lambda x, x_hat: sess.run(metrics, dict(zip(inputs, (x, x_hat))))


def noise_key(seed, t, i):
    """Seed of tf.random.stateless_* for iteration t and latents i = 0 (y) or 1 (z)."""
    return tf.stack([seed, 2 * t + i])


def uniform_noise(shape, key):
    """U(-1/2, 1/2), what stands for rounding in training."""
    return tf.random.stateless_uniform(shape, key, -.5, .5)


def free_variable(encoded):
    """Variable to optimise, initialised by the encoder; no part of the model or a checkpoint."""
    return tf.Variable(encoded, trainable=False, use_resource=True,
                       collections=[tf.GraphKeys.LOCAL_VARIABLES])


def learning_rate(step, last_step, lr, warmup, decay):
    """The rate of the update after `step` (an integer, as last_step): lr, by default throughout.

    It rises linearly over the first `warmup` steps, and falls to lr / 100 along a cosine over the
    last `decay` (a fraction) of all last_step.
    """
    step, last_step, rate = (tf.cast(v, tf.float32) for v in (step, last_step, lr))
    if warmup:
        rate *= tf.minimum(1., (step + 1) / warmup)
    if decay:
        progress = tf.clip_by_value(1 - (last_step - step) / (decay * last_step), 0, 1)
        rate *= .01 + .99 * .5 * (1 + tf.cos(np.pi * progress))
    return rate


def adam_ops(losses, free, lr):
    """Ops: one step of Adam on the mean of `losses` [B], None if lr is; a restart of it all."""
    if lr is None:
        return None, tf.variables_initializer(free)
    optimiser = tf.train.AdamOptimizer(lr)
    step = optimiser.minimize(tf.reduce_mean(losses), var_list=free)
    return step, tf.variables_initializer(free + optimiser.variables())


RECORD_EVERY = 10  # iterations between two entries of an optimisation record


def descend(graph, feed, its, temperature=None, print_every=100):
    """Optimise the free latents from the encoder's output; yield t, T, losses after update t.

    graph has sess, t, T, its, step, restart, losses, as in Graph. `feed` is what they need beside
    t, T, its; temperature(t) is T, where the relaxation has one. The losses, dict of [B], are those
    before the update; UserError if one that is printed is not finite.
    """
    graph.sess.run(graph.restart, feed)
    for t in tqdm.trange(its, disable=None, leave=False):  # None: where stderr is no terminal
        T = temperature(t) if temperature else np.nan
        _, losses = graph.sess.run([graph.step, graph.losses], {
            **feed, graph.t: t, graph.T: T, graph.its: its})
        if t % print_every == 0 or t == its - 1:
            if not np.isfinite(list(losses.values())).all():
                raise basics.UserError("it=%d: the loss is not finite: the optimisation diverged" % t)
            basics.print_line("it=%d,%s %s" % (t, " T=%.4f" % T if temperature else "", shown(losses)))
        yield t, T, losses


def shown(losses):
    """Averages over the batch, as text."""
    terms = ["%s=%.*f" % (name, 3 if name == "mse" else 4, np.mean(losses[name]))
             for name in ("rd_loss", "mse", "bpp") if name in losses]
    if "mse" in losses:
        terms.append("psnr=%.4f" % np.mean(20 * np.log10(255) - 10 * np.log10(losses["mse"])))
    return " ".join(terms)


# Rows of y that g_s decodes at once.
STRIP = 16


class Decoder:
    """The model for images of height x width, one at a time, in double precision.

    is_encoder: raise NearEdge. For `descend`, a decoder of the bits-back model has the fields of a
    graph whose free latents are z_mean, z_logvar and whose loss is the rate `bpp`.
    """

    @do_not_convert
    def __init__(self, run, height, width, threads, is_encoder=False):
        self.edge, self.pixel_edge = (grid.EDGE, grid.PIXEL_EDGE) if is_encoder else (0, 0)
        self.run, is_base = run, run.model == "base"
        self.median = runs.medians(run).astype(np.float64) if is_base else None
        N, (_, y_shape, z_shape) = run.num_filters, fileformat.latent_shapes(height, width)
        self.x_shape = 1, height, width
        self.y_shape, self.z_shape = (1,) + y_shape + (N,), (1,) + z_shape + (N,)
        with tf.Graph().as_default() as graph, tf.device("/cpu:0"):
            self.y_hat = tf.placeholder(tf.float64, self.y_shape)
            self.points = tf.placeholder(tf.float64, [None, N])
            self.width = tf.placeholder(tf.float64, [])
            if is_base:
                self.z = tf.placeholder(tf.float64, self.z_shape)
                prior = factorized_prior(N, runs.PRIOR_SCOPE, tf.float64)
                self.mu, self.log_sigma = gaussian_parameters(
                    hyper_synthesis_transform(N), self.z, self.y_hat.shape)
            else:
                self.t, self.its, self.seed = (tf.placeholder(tf.int64, []) for _ in range(3))
                self.T, self.lr = (tf.placeholder(tf.float64, []) for _ in range(2))
                variables = [free_variable(v) for v in posterior(N, self.y_hat)]
                self.free = [v.read_value() for v in variables]
                self.rates, prior, self.z, self.mu, self.log_sigma = bits_back_rates(
                    self.y_hat, *self.free, noise_key(self.seed, self.t, 1),
                    (1, height, width, 3))
                self.losses = dict(bpp=self.rates["est_bpp"])
            self.log2_mass = log_likelihood(bin_mass(prior, self.points, self.width)) / np.log(2)
            self.strip = tf.placeholder(tf.float64, (1, None) + self.y_shape[2:])
            self.x_hat = 255 * synthesis_transform(N)(self.strip)
            self.sess = runs.restored_session(graph, run, runs.session_config(threads, gpu=False))
            if not is_base:
                self.step, self.restart = adam_ops(
                    self.rates["est_bpp"], variables, self.lr)
            graph.finalize()

    def snap(self, values, offset):
        """The nearest points of the grid."""
        return grid.GRID * (grid.nearest(values, grid.GRID, offset, self.edge) + offset / grid.OFFSETS)

    def prior(self, bounds, offset, width=1., origin=0.):
        """[K, N] probabilities of origin + k * width under p(z), k from bounds[0] to bounds[1]."""
        points = np.zeros(self.y_shape[-1]) + origin + width * np.arange(
            bounds[0], bounds[1] + 1)[:, None]
        log2_mass = self.sess.run(self.log2_mass, {self.points: points, self.width: width})
        return np.asfortranarray(grid.as_single(np.exp2(self.snap(log2_mass, offset))))

    def conditional(self, z_hat, offset, centred=False):
        """p(y|z_hat) as shift, mean, std: y_hat = shift + an integer, which is N(mean, std^2)."""
        mu, log_sigma = self.sess.run([self.mu, self.log_sigma], {self.z: z_hat})
        std = grid.as_std(self.snap(log_sigma, offset))
        if centred:  # mu reaches no coder
            return mu, np.zeros_like(mu), std
        return 0., np.clip(self.snap(mu, offset), *grid.MEAN_RANGE), std

    def fit(self, y_hat, fit):
        """z_mean, z_logvar of q(z|y_hat), and the rates now and then: [t, bits per pixel].

        From y_hat [1, h, w, N] alone, by descent on the net rate, from h_a(y_hat).
        """
        feed, record = {self.y_hat: y_hat, self.lr: fit.lr, self.seed: fit.seed}, []
        for t, _, losses in descend(self, feed, fit.its):
            if t % RECORD_EVERY == 0 or t == fit.its - 1:
                record.append((t, losses["bpp"][0]))
        return self.sess.run(self.free), record

    def sampled_rates(self, y_hat, z_mean, z_logvar, seed, draws):
        """Dict of [draws]: the rates for draws of z from q, the iterations `draws` of `seed`."""
        feed = {self.y_hat: y_hat, self.seed: seed, self.free[0]: z_mean, self.free[1]: z_logvar}
        rates = [self.sess.run(self.rates, {**feed, self.t: t}) for t in draws]
        return {name: np.array([rate[name][0] for rate in rates]) for name in self.rates}

    def range_coder(self, num_imgs):
        """tfc's coder of a batch of so many images."""
        return RangeCoder(self.run, (num_imgs,) + self.x_shape[1:])

    def picture(self, y_hat, offset):
        """uint8 [1, H, W, 3], in strips, which take less memory: pixels see two rows around."""
        strips, (_, height, width) = [], self.x_shape
        for top in range(0, y_hat.shape[1], STRIP):
            above = min(top, 2)
            strip = y_hat[:, top - above:top + STRIP + 2]
            strips.append(self.sess.run(self.x_hat, {self.strip: strip})[
                :, 16 * above:16 * (above + STRIP), :width])
        x_hat = np.concatenate(strips, axis=1)[:, :height]
        return np.clip(grid.nearest(x_hat, 1, offset, self.pixel_edge), 0, 255).astype(np.uint8)


class RangeCoder:
    """tfc's coder of a batch of images of (num_imgs, H, W): integers to strings and back."""

    @do_not_convert
    def __init__(self, run, shape):
        N, (_, y_shape, z_shape) = run.num_filters, fileformat.latent_shapes(*shape[1:3])
        self.median = runs.medians(run)
        with tf.Graph().as_default() as graph, tf.device("/cpu:0"):
            self.y, self.z_hat = (tf.placeholder(tf.float32, (shape[0],) + sides + (N,))
                                  for sides in (y_shape, z_shape))
            self.mu, log_sigma = gaussian_parameters(
                hyper_synthesis_transform(N), self.z_hat, self.y.shape)
            self.sigma = tf.exp(log_sigma)
            prior_z = tfc.EntropyBottleneck(name=runs.PRIOR_SCOPE)
            prior_y = tfc.GaussianConditional(self.sigma, SCALES, mean=self.mu,
                                              name="gaussian_conditional")
            self.strings = prior_y.compress(self.y + self.mu), prior_z.compress(self.z_hat)
            self.decoded = (prior_y.decompress(self.strings[0]),
                            prior_z.decompress(self.strings[1], shape=self.z_hat.shape[1:]))
            self.sess = runs.restored_session(graph, run, runs.session_config(1, gpu=False))
            graph.finalize()

    def mu_and_sigma(self, z_hat):
        """mu and sigma as arrays, always by this run of these ops: others may round otherwise."""
        return dict(zip([self.mu, self.sigma],
                        self.sess.run([self.mu, self.sigma], {self.z_hat: z_hat})))

    def encode(self, y, z):
        z_hat = np.float32(z + self.median)
        return self.sess.run(self.strings, {self.y: y, self.z_hat: z_hat,
                                            **self.mu_and_sigma(z_hat)})

    def decode(self, y_strings, z_strings):
        z_hat = self.sess.run(self.decoded[1], {self.strings[1]: z_strings})
        arrays = self.mu_and_sigma(z_hat)
        y_hat = self.sess.run(self.decoded[0], {self.strings[0]: y_strings, **arrays})
        return np.rint(y_hat - arrays[self.mu]), np.rint(z_hat - self.median)


class Method(typing.NamedTuple):
    """What a method's script defines; a model's family follows from its codecs."""
    # (graph, x, args) -> discrete latents of x, uint8 [B, H, W, 3], for the codec: y_hat and z_hat,
    # or of bits-back y_hat and a Fit; args has the method's options
    infer: typing.Callable
    codecs: tuple  # CENTRED, INTEGER or BITS_BACK: how the latents become a file, the default first
    # Of compress; those named lr and seed, if there are any, are Adam's rate (with lr_decay, see
    # `learning_rate`) and the seed of the noise, and of bits-back rate_samples the draws of z that
    # are averaged.
    options: list = []
    # (v, T, key, args) -> free latents v relaxed at temperature T, with noise, if any, of stateless
    # seed `key`, an int [2]; of bits-back for y alone. None: nothing is optimised
    relax: typing.Optional[typing.Callable] = None
    # (args) fills in all options that are None, as they depend on others
    resolve: typing.Callable = lambda args: None
    presets: dict = {}  # flag -> the options that it sets, a dict
    scale_bound: float = 0.  # from below, of sigma of p(y|z)

    @property
    def model(self):
        return self.codecs[0].model

    @property
    def has_descent(self):
        """Whether it has a learning rate, of the latents or of q(z|y_hat)."""
        return bool({"lr", "rate_lr"} & {option.name for option in self.options})


# sess      session with the model's weights
# x         uint8 [B, H, W, 3], placeholder; only needed by `restart` and losses
# T, t      temperature and iteration, which the relaxation sees; placeholders
# its       placeholder of the number of iterations, for a rate that falls
# free      latents to optimise, which start from the encoder's output: y, z of shape [B, h, w, N];
#           of the bits-back model y, z_mean, z_logvar
# relaxed   y_tilde, z_tilde (or z_mean, z_logvar); feed discrete latents here to score those
# losses    rd_loss, which is optimised, its terms mse and bpp, and what bpp consists of: est_y_bpp,
#           est_z_bpp, est_bpp_back, together est_bpp; a dict of [B]
# restart   op: the free latents become the encoder's output, Adam forgets its moments
# step      op: one step of Adam on the free latents; None without a relaxation
# centres   what the base model's latents are rounded around: mu of p(y|z_tilde), medians of p(z)
# record    list of (t, T, rd_loss, rd_loss after rounding), see `optimise`; None to keep none
Graph = collections.namedtuple(
    "Graph", "sess x T t its free relaxed losses restart step centres record")


@do_not_convert
def inference_graph(method, run, shape, args):
    """Graph of a method and a run for a batch of static shape [B, H, W, 3].

    args has the method's options, of which lr is Adam's rate, seed that of the noise; and lmbda,
    threads.
    """
    N, is_base = run.num_filters, run.model == "base"
    with tf.Graph().as_default() as graph:
        x, T, t, its = (tf.placeholder(*of) for of in (
            (tf.uint8, shape), (tf.float32, []), (tf.int64, []), (tf.int64, [])))
        x_float = tf.to_float(x) / 255
        y = analysis_transform(N)(x_float)
        start = [y, hyper_analysis_transform(N, N)(y)] if is_base else [y, *posterior(N, y)]
        variables = [free_variable(v) for v in start]
        free = [v.read_value() for v in variables]
        relax, seed = method.relax or (lambda v, *_: tf.identity(v)), getattr(args, "seed", 0)
        num_relaxed = 2 if is_base else 1
        relaxed = [relax(v, T, noise_key(seed, t, i), args) for i, v in
                   enumerate(free[:num_relaxed])] + free[num_relaxed:]
        if is_base:
            rates, mu = base_rates(*relaxed, shape, method.scale_bound)
        else:
            rates, mu = bits_back_rates(*relaxed, noise_key(seed, t, 1), shape)[0], None
        x_tilde = synthesis_transform(N)(relaxed[0])[:, :shape[1], :shape[2]]
        losses = dict(rd_losses(args.lmbda, x_float, x_tilde, rates["est_bpp"]), **rates)
        sess = runs.restored_session(graph, run, runs.session_config(args.threads))
        rate = getattr(args, "lr", None) and learning_rate(
            t, its, args.lr, warmup=0, decay=getattr(args, "lr_decay", 0))
        step, restart = adam_ops(losses["rd_loss"], variables, rate if method.relax else None)
        graph.finalize()
    return Graph(sess=sess, x=x, T=T, t=t, its=its, free=free, relaxed=relaxed, losses=losses,
                 restart=restart, step=step, centres=(mu, runs.medians(run)) if is_base else None,
                 record=None)


def usable_run(args, method):
    """The run that the arguments name; UserError if there is none or not for the method."""
    run = runs.find_run(args.checkpoint_dir, args.run_name)
    if run.model != method.model:
        raise basics.UserError("%s is a %s model, which %s.py can't use; scripts for it: %s" % (
            run.checkpoint, run.model, args.script, "mbt2018.py, sga.py and others without bb_"
            if run.model == "base" else "mbt2018_bb.py to train, bb_sga.py and others with bb_"))
    if args.num_filters not in (None, run.num_filters):
        raise basics.UserError("--num_filters %d: the model %s has %d"
                         % (args.num_filters, run.checkpoint, run.num_filters))
    return run


def encode(graph, x):
    """The free latents as the encoder has them."""
    graph.sess.run(graph.restart, {graph.x: x})
    return graph.sess.run(graph.free)


def discrete_losses(graph, x, *latents):
    """graph.losses of discrete latents."""
    return graph.sess.run(graph.losses, {graph.x: x, graph.t: 0,
                                         **dict(zip(graph.relaxed, latents))})


def optimise(graph, x, its, rounding, temperature=None, stop=None, check_every=100):
    """The free latents after `its` iterations, or where their cost after rounding tells to stop.

    rounding(graph, *free latents) gives discrete ones; temperature(t) is T. stop(cost, previous
    cost) is asked every check_every iterations, and after the last: if it holds, the latents are
    those of the previous time. graph.record gets an entry every RECORD_EVERY iterations: t, T, the
    loss before update t, and that after it and after rounding.
    """
    if graph.step is None:
        raise basics.UserError("nothing to optimise: the method has no relax, or no option lr")
    previous, kept, verbose = np.inf, None, tf.logging.get_verbosity() <= tf.logging.INFO
    for t, T, losses in descend(graph, {graph.x: x}, its, temperature, check_every):
        checking, recording = (t % n == 0 or t == its - 1 for n in (check_every, RECORD_EVERY))
        recording = recording and graph.record is not None
        if not (recording or checking and (stop or verbose)):
            continue
        free = graph.sess.run(graph.free)
        rounded = discrete_losses(graph, x, *rounding(graph, *free))
        if recording:
            graph.record.append((t, T, losses["rd_loss"], rounded["rd_loss"]))
        if checking and verbose:
            basics.print_line("after rounding: " + shown(rounded))
        if checking and stop:
            cost = np.mean(rounded["rd_loss"])
            if stop(cost, previous):
                return kept
            previous, kept = cost, free
    return kept if stop else graph.sess.run(graph.free)


def atanh_logits(distance):
    """Logits of rounding to an integer at a distance in [0, 1] (section 3.2)."""
    return -tf.atanh(tf.minimum(distance, 1 - 1e-5))


def sigmoid_logits(a):
    """Like atanh_logits, log sigmoid(-a logit(distance)); of a = 1 log(1 - distance)."""
    def logits(distance):
        distance = tf.clip_by_value(distance, 1e-5, 1 - 1e-5)
        return tf.log_sigmoid(a * (tf.log(1 - distance) - tf.log(distance)))
    return logits


def two_way(v, T, weigh=tf.nn.softmax, logits=atanh_logits):
    """Average of floor(v) and ceil(v) with weights weigh(logits(distances) / T), both [..., 2].

    As T -> 0, softmax rounds v.
    """
    neighbours = tf.stack([tf.floor(v), tf.ceil(v)], -1)
    distances = tf.abs(tf.expand_dims(v, -1) - neighbours)
    return tf.reduce_sum(weigh(logits(distances) / T) * neighbours, -1)


def integers(graph, y, z):
    """y_hat = round(y), z_hat = round(z); + 0 makes 0.0 of -0.0, which a file can't tell apart."""
    return np.round(y) + 0, np.round(z) + 0


def integer_y(graph, y, z_mean, z_logvar):
    """y_hat = round(y), as in `integers`; z stays continuous."""
    return np.round(y) + 0, z_mean, z_logvar


def centred(graph, y, z):
    """z_hat = z rounded around its median, then y_hat = y rounded around mu(z_hat)."""
    mu, median = graph.centres
    z_hat = round_around(median, z)
    return round_around(graph.sess.run(mu, {graph.relaxed[1]: z_hat}), y), z_hat


def round_around(centre, v):
    return np.round(v - centre) + centre


class Compressor:
    """A method on a run: compresses images of any shape, and says what that costs.

    args has the method's options, and lmbda, threads, script and save_opt_record.
    """

    def __init__(self, method, run, args, codec=None):
        self.method, self.run, self.args = method, run, args
        self.codec, self.graph = codec or method.codecs[0], None

    def graph_for(self, shape):
        """The graph for a batch of a shape; the last one is kept, and its meter of quality."""
        if not self.graph or tuple(self.graph.x.shape.as_list()) != shape:
            self.graph = None  # frees it before the next takes memory
            self.graph = inference_graph(self.method, self.run, shape, self.args)
            self.quality = quality_meter(shape, self.args.threads)
        return self.graph

    def compress(self, images, initial_bits=b""):
        """The file of uint8 [num_imgs, H, W, 3], the results, an optimisation record per batch."""
        args, shape = self.args, images.shape[:3]
        batches = fileformat.split_batches(images, shape)
        records = [[] for _ in batches] if args.save_opt_record else []
        latents = [self.method.infer(self.graph_for(x.shape)._replace(record=record), x, args)
                   for x, record in itertools.zip_longest(batches, records)]
        latents = [np.concatenate(v) if isinstance(v[0], np.ndarray) else v[0]
                   for v in zip(*latents)]
        decoder = Decoder(self.run, *shape[1:], args.threads, is_encoder=True)
        content, coded, values = self.codec.encode(decoder, shape, latents, args.script,
                                                   initial_bits)
        coded_batches = fileformat.split_batches(coded, shape)
        metrics = [self.evaluate(decoder, *pair) for pair in zip(batches, coded_batches)]
        records = [self.record_arrays(*of) for of in zip(records, batches, coded_batches)]
        for record, fits in zip(records, fileformat.split_batches(values.pop("rate_records", ()), shape)):
            if fits[0]:  # not of a fit of no iterations
                t, bpp = np.transpose(fits)
                record.update(rate_its=t[:, 0], rate=bpp)
        result = {name: np.concatenate([m[name] for m in metrics]) for name in metrics[0]}
        result.update(values, rd_cost=args.lmbda * result["mse"] + result["est_bpp"],
                      actual_bpp=np.full(shape[0], 8 * len(content) / np.prod(shape)),
                      grid_offset=np.array([image.offset for image in coded]))
        return content, result, records

    def evaluate(self, decoder, x, images):
        """Reported metrics of a list of Coded, the batch x: a dict of [B].

        Rates of bits-back are means over args.rate_samples draws of z from q, est_bpp_stderr the
        standard error of est_bpp.
        """
        graph = self.graph_for(x.shape)
        values = self.quality(x, np.concatenate([image.x_hat for image in images]))
        if self.run.model == "base":
            y_hat, z_hat = map(np.concatenate, zip(*(image.latents for image in images)))
            rates = {name: graph.losses[name] for name in ("est_bpp", "est_y_bpp", "est_z_bpp")}
            return dict(values, **graph.sess.run(rates, {graph.relaxed[0]: y_hat,
                                                         graph.relaxed[1]: z_hat}))
        samples = self.args.rate_samples
        # Draws that neither phase was optimised for.
        first = max(getattr(self.args, name, 0) for name in ("sga_its", "rate_its"))
        draws = [decoder.sampled_rates(*image.latents, self.args.seed,
                                       range(first, first + samples)) for image in images]
        values.update((name, np.array([rates[name].mean() for rates in draws]))
                      for name in draws[0])
        return dict(values, est_bpp_stderr=np.array(
            [rates["est_bpp"].std(ddof=1) / np.sqrt(samples) for rates in draws]))

    def record_arrays(self, record, x, images):
        """Entries of `optimise` as arrays, and at the end the cost of the reported latents.

        its, T [K], the latter where there is one; rd_loss, rd_loss_after_rounding [K, B]; empty if
        nothing was optimised.
        """
        if not record:
            return {}
        latents = map(np.concatenate, zip(*(image.latents for image in images)))
        reported = discrete_losses(self.graph_for(x.shape), x, *latents)["rd_loss"]
        t, T, _, last = record[-1]
        if not np.allclose(last, reported, rtol=1e-6, atol=0):
            record = record + [(t, T, reported, reported)]
        names = ("its", "T", "rd_loss", "rd_loss_after_rounding")
        arrays = dict(zip(names, map(np.array, zip(*record))))
        return {name: values for name, values in arrays.items() if np.isfinite(values).all()}


def require_compressible(path, N, method, jobs=1):
    """UserError unless so many processes can compress an image or .npy that was found."""
    shape = image_files.read_images(path).shape[:3]
    with basics.errors_of(path):
        batch = len(fileformat.split_batches(range(fileformat.check_shape(shape)[0]), shape)[0])
        machine.require_memory(N, shape, batch, method.has_descent, jobs)


def likelihood_in_training(prior, latents):
    """log probability of the unit-width bin around each latent under a tfc entropy model.

    Calling the model, which must have been done before as it makes the variables, would first round
    the latents or add other noise to them.
    """
    return log_likelihood(prior._likelihood(latents))


class GaussianConditional(tfc.GaussianConditional):
    """tfc's p(y|z), whose variables may be on another device than its other ops."""

    def _pmf_to_cdf(self, pmf, tail_mass, *args):
        # Copied to the variable's device, where tfc puts a loop over slices of the two.
        return super()._pmf_to_cdf(tf.identity(pmf), tf.identity(tail_mass), *args)


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
    reconstruction, and a function that gives ops to run after each of Adam's steps. Its noise is
    keyed by t, so that training that was interrupted ends as it would have without. Checkpoints
    are evaluated by `method`. With TF_CONFIG in the environment, this process is one task of the
    cluster there.
    """
    if args.patchsize % 64:
        raise basics.UserError("--patchsize %d: must be a multiple of 64" % args.patchsize)
    args.num_filters = N = args.num_filters or 192
    args.run_name = "%s-num_filters=%d-lmbda=%s" % (args.script, N, args.lmbda)
    folder = os.path.join(args.checkpoint_dir, args.run_name)
    cluster = clusters.join_cluster(runs.session_config(args.threads))
    worked = cluster.job == "ps" or train_replica(args, N, folder, objective, method, cluster)
    if cluster.server and (worked or cluster.job == "chief"):
        clusters.finish(cluster)


def train_replica(args, N, folder, objective, method, cluster):
    """Train as the chief or a worker of the cluster, or alone; whether there was a step to do."""
    run = usable_run(args, method) if runs.newest_checkpoint(folder) else None
    if run and run.step >= args.last_step:
        print("%s is at step %d already" % (folder, run.step))
        return False
    if run and not run.resumable:
        raise basics.UserError("%s is stored without optimiser slots and can't be trained on"
                         % run.checkpoint)
    held_out = training.matching(args.eval_glob)
    if args.eval_glob and not held_out:
        raise basics.UserError("--eval_glob %s: no file matches" % args.eval_glob)
    paths, in_memory = training.training_files(args.train_glob, args.patchsize, held_out)
    is_chief, source = cluster.replica == 0, None
    if is_chief:
        for path in held_out:
            with basics.errors_of("--eval_glob %s" % args.eval_glob):
                require_compressible(path, N, method)
        if run:
            training.require_same_training(args, folder)
        elif args.init_from:
            source = runs.find_run("" if os.path.isdir(args.init_from) else args.checkpoint_dir,
                              args.init_from)
    with tf.Graph().as_default(), tf.device(cluster.device):
        tf.set_random_seed(args.seed)
        x = tf.data.make_one_shot_iterator(training.training_patches(
            paths, args.batchsize, args.patchsize, args.seed, run.step if run else 0,
            cluster.replica, cluster.num_replicas, in_memory, args.preprocess_threads)).get_next()
        t = tf.train.get_or_create_global_step() * cluster.num_replicas + cluster.replica
        scalars, x_tilde, updates = objective(x, t, N, args.lmbda, args.seed)
        # After the variables, whose random initial values depend on the number of ops before them.
        scalars["lr"] = learning_rate(tf.train.get_global_step(), args.last_step, args.lr,
                                      args.lr_warmup, args.lr_decay)
        train_op, hooks = training.minimise(training.Adam(scalars["lr"], updates), scalars["loss"], cluster)
        # Paths relative to the folder, so that a run can be moved and go on.
        saver = tf.train.Saver(sharded=True, save_relative_paths=True)
        if is_chief:
            listeners = [Validation(args, folder, method, held_out)] if held_out else []
            hooks.append(tf.train.CheckpointSaverHook(
                folder, save_secs=args.save_checkpoint_secs, saver=saver, listeners=listeners))
            hooks += training.summary_hooks(args, folder, scalars, x, x_tilde)
        scaffold = tf.train.Scaffold(saver=saver, init_fn=source and training.initialiser(source))
        if is_chief:
            training.prepare_folder(args, folder, run)
        training.training_loop(train_op, scalars, args.last_step, folder, cluster, scaffold, hooks)
    return True


class Validation(tf.train.CheckpointSaverListener):
    """Evaluates every checkpoint in a folder on images at `paths`, as compress by `method` would.

    The means are a line on stdout, a row of validation.csv there and, with args.logdir, summaries.
    """

    def __init__(self, args, folder, method, paths):
        self.folder, self.method, self.paths, self.logdir = folder, method, paths, args.logdir
        self.args = argparse.Namespace(
            lmbda=args.lmbda, threads=args.threads, script=args.script, save_opt_record=False,
            **{option.name: option.default for option in method.options})
        method.resolve(self.args)

    def after_save(self, session, global_step_value):
        step, run = int(global_step_value), runs.find_run(*os.path.split(self.folder))
        compressor = Compressor(self.method, run, self.args)
        results = [compressor.compress(image_files.read_images(path))[1] for path in self.paths]
        means = {name: float(np.mean(np.concatenate([result[name] for result in results])))
                 for name in ("rd_cost", "est_bpp", "mse", "psnr")}
        basics.print_line("step=%d validation rd_cost=%.4f bpp=%.4f mse=%.3f psnr=%.3f"
                   % ((step,) + tuple(means.values())))
        path, rows = os.path.join(self.folder, "validation.csv"), []
        if os.path.exists(path):  # without rows that an interrupted run is ahead
            rows = [row for row in basics.read_bytes(path).decode().split()[1:]
                    if int(row.split(",")[0]) < step]
        rows.append(",".join(["%d" % step] + ["%.6f" % value for value in means.values()]))
        basics.write_bytes(path, "\n".join([",".join(["step", *means])] + rows + [""]).encode())
        if self.logdir:
            writer = tf.summary.FileWriterCache.get(training.summary_folder(self.logdir, self.folder))
            writer.add_summary(tf.Summary(value=[
                tf.Summary.Value(tag="validation/" + name, simple_value=value)
                for name, value in means.items()]), step)


def compress(method, args):
    """Compress and evaluate every image of args.imgs; print averages and save the results.

    Of a folder or glob, each image's results are kept as a part as soon as they are there. With
    args.shard, only some images are processed; whoever finds the parts of all joins them. With
    args.jobs, as many processes do a shard each. Returns the results, None if some are missing.
    """
    run = usable_run(args, method)
    args.lmbda = runs.run_lmbda(args.run_name) if args.lmbda is None else args.lmbda
    found = source, paths, many = image_files.find_images(args.imgs)
    command_line.check_flags(args, paths, many)
    jobs = min(args.jobs, len(paths))
    args.threads = args.threads and max(1, args.threads // jobs)
    codec, output = coding.codec_for(method, args.output_file or ""), args.output_file
    if args.write and not output:
        output = (os.path.dirname(os.path.abspath(paths[0])) if many else args.imgs) + codec.suffix
    settings = store.settings_of(command_line.options_of(method, args), args.lmbda, args.script, run, args.threads,
                           codec, store.read_initial_bits(args))
    base = store.result_path(args.results_dir, args.script, run, source, args.lmbda, args.changed)
    files, target = store.planned_files(found, settings, base, output, codec.suffix,
                                  args.save_opt_record)
    mine = files[args.shard[0] - 1::args.shard[1]] if args.shard else files
    for file in mine:
        require_compressible(file.path, run.num_filters, method, jobs)
        require_targets(file, target, many, store.read_initial_bits(args))

    if jobs > 1 and not all(store.reusable_part(file, settings) for file in files):
        workers.run_shards(args, jobs)
        return store.read_results(target)  # which the last of them has written and reported
    compressor, results = Compressor(method, run, args, codec), {}
    for k, file in enumerate(mine):
        results[file] = store.reusable_part(file, settings)
        if many:
            print("%s (%d of %d)%s" % (file.path, k + 1, len(mine), results[file] and
                                       ": from " + file.part or ""), flush=True)
        if not results[file]:
            results[file] = dict(compress_file(compressor, file), image=file.image,
                                 num_threads=machine.num_threads(args.threads), **settings)
            if file.part:
                store.write_results(file.part, results[file])
    if mine[0].output:
        print("compressed: %s" % (os.path.dirname(mine[0].output) if many else mine[0].output))
    everyone = [results.get(file) or store.reusable_part(file, settings) for file in files]
    if all(everyone):
        return store.report(everyone, target)
    missing = [os.path.basename(file.path) for file, one in zip(files, everyone) if not one]
    print("%d of %d images are done so far; not yet: %s%s" % (
        len(files) - len(missing), len(files), ", ".join(missing[:5]), ", …" * (len(missing) > 5)))
    return None


def require_targets(file, target, many, initial_bits):
    """Raise an error if the results or the compressed file of an InputFile can't be written."""
    for path in filter(None, (target, file.part, file.record)):
        basics.require_writable(path, missing=1)
    if file.output:
        basics.require_writable(file.output, missing=int(many))
        fileformat.require_replaceable(file.output, initial_bits)


def compress_file(compressor, file):
    """Results of an InputFile, arrays over its images; writes its compressed file and record.

    Of a .npy of several batches a record for each, as they may stop at different iterations.
    """
    images = image_files.read_images(file.path)
    content, result, records = compressor.compress(images, store.read_initial_bits(compressor.args))
    for k, record in enumerate(records):
        batch = "-batch=%d" % k if len(records) > 1 else ""
        store.write_results(file.record[:-len(".npz")] + batch + ".npz", record)
    if min(images.shape[1:3]) < MSSSIM_MIN_SIDE:
        basics.note("MS-SSIM is nan of images with a side under %d pixels" % MSSSIM_MIN_SIDE)
    result["files"] = np.repeat(os.path.basename(file.path), len(images))
    if file.output:
        if os.path.exists(file.output) and basics.read_bytes(file.output) not in (b"", content):
            basics.note("%s: was another compressed file, and is replaced" % file.output)
        basics.write_bytes(file.output, content)
        result["file_checksum"] = basics.digest(content).hex()
    return result


def decompress(method, args):
    """Decode args.input_file to args.output_file; UserError if it is not what it should be."""
    run, initial_bits = usable_run(args, method), getattr(args, "initial_bits", "")
    with basics.errors_of(args.input_file):
        if os.path.isdir(args.input_file):
            raise basics.UserError("is a folder; decompress takes one compressed file")
        header, codec, file = coding.parse_file(basics.read_bytes(args.input_file), run)
        if not header:
            basics.note("%s has no checksum (the original's format): a wrong run or damage goes unnoticed"
                 % args.input_file)
        if initial_bits and not file.initial[0]:
            raise basics.UserError("written without --initial_bits")
        output = args.output_file or args.input_file + (".png", ".npy")[file.shape[0] > 1]
        endings = (".png", ".npy")[file.shape[0] > 1:]
        if not output.endswith(endings):
            raise basics.UserError("%d image(s) can't be decoded to %s, only to %s"
                             % (file.shape[0], output, " or ".join(endings)))
        paths = [path for path in (args.input_file, output, initial_bits) if path]
        if len(set(map(os.path.realpath, paths))) < len(paths):
            raise basics.UserError("input, output and --initial_bits are to be different files")
        for path in paths[1:]:
            basics.require_writable(path)
        machine.require_memory(run.num_filters, file.shape, 1)
        images, bits = codec.decode(Decoder(run, *file.shape[1:], args.threads), file,
                                    bool(initial_bits))
        bits = bits[:file.initial[0]]
        if header and fileformat.digest_symbols(images) != header.symbols:
            raise basics.UserError("decodes to other latents than were encoded")
        if initial_bits and basics.digest(bits) != file.initial[1]:
            raise basics.UserError("decodes to other initial bits than were encoded")
    x_hat = np.concatenate([image.x_hat for image in images])
    if not args.force:
        basics.require_unchanged(output, lambda: np.array_equal(image_files.read_images(output), x_hat))
        basics.require_unchanged(initial_bits, lambda: basics.read_bytes(initial_bits) == bits)
    if initial_bits:
        basics.write_bytes(initial_bits, bits)
    image_files.write_images(output, x_hat)
    print("decoded: %s" % output)


def make_parser(script, doc, method=None, train=None):
    """Command line of a script; the arguments are those of `main`."""
    parser = command_line.Parser(prog=script + ".py", description=doc,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    command_line.add_global_options(parser)
    parser.set_defaults(checkpoint_dir="./checkpoints", script=script)
    commands = {}
    if train:
        commands["train"] = "train or continue a run", command_line.add_train_options, train
    if method:
        commands["compress"] = ("compress images and evaluate the result", functools.partial(
            command_line.add_compress_options, method=method), functools.partial(compress, method))
        commands["decompress"] = ("decode a compressed file", command_line.add_decompress_options,
                                  functools.partial(decompress, method))
    subparsers = parser.add_subparsers(dest="command", metavar="{%s}" % ",".join(commands))
    subparsers.required = True
    for name, (text, add_options, function) in commands.items():
        subparser = subparsers.add_parser(
            name, help=text, epilog=clusters.CLUSTER_HELP if name == "train" else None,
            formatter_class=argparse.RawDescriptionHelpFormatter)
        command_line.add_global_options(subparser, default=argparse.SUPPRESS)
        add_options(subparser)
        if method and method.model == "bits-back":
            subparser.add_argument("--initial_bits", metavar="FILE", default="",
                                   help="payload in the place of random initial bits; "
                                   "decompress writes it there")
        subparser.set_defaults(function=function)
    return parser


def main(argv, file, doc, method=None, train=None):
    """Run the script `file`, which can train(args) a model, or has a Method to compress with.

    Returns what the subcommand does; compress, the dict of arrays that it saves.
    """
    script = os.path.splitext(os.path.basename(file))[0]
    parser = make_parser(script, doc, method, train)
    args = command_line.parse_arguments(parser, method, argv)
    if args.command == "compress":
        args.command_line = [os.path.abspath(file)] + (sys.argv[1:] if argv is None else argv)
    return command_line.run_or_exit(parser, args.__dict__.pop("function"), args)
