"""The one error type for mistakes a user can mend: its text is one sentence that says what, where and what to do."""


class UsageError(ValueError):
    """Bad input. The command line prints its text and exits with status 2; the API raises it."""
