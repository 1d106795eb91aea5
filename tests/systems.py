"""Marks of tests that need what a system may lack; everything else runs everywhere."""

import os
import sys

import pytest

#: Named pipes, symbolic links without special rights, permissions, signals, `fork`, a shell.
posix = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX system")
#: `/proc`.
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
