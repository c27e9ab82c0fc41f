"""Compressed files: which codec writes and reads them, checked against the run of a model."""

import functools
import os
import typing

import numpy as np
import PIL.Image

from plumbing import basics, bits_back, coding, fileformat, machine

TFCI = coding.Codec("centred", ".tfci", coding.encode_tfci, coding.decode_tfci)
IINC = {
    "centred": coding.Codec("centred", ".iinc", functools.partial(coding.encode_base, True),
                     functools.partial(coding.decode_base, True)),
    "integer": coding.Codec("integer", ".iinc", functools.partial(coding.encode_base, False),
                     functools.partial(coding.decode_base, False)),
    "bits-back": coding.Codec("bits-back", ".iinc", bits_back.encode, bits_back.decode)}
# The codecs of a method, the default first.
CENTRED, INTEGER, BITS_BACK = (TFCI, IINC["centred"]), (IINC["integer"],), (IINC["bits-back"],)


class Parsed(typing.NamedTuple):
    """A compressed file, checked."""
    header: typing.Any  # fileformat.Header; None in a file of the original
    codec: coding.Codec
    file: fileformat.File


def parse_file(content, run):
    """Parsed of a file's bytes; UserError if it is damaged or not of this run."""
    header, body = fileformat.unpack(content)
    is_example = not isinstance(body, bytes)
    codec = TFCI if is_example else IINC[header.kind]
    if not header and run.model != "base":
        raise basics.UserError("a file of the original, which is decoded by mbt2018.py")
    if header:
        require_run(header, run)
        if header.kind != codec.kind:
            raise basics.UserError("a .tfci of %s latents; accepted are centred ones" % header.kind)
    if codec.model != run.model:
        raise basics.UserError("of %s latents, which %s model does not have"
                               % (codec.kind, run.model))
    if is_example:
        return Parsed(header, codec, fileformat.parse_tfci(body))
    return Parsed(header, codec, fileformat.parse_iinc(codec.kind, body))


def require_run(header, run):
    """UserError unless a header has the checksum of this run's weights; its name may be another."""
    if header.fingerprint != run.fingerprint:
        if header.run_name != run.name:
            raise basics.UserError("written by %s.py with the run %s, not %s"
                                   % (header.script, header.run_name, run.name))
        raise basics.UserError("of another model: the weights of %s are not those it was written "
                               "with" % run.checkpoint)
    if header.run_name != run.name:
        basics.note("the file names the run %s, whose weights %s has"
                    % (header.run_name, run.name))


def codec_for(codecs, output):
    """Of a method's codecs the one that writes such a name; UserError if another file has it."""
    suffix = os.path.splitext(output)[1].lower()
    for codec in codecs:
        if suffix == codec.suffix:
            return codec
    accepted = " or ".join(codec.suffix for codec in codecs)
    if suffix in (".iinc", ".tfci"):
        raise basics.UserError("%s: this method writes %s" % (output, accepted))
    if suffix in {".npy", *PIL.Image.registered_extensions()}:
        raise basics.UserError("%s: accepted are names in %s; %s"
                               % (output, accepted, basics.QUOTE))
    return codecs[0]


def decode(decoder, parsed, with_initial_bits=False):
    """Pictures uint8 [num_imgs, H, W, 3] of a Parsed, and its initial bits, b"" if not asked for.

    UserError if it decodes to anything else than what was encoded, or memory does not suffice.
    """
    file = parsed.file
    machine.require_memory(decoder.run.num_filters, file.shape, 1)
    images, bits = parsed.codec.decode(decoder, file, with_initial_bits)
    bits = bits[:file.initial.num_bytes]
    if parsed.header and fileformat.digest_symbols(images) != parsed.header.symbols:
        advice = ""
        if parsed.codec is TFCI:
            advice = ("; a .tfci is decoded only where single precision is the same, an .iinc "
                      "everywhere")
        raise basics.UserError("decodes to other latents than were encoded" + advice)
    if with_initial_bits and basics.digest(bits) != file.initial.checksum:
        raise basics.UserError("decodes to other initial bits than were encoded")
    return np.concatenate([image.x_hat for image in images]), bits
