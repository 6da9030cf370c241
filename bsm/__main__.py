"""``python -m bsm``: the command line."""

from bsm.cli import main

if __name__ == "__main__":
    main()
