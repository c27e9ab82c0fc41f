"""tensorflow-compression's layers: the same, faster on CPUs.

Variables, their names, and results are those of tfc's layers. In FastSignalConv2D, transposed
convolutions are computed as plain ones and gradients of kernels as products of matrices, as
TensorFlow computes these faster. GDN is computed as a product of matrices, too. tests/benchmark.py
measures what that is worth.
"""

import numpy as np
import tensorflow.compat.v1 as tf
import tensorflow_compression as tfc


class Transform(tf.keras.layers.Layer):
    """A chain of layers.

    Its name is the scope of their variables in a checkpoint.
    """

    def __init__(self, name, chain):
        super().__init__(name=name)
        self.chain = chain

    def call(self, tensor):
        for layer in self.chain:
            tensor = layer(tensor)
        return tensor


def conv(i, filters, support, layer=tfc.SignalConv2D, use_bias=True, **kwargs):
    """Layer i of a transform: a convolution with zero padding.

    filters: number of output channels. support: height and width of the kernel. kwargs: those of
    the layer.
    """
    return layer(filters, support, name="layer_%d" % i, padding="same_zeros", use_bias=use_bias,
                 **kwargs)


def gdn(name, **kwargs):
    """tfc.GDN as a function of [B, H, W, N] that takes it as a matrix.

    The gradients of a product of matrices are faster than those of a convolution of one tap.
    """
    layer = tfc.GDN(name=name, **kwargs)

    def activation(x):
        output = tf.reshape(layer(tf.reshape(x, [-1, x.shape[3]])), tf.shape(x))
        output.set_shape(x.shape)
        return output
    return activation


def fast_conv(*args, **kwargs):
    """`conv` by FastSignalConv2D, for layers that change the resolution of many channels."""
    return conv(*args, layer=FastSignalConv2D, **kwargs)


class FastSignalConv2D(tfc.SignalConv2D):
    """SignalConv2D of support 5 with strides_up or strides_down 2: the same, faster on CPUs.

    Its input must have a static shape, but for height and width if it is only upsampled.
    """

    def call(self, tensor):
        resample = upsample if self.strides_up == (2, 2) else downsample
        output = tf.nn.bias_add(resample(tensor, self.kernel), self.bias)
        return self.activation(output) if self.activation else output


@tf.custom_gradient
def upsample(x, kernel):
    """Zeros between the elements, convolution: [B, h, w, C] * [5, 5, C, F] -> [B, 2h, 2w, F]."""
    adjoint = tf.transpose(kernel, [0, 1, 3, 2])

    def gradient(g):
        return (strided_convolution(g, adjoint),
                tf.transpose(strided_convolution_kernel_gradient(g, x), [0, 1, 3, 2]))
    return transposed_convolution(x, kernel), gradient


@tf.custom_gradient
def downsample(x, kernel):
    """Correlation, every second element: [B, H, W, C] * [5, 5, C, F] -> [B, h, w, F]."""
    _, height, width, _ = x.shape
    adjoint = tf.transpose(kernel, [0, 1, 3, 2])

    def gradient(g):
        return (transposed_convolution(g, adjoint)[:, :height, :width],
                strided_convolution_kernel_gradient(x, g))
    return strided_convolution(x, kernel), gradient


def strided_convolution(x, kernel):
    """Correlation, every second element: as `downsample`, without its gradient."""
    return tf.nn.conv2d(x, kernel, 2, [[0, 0], [2, 2], [2, 2], [0, 0]])


def transposed_convolution(x, kernel):
    """tf.nn.conv2d_transpose with stride 2, as four convolutions without stride.

    [B, h, w, C] * [5, 5, C, F] -> [B, 2h, 2w, F]. Of a 5x5 kernel over a tensor with zeros in
    between, an even row of the output only sees the rows 0, 2, 4 and an odd one the rows 1, 3, and
    columns likewise. So each of the four interleaved parts of the output is a convolution of x
    itself, of 3x3, 3x2, 2x3 or 2x2 taps: as many products, but TensorFlow computes plain
    convolutions at twice the rate of conv2d_transpose.
    """
    batch, _, width, channels = x.shape
    taps = tf.reshape(kernel, [25, channels, -1])
    if width.value is None:
        width = tf.shape(x)[2]
    parts = [([4, 2, 0], [1, 1]), ([3, 1], [0, 1])]  # rows (or columns) of the kernel, padding
    rows = []
    for i, pad_i in parts:
        row = []
        for j, pad_j in parts:
            part = tf.gather(taps, np.add.outer(np.multiply(5, i), j))
            row.append(tf.nn.conv2d(x, part, 1, [[0, 0], pad_i, pad_j, [0, 0]]))
        rows.append(tf.concat(row, 3))
    return tf.reshape(tf.concat(rows, 2), [batch, -1, 2 * width, kernel.shape[3]])


def strided_convolution_kernel_gradient(x, g):
    """tf.nn.conv2d_backprop_filter with stride 2, as one product of matrices.

    [B, H, W, C], [B, h, w, F] -> [5, 5, C, F]: of x's four interleaved parts (space_to_depth) with
    g moved by -1, 0, 1 in both directions.
    """
    _, height, width, F = g.shape
    _, x_height, x_width, C = x.shape
    even = tf.pad(x, [[0, 0], [0, 2 * height - x_height], [0, 2 * width - x_width], [0, 0]])
    padded = tf.pad(g, [[0, 0], [1, 1], [1, 1], [0, 0]])
    moved = tf.concat([padded[:, i:i + height, j:j + width] for i in (2, 1, 0) for j in (2, 1, 0)],
                      3)
    products = tf.matmul(tf.reshape(tf.space_to_depth(even, 2), [-1, 4 * C]),
                         tf.reshape(moved, [-1, 9 * F]), transpose_a=True)
    taps = tf.transpose(tf.reshape(products, [2, 2, C, 3, 3, F]), [3, 0, 4, 1, 2, 5])
    return tf.reshape(taps, [6, 6, C, F])[:5, :5]


class GaussianConditional(tfc.GaussianConditional):
    """tfc's p(y|z), whose variables may be on another device than its other ops."""

    def _pmf_to_cdf(self, pmf, tail_mass, *args):
        # Copied to the variable's device, where tfc puts a loop over slices of the two.
        return super()._pmf_to_cdf(tf.identity(pmf), tf.identity(tail_mass), *args)
