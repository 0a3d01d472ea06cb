from stlib.settings import progress_bar as bar  # noqa: F401
