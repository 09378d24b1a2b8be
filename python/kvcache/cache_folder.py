"""Where files are kept that can be made again."""

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Returns the folder for downloads and compiled kernels.

    Returns:
        `KVCACHE_CACHE_DIR` where it is set, else the platform's folder for
        what a user's programs can make again. It need not exist yet.
    """
    if chosen := os.environ.get("KVCACHE_CACHE_DIR"):
        return Path(chosen).expanduser()
    return Path(platformdirs.user_cache_dir("kvcache"))
