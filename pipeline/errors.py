"""What stops a job before it starts, each with one line a person can act on."""


class InputError(Exception):
    """Something the user named cannot be used: an input, an output, an option.

    The message is one line that names the thing and says the remedy. It never holds a credential.
    """


class OptionError(InputError):
    """The value of an option cannot be used. The command line reports it as a usage error (exit status 2)."""


class TooManyErrorsError(Exception):
    """So many images fail that the job's input is plainly wrong.

    Attributes:
        reasons: the most frequent ones with their counts, most frequent first.
    """

    def __init__(self, message: str, reasons: list[tuple[str, int]]) -> None:
        super().__init__(message)
        self.reasons = reasons
