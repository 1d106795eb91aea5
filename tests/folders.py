"""Where things lie, for all tests: nobody counts the folders above a file."""

from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
GOLDENS = TESTS / "goldens"
RUNNERS = TESTS / "runners"
DOCS = ROOT / "docs"
INTEGRATIONS = ROOT / "integrations"
