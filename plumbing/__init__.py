"""What runs underneath: everything but the models and what the methods do with them.

To understand the methods, it need not be read. Each module imports only those above it:

    basics            notes, errors, interruption, checksums, files replaced whole
    grid              numbers that come out the same on every machine
    layers            tensorflow-compression's layers, the same but faster on CPUs
    clusters          one task of a TensorFlow cluster, for training on several machines
    machine           cores and memory
    fileformat        the bytes of .iinc and .tfci files, checked
    coding            centred and integer latents to a file and back, by a decoder's numbers
    bits_back         the same with bits-back coding of z
    compressed_files  which codec a file needs, and whether it belongs to a run
    image_files       image files and .npy in, pictures out
    runs              checkpoints by run name, sessions with their weights
    quality           metrics of decoded pictures
    progress          what is told of an optimisation while it runs
    arguments         options of a method, and parsers of their text
    command_line      the scripts' command lines, errors of one line
    decompression     compressed files to pictures: which, with which run, where to
    workers           tasks on this process, several, or a cluster
    patches           patches of training images
    training          the loop, the learning rate, a run's folder
    validation        checkpoints of a training: when, and their evaluation
    result_files      results: written, read, joined and averaged
    store             results: their names and settings, and those that are there
    tasks             what is missing of results is computed, and how long that takes
"""

import os
import sys
import warnings

# Python has None for a stream that was closed, as by 2>&-, and files would get its descriptor.
for name, descriptor in (("stdout", 1), ("stderr", 2)):
    if getattr(sys, name) is None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        setattr(sys, name, open(descriptor, "w", closefd=False))

# TensorFlow's allocator that keeps freed memory: the C library's gives every large tensor back to
# the kernel, whose zeroing of new pages takes several times as long as an element-wise operation.
os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # messages of its C++ code, by default none
warnings.filterwarnings("ignore", category=FutureWarning)  # TF 1.15's import, under numpy >= 1.17
