"""Base model modified for lossy bits-back coding: the model of rows M2, A5 and A6 of Table 1.

    python mbt2018_bb.py --num_filters 192 train --train_glob '<glob>' --lambda 0.01
"""

import functools

import tf_boilerplate as nic  # before TensorFlow, whose import it keeps quiet
import tensorflow.compat.v1 as tf
import tensorflow_compression as tfc

import bb_plain


OPTIONS = [nic.Option("--posterior_of", nic.one_of(("y", "y_hat")), "y",
                      "what h_a finds q(z|y) from in training: y, as in the original, or y_hat, as "
                      "when files are written")]


def objective(x, t, N, lmbda, seed, posterior_of="y"):
    """Scalars to report, reconstruction and further updates for batch t, x [B, H, W, 3] in [0, 1].

    The loss is lmbda * 255^2 * MSE + bpp, where bpp is net of the bits that z gives back; z is
    sampled from q(z|y), and uniform noise replaces the rounding of y. With posterior_of "y_hat"
    q is q(z|y_hat), and no gradient of it reaches y: y_hat = round(y) has none.
    """
    y = nic.analysis_transform(N)(x)
    seen = y if posterior_of == "y" else tf.round(y)
    z_mean, z_logvar = nic.posterior(N, seen)
    z_tilde, log_q = nic.sample(z_mean, z_logvar, tf.random.stateless_normal(
        z_mean.shape, nic.noise_key(seed, t, 1)))
    _, p_z = nic.factorized_prior(N)(z_tilde)
    mu, log_sigma = nic.gaussian_parameters(nic.hyper_synthesis_transform(N), z_tilde, y.shape)
    # As in the original, sigma is bounded in training: rates of images have it as it is.
    prior_y = nic.GaussianConditional(tfc.upper_bound(tf.exp(log_sigma), 10 ** .5), nic.SCALES,
                                      mean=mu, name="gaussian_conditional")
    prior_y(y, training=True)
    y_tilde = y + nic.uniform_noise(y.shape, nic.noise_key(seed, t, 0))
    x_tilde = nic.synthesis_transform(N)(y_tilde)

    y_bpp, z_bpp, bpp_back = (
        nic.bits_per_pixel(log_p, x.shape) for log_p in (
            nic.likelihood_in_training(prior_y, y_tilde), tf.log(p_z), log_q))
    scalars = nic.training_scalars(lmbda, x, x_tilde, y_bpp + z_bpp - bpp_back,
                                   y_bpp=y_bpp, z_bpp=z_bpp, bpp_back=bpp_back)
    return scalars, x_tilde, lambda: []


def train(args):
    objective_of_args = functools.partial(objective, posterior_of=args.posterior_of)
    nic.train(args, objective_of_args, bb_plain.METHOD)  # which evaluates checkpoints


def main(argv=None):
    return nic.main(argv, __file__, __doc__, train=train, train_options=OPTIONS)


if __name__ == "__main__":
    main()
