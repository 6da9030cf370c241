"""A copy of this checkout, for a test to run commands in or to change."""

import shutil

from bsm.study.records import ROOT


def copy_of_checkout(folder, *names, without=()):
    """Copy files and folders of this checkout, links as links, and none of what a run leaves; return the copy."""
    for name in names:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", *without)
            shutil.copytree(source, target, symlinks=True, ignore=ignored)
        else:
            shutil.copy(source, target)
    return folder
