"""Metrics of decoded pictures."""

import concurrent.futures

import numpy as np
import scipy.ndimage

from plumbing import machine

# MS-SSIM (Wang, Simoncelli, Bovik 2003): the exponents of its five scales, the filter of 11 taps of
# a Gaussian, and the constants that keep its fractions finite, as in tf.image.ssim_multiscale.
SCALE_WEIGHTS = (.0448, .2856, .3001, .2363, .1333)
TAPS = np.exp(-np.arange(-5, 6) ** 2 / (2 * 1.5 ** 2))
TAPS /= TAPS.sum()
C1, C2 = (.01 * 255) ** 2, (.03 * 255) ** 2
MSSSIM_MIN_SIDE = 161  # of images that it is defined for: 11 pixels at the last scale


def measure(x, x_hat, threads=None):
    """Dict of [B]: metrics of uint8 images and reconstructions [B, H, W, 3], by so many threads.

    MS-SSIM is nan of images with a side under MSSSIM_MIN_SIDE, PSNR infinite of equal ones.
    """
    mse = np.array([np.mean((np.float64(original) - decoded) ** 2)
                    for original, decoded in zip(x, x_hat)])
    msssim = np.full(len(x), np.nan)
    if min(x.shape[1:3]) >= MSSSIM_MIN_SIDE:
        with concurrent.futures.ThreadPoolExecutor(machine.num_threads(threads)) as pool:
            msssim = np.array([ms_ssim(np.float32(original), np.float32(decoded), pool)
                               for original, decoded in zip(x, x_hat)])
    with np.errstate(divide="ignore"):
        msssim_db = -10 * np.log10(1 - msssim)
    return dict(mse=mse, psnr=psnr(mse), msssim=msssim, msssim_db=msssim_db)


def psnr(mse):
    """PSNR in dB of the mean squared error of 8-bit values; infinite at 0."""
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255 ** 2 / mse)


def ms_ssim(a, b, pool):
    """MS-SSIM of two images [H, W, 3], the mean over channels, by a pool of threads."""
    product = np.ones(3)
    for k, weight in enumerate(SCALE_WEIGHTS):
        if k:
            a, b = halved(a), halved(b)
        term = ssim_term(a, b, pool, with_luminance=k == len(SCALE_WEIGHTS) - 1)
        product *= np.maximum(term, 0) ** weight
    return product.mean()


def ssim_term(a, b, pool, with_luminance):
    """[3] means over pixels of SSIM or, without the luminance, of its contrast and structure."""
    images = (a, b, a ** 2 + b ** 2, a * b)
    mean_a, mean_b, of_squares, of_product = pool.map(blurred, images)
    squares, product = mean_a ** 2 + mean_b ** 2, mean_a * mean_b
    term = (2 * (of_product - product) + C2) / (of_squares - squares + C2)
    if with_luminance:
        term *= (2 * product + C1) / (squares + C1)
    return term.mean((0, 1), dtype=float)


def blurred(image):
    """[H - 10, W - 10, 3] averages of an image by TAPS, down and across."""
    for axis in (0, 1):
        image = scipy.ndimage.correlate1d(image, TAPS, axis)
    return image[5:-5, 5:-5]


def halved(image):
    """Averages of 2 x 2 pixels; the last row or column of an odd number counts twice."""
    height, width, _ = image.shape
    image = np.pad(image, [(0, height % 2), (0, width % 2), (0, 0)], "edge")
    return (image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2]) / 4
