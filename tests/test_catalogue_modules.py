"""The catalogue's modules against the real transformers classes, built without weights on the meta device."""

import json
from collections import defaultdict

import pytest

from lora_advise import catalogue

pytest.importorskip("torch", reason="the real classes need the [run] extra")
pytest.importorskip("transformers", reason="the real classes need the [run] extra")


def _groups():
    """Rows by model type; rows with the same class and config are built once."""
    groups = defaultdict(dict)
    for model_id in catalogue.index():
        row = catalogue.row(model_id)
        if row["class"] is not None:
            groups[row["model_type"]].setdefault(row["class"] + json.dumps(row["config"], sort_keys=True), row)
    return groups


GROUPS = _groups()


@pytest.mark.slow
@pytest.mark.parametrize("model_type", sorted(GROUPS))
def test_modules_shapes_and_counts_are_those_of_the_real_class(model_type):
    import transformers

    from lora_advise.runner.build_catalogue import build_on_meta, observe

    for row in GROUPS[model_type].values():
        if not hasattr(transformers, row["class"]):
            pytest.skip(f"transformers {transformers.__version__} has no {row['class']}")
        seen = observe(build_on_meta(row["class"], row["config"]))
        assert sorted(map(tuple, seen["modules"])) == sorted(map(tuple, row["modules"])), row["id"]
        assert (seen["total"], seen["rest"], seen["tied"]) == (row["total"], row["rest"], row["tied"]), row["id"]


@pytest.mark.slow
def test_a_type_without_formulas_is_built_from_its_class(tmp_path):
    from lora_advise.architecture import architectures, from_config

    config = {
        "model_type": "biogpt", "architectures": ["BioGptForCausalLM"], "hidden_size": 64, "num_hidden_layers": 3,
        "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 500,
    }  # fmt: skip
    assert "biogpt" not in architectures()
    model = from_config(config, "a-folder")
    assert [(m.d_in, m.d_out, m.count) for m in model.modules if m.name == "q_proj"] == [(64, 64, 3)]
    assert model.with_role("lm_head")


@pytest.mark.slow
def test_an_unknown_type_never_runs_remote_code(tmp_path):
    from lora_advise.catalogue import resolve_model
    from lora_advise.errors import LoraAdviseError

    (tmp_path / "config.json").write_text(
        json.dumps(
            {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
        )
    )
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(LoraAdviseError, match="'evil'"):
        resolve_model(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_a_type_that_transformers_does_not_know_is_one_sentence(tmp_path, capsys):
    from lora_advise.cli import main

    (tmp_path / "config.json").write_text('{"model_type": "nonsense"}')
    assert main(["--model", str(tmp_path), "--task", "qa"]) == 2
    said = capsys.readouterr().err
    assert "config.json: The model type 'nonsense' is unknown to transformers" in said
    assert len(said.strip().splitlines()) == 1
