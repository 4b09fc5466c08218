"""``python -m kaizenml.cli``: the same as ``kaizen``."""

from kaizenml.cli import main

if __name__ == "__main__":
    main()
