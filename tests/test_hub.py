"""The hub, for real: a small one is served on this machine, downloaded from, and taken away."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load, save

from interp.errors import CheckpointError, OfflineError
from interp.model import loading
from interp.model.gpt2 import HookedGPT2
from interp.model.hub import model_folder
from interp.model.saving import save_huggingface
from interp.model.tokens import END_OF_TEXT
from tests.hub_server import Files, Hub, served
from tests.test_checkpoints import run_child

TEXT = "I love the color black"
REPO = "someone/small"
SECONDS_WITHOUT_NETWORK = 5.0
"""Longest time to find out that the hub is not reached; its library takes 23."""


@pytest.fixture
def files(random_gpt2: HookedGPT2, tmp_path: Path) -> Files:
    """The files of a small model."""
    save_huggingface(random_gpt2, tmp_path / "published")
    return {path.name: path.read_bytes() for path in (tmp_path / "published").iterdir()}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, with the network allowed."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    return tmp_path / "cache"


def point_to(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT does before the hub's library is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that answers, with nothing on it."""
    with served(Hub()) as hub:
        point_to(hub.endpoint, monkeypatch)
        yield hub


@pytest.fixture
def unreachable(cache: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An endpoint at which nobody answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    point_to(endpoint, monkeypatch)
    return endpoint


def resharded(files: Files) -> Files:
    """The same model in two shards."""
    tensors = load(files["model.safetensors"])
    names = sorted(tensors)
    parts = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    shards = {file: save({name: tensors[name] for name in part}) for file, part in parts.items()}
    others = {name: content for name, content in files.items() if name != "model.safetensors"}
    return others | shards | {"model.safetensors.index.json": json.dumps(index).encode()}


def test_a_model_is_downloaded_whole(hub: Hub, files: Files, random_gpt2: HookedGPT2) -> None:
    hub.add(REPO, files)
    model = loading.load(REPO)
    assert torch.equal(model(TEXT), random_gpt2(TEXT))
    assert model.cfg.model_name == REPO


def test_a_downloaded_model_needs_no_hub(cache: Path, files: Files, monkeypatch) -> None:
    with served(Hub()) as hub:
        point_to(hub.endpoint, monkeypatch)
        hub.add(REPO, files)
        first = loading.load(REPO)(TEXT)
        n_requests = len(hub.requests)
        loading.load(REPO)
        assert len(hub.requests) == n_requests
    assert torch.equal(loading.load(REPO)(TEXT), first)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(loading.load(REPO)(TEXT), first)


def test_a_model_without_tokenizer_needs_no_hub_either(hub: Hub, files: Files) -> None:
    hub.add(REPO, {name: x for name, x in files.items() if "tokenizer" not in name})
    assert loading.load(REPO).tokenizer is None
    n_requests = len(hub.requests)
    assert loading.load(REPO).tokenizer is None
    assert len(hub.requests) == n_requests


def test_shards_are_downloaded(hub: Hub, files: Files, random_gpt2: HookedGPT2) -> None:
    hub.add(REPO, resharded(files))
    assert torch.equal(loading.load(REPO)(TEXT), random_gpt2(TEXT))
    n_requests = len(hub.requests)
    loading.load(REPO)
    assert len(hub.requests) == n_requests


def test_a_missing_shard_is_named(hub: Hub, files: Files) -> None:
    published = resharded(files)
    del published["model-00002-of-00002.safetensors"]
    hub.add(REPO, published)
    with pytest.raises(CheckpointError, match=r"has no model-00002-of-00002\.safetensors, which"):
        loading.load(REPO)


def test_a_cache_that_lacks_a_shard_is_not_used(
    hub: Hub, files: Files, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, resharded(files))
    loading.load(REPO)
    next(cache.rglob("model-00002-of-00002.safetensors")).unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OfflineError, match="not complete in the cache"):
        loading.load(REPO)


def test_the_first_token_is_downloaded_with_the_settings(hub: Hub, files: Files) -> None:
    renamed = files["tokenizer.json"].replace(END_OF_TEXT.encode(), b"<s>")
    settings = {"bos_token": "<s>"}
    hub.add(
        REPO,
        files | {"tokenizer.json": renamed, "tokenizer_config.json": json.dumps(settings).encode()},
    )
    assert loading.load(REPO).to_tokens(TEXT)[0, 0] == 0


def test_a_revision_is_honoured(hub: Hub, files: Files) -> None:
    weights = load(files["model.safetensors"])
    doubled = {name: 2 * x for name, x in weights.items()}
    hub.add(REPO, files)
    commit = hub.add(REPO, files | {"model.safetensors": save(doubled)}, revision="doubled")
    plain = loading.load(REPO).W_E
    assert torch.equal(loading.load(REPO, revision="doubled").W_E, 2 * plain)
    assert torch.equal(loading.load(REPO, revision=commit).W_E, 2 * plain)
    assert torch.equal(loading.load(REPO).W_E, plain)


def test_all_files_come_from_one_commit(hub: Hub, files: Files) -> None:
    commit = hub.add(REPO, files)
    loading.load(REPO)
    revisions = {request.split("/resolve/")[1].split("/")[0] for request in hub.requests[1:]}
    assert revisions == {"main", commit}
    by_branch = [request for request in hub.requests if "/main/" in request]
    assert {request.rpartition("/")[2] for request in by_branch} == {"config.json"}


