"""Each shim: it repairs, says so once and only if needed, and leaves nothing behind."""

import argparse
import importlib
import os
import pickle
import sys
import zipfile

import numpy as np
import pytest
import torch
from gaga_adapter.integrations.launcher.shims import SHIMS, apply_shims

from gaga_adapter.errors import ArtefactError, UnsupportedModelError


@pytest.fixture
def said():
    return []


@pytest.fixture(autouse=True)
def _everything_is_as_before():
    """The state of the interpreter that shims touch, after a test as before it."""

    def state():
        environment = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
        return list(sys.meta_path), environment, pickle.load, np.split, vars(np).get("int")

    before = state()
    names = {"wandb", "imageio", "msgpack", "qm9", "build_geom_dataset"}
    yield
    assert state() == before
    assert not any(name in sys.modules for name in ("wandb", "imageio", "msgpack"))
    for name in [m for m in sys.modules if m.partition(".")[0] in names]:
        del sys.modules[name]


def module(folder, name, text):
    """A module on disk, in packages as its name says."""
    *packages, last = name.split(".")
    for package in packages:
        folder = folder / package
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").touch()
    (folder / f"{last}.py").write_text(text)


def named(said):
    return [line.partition(":")[0] for line in said]


def test_nothing_is_said_of_what_is_not_needed(said):
    with apply_shims(SHIMS, said.append):
        import json  # noqa: F401
    assert named(said) == ["torch.load"]  # in place from the start


def test_every_shim_has_a_name_of_its_own_and_a_reason():
    assert len({shim.name for shim in SHIMS}) == len(SHIMS)
    assert all(shim.why and "\n" not in shim.why for shim in SHIMS)


@pytest.mark.parametrize("name", ["wandb", "imageio", "msgpack"])
def test_a_package_that_is_not_installed_has_a_stand_in(said, name):
    if importlib.util.find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    with apply_shims(SHIMS, said.append):
        first = importlib.import_module(name)
        assert importlib.import_module(name) is first
    assert named(said).count(name) == 1
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(name)


@pytest.mark.parametrize(
    ("name", "inner"), [("torch_geometric", "nn.inits"), ("timm", "models.vision_transformer")]
)
def test_a_package_of_other_networks_is_imported_and_not_used(said, name, inner):
    if importlib.util.find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    with apply_shims(SHIMS, said.append):
        module = importlib.import_module(f"{name}.{inner}")
        layer = type("Layer", (module.MessagePassing,), {})
        assert not hasattr(module, "__nothing__")
        with pytest.raises(UnsupportedModelError, match=f"{name} is not installed"):
            layer()
    assert named(said).count(name) == 1
    assert not [module for module in sys.modules if module.partition(".")[0] == name]


def test_the_scripts_of_the_paper_pass_an_option_that_nothing_reads(said, tmp_path, monkeypatch):
    module(tmp_path, "qm9.sampling", "def shortcut_sample(n, step=300):\n    return n, step\n")
    monkeypatch.syspath_prepend(tmp_path)
    with apply_shims(SHIMS, said.append):
        sampling = importlib.import_module("qm9.sampling")
        assert sampling.shortcut_sample(2, step=4) == (2, 4)
        assert "shortcut_sample" not in named(said)
        assert sampling.shortcut_sample(2, sampling_name="DDPM") == (2, 300)
        assert argparse.Namespace(sampling_name="mine").sampling_name == "mine"
        assert "sampling_name" not in named(said)
        assert argparse.Namespace().sampling_name == "DDPM"
    assert {"shortcut_sample", "sampling_name"} <= set(named(said))
    assert not hasattr(argparse.Namespace(), "sampling_name")
    with pytest.raises(TypeError):
        sampling.shortcut_sample(2, sampling_name="DDPM")


