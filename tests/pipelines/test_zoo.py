"""No pipeline starts wrongly without a word, and the documentation says how each does."""

import math

import diffusers
import pytest
import torch

from gaga_adapter import FewStepScheduler
from gaga_adapter.reference.dense import DenseReference
from pipelines.measure import MODES, Bare, faults_of_data, faults_of_start, measure, perform
from pipelines.table import CASES, lines_of_page, notes, plain, row, verdicts, version_of_page

pytestmark = pytest.mark.filterwarnings("ignore")  # of diffusers; ours are recorded by `measure`
NAMES = [case.name for case in CASES]


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def ready(case):
    """A case that has run with its plain scheduler.

    Skips where the installed libraries are too old for it: torch has `nn.RMSNorm`, of which Flux
    and Wan are made, from 2.4 on. With the versions that the page was written with, it fails.
    """
    is_of_page = diffusers.__version__ == version_of_page()
    if not case.is_known:
        assert not is_of_page, f"{case.pipeline} cannot be imported"
        pytest.skip(f"diffusers {diffusers.__version__} has no {case.pipeline} here")
    try:
        return plain(case)
    except Exception as error:
        if is_of_page:
            raise
        pytest.skip(f"not with diffusers {diffusers.__version__}: {error}")


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_no_start_is_wrong_without_a_word(case):
    bare = ready(case)
    found = verdicts(bare)
    wrong = {mode: verdict.reason for mode, verdict in found.items() if verdict.word == "WRONG"}
    assert not wrong
    if diffusers.__version__ == version_of_page():
        missing = {row(case, found), *notes(case, found)} - set(lines_of_page())
        assert not missing, "run `python -m pipelines.table` in tests"


def test_every_row_of_the_documentation_has_a_case():
    assert len(set(NAMES)) == len(NAMES)
    assert sum(line.startswith("| ") for line in lines_of_page()) == len(NAMES)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "name",
    [
        "StableDiffusionPipeline",
        "StableDiffusionXLPipeline",
        "FluxPipeline",
        "DDPMPipeline",
        "DDIMPipeline",
        "DiTPipeline",
        "ConsistencyModelPipeline",
    ],
)
def test_where_nothing_is_cut_a_run_starts_right_or_is_the_plain_one(name, mode):
    """`auto` spends no extra call on a start that saves none: then the run is the base's own."""
    case = next(case for case in CASES if case.name == name)
    bare = ready(case)
    bare.place = 0
    if (verdict := measure(bare, mode)).word in ("exact", "refused"):
        return
    assert mode == "auto", verdict.reason
    bare.pipe.scheduler = bare.truncated(mode)
    run = perform(case, bare.pipe)
    assert len(run.calls) == len(bare.run.calls)
    for ours, other in zip(run.calls, bare.run.calls, strict=True):
        assert torch.equal(ours.seen, other.seen)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "name",
    [
        "StableDiffusionPipeline",
        "StableDiffusionXLImg2ImgPipeline-denoising_start=0.7",
        "FluxPipeline",
        "DDPMPipeline",
    ],
)
def test_a_few_step_scheduler_starts_as_others_do(name, mode):
    """On a table, on sigmas and on a flow; from noise and from data, which moments would move."""
    case = next(case for case in CASES if case.name == name)
    pipe = ready(case).pipe
    pipe.scheduler = FewStepScheduler.from_scheduler(pipe.scheduler, match_below=-math.inf)
    assert measure(Bare(case, pipe), mode).word == "exact"


# -- the oracle finds what is wrong ----------------------------------------------------------------


def sabotaged(monkeypatch, name, transport, mode="auto"):
    case = next(case for case in CASES if case.name == name)
    bare = ready(case)
    assert measure(bare, mode).word == "exact"
    right = DenseReference.transport
    monkeypatch.setattr(
        DenseReference, "transport", lambda self, z, mask=None: transport(right, self, z)
    )
    return measure(bare, mode)


@pytest.mark.parametrize(
    ("transport", "words"),
    [
        (lambda right, self, z: z.clone(), "raw noise"),
        (lambda right, self, z: right(self, right(self, z)), "a start mapped twice"),
        (lambda right, self, z: right(self.at(1.0, 0.0), z), "not mean"),
    ],
    ids=["unmapped", "twice", "another level"],
)
def test_a_wrong_start_is_found(monkeypatch, transport, words):
    verdict = sabotaged(monkeypatch, "StableDiffusionPipeline", transport)
    assert verdict.word == "WRONG"
    assert words in verdict.reason


# -- one scheduler for several pipelines -----------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "names",
    [
        (
            "StableDiffusionPipeline",
            "StableDiffusionImg2ImgPipeline-strength=0.34",
            "StableDiffusionInpaintPipeline",
            "StableDiffusionPipeline",
        ),
        (
            "StableDiffusionXLImg2ImgPipeline-denoising_start=0.7",
            "StableDiffusionXLPipeline",
            "StableDiffusionXLImg2ImgPipeline-denoising_start=0.2",
            "StableDiffusionXLPipeline-denoising_end=0.7",
        ),
        (
            "FluxImg2ImgPipeline-strength=0.84",
            "FluxPipeline",
            "FluxImg2ImgPipeline-strength=0.34",
            "FluxPipeline",
        ),
    ],
    ids=["StableDiffusion", "StableDiffusionXL", "Flux"],
)
def test_pipelines_share_a_scheduler(names, mode):
    cases = [next(case for case in CASES if case.name == name) for name in names]
    bares = [ready(case) for case in cases]
    noisy = next(bare for bare in bares if bare.case.start == "noise")
    scheduler = noisy.truncated(mode)
    for bare in bares:
        bare.pipe.scheduler = scheduler
        if mode == "attach":
            scheduler.attach(bare.pipe)
        run = perform(bare.case, bare.pipe)
        assert not run.crashed
        assert not run.refused
        is_data = bare.case.start == "data"
        assert not (
            faults_of_data(bare, run) if is_data else faults_of_start(bare, run, bare.noise)
        )


# -- conditions that fix a part of the target ------------------------------------------------------

WITH_AN_IMAGE = (
    "StableDiffusionInpaintPipeline-unet of 9 channels",
    "StableDiffusionUpscalePipeline",
    "FluxKontextPipeline",
    "CogVideoXImageToVideoPipeline",
)
WITH_A_PROMPT = (
    "StableDiffusionPipeline",
    "StableDiffusionControlNetPipeline",
    "StableDiffusionInpaintPipeline",
    "FluxPipeline",
    "WanPipeline",
    "DDPMPipeline",
)


@pytest.mark.parametrize("name", WITH_AN_IMAGE + WITH_A_PROMPT)
def test_an_image_beside_the_sample_narrows_the_law_and_a_prompt_does_not(name):
    case = next(case for case in CASES if case.name == name)
    bare = ready(case)
    bare.pipe.scheduler = bare.truncated("attach")
    bare.pipe.scheduler.attach(bare.pipe)
    told = [text for text in perform(case, bare.pipe).warned if "narrows" in text]
    assert len(told) == (name in WITH_AN_IMAGE), told
