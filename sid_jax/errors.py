"""The one exception that a user is meant to read."""


class InputError(ValueError):
    """Bad input: the message names the file, row or field, and the fix.

    The command line prints it without a traceback and exits with code 2.
    """
