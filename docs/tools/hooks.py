"""What mkdocs builds besides the pages of this folder.

- measured figures, tables and sections of other files: `figures.py`;
- `figures/NAME.png` are those of benchmarks/results;
- a page of the API for every public module, one of the scripts in examples/, and the changelog.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from figures import site_text
from mathml import with_mathml
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
#: Where files of the repository are shown.
REPOSITORY = "https://github.com/gaga-adapter/gaga-adapter/blob/main"

#: Public modules by subject: the pages of the API.
API: dict[str, tuple[str, ...]] = {
    "Start here": (
        "gaga_adapter.scheduler.wrapper",
        "gaga_adapter.few_step",
        "gaga_adapter.few_step.scheduler",
        "gaga_adapter.level_fitting.search",
        "gaga_adapter.noise.fitted",
        "gaga_adapter.fitting",
        "gaga_adapter.noised_states.fit",
        "gaga_adapter.noised_states.artefact",
        "gaga_adapter.stats",
        "gaga_adapter.layout",
        "gaga_adapter.errors",
    ),
    "Noise and references": (
        "gaga_adapter.noise.paths",
        "gaga_adapter.subspace",
        "gaga_adapter.covariance",
        "gaga_adapter.moments",
        "gaga_adapter.moments.molecules",
        "gaga_adapter.moments.dense",
        "gaga_adapter.reference",
        "gaga_adapter.reference.base",
        "gaga_adapter.reference.molecules",
        "gaga_adapter.reference.shape",
        "gaga_adapter.reference.measured",
        "gaga_adapter.reference.dense",
    ),
    "Choosing t*": (
        "gaga_adapter.criteria",
        "gaga_adapter.criteria.protocol",
        "gaga_adapter.criteria.curve",
        "gaga_adapter.criteria.two_sample.criterion",
        "gaga_adapter.criteria.cumulant.criterion",
        "gaga_adapter.criteria.certificate.criterion",
        "gaga_adapter.criteria.ks_mi.criterion",
        "gaga_adapter.criteria.ks_mi.published",
        "gaga_adapter.criteria.certificate.denoisers",
        "gaga_adapter.criteria.rigid",
        "gaga_adapter.selection",
    ),
    "Sampling": (
        "gaga_adapter.sampling.loop",
        "gaga_adapter.sampling.solvers",
        "gaga_adapter.noise.conventions",
        "gaga_adapter.distributed",
        "integrations.patching.patch",
        "integrations.patching.fitting",
        "integrations.sampling.pipeline",
        "integrations.karras",
        "integrations.flat.batches",
        "integrations.flat.joint",
        "integrations.structures.patch",
        "integrations.protocol",
        "gaga_adapter.testing",
        "gaga_adapter.testing.adapter",
        "gaga_adapter.testing.adapter.case",
        "gaga_adapter.testing.scheduler",
        "gaga_adapter.testing.scheduler.case",
        "gaga_adapter.testing.report",
    ),
    "Training": (
        "gaga_adapter.training.timesteps",
        "gaga_adapter.training.elbo",
        "gaga_adapter.training.decoders",
        "gaga_adapter.trained",
    ),
    "Molecules": (
        "gaga_adapter.molecules.data",
        "gaga_adapter.molecules.formats",
        "gaga_adapter.molecules.qm9.data",
        "gaga_adapter.molecules.encoding",
        "gaga_adapter.molecules.metrics.evaluate",
        "gaga_adapter.molecules.metrics.shape",
        "gaga_adapter.molecules.metrics.distances",
        "gaga_adapter.molecules.metrics.plausibility",
        "gaga_adapter.molecules.draw",
        "gaga_adapter.molecules.denoiser",
        "gaga_adapter.molecules.pipeline",
    ),
}


def public_name(module: str) -> str:
    """The name that a module is imported by: `integrations` is installed inside of the package."""
    return re.sub(r"^integrations", "gaga_adapter.integrations", module)


def _uri(module: str) -> str:
    return f"api/{public_name(module).removeprefix('gaga_adapter.').replace('.', '-')}.md"


def _source(module: str) -> str:
    """The file of a module, from the root of the repository."""
    path = module.replace(".", "/")
    return f"{path}.py" if (ROOT / f"{path}.py").is_file() else f"{path}/__init__.py"


def examples() -> str:
    """The scripts of examples/ as a page; empty where there are none."""
    parts = []
    for script in sorted((ROOT / "docs" / "examples").glob("*.py")):
        text = script.read_text(encoding="utf-8")
        told = ast.get_docstring(ast.parse(text)) or ""
        code = re.sub(r'^(?:#![^\n]*\n)?r?""".*?"""\n+', "", text, count=1, flags=re.DOTALL)
        told = re.sub(r"\b(t|sigma)\*", r"\1\\*", told)
        parts.append(
            f"## {script.stem.replace('_', ' ')}\n\n{told}\n\n`docs/examples/{script.name}`\n\n"
            f"```python\n{code}```\n"
        )
    head = "# Examples\n\nScripts that run as they are. "
    for book in sorted((ROOT / "docs" / "examples").glob("*.ipynb")):
        name = book.stem.replace("_", " ").replace("qm9", "QM9")
        head += f"With pictures: the notebook [{name}]({REPOSITORY}/docs/examples/{book.name}).\n\n"
    return head + "\n".join(parts) if parts else ""


def on_config(config: Any) -> Any:  # noqa: ANN401 - of mkdocs
    """Put the pages of the API into the navigation."""
    for entry in config.nav:
        if entry.get("API") == "api/index.md":
            subjects: list[Any] = ["api/index.md"]
            for subject, modules in API.items():
                pages = [{public_name(m).removeprefix("gaga_adapter."): _uri(m)} for m in modules]
                subjects.append({subject: pages})
            entry["API"] = subjects
    if examples():
        config.nav.insert(3, {"Examples": "examples.md"})
    return config


def on_files(files: Files, config: Any) -> Files:  # noqa: ANN401 - of mkdocs
    """Add what is generated."""

    def page(uri: str, text: str) -> None:
        files.append(File.generated(config, uri, content=text))

    listed = []
    for subject, modules in API.items():
        listed.append(f"\n## {subject}\n")
        for module in modules:
            name = public_name(module)
            options = "    options:\n      show_root_heading: false\n"
            page(_uri(module), f"# {name}\n\n`{_source(module)}`\n\n::: {module}\n{options}")
            listed.append(f"- [`{name}`]({_uri(module).removeprefix('api/')})")
    index = (ROOT / "docs" / "tools" / "api.md").read_text(encoding="utf-8")
    page("api/index.md", index + "\n".join(listed) + "\n")
    if examples():
        page("examples.md", examples())
    page("changelog.md", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    for picture in sorted((ROOT / "benchmarks" / "results").glob("*.png")):
        files.append(File.generated(config, f"figures/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:  # noqa: ANN401
    """Fill in tables and sections; take out what only the tests read."""
    try:
        markdown = site_text(markdown)
    except KeyError as error:
        raise PluginError(f"{page.file.src_uri}: nothing is called {error}") from error
    up = "../" * page.file.src_uri.count("/")
    markdown = re.sub(
        r"\]\((?:[./]*benchmarks/)?results/(\w+\.png)\)", rf"]({up}figures/\1)", markdown
    )
    markdown = re.sub(r"^<!-- setup\n.*?^-->\n", "", markdown, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"^<!-- (not run: .+|numbers vary) -->\n", "", markdown, flags=re.MULTILINE)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:  # noqa: ANN401
    """Draw the formulas."""
    try:
        return with_mathml(html)
    except ValueError as error:
        raise PluginError(f"{page.file.src_uri}: {error}") from error
