"""A second decoder of .iinc files, from the format's description alone: numpy and constriction.

Nothing of the scripts is used. An .iinc has, little-endian,

    8 bytes     BLAKE2b of all that follows, 8 bytes long
    4s B B      "iinc", version 2, kind of latents (index in KINDS)
    8s 8s       checksums of the model and of all y and z
    B ...       length of the names of script and run, and these, with a space between
    I H H       number of images n, their height and width
    4h          lowest and highest y, lowest and highest z
    n bytes     of each image, the offset of the grid in 256ths of a step
    I f I I     bits-back only: iterations, learning rate, seed of the fit of q; bytes of a payload
    8s          BLAKE2b of the payload, if it is not empty
    ...         32-bit words of an ANS coder

All computation is in double precision. A number that a coder sees is first moved to the grid, see
`snap`. Arrays of latents and images are [h, w, channels].
"""

import hashlib
import struct

import constriction
import numpy as np
import scipy.fftpack
import scipy.special

KINDS = ("centred", "integer", "bits-back")
GRID = 2. ** -8
BOUND = 1e-9  # of probabilities
Z_WIDTH = .25  # distance of the points that bits-back codes z on


def decode(content, weights, noise):
    """List of uint8 [H, W, 3].

    weights: the model's variables by name, doubles. noise(shape, seed, number) is the double
    precision tf.random.stateless_normal(shape, [seed, number]), which only TensorFlow has.
    """
    kind, file, checksum = parse(content)
    bits_back, coder = kind == "bits-back", constriction.stream.stack.AnsCoder(file["words"])
    scope = "" if bits_back else "entropy_bottleneck/"
    medians = weights[scope + "quantiles"][:, 0, 1] if kind == "centred" else 0.
    y_shape = [-(-side // 16) for side in file["size"]]
    z_shape = [-(-side // 4) for side in y_shape] + list(weights[scope + "matrix_0"].shape[:1])
    origin, width = (0., Z_WIDTH) if bits_back else (medians, 1.)
    latents, pictures = [], []
    order = list(enumerate(file["offsets"]))[::-1 if bits_back else 1]
    for k, offset in order:
        z = pop_z(coder, z_shape, file["z_range"],
                  prior_masses(weights, scope, file["z_range"], origin, width, offset))
        mu, log_sigma = np.split(hyper_synthesis(weights, width * z + origin, y_shape)[0], 2, -1)
        mean = np.zeros_like(mu) if kind == "centred" else np.clip(
            snap(mu, offset), -2. ** 20, 2. ** 20)
        y = coder.decode(constriction.stream.model.QuantizedGaussian(*file["y_range"]),
                         mean.ravel(), standard_deviation(log_sigma, offset).ravel())
        y = y.reshape(mu.shape)
        latents.append((y, z))
        pictures.append(picture(weights, y + mu if kind == "centred" else y, file["size"], offset))
        if bits_back and k > 0:
            push_back(coder, z, file, *fit(weights, y, file, noise), offset)
    latents, pictures = ([item for _, item in sorted(zip(order, items), key=lambda pair: pair[0])]
                         for items in (latents, pictures))
    if checksum != blake2b(*(with_type(v) for pair in latents for v in pair)):
        raise ValueError("other latents than were encoded")
    return pictures


# ---------------------------------------------------------------- bytes

def blake2b(*chunks):
    return hashlib.blake2b(b"".join(chunks), digest_size=8).digest()


def with_type(integers):
    """What the checksum of latents is over: type, shape, with a 1 for the image, and values."""
    return repr(("<i4", (1,) + integers.shape)).encode() + integers.astype("<i4").tobytes()


def parse(content):
    """Kind, fields of the body, checksum of the latents."""
    def take(format):
        nonlocal content
        size = struct.calcsize("<" + format)
        fields, content = struct.unpack("<" + format, content[:size]), content[size:]
        return fields
    (checksum,) = take("8s")
    if checksum != blake2b(content):
        raise ValueError("damaged")
    magic, version, kind, _, latents, length = take("4sBB8s8sB")
    if (magic, version) != (b"iinc", 2):
        raise ValueError("another format")
    take("%ds" % length)
    num_images, height, width, *ranges = take("IHH4h")
    file = dict(size=(height, width), y_range=ranges[:2], z_range=ranges[2:],
                offsets=take("%dB" % num_images))
    if KINDS[kind] == "bits-back":
        file["its"], file["lr"], file["seed"], payload = take("IfII")
        take("8s" if payload else "")
    file["words"] = np.frombuffer(content, "<u4").astype(np.uint32)
    return KINDS[kind], file, latents


# ---------------------------------------------------------------- entropy coding

def snap(values, offset):
    """The nearest points (k + offset / 256) * GRID."""
    return GRID * (np.floor(values / GRID - offset / 256 + .5) + offset / 256)


def standard_deviation(log_values, offset):
    return np.clip(single(np.exp(snap(log_values, offset))), 1e-6, 1e6)


def single(values):
    """Rounded to single precision."""
    return np.float64(np.float32(values))


def prior_masses(weights, scope, z_range, origin, width, offset):
    """[K, N] probabilities of the K points of z_range under p(z)."""
    points = origin + width * np.arange(z_range[0], z_range[1] + 1)[:, None]
    points = points + np.zeros(len(weights[scope + "matrix_0"]))
    lower, upper = (prior(weights, scope, points + d)[0] for d in (-width / 2, width / 2))
    sign = -np.sign(lower + upper)
    masses = abs(scipy.special.expit(sign * upper) - scipy.special.expit(sign * lower))
    return single(2 ** snap(np.log2(np.maximum(masses, BOUND)), offset))


def pop_z(coder, shape, z_range, masses):
    """Integers z, channel by channel."""
    channels = [coder.decode(constriction.stream.model.Categorical(np.ascontiguousarray(pmf)),
                             shape[0] * shape[1]) for pmf in masses.T]
    return np.stack(channels, -1).reshape(shape) + z_range[0]


def push_back(coder, z, file, z_mean, z_logvar, offset):
    """Push z under q(z|y), from where the encoder had popped it."""
    mean = np.clip(snap(z_mean, offset), -2. ** 20, 2. ** 20)
    coder.encode_reverse(z.ravel().astype(np.int32),
                         constriction.stream.model.QuantizedGaussian(*file["z_range"]),
                         mean.ravel() / Z_WIDTH,
                         standard_deviation(.5 * z_logvar, offset).ravel() / Z_WIDTH)


# ---------------------------------------------------------------- the model

def spread(x, kernel, stride=2):
    """x[i, j] times the kernel, added to the output around [stride i, stride j]."""
    height, width = stride * x.shape[0], stride * x.shape[1]
    support = kernel.shape[0]
    output = np.zeros([height + support, width + support, kernel.shape[3]])
    for a in range(support):
        for b in range(support):
            output[a:a + height:stride, b:b + width:stride] += x @ kernel[a, b]
    margin = support // 2
    return output[margin:margin + height, margin:margin + width]


def gather(x, kernel, stride=2):
    """The adjoint of `spread` with kernel^T: around every stride-th element, x times the kernel."""
    height, width = -(-x.shape[0] // stride), -(-x.shape[1] // stride)
    support = kernel.shape[0]
    padded = np.pad(x, [(support // 2, support)] * 2 + [(0, 0)])
    return sum(padded[a:a + stride * height:stride, b:b + stride * width:stride] @ kernel[a, b]
               for a in range(support) for b in range(support))


def transposed(kernel):
    return kernel.swapaxes(2, 3)


def kernel_of(weights, layer, channels):
    """[s, s, channels, filters], which most layers have as the real DFT of each s x s."""
    if layer + "/kernel" in weights:
        return weights[layer + "/kernel"]
    spectrum = weights[layer + "/kernel_rdft"]
    support = int(len(spectrum) ** .5)
    basis = np.eye(support ** 2).reshape(-1, support, support)
    for axis in (1, 2):
        basis = scipy.fftpack.rfft(basis, axis=axis)
        np.moveaxis(basis, axis, 0)[1:] *= 2 ** .5
    basis = basis.reshape(support ** 2, support ** 2) / support
    return (basis @ spectrum).reshape(support, support, channels, -1)


def igdn(weights, layer, x):
    """Inverse generalised divisive normalisation, whose parameters are stored as square roots."""
    tiny = 2. ** -36
    gamma = np.maximum(weights[layer + "/reparam_gamma"], tiny ** .5) ** 2 - tiny
    beta = np.maximum(weights[layer + "/reparam_beta"], (1e-6 + tiny) ** .5) ** 2 - tiny
    return x * np.sqrt(x ** 2 @ gamma + beta)


def picture(weights, y_hat, size, offset):
    """g_s: uint8 [H, W, 3]."""
    x = y_hat
    for i in range(4):
        layer = "synthesis_transform/layer_%d" % i
        x = spread(x, kernel_of(weights, layer, x.shape[2])) + weights[layer + "/bias"]
        if i < 3:
            x = igdn(weights, "%s/igdn_%d" % (layer, i), x)
    x = np.floor(255 * x[:size[0], :size[1]] - offset / 256 + .5)
    return np.clip(x, 0, 255).astype(np.uint8)


def hyper_analysis(weights, y):
    """h_a of the bits-back model: z_mean and log variance of q(z|y), where the fit starts."""
    layer = "hyper_analysis_transform/layer_%d"
    for i in range(3):
        y = gather(y, kernel_of(weights, layer % i, y.shape[2]), 1 if i == 0 else 2)
        if i < 2:
            y = np.maximum(y + weights[layer % i + "/bias"], 0)
    return np.split(y, 2, -1)


def hyper_synthesis(weights, z, y_shape):
    """h_s: mu and log sigma [h, w, 2 N]; and the gradient for z from that for these two."""
    layer, strides = "mb_t2018hyper_synthesis_transform/layer_%d", (2, 2, 1)
    kernels = [weights[layer % i + "/kernel"] for i in range(3)]
    values = [z]
    for i, (kernel, stride) in enumerate(zip(kernels, strides)):
        value = spread(values[-1], kernel, stride) + weights[layer % i + "/bias"]
        values.append(np.maximum(value, 0) if i < 2 else value)

    def backward(gradient):
        padding = np.zeros_like(values[3])
        padding[:y_shape[0], :y_shape[1]] = gradient
        gradient = padding
        for i in (2, 1, 0):
            gradient = gather(gradient, transposed(kernels[i]), strides[i])
            if i > 0:
                gradient = gradient * (values[i] > 0)
        return gradient
    return values[3][:y_shape[0], :y_shape[1]], backward


def prior(weights, scope, z):
    """Logits of p(z)'s CDF for z [..., N], and their first and second derivative."""
    value, slope, bend = z[..., None], np.ones(z.shape + (1,)), np.zeros(z.shape + (1,))
    for i in range(4):
        matrix = np.logaddexp(0, weights[scope + "matrix_%d" % i])
        value, slope, bend = (np.einsum("nrc,...nc->...nr", matrix, v)
                              for v in (value, slope, bend))
        value = value + weights[scope + "bias_%d" % i][..., 0]
        if i < 3:
            factor, bent = np.tanh(weights[scope + "factor_%d" % i][..., 0]), np.tanh(value)
            gain = 1 + factor * (1 - bent ** 2)
            bend = bend * gain - 2 * factor * bent * (1 - bent ** 2) * slope ** 2
            value, slope = value + factor * bent, slope * gain
    return value[..., 0], slope[..., 0], bend[..., 0]


# ---------------------------------------------------------------- the fit of q(z|y)

def fit(weights, y, file, noise):
    """z_mean and z_logvar after Adam on the bits per pixel that y and z take, net of q's.

    Iteration t draws z with noise number 2 t + 1. Adam's constants and the powers of its betas are
    in single precision; all else is in double.
    """
    q = hyper_analysis(weights, y)
    means, squares = [np.zeros_like(v) for v in q], [np.zeros_like(v) for v in q]
    beta1, beta2, epsilon = map(np.float32, (.9, .999, 1e-8))
    power1, power2 = beta1, beta2
    for t in range(file["its"]):
        nats = nats_gradient(weights, y, *q, noise(q[0].shape, file["seed"], 2 * t + 1))
        rate = file["lr"] * np.sqrt(1 - np.float64(power2)) / (1 - np.float64(power1))
        for v, mean, square, gradient in zip(q, means, squares, nats):
            gradient = gradient / (np.log(2) * np.prod(file["size"]))
            mean += (gradient - mean) * (1 - np.float64(beta1))
            square += (gradient ** 2 - square) * (1 - np.float64(beta2))
            v -= rate * mean / (np.sqrt(square) + np.float64(epsilon))
        power1, power2 = power1 * beta1, power2 * beta2
    return q


def nats_gradient(weights, y, z_mean, z_logvar, noise):
    """Of -log p(y|z) - log p(z) + log q(z|y), for z_mean and z_logvar, at z with this noise."""
    std = np.exp(.5 * z_logvar)
    z = z_mean + std * noise
    parameters, backward = hyper_synthesis(weights, z, y.shape)
    from_y = backward(nats_of_y_gradient(y, *np.split(parameters, 2, -1)))

    logits, slope, bend = prior(weights, "", z)
    cdf = scipy.special.expit(logits)
    density = cdf * scipy.special.expit(-logits) * slope
    log_density_slope = slope * (1 - 2 * cdf) + bend / slope
    from_z = -density / np.maximum(density, BOUND) * log_density_slope
    return from_y + from_z, (from_y + from_z) * .5 * std * noise - .5


def nats_of_y_gradient(y, mu, log_sigma):
    """Of -log p(y|z), p the mass of N(mu, sigma^2) within 1/2 of y; for mu and log sigma."""
    sigma, distance = np.exp(log_sigma), abs(y - mu)
    upper, lower = .5 - distance, -.5 - distance
    cdf = lambda v: .5 * scipy.special.erfc(-v / (2 ** .5 * sigma))
    pdf = lambda v: np.exp(-.5 * (v / sigma) ** 2) / ((2 * np.pi) ** .5 * sigma)
    masses = np.maximum(cdf(upper) - cdf(lower), BOUND)
    for_mu = np.sign(y - mu) * (pdf(upper) - pdf(lower))
    for_log_sigma = -(upper * pdf(upper) - lower * pdf(lower))
    return np.concatenate([-for_mu / masses, -for_log_sigma / masses], -1)
