"""What sizes, names, ids and folders resolve to, and whether the catalogue's counts are the published ones."""

import json
import socket
import time
from contextlib import closing

import pytest

from lora_advise import catalogue
from lora_advise.catalogue import resolve_model
from lora_advise.errors import LoraAdviseError

ROWS = [catalogue.row(i) for i in catalogue.index() if catalogue.row(i)["id"] == i]
PROVED = ("exact", "within 0.5 %")


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize(
    ("asked", "model_id"),
    [
        ("32B", "Qwen/Qwen2.5-32B-Instruct"),
        ("32b", "Qwen/Qwen2.5-32B-Instruct"),
        ("7B", "Qwen/Qwen2.5-7B-Instruct"),
        ("8B", "meta-llama/Llama-3.1-8B-Instruct"),
        ("70B", "meta-llama/Llama-3.3-70B-Instruct"),
        ("0.5b", "Qwen/Qwen2.5-0.5B-Instruct"),
        ("1.5B", "Qwen/Qwen2.5-1.5B-Instruct"),
        ("600M", "Qwen/Qwen3-0.6B"),
        ("30B-A3B", "Qwen/Qwen3-30B-A3B"),
        ("8x7B", "mistralai/Mixtral-8x7B-Instruct-v0.1"),
    ],
)
def test_a_size_is_the_preferred_model_of_that_size(asked, model_id):
    model, related = resolve_model(asked)
    assert (model.name, model.asked) == (model_id, asked)
    assert related
    assert model_id not in related


def test_every_preferred_model_is_in_the_catalogue_and_has_its_size():
    from lora_advise.model_names import PREFERRED, parse_size, saying_size

    for size, model_id in PREFERRED.items():
        total = catalogue.index()[model_id][1]
        assert saying_size([model_id], size) or total == pytest.approx(parse_size(size), rel=0.25), size


def test_a_size_that_nobody_has_names_the_nearest_sizes():
    with pytest.raises(
        LoraAdviseError, match=r"No model of the catalogue has the size 5000B: the nearest are .+/.+B\)"
    ):
        resolve_model("5000B")


@pytest.mark.parametrize(
    ("asked", "model_id"),
    [
        ("Qwen/Qwen2.5-32B-Instruct", "Qwen/Qwen2.5-32B-Instruct"),
        ("qwen/qwen2.5-32b-instruct", "Qwen/Qwen2.5-32B-Instruct"),
        ("qwen2.5-32b", "Qwen/Qwen2.5-32B"),
        ("Qwen2.5 32B instruct", "Qwen/Qwen2.5-32B-Instruct"),
        ("llama_3.1_8b", "meta-llama/Llama-3.1-8B"),
        ("unsloth/Qwen2.5-32B-Instruct-bnb-4bit", "Qwen/Qwen2.5-32B-Instruct"),
        ("mixtral-8x7b-instruct-v0.1", "mistralai/Mixtral-8x7B-Instruct-v0.1"),
    ],
)
def test_names_are_found_in_any_case_and_spelling(asked, model_id):
    model, _ = resolve_model(asked)
    assert model.name == model_id
    assert model.asked == (None if asked == model_id else asked)


def test_the_variants_of_a_name_are_listed_as_related():
    _, related = resolve_model("qwen2.5-32b")
    assert "Qwen/Qwen2.5-32B-Instruct" in related


def test_an_alias_is_shown_under_its_own_id_with_its_own_variant():
    base, chat = resolve_model("Qwen/Qwen2.5-32B")[0], resolve_model("Qwen/Qwen2.5-32B-Instruct")[0]
    assert (base.variant, chat.variant) == ("base", "instruct")
    assert base.modules == chat.modules


def test_ids_resolve_to_themselves():
    for model_id in list(catalogue.index())[::5]:
        model, _ = resolve_model(model_id)
        assert (model.name, model.asked) == (model_id, None)


