"""The exceptions that a user is meant to read."""


class InputError(ValueError):
    """Bad input: the message names the file, row or field, and the fix.

    The command line prints it without a traceback and exits with code 2.
    """


class UnwrittenError(OSError):
    """What could not be written, where, and the fix; what was there is as it was.

    The command line prints it as it does bad input, and exits with code 2, too.
    """
