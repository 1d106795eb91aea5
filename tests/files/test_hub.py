"""The hub: artefacts and cards, through huggingface_hub's real client, to a hub on loopback."""

import json
import re
import socket
from dataclasses import replace

import huggingface_hub.constants as client
import pytest
import torch
from fakes.hub import READER, TOKEN, running
from huggingface_hub import CommitInfo, file_download, utils
from toys import same_stats

from gaga_adapter import GAGAScheduler, GAGAStats, fit
from gaga_adapter.errors import ArtefactError, WriteError
from gaga_adapter.files import card_writer
from gaga_adapter.layout import DenseLayout
from gaga_adapter.report.card import PICTURE, write_card
from gaga_adapter.stats import CONFIG_NAME, TENSORS_NAME

FILES = {CONFIG_NAME, TENSORS_NAME, "README.md", PICTURE}


@pytest.fixture(scope="module")
def fitted():
    """With a curve, so that the card has a picture."""
    generator = torch.Generator().manual_seed(0)
    x = torch.tanh(2 * torch.randn(2000, 2, 2, 2, generator=generator))
    return fit([x], DenseLayout((2, 2, 2)), criterion="cumulant", provenance={"data": "signs"})


@pytest.fixture(scope="module")
def stats(fitted):
    """Without a curve: the card is made faster."""
    return replace(fitted, selection=None)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that is the client's own, an empty cache, and the token of somebody who may write."""
    with running() as server:
        use(server.endpoint, monkeypatch)
        monkeypatch.setattr(client, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


def use(endpoint, monkeypatch):
    """What HF_ENDPOINT does, which the client reads when it is imported."""
    template = client.HUGGINGFACE_CO_URL_TEMPLATE.replace(client.ENDPOINT, endpoint)
    for module in (client, file_download):  # huggingface_hub before 1.0 has a copy of its own
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(client, "ENDPOINT", endpoint)


@pytest.fixture
def nowhere():
    """An address where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_round_trip(hub, fitted, tmp_path):
    address = fitted.push_to_hub("me/signs", commit_message="first", license="mit")
    repo = hub.repos["me/signs"]
    assert address == f"{hub.endpoint}/me/signs/commit/{repo.head}"
    assert repo.messages == ["initial commit", "first"]
    assert not repo.private
    assert FILES < set(hub.files("me/signs"))
    assert hub.files("me/signs")[PICTURE].startswith(b"\x89PNG")
    assert same_stats(GAGAStats.from_pretrained("me/signs"), fitted)
    # The card and its picture are of no use to the program, and stay where they are.
    assert not list((tmp_path / "cache").rglob("README.md"))
    # A scheduler takes the same id, and what was read once needs no hub any more.
    hub.shutdown()
    import diffusers

    scheduler = GAGAScheduler.from_pretrained(
        diffusers.DDPMScheduler(), stats="me/signs", local_files_only=True
    )
    assert same_stats(scheduler.stats, fitted)


def test_an_endpoint_by_name(hub, stats, monkeypatch, tmp_path, nowhere):
    use(nowhere, monkeypatch)
    if "_endpoint" not in CommitInfo.__dataclass_fields__:
        with pytest.raises(WriteError, match=f"HF_ENDPOINT={hub.endpoint}"):
            stats.push_to_hub("me/signs", endpoint=hub.endpoint)
        assert not hub.repos
        return
    stats.push_to_hub("me/signs", endpoint=hub.endpoint, private=True)
    assert hub.repos["me/signs"].private
    again = GAGAStats.from_pretrained(
        "me/signs", endpoint=hub.endpoint, cache_dir=tmp_path, token=READER
    )
    assert same_stats(again, stats)


def test_a_name_alone_is_the_token_holders(hub, stats):
    stats.push_to_hub("signs")
    assert b'from_pretrained("writer/signs")' in hub.files("writer/signs")["README.md"]


def test_a_revision(hub, stats):
    stats.push_to_hub("me/signs")
    first = hub.repos["me/signs"].head
    hub.repos["me/signs"].commit({CONFIG_NAME: b"{}"}, "spoilt")
    assert same_stats(GAGAStats.from_pretrained("me/signs", revision=first), stats)
    with pytest.raises(ArtefactError, match="it has no such revision"):
        GAGAStats.from_pretrained("me/signs", revision="v2")


def test_a_pull_request(hub, stats):
    stats.push_to_hub("me/signs")
    head = hub.repos["me/signs"].head
    hub.repos["me/signs"].commit({"README.md": b"mine"}, "edited")
    assert stats.push_to_hub("me/signs", create_pr=True).endswith("/discussions/1")
    assert hub.repos["me/signs"].head != head
    assert hub.files("me/signs")["README.md"] == b"mine"
    assert hub.pulls[0]["README.md"].startswith(b"---\nlibrary_name")


def test_what_people_wrote_stays(hub, stats):
    stats.push_to_hub("me/signs")
    card = hub.files("me/signs")["README.md"].decode()
    own = card.replace("# signs", "# Signs, made in Bergen").replace(
        "library_name", "license: cc0-1.0\nlibrary_name"
    )
    own = own.replace("**", "SPOILT") + "\nMore by me: `<b>` & co.\r\n"
    hub.repos["me/signs"].commit({"README.md": own.encode()}, "edited")
    stats.push_to_hub("me/signs")
    after = hub.files("me/signs")["README.md"].decode()
    assert "# Signs, made in Bergen" in after
    assert "license: cc0-1.0" in after
    assert after.endswith("\nMore by me: `<b>` & co.\r\n".replace("\r", ""))
    assert "SPOILT" not in after


def test_a_card_edited_in_between_is_not_overwritten(hub, stats):
    """Between reading the card and the commit, its owner saves another."""
    stats.push_to_hub("me/signs")
    hub.before_commit = lambda repo: repo.commit({"README.md": b"mine"}, "edited")
    spoilt = GAGAStats(stats.layout, stats.moments, -1.0)
    with pytest.raises(WriteError, match=r"somebody else committed meanwhile\. Push again"):
        spoilt.push_to_hub("me/signs")
    assert hub.files("me/signs")["README.md"] == b"mine"
    spoilt.push_to_hub("me/signs")
    assert hub.files("me/signs")["README.md"].startswith(b"---\nlibrary_name")
    assert b"\nmine\n" in hub.files("me/signs")["README.md"]


def test_half_a_marker(hub, stats):
    stats.push_to_hub("me/signs")
    card = hub.files("me/signs")["README.md"].replace(b"<!-- gaga:end -->", b"")
    head = hub.repos["me/signs"].commit({"README.md": card}, "edited")
    with pytest.raises(ArtefactError, match=r"1 lines `gaga:begin` and 0 lines `gaga:end`"):
        stats.push_to_hub("me/signs")
    assert hub.repos["me/signs"].head == head


# -- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "there is no token. Run `hf auth login`, or set HF_TOKEN"),
        ("hf_wrong", "the token was refused"),
        (READER, "the token may not write there"),
    ],
)
def test_pushing_needs_a_token(hub, stats, monkeypatch, tmp_path, token, message):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(client, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(WriteError, match=f"cannot push to me/signs: {message}"):
        stats.push_to_hub("me/signs", token=token)
    assert not hub.repos


def test_no_such_repository(hub):
    with pytest.raises(ArtefactError, match=r"me/nothing is .*no such repository, or it is priv"):
        GAGAStats.from_pretrained("me/nothing")


def test_a_private_repository_without_a_token(hub, stats, monkeypatch):
    stats.push_to_hub("me/signs", private=True)
    with pytest.raises(ArtefactError, match="it is private and the token does not open it"):
        GAGAStats.from_pretrained("me/signs", token=False)


def test_a_repository_of_something_else(hub, stats):
    stats.push_to_hub("me/signs")
    hub.repos["me/other"] = type(hub.repos["me/signs"])()
    hub.repos["me/other"].commit({"model.bin": b"0"}, "first")
    with pytest.raises(ArtefactError, match=r"no fitted statistics in me/other: gaga_config\.json"):
        GAGAStats.from_pretrained("me/other")


def test_nobody_there(nowhere, stats, tmp_path):
    with pytest.raises(ArtefactError, match=f"{nowhere} was not reached, and no copy is in the"):
        GAGAStats.from_pretrained("me/signs", endpoint=nowhere, cache_dir=tmp_path)
    refused = f"cannot push to (me/signs: {nowhere} was not reached|{nowhere} by name)"
    with pytest.raises(WriteError, match=refused):
        stats.push_to_hub("me/signs", endpoint=nowhere, token=TOKEN)


def test_offline(hub, stats, monkeypatch, request):
    monkeypatch.setattr(client, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(client, "is_offline_mode", lambda: True, raising=False)  # from 1.0 on
    if reset := getattr(utils, "reset_sessions", None):  # before, a session is on or off line
        reset()
        request.addfinalizer(reset)
    with pytest.raises(WriteError, match="HF_HUB_OFFLINE is set"):
        stats.push_to_hub("me/signs")
    with pytest.raises(ArtefactError, match=r"me/signs is neither .* no copy is in the cache"):
        GAGAStats.from_pretrained("me/signs")


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        (CONFIG_NAME, lambda blob: blob[: len(blob) // 2]),
        (TENSORS_NAME, lambda blob: blob[: len(blob) // 2]),
        (TENSORS_NAME, lambda blob: blob[:-20] + bytes([blob[-20] ^ 0x55]) + blob[-19:]),
    ],
    ids=["half the configuration", "half the tensors", "a byte of the tensors"],
)
def test_a_damaged_file(hub, stats, name, spoil):
    stats.push_to_hub("me/signs")
    hub.repos["me/signs"].commit({name: spoil(hub.files("me/signs")[name])}, "spoilt")
    with pytest.raises(
        ArtefactError, match=r"me/signs was downloaded .*(corrupt|no valid JSON).*remove \S*signs "
    ):
        GAGAStats.from_pretrained("me/signs")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "is empty"),
        ("https://huggingface.co/me/signs", "is an address. Pass the hub id in it: me/signs"),
        ("https://huggingface.co/me/signs/tree/main", "Pass the hub id in it: me/signs"),
        ("hf://me/signs", "is no hub id"),
        ("me/signs/extra", "no fitted statistics in me/signs/extra: .*a hub id such as user/name"),
        ("me/si gns", "neither a folder here nor readable on the hub"),
    ],
)
def test_what_is_no_name_is_not_asked_for(nowhere, name, message, tmp_path):
    with pytest.raises(ArtefactError, match=message):
        GAGAStats.from_pretrained(name, endpoint=nowhere, cache_dir=tmp_path)


@pytest.mark.parametrize(
    "name", ["", "me/", "/signs", "me/signs/extra", "me/si gns", "a--/b?", "https://hub/me/signs"]
)
def test_what_is_no_id_is_not_pushed_to(nowhere, stats, name):
    with pytest.raises(ArtefactError, match=r"is no hub id|is an address"):
        stats.push_to_hub(name, endpoint=nowhere)


# -- gaga push -----------------------------------------------------------------------------------


def test_push(gaga, hub, stats, tmp_path):
    stats.save_pretrained(tmp_path / "stats")
    code, out, _ = gaga(
        *("push", tmp_path / "stats", "me/signs", "--private", "--message", "new", "--json")
    )
    assert code == 0
    assert json.loads(out)["address"] == f"{hub.endpoint}/me/signs/commit/" + (
        hub.repos["me/signs"].head
    )
    assert hub.repos["me/signs"].private
    assert hub.repos["me/signs"].messages[-1] == "new"
    code, out, err = gaga("show", "me/signs", "--json", "--quiet")
    assert json.loads(out)["log_snr_star"] == stats.log_snr_star
    assert err == ""


def test_a_dry_run_sends_nothing(gaga, hub, fitted, tmp_path):
    fitted.save_pretrained(tmp_path / "stats")
    code, out, _ = gaga("push", tmp_path / "stats", "me/signs", "--dry-run")
    assert code == 0
    assert out.startswith("---\nlibrary_name: gaga-adapter\n")
    code, out, err = gaga(
        *("push", tmp_path / "stats", "me/signs", "--dry-run", "--out", tmp_path / "card")
    )
    assert (code, out) == (0, "")
    assert str(tmp_path / "card") in err
    assert {file.name for file in (tmp_path / "card").iterdir()} == FILES
    assert same_stats(GAGAStats.from_pretrained(tmp_path / "card"), fitted)
    assert not hub.repos


def test_mistakes_of_push(gaga, hub, stats, tmp_path):
    for arguments, message in (
        (("push", "qm9", "me/signs/extra"), "is no hub id"),
        (("push", tmp_path / "none", "me/signs"), "no fitted statistics"),
        (("push", "qm9", "me/signs", "--out", tmp_path), "--dry-run"),
        (("push", "qm9", "me/signs", "--license", "my own"), "no identifier"),
        (("push", "qm9", "me/signs", "--message", " "), "is empty"),
    ):
        code, _, err = gaga(*arguments)
        assert code == 2
        assert re.search(message, " ".join(err.split()))
    assert not hub.repos


@pytest.mark.parametrize("option", ["--license", "--licence"])  # the second is that of version 0.1
def test_both_spellings_of_the_licence(gaga, hub, option):
    code, out, _ = gaga("push", "qm9", "me/signs", "--dry-run", option, "cc0-1.0")
    assert code == 0
    assert "license: cc0-1.0" in out


def test_the_root_names_the_writer_of_cards():
    assert card_writer() is write_card
