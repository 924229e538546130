"""The closed set of errors a user can cause; each class fixes the exit code of the command line."""

from __future__ import annotations


class LcnnError(Exception):
    """A known failure: the message says what failed, the value seen, the rule and the way out."""

    exit_code = 2


class SettingsError(LcnnError):
    """An option or a combination of options cannot be used."""


class ModelError(LcnnError):
    """The model cannot be read, captured or compressed."""


class DataError(LcnnError):
    """Calibration, training or test data cannot be used."""


class ArtefactError(LcnnError):
    """An artefact or exported file is damaged, incomplete or too new."""


class MissingError(LcnnError):
    """Hardware, a package or the native library is not there."""

    exit_code = 3


class FileError(LcnnError):
    """Reading or writing a file failed."""

    exit_code = 5


class ChildError(LcnnError):
    """A process of ours crashed: no input should be able to do that."""

    exit_code = 70
