from stlib.settings import *  # noqa: F403
