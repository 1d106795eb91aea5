"""Where things lie, for all tests: nobody counts the folders above a file."""

from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
GOLDENS = TESTS / "goldens"
ARTEFACTS = GOLDENS / "artefacts"
RUNNERS = TESTS / "runners"
DOCS = ROOT / "docs"
INTEGRATIONS = ROOT / "integrations"


def frozen_statistics():
    """Folders of frozen statistics of data that this version reads, see `test_old_artefacts`."""
    refused = ("refined_scattered", "levels_of_search")
    configs = sorted(ARTEFACTS.glob("*/gaga_config.json"))
    return [config.parent for config in configs if config.parent.name not in refused]