@pytest.mark.parametrize("asked", ["Qwen/Qwen2.5-32B-Instrukt", "qwen2.5-33b-instruct", "some-owner/unheard-of-model"])
def test_an_unknown_name_is_an_error_never_a_default(asked):
    with pytest.raises(LoraAdviseError, match=r"not in the catalogue|no model of the catalogue"):
        resolve_model(asked)


def test_the_error_for_a_misspelt_name_offers_the_right_one():
    with pytest.raises(LoraAdviseError, match=r"Qwen/Qwen2\.5-32B-Instruct"):
        resolve_model("qwen2.5-32b-instrukt")


@pytest.mark.parametrize("asked", ["", "   ", "\0", "a" * 5000, "../../etc/passwd", "owner/", "/name"])
def test_nonsense_is_one_clear_error(asked):
    with pytest.raises(LoraAdviseError):
        resolve_model(asked)


def test_offline_does_not_ask_the_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(LoraAdviseError, match="offline"):
        resolve_model("some-owner/unheard-of-model")


def test_a_hub_that_never_answers_is_given_up_within_the_limit(monkeypatch):
    pytest.importorskip("huggingface_hub")
    from lora_advise import hub

    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            f"http://127.0.0.1:{silent.getsockname()[1]}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
        )
        before = time.monotonic()
        assert hub.config_from_hub("some-owner/unheard-of-model") is None
        assert time.monotonic() - before < hub.TIMEOUT + 2


def test_a_size_is_looked_up_without_reading_every_row(monkeypatch):
    catalogue.index()
    read = []
    monkeypatch.setattr(catalogue.json, "loads", lambda text, real=json.loads: read.append(text) or real(text))
    resolve_model("32B")
    assert len(read) == 1


def test_parameters_are_modules_and_rest():
    for row in ROWS:
        tied = set(row["tied"])
        once = sum(
            d_in * d_out * count * experts
            for path, d_in, d_out, count, _, _, experts, _ in row["modules"]
            if path not in tied
        )
        assert once + row["rest"] == row["total"], row["id"]
        assert 0 < row["active"] <= row["total"], row["id"]


def test_counts_are_the_published_ones():
    for row in ROWS:
        published = row["published"]
        if published and published["proof"] in PROVED:
            assert row["total"] == pytest.approx(published["count"], rel=0.005), row["id"]
        elif published and published["proof"] == "exact without the tied head":
            assert row["total"] + row["vocab_size"] * row["hidden_size"] == pytest.approx(
                published["count"], rel=0.005
            ), row["id"]
        elif published and published["proof"] == "rounded":
            assert row["total"] == pytest.approx(published["count"], rel=0.03), row["id"]


def test_at_least_350_models_are_proved_against_an_exact_published_count():
    proved = [
        name
        for row in ROWS
        if row["published"] and row["published"]["proof"] in PROVED
        for name in (row["id"], *row["aliases"])
    ]
    assert len(set(proved)) >= 350


def test_every_kind_of_model_is_there():
    assert {row["kind"] for row in ROWS} >= {"dense", "moe", "hybrid", "ssm", "vlm", "encoder", "encoder-decoder"}


def test_unchecked_fields_are_kept():
    assert "license" in catalogue.unchecked("Qwen/Qwen2.5-32B-Instruct")


def test_mixture_of_experts_counts_only_the_chosen_experts_as_active():
    model, _ = resolve_model("mistralai/Mixtral-8x7B-v0.1")
    assert model.active_params == pytest.approx(12.9e9, rel=0.01), "12.9B active, says the model's own announcement"
    expert = model.with_role("expert")
    assert all(m.kind == "parameter" and m.experts == 8 for m in expert)


def test_a_folder_wins_over_a_name(tmp_path, monkeypatch):
    row = catalogue.row("meta-llama/Llama-3.2-1B")
    folder = tmp_path / "7B"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(row["config"]))
    monkeypatch.chdir(tmp_path)
    model, _ = resolve_model("7B")
    assert model.total_params == row["total"]
    assert model.path is not None
    assert model.path.endswith("config.json")