def test_a_checkout_without_utils_gets_its_folders(said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with apply_shims(SHIMS, said.append):
        importlib.import_module("utils").create_folders(argparse.Namespace(exp_name="x"))
    assert (tmp_path / "outputs" / "x").is_dir()
    assert "utils" in named(said)


def test_a_package_that_is_installed_is_taken(said, tmp_path, monkeypatch):
    module(tmp_path, "msgpack", "real = True")
    monkeypatch.syspath_prepend(tmp_path)
    with apply_shims(SHIMS, said.append):
        import msgpack

        assert msgpack.real
    assert "msgpack" not in named(said)
    del sys.modules["msgpack"]


def test_wandb_takes_what_the_scripts_give_it(said):
    with apply_shims(SHIMS, said.append):
        import wandb

        wandb.init(entity="me", settings=wandb.Settings(_disable_stats=True), reinit=True)
        wandb.save("*.txt")
        wandb.log({"picture": [wandb.Image(1, caption="x"), wandb.Video("y.gif")]}, commit=True)


def test_pillow_reads_and_writes_the_pictures(said, tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (8, 6, 4)).astype(np.uint8)
    with apply_shims(SHIMS, said.append):
        import imageio

        imageio.imsave(tmp_path / "x.png", picture)
        np.testing.assert_array_equal(imageio.imread(tmp_path / "x.png"), picture)
        imageio.mimsave(tmp_path / "x.gif", [picture, picture[:7], picture], subrectangles=True)
    from PIL import Image

    with Image.open(tmp_path / "x.gif") as film:
        assert (film.n_frames, film.size) == (3, (6, 8))


def test_matplotlib_has_w_xaxis_again(said):
    axes = pytest.importorskip("mpl_toolkits.mplot3d.axes3d").Axes3D
    if hasattr(axes, "w_xaxis"):
        pytest.skip("this matplotlib has it still")
    from matplotlib.figure import Figure

    with apply_shims(SHIMS, said.append):
        plot = Figure().add_subplot(projection="3d")
        assert "Axes3D.w_xaxis" not in named(said)
        assert plot.w_xaxis is plot.xaxis
        assert "Axes3D.w_xaxis" in named(said)
    assert not hasattr(axes, "w_xaxis")


def test_old_types_of_numpy_come_back_where_they_are_used(said, tmp_path, monkeypatch):
    text = "import numpy as np\ndef made():\n    return np.zeros(3, dtype=np.int), np.ones(2)\n"
    module(tmp_path, "qm9.data.prepare.qm9", text)
    monkeypatch.syspath_prepend(tmp_path)
    with apply_shims(SHIMS, said.append):
        prepare = importlib.import_module("qm9.data.prepare.qm9")
        assert "np.int and np.bool" not in named(said)
        zeros, ones = prepare.made()
        assert (zeros.dtype, ones.dtype) == (np.dtype(int), np.dtype(float))
        assert "np.int and np.bool" in named(said)
        assert not hasattr(np, "int")  # everybody else's numpy is as it was
    assert prepare.np is np


def test_a_ragged_list_can_be_split_again(said, tmp_path, monkeypatch):
    module(
        tmp_path,
        "build_geom_dataset",
        "import msgpack\nimport numpy as np\ndef split(data, ends):\n"
        "    return np.split(data, ends)\n",
    )
    monkeypatch.syspath_prepend(tmp_path)
    ragged = [np.zeros((n, 4)) for n in (3, 5, 4, 2)]
    with apply_shims(SHIMS, said.append):
        split = importlib.import_module("build_geom_dataset").split
        even = split(np.arange(6).reshape(3, 2), [1])
        np.testing.assert_array_equal(even[1], [[2, 3], [4, 5]])
        assert "np.split" not in named(said)
        parts = split(ragged, [1, 3])
        assert [[len(m) for m in part] for part in parts] == [[3], [5, 4], [2]]
        assert {"np.split", "msgpack"} <= set(named(said))
    with pytest.raises(ValueError, match="inhomogeneous"):
        split(ragged, [1, 3])


def test_modules_are_loaded_as_ever(said, tmp_path, monkeypatch):
    module(tmp_path, "build_geom_dataset", "import numpy as np\n")
    monkeypatch.syspath_prepend(tmp_path)
    with apply_shims(SHIMS, said.append):
        watched = importlib.import_module("build_geom_dataset")
    assert watched.__file__ == str(tmp_path / "build_geom_dataset.py")
    assert type(watched.__loader__).__name__ == "SourceFileLoader"
    assert watched.__spec__.loader is watched.__loader__


def test_arguments_of_a_checkpoint_from_a_gpu_are_read_for_this_machine(said, tmp_path):
    file = tmp_path / "args.pickle"
    for cuda in (True, False):
        file.write_bytes(pickle.dumps(argparse.Namespace(cuda=cuda)))
        with apply_shims(SHIMS, said.append), file.open("rb") as stream:
            assert pickle.load(stream).cuda is (cuda and torch.cuda.is_available())
    assert named(said).count("args.cuda") == (0 if torch.cuda.is_available() else 1)


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_no_file_runs_code(said, tmp_path):
    ran, file = tmp_path / "ran", tmp_path / "args.pickle"
    file.write_bytes(pickle.dumps(Touch(ran)))
    weights = tmp_path / "weights.npy"
    torch.save({"w": torch.ones(2), "x": Touch(ran)}, weights)
    assert zipfile.is_zipfile(weights)
    with apply_shims(SHIMS, said.append):
        with file.open("rb") as stream, pytest.raises(ArtefactError, match="mkdir"):
            pickle.load(stream)
        with pytest.raises(pickle.UnpicklingError, match="mkdir"):
            torch.load(weights, weights_only=False)
    assert not ran.exists()
    torch.load(weights, weights_only=False)  # what it would have done
    assert ran.exists()


def test_torch_is_told_what_it_was_told_before(said, monkeypatch):
    monkeypatch.setitem(os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with apply_shims(SHIMS, said.append):
        assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in os.environ
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"


def test_an_exception_inside_leaves_nothing_behind(said):
    def script():
        import wandb  # noqa: F401

        raise RuntimeError("the script failed")

    with pytest.raises(RuntimeError, match="script"), apply_shims(SHIMS, said.append):
        script()
    assert "wandb" in named(said)
