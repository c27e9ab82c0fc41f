"""Options of a method or of training: their values, and parsers of what was given."""

import argparse
import types
import typing

import numpy as np

from plumbing import basics


def name_of(flag):
    """Name of the option that a flag stands for."""
    return flag.strip("-").replace("-", "_")


class Option(typing.NamedTuple):
    """An option of a method, or of a script's training."""
    flags: str  # "--name --alias"
    type: typing.Callable  # parser of its text, as of `number`; not bool, which is true of any text
    default: typing.Any  # number or text, or a function of the namespace of the options before it
    help: str

    @property
    def name(self):
        """Its name among the options."""
        return name_of(self.flags.split()[0])


def resolve(options, given, preset):
    """(values, changed) of a list of Option: a namespace, and a dict of those that were changed.

    A value is that in the dict `given`, if there is one and not None, else that of the dict
    `preset`, else the default. Changed are those that differ from the preset's or the default.
    """
    values, changed = types.SimpleNamespace(), {}
    unknown = set(preset) - {option.name for option in options}
    if unknown:
        raise TypeError("a preset sets what is no option: %s" % ", ".join(sorted(unknown)))
    for option in options:
        default = option.default
        if callable(default):
            default = default(values)
        if default is None:  # which results can't store
            raise TypeError("the default of %s must be a number or text" % option.flags)
        default = preset.get(option.name, default)
        value = given.get(option.name)
        if value is None:
            value = default
        setattr(values, option.name, value)
        if value != default:
            changed[option.name] = value
    return values, changed


def from_keywords(options, presets, preset, keywords):
    """Namespace of a list of Option, from keywords that are their names or aliases.

    UserError if there is no such option or preset, or a value is not accepted.
    """
    if preset not in (None, *presets):
        raise basics.UserError("no preset %r; there are %s"
                               % (preset, ", ".join(presets) or "none"))
    named = {name_of(flag): option for option in options for flag in option.flags.split()}
    given = {}
    for name, value in keywords.items():
        if name not in named:
            raise basics.UserError("no option %r; there are %s"
                                   % (name, ", ".join(named) or "none"))
        try:
            given[named[name].name] = named[name].type(str(value))
        except argparse.ArgumentTypeError as error:
            raise basics.UserError("%s: %s" % (name, error))
    values, _ = resolve(options, given, presets.get(preset, {}))
    return values


def number(kind, low, exclusive=False, high=2 ** 31 - 1):
    """Parser of an int or float from low (not low itself if exclusive) to high, for argparse."""
    wanted = "an integer" if kind is int else "a number"
    relation = ">" if exclusive else ">="

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = np.nan
        is_high_enough = value > low if exclusive else value >= low
        if not is_high_enough or value > high:
            raise argparse.ArgumentTypeError("%r: must be %s %s %g and <= %d"
                                             % (text, wanted, relation, low, high))
        return value
    return parse


def one_of(names):
    """Parser of a name, likewise."""
    def parse(text):
        if text not in names:
            raise argparse.ArgumentTypeError("%r: must be one of %s" % (text, ", ".join(names)))
        return text
    parse.metavar = "{%s}" % ",".join(names)
    return parse


def file_name(text):
    """Parser of a name without a folder, likewise."""
    if not text or text in (".", "..") or "/" in text:
        raise argparse.ArgumentTypeError("%r: must be a name without /" % text)
    return text


count = number(int, 1)
natural = number(int, 0)
positive = number(float, 0, exclusive=True)
thread_count = number(int, 1, high=1024)
