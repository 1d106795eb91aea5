"""`python -m gaga_adapter`, the same as the `gaga` command."""

from gaga_adapter.cli import main

if __name__ == "__main__":
    main()
