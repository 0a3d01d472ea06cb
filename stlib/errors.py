"""The error type for mistakes that a user can correct. It needs the standard library alone, as the set-up cell does."""


class UsageError(ValueError):
    """Bad input: its text is one sentence that says what, where, and what to do.

    The command line prints it and exits with status 2; the API raises it.
    """
