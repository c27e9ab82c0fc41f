"""Base model, the mean-scale hyperprior of Minnen et al. 2018: row M3 of Table 1.

    python mbt2018.py --num_filters 192 train --train_glob '<glob>' --lambda 0.01
    python mbt2018.py compress <run_name> <imgs> [<output_file>]
    python mbt2018.py decompress <run_name> <file> [<output_file>]
"""

import functools

import tf_boilerplate as nic  # before TensorFlow, whose import it keeps quiet
import numpy as np
import tensorflow.compat.v1 as tf
import tensorflow_compression as tfc


def objective(x, t, N, lmbda, seed):
    """Scalars to report, reconstruction and further updates for batch t, x [B, H, W, 3] in [0, 1].

    The loss is lmbda * 255^2 * MSE + bpp, with uniform noise in place of rounding.
    """
    y = nic.analysis_transform(N)(x)
    z = nic.hyper_analysis_transform(N, N)(y)
    prior_z = tfc.EntropyBottleneck(name="entropy_bottleneck")
    prior_z(z, training=True)  # this makes its variables, as below
    z_tilde = z + nic.uniform_noise(z.shape, nic.noise_key(seed, t, 1))
    mu, log_sigma = nic.gaussian_parameters(nic.hyper_synthesis_transform(N), z_tilde, y.shape)
    prior_y = nic.GaussianConditional(tf.exp(log_sigma), nic.SCALES, mean=mu,
                                      name="gaussian_conditional")
    prior_y(y, training=True)
    y_tilde = y + nic.uniform_noise(y.shape, nic.noise_key(seed, t, 0))
    x_tilde = nic.synthesis_transform(N)(y_tilde)

    y_bpp, z_bpp = (nic.bits_per_pixel(nic.likelihood_in_training(*pair), x.shape)
                    for pair in ((prior_y, y_tilde), (prior_z, z_tilde)))
    scalars = nic.training_scalars(lmbda, x, x_tilde, y_bpp + z_bpp, y_bpp=y_bpp, z_bpp=z_bpp)

    def update_prior():  # the medians, by a loss of their own, and the tables of tfc's coder
        return [tf.train.AdamOptimizer(1e-3).minimize(prior_z.losses[0]), prior_z.updates[0]]
    return scalars, x_tilde, update_prior


def infer(graph, x, options):
    """The encoder's latents, rounded."""
    return nic.centred(graph, nic.encoder_output(graph, x))


def encode_with_batch_rates(codec, decoder, latents, script, initial_bits=b""):
    """As codec.encode, but it reports the bits of each batch's file, as the original does.

    They are per pixel of one image of the batch. initial_bits are of bits-back alone.
    """
    encoded = codec.encode(decoder, latents, script)
    _, height, width = decoder.x_shape
    y, z = (nic.split_batches(v, (len(v), height, width)) for v in latents)
    files = [encoded.content]
    if len(y) > 1:
        files = [codec.encode(decoder, nic.Latents(*batch), script).content
                 for batch in zip(y, z)]
    bits = 8 * np.array([len(file) for file in files])
    return encoded._replace(reported=dict(batch_actual_bpp=bits / (height * width),
                                          batch_sizes=[len(batch) for batch in y]))


CODECS = tuple(codec._replace(encode=functools.partial(encode_with_batch_rates, codec))
               for codec in nic.CENTRED)
METHOD = nic.Method(infer, CODECS, is_iterative=False,
                    scale_bound=nic.SCALES[0],  # as in training
                    result_name="rd-%(run_name)s-file=%(source)s")


def main(argv=None):
    train = functools.partial(nic.train, objective=objective, method=METHOD)
    return nic.main(argv, __file__, __doc__, METHOD, train)


if __name__ == "__main__":
    main()
