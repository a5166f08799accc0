"""Errors that stop a job, each with one line that a person can act on."""


class InputError(Exception):
    """Something that the user named cannot be used: an input, an output, an option.

    The message is one line that names the thing and the remedy. It never holds a credential.
    """


class OptionError(InputError):
    """The value of an option cannot be used. The command line reports it as a usage error (exit status 2)."""


class TooManyErrorsError(Exception):
    """So many images fail that the input of the job must be wrong.

    Attributes:
        reasons: the most frequent errors with their counts, most frequent first.
    """

    def __init__(self, message: str, reasons: list[tuple[str, int]]) -> None:
        super().__init__(message)
        self.reasons = reasons
