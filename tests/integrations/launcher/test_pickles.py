"""The reader of `args.pickle`: plain values come back as they were, and nothing else comes in."""

import argparse
import builtins
import copyreg
import io
import os
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from gaga_adapter.integrations.launcher.pickles import load_plain
from hypothesis import given, settings
from hypothesis import strategies as st

from gaga_adapter.errors import ArtefactError

PROTOCOLS = range(2, pickle.HIGHEST_PROTOCOL + 1)


def read(obj, protocol=pickle.DEFAULT_PROTOCOL):
    return load_plain(io.BytesIO(pickle.dumps(obj, protocol)))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_arguments_of_a_checkpoint_come_back(protocol):
    args = argparse.Namespace(
        exp_name="edm_qm9",
        normalize_factors=[1, 4, 10],
        lr=1e-4,
        no_cuda=True,
        resume=None,
        conditioning=["alpha"],
        device=torch.device("cpu"),
        inner=argparse.Namespace(a={1, 2}, b=frozenset("x"), c=2j, d=(1, (2,))),
    )
    found = read(args, protocol)
    assert found == args
    assert type(found) is type(found.inner) is argparse.Namespace
    assert read([found, found], protocol)[0] == args  # and can be pickled on


def test_random_plain_values_are_those_of_pickle():
    rng = np.random.default_rng(0)

    def value(depth):
        kind = rng.integers(9 if depth else 6)
        if kind < 6:
            number = int(rng.integers(-(2**40), 2**40))
            return [None, bool(number % 2), number, number / 7, str(number), {number}][kind]
        inside = [value(depth - 1) for _ in range(rng.integers(4))]
        return [inside, tuple(inside), {str(k): v for k, v in enumerate(inside)}][kind - 6]

    for _ in range(200):
        plain = value(4)
        assert read(plain, int(rng.choice(PROTOCOLS))) == plain


class Calls:
    """Pickles as the call of a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("function", "named"),
    [
        (os.system, f"{os.system.__module__}.system"),
        (builtins.eval, r"(builtins|__builtin__)\.eval"),
        (builtins.getattr, r"(builtins|__builtin__)\.getattr"),
        (subprocess.Popen, r"(subprocess|commands)\.Popen"),
        (torch.load, "torch.serialization.load"),
        (argparse.ArgumentParser, "argparse.ArgumentParser"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_pickle_that_calls_something_is_refused_and_nothing_runs(
    tmp_path, function, named, protocol
):
    ran = tmp_path / "ran"
    command = f"open({str(ran)!r}, 'w')" if function is eval else f"touch {ran}"
    for hidden in (Calls(function, command), {"deep": [Calls(function, command)]}):
        file = tmp_path / "args.pickle"
        file.write_bytes(pickle.dumps(hidden, protocol))
        with file.open("rb") as stream, pytest.raises(ArtefactError, match=named) as refused:
            load_plain(stream)
        message = str(refused.value)
        assert str(file) in message
        assert "nothing of it was run" in message
        assert "argparse.Namespace" in message
    assert not ran.exists()


def test_the_same_pickle_does_run_where_it_is_not_refused(tmp_path):
    """Otherwise the test above could not fail."""
    ran = tmp_path / "ran"
    pickle.loads(pickle.dumps(Calls(os.system, f"{sys.executable} -c \"open('{ran}', 'w')\"")))
    assert ran.exists()


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        (b"cargparse\nNamespace.__init__.__globals__\n.", "__globals__"),
        (b"cargparse\n_sys\n.", "argparse._sys"),
        (b"\x80\x04\x8c\x08argparse\x8c\x1fNamespace._get_args.__globals__\x93.", "__globals__"),
    ],
)
def test_a_name_inside_of_an_admitted_one_is_not_admitted(name, asked):
    with pytest.raises(ArtefactError, match=asked):
        load_plain(io.BytesIO(name))


def test_the_extension_registry_is_no_way_in():
    attack = b"\x80\x02\x82\xf0U\x04true\x85R."
    copyreg.add_extension(os.system.__module__, "system", 240)
    try:
        with pytest.raises(ArtefactError, match="system"):
            load_plain(io.BytesIO(attack))
        assert pickle.loads(attack) == 0  # it is one
    finally:
        copyreg.remove_extension(os.system.__module__, "system", 240)


def test_a_pickle_cannot_change_the_class_of_the_arguments():
    """`BUILD` sets attributes of whatever lies on the stack, here of the class itself."""
    attack = b"\x80\x02cargparse\nNamespace\nN}U\x04markK\x01s\x86b."
    load_plain(io.BytesIO(attack))
    assert not hasattr(argparse.Namespace, "mark")
    pickle.loads(attack)  # it is one
    assert argparse.Namespace.mark == 1
    del argparse.Namespace.mark


@pytest.mark.parametrize("broken", [b"", b"\x80\x04", pickle.dumps({"a": 1})[:-4], b"no pickle"])
def test_a_broken_file_fails_as_with_pickle(broken):
    kinds = (EOFError, pickle.UnpicklingError)
    with pytest.raises(kinds) as theirs:
        pickle.loads(broken)
    with pytest.raises(kinds) as ours:
        load_plain(io.BytesIO(broken))
    assert type(ours.value) is type(theirs.value)


@pytest.mark.parametrize(
    "bomb",
    [
        b"\x80\x04Nr\xff\xff\xff\x7f.",  # the memo's place 2^31
        b"I0x10\nNr\xff\xff\xff\x7f.",  # behind a number that only the fast reader knows
        b"Np4294967295\n.",
        b"\x80\x04\x8e\xff\xff\xff\xff\x03\x00\x00\x00a.",  # 16 GiB of bytes, of which 2 are there
        b"\x8b\xff\xff\xff\x7fa.",  # a number of 2 GiB
    ],
)
def test_a_pickle_gets_no_more_memory_than_it_fills(bomb):
    tracemalloc.start()
    try:
        with pytest.raises((ArtefactError, EOFError, pickle.UnpicklingError)):
            load_plain(io.BytesIO(bomb))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@given(st.integers(0, 10**6), st.integers(0, 255), st.booleans())
@settings(max_examples=400, derandomize=True, deadline=None, database=None)
def test_a_damaged_file_of_arguments_is_read_or_refused(place, byte, cut):
    arguments = argparse.Namespace(
        n=1, lr=1e-4, name="edm", sizes=[1, 2], cuda=True, kinds={"H", "C"}, at=torch.device("cpu")
    )
    content = bytearray(pickle.dumps(arguments, 4))
    content[place % len(content)] = byte
    content = content[: len(content) - 5 * cut]
    try:
        load_plain(io.BytesIO(bytes(content)))
    except (ArtefactError, EOFError, pickle.UnpicklingError):
        pass


def test_two_pickles_in_one_file(tmp_path):
    with (tmp_path / "two.pickle").open("w+b") as stream:
        pickle.dump([1], stream)
        pickle.dump("b", stream)
        stream.seek(0)
        assert [load_plain(stream), load_plain(stream)] == [[1], "b"]


@pytest.mark.upstream
def test_the_published_checkpoints_of_edm_can_be_read():
    repo = os.environ.get("GAGA_EDM_REPO")
    if not repo:
        pytest.skip("GAGA_EDM_REPO does not name a checkout of EDM")
    files = sorted(Path(repo, "outputs").glob("*/args.pickle"))
    assert files
    for file in files:
        with file.open("rb") as stream:
            assert load_plain(stream) == pickle.loads(file.read_bytes())
