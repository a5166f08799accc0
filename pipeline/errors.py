"""What stops a job before it starts, each with one line a person can act on."""


class InputError(Exception):
    """Something the user named cannot be used: an input, an output, an option.

    The message is one line that names the thing and says the remedy. It never holds a credential.
    """