@pytest.mark.parametrize("cached_as", ["gpt2", "openai-community/gpt2"])
def test_a_short_name_finds_the_model_under_both_names(
    cached_as: str, hub: Hub, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(cached_as, files)
    model_folder(cached_as)
    rows = {row.name: row.present for row in loading.available_models()}
    assert rows["gpt2"]
    assert not rows["gpt2-medium"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert loading.load("gpt2").cfg.model_name == "gpt2"


def test_a_short_name_is_downloaded_under_its_full_name(hub: Hub, files: Files) -> None:
    hub.add("distilbert/distilgpt2", files)
    assert loading.load("distilgpt2").cfg.model_name == "distilgpt2"


def test_a_download_that_breaks_off_is_resumed(
    hub: Hub, files: Files, random_gpt2: HookedGPT2, caplog: pytest.LogCaptureFixture
) -> None:
    hub.add(REPO, files)
    hub.interrupted.add("model.safetensors")
    assert torch.equal(loading.load(REPO)(TEXT), random_gpt2(TEXT))
    assert not hub.interrupted


def test_a_file_shorter_than_announced_is_refused_and_not_kept(
    hub: Hub, files: Files, cache: Path
) -> None:
    hub.add(REPO, files)
    hub.truncated.add("model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors of .* could not be downloaded"):
        loading.load(REPO)
    assert not list(cache.rglob("model.safetensors"))
    hub.truncated.clear()
    loading.load(REPO)


@pytest.mark.parametrize(
    ("arrange", "cause"),
    [
        (lambda hub, files: None, "does not exist, or is private"),
        (lambda hub, files: hub.gated.add(REPO), "needs permission: ask for it"),
        (lambda hub, files: hub.add(REPO, files, revision="other"), "has no revision 'main'"),
        (lambda hub, files: hub.add(REPO, {"README.md": b""}), r"has no config\.json"),
        (
            lambda hub, files: hub.add(REPO, {"config.json": files["config.json"]}),
            r"has no model\.safetensors\. If it has a pytorch_model\.bin and you trust it",
        ),
    ],
)
def test_what_the_hub_does_not_give_is_explained(
    arrange: Callable[[Hub, Files], object], cause: str, hub: Hub, files: Files
) -> None:
    arrange(hub, files)
    with pytest.raises(CheckpointError, match=cause):
        loading.load(REPO)


def test_an_unknown_revision_is_named(hub: Hub, files: Files) -> None:
    hub.add(REPO, files)
    with pytest.raises(
        CheckpointError, match="has no revision 'v9': no such branch, tag or commit"
    ):
        loading.load(REPO, revision="v9")


def test_a_pickle_is_downloaded_only_when_allowed(
    hub: Hub, files: Files, tmp_path: Path, random_gpt2: HookedGPT2
) -> None:
    torch.save(load(files.pop("model.safetensors")), tmp_path / "pytorch_model.bin")
    hub.add(REPO, files | {"pytorch_model.bin": (tmp_path / "pytorch_model.bin").read_bytes()})
    with pytest.raises(CheckpointError, match="pass allow_pickle=True"):
        loading.load(REPO)
    assert not any("pytorch_model" in request for request in hub.requests)
    assert torch.equal(loading.load(REPO, allow_pickle=True)(TEXT), random_gpt2(TEXT))


@pytest.mark.parametrize("name", ["a b", "-x", "some/mo--del", "x" * 200])
def test_a_name_that_no_model_can_have_is_refused(name: str, hub: Hub) -> None:
    with pytest.raises(CheckpointError, match="is no model of the hub"):
        loading.load(name)
    assert not hub.requests


def test_without_network_the_refusal_is_quick_and_says_what_to_do(
    unreachable: str, cache: Path
) -> None:
    begin = time.monotonic()
    with pytest.raises(OfflineError) as refusal:
        loading.load("gpt2")
    assert time.monotonic() - begin < SECONDS_WITHOUT_NETWORK
    for part in (unreachable, str(cache), "interp.load()", "connected machine"):
        assert part in str(refusal.value)


def test_a_hub_that_does_not_answer_is_given_up_on(hub: Hub) -> None:
    hub.seconds_to_answer = 20
    begin = time.monotonic()
    with pytest.raises(OfflineError, match="is not reached"):
        loading.load(REPO)
    assert time.monotonic() - begin < SECONDS_WITHOUT_NETWORK


def test_offline_mode_asks_nobody(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OfflineError, match="HF_HUB_OFFLINE forbids the network"):
        loading.load(REPO)
    assert not hub.requests


def test_half_a_model_in_the_cache_is_not_used(
    hub: Hub, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, {"config.json": files["config.json"]})
    with pytest.raises(CheckpointError):
        loading.load(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OfflineError, match="not complete in the cache"):
        loading.load(REPO)


def test_the_endpoint_of_the_environment_is_honoured(files: Files, tmp_path: Path) -> None:
    with served(Hub()) as hub:
        hub.add(REPO, files)
        printed = run_child(
            f"import interp; print(interp.load({REPO!r}).cfg.d_vocab)",
            HF_ENDPOINT=hub.endpoint,
            HF_HUB_CACHE=str(tmp_path / "cache"),
            HF_HUB_OFFLINE="0",
        )
    assert printed.strip() == "340"
    assert hub.requests
