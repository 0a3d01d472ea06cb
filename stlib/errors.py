"""The error type for mistakes that a user can correct. It needs the standard library alone, as the set-up cell does."""


class UsageError(ValueError):
    """Bad input: its text is one sentence that says what, where, and what to do.

    The command line prints it and exits with status 2; a notebook shows it alone; the API raises it.
    """

    def _render_traceback_(self) -> list[str]:
        """Return what a notebook shows of it: that sentence, without the way there."""
        return [f"{type(self).__name__}: {self}"]
