from stlib.settings import UsageError  # noqa: F401
