"""Read the keys that each trainer knows from its own source into ``advisor/data/trainer_keys.json``.

``python tests/benchmarks/read_trainer_keys.py axolotl FOLDER`` with the unpacked wheel or checkout of that trainer. The
sources are parsed, never imported.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path

TABLE = Path(__file__).resolve().parents[2] / "advisor" / "data" / "trainer_keys.json"


def classes_of(folder):
    """Every class below a folder: its bases, the names of its annotated fields, and aliases of these."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8", errors="replace"))):
            if isinstance(node, ast.ClassDef):
                bases = [ast.unparse(base).rpartition(".")[2].split("[")[0] for base in node.bases]
                fields = [name for s in node.body if isinstance(s, ast.AnnAssign) for name in names_of(s)]
                found.setdefault(node.name, (bases, [f for f in fields if f != "model_config"]))
    return found


def names_of(field):
    """A field's own name and the aliases under which pydantic reads it."""
    names = [field.target.id] if isinstance(field.target, ast.Name) else []
    if isinstance(field.value, ast.Call):
        for keyword in field.value.keywords:
            if keyword.arg in ("alias", "validation_alias"):
                names += [
                    n.value for n in ast.walk(keyword.value) if isinstance(n, ast.Constant) and isinstance(n.value, str)
                ]
    return names


def fields_of(name, classes):
    """Fields of a class and of those that it inherits from."""
    if name not in classes:
        return set()
    bases, fields = classes[name]
    return set(fields).union(*(fields_of(base, classes) for base in bases))


def axolotl(folder):
    """The schema of a configuration and the arguments of the plugins that come with it."""
    classes = classes_of(folder / "axolotl" / "utils" / "schemas")
    plugins = classes_of(folder / "axolotl" / "integrations")
    keys = fields_of("AxolotlInputConfig", classes) | fields_of("AxolotlConfigWCapabilities", classes)
    for path in (folder / "axolotl" / "integrations").rglob("*.py"):
        for name in re.findall(r"""return ["']axolotl\.integrations\.[\w.]+\.(\w+)["']""", path.read_text("utf-8")):
            keys |= fields_of(name, plugins)
    return keys


def trl(folder):
    """Configs of every method, the arguments of the scripts and of the model, and the flags that go on to accelerate."""
    classes = {**classes_of(folder / "trl"), **classes_of(folder / "transformers")}
    keys = {"config", "accelerate_config", "env"} | flags_of(folder / "accelerate" / "commands" / "launch.py")
    for name in classes:
        own = name.endswith("Config") and "_BaseConfig" in ancestors(name, classes)
        if own or name in ("ModelConfig", "DatasetMixtureConfig") or name.endswith("ScriptArguments"):
            keys |= fields_of(name, classes)
    return keys | switches_off(folder / "trl") | switches_off(folder / "transformers")


def llamafactory(folder):
    """Arguments of the parser in every mode, and those of the ``TrainingArguments`` below it; ``kt_config`` is of a fork."""
    upper, own = classes_of(folder / "transformers"), classes_of(next(folder.rglob("hparams")))
    keys = {"kt_config"} | fields_of("Seq2SeqTrainingArguments", upper)
    for name, (_, fields) in own.items():
        if name.endswith(("Arguments", "Argument")) and name != "EvaluationArguments":
            keys |= set(fields)
    keys |= switches_off(folder / "transformers") | switches_off(next(folder.rglob("hparams")))
    return {key for key in keys if not key.startswith("_")}


def llamafactory_v1(folder):
    """Arguments of the second engine."""
    return {key for _, fields in classes_of(folder / "llamafactory" / "v1" / "config").values() for key in fields}


def switches_off(folder):
    """``no_`` and the name of each field that is true by default: the flag that HfArgumentParser adds for it."""
    nodes = (node for path in sorted(folder.rglob("*.py")) for node in ast.walk(ast.parse(path.read_text("utf-8"))))
    fields = [
        n
        for n in nodes
        if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name) and isinstance(n.value, ast.Call)
    ]
    true = [f for f in fields for k in f.value.keywords if k.arg == "default" and ast.unparse(k.value) == "True"]
    return {f"no_{field.target.id}" for field in true}


def ancestors(name, classes):
    """Every class that a class inherits from."""
    bases = classes.get(name, ([], []))[0]
    return set(bases).union(*(ancestors(base, classes) for base in bases if base != name))


def flags_of(path):
    """The names of a parser's long flags."""
    tree = ast.walk(ast.parse(path.read_text("utf-8")))
    calls = [n for n in tree if isinstance(n, ast.Call) and getattr(n.func, "attr", "") == "add_argument"]
    texts = [a.value for call in calls for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return {text[2:].replace("-", "_") for text in texts if text.startswith("--")}


def of_class(library, name):
    """A reader of one class's keywords; those of TRL's configurations without ``TrainingArguments``' own."""

    def keywords(folder):
        classes = {**classes_of(folder / "transformers"), **classes_of(folder / library)}
        for path in sorted((folder / library).rglob("*_config.py")):
            here = classes_of(path.parent).get(name, ([], []))
            classes[name] = max(classes.get(name, ([], [])), here, key=lambda found: len(found[1]))
        keys = fields_of(name, classes) | parameters_of(name, folder / library)
        if library == "trl":
            keys -= fields_of("TrainingArguments", classes)
        return {key for key in keys if not key.startswith("_")}

    return keywords


def parameters_of(name, folder):
    """What the class's own ``__init__`` takes."""
    trees = (
        ast.parse(path.read_text("utf-8"))
        for path in sorted(folder.rglob("*.py"))
        if f"class {name}" in path.read_text("utf-8")
    )
    found = [n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == name]
    inits = [f for node in found[:1] for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"]
    return {arg.arg for init in inits for arg in (*init.args.args, *init.args.kwonlyargs)} - {"self"}


def studio(folder):
    """The sections of ``unsloth train --config``, with their names before the dot."""
    classes = classes_of(folder / "unsloth_cli")
    sections = {"data": "DataConfig", "training": "TrainingConfig", "lora": "LoraConfig", "logging": "LoggingConfig"}
    keys = {f"{section}.{key}" for section, name in sections.items() for key in fields_of(name, classes)}
    return keys | {*sections, "model"}


def swift(folder):
    """Arguments of ``swift sft``, ``pt`` and ``rlhf``, with those of the ``TrainingArguments`` below them."""
    classes = {**classes_of(folder / "transformers"), **classes_of(folder / "swift")}
    keys = fields_of("Seq2SeqTrainingArguments", classes_of(folder / "transformers"))
    for name in ("SftArguments", "RLHFArguments", "PretrainArguments"):
        keys |= fields_of(name, classes)
    return {key for key in keys if not key.startswith("_")}


def megatron(folder):
    """Arguments of ``megatron sft``, ``pt`` and ``rlhf``."""
    classes = classes_of(folder / "swift")
    keys = fields_of("MegatronSftArguments", classes) | fields_of("MegatronRLHFArguments", classes)
    return {key for key in keys if not key.startswith("_")}


def torchtune(folder):
    """What the recipes take from a config and what the bundled configs set, and the parameters of the builders with LoRA."""
    keys, taken = set(), re.compile(r"""cfg\.(?:get\(\s*"(\w+)"|(?!get\b)([a-z]\w*)(?!\w*\())""")
    for path in sorted((folder / "recipes").rglob("*.py")):
        keys |= {one or other for one, other in taken.findall(path.read_text("utf-8"))}
    for path in sorted((folder / "recipes" / "configs").rglob("*.yaml")):
        keys |= set(re.findall(r"^(\w+):", path.read_text("utf-8"), re.MULTILINE))
    for path in sorted((folder / "torchtune" / "models").rglob("_model_builders.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef):
                keys |= {f"model.{arg.arg}" for arg in (*node.args.args, *node.args.kwonlyargs) if "lora_" in node.name}
    return keys


def peft(folder):
    """Fields of the configuration of every kind of adapter, and of what stands in some of them."""
    classes = classes_of(folder / "peft")
    return {
        key
        for name in classes
        if name.endswith("Config")
        for key in fields_of(name, classes)
        if not key.startswith("_")
    }


PYTHON = {"trl": ("SFT", "DPO", "KTO", "ORPO", "CPO", "GRPO", "RLOO", "Reward"),
          "peft": ("Lora",), "transformers": ("BitsAndBytes",)}  # fmt: skip
"""Configurations of which every keyword is known to Python's readers."""

READERS = {"axolotl": axolotl, "trl": trl, "llamafactory": llamafactory, "llamafactory-v1": llamafactory_v1}
READERS["unsloth-studio"] = studio
READERS |= {"ms-swift": swift, "megatron-swift": megatron, "torchtune": torchtune, "peft": peft}
DISTRIBUTIONS = {"ms-swift": "ms_swift", "megatron-swift": "ms_swift"}
"""Where a distribution is not called as its dialect begins."""
READERS |= {f"{lib}-{name}Config": of_class(lib, f"{name}Config") for lib, names in PYTHON.items() for name in names}
READERS |= {
    f"transformers-{name}": of_class("transformers", name) for name in ("TrainingArguments", "Seq2SeqTrainingArguments")
}


def version_of(folder, trainer):
    """The version that the folder's metadata or the package itself states."""
    name = DISTRIBUTIONS.get(trainer, trainer.partition("-")[0])
    for path in sorted(folder.glob(f"{name}-*.dist-info/METADATA")) + sorted(folder.glob("PKG-INFO")):
        found = re.search(r"^Version: (\S+)", path.read_text("utf-8"), re.MULTILINE)
        if found:
            return found[1]
    if (folder / "version.txt").is_file():
        return (folder / "version.txt").read_text("utf-8").strip()
    raise SystemExit(f"{folder}: no metadata that states the version of {trainer}")


def main(trainer, folder):
    """Write one trainer's keys, keeping the others."""
    keys = sorted(READERS[trainer](Path(folder)))
    table = json.loads(TABLE.read_text("utf-8"))
    table[trainer] = {"version": version_of(Path(folder), trainer), "keys": keys}
    rows = ",\n".join(f" {json.dumps(name)}: {json.dumps(row)}" for name, row in sorted(table.items()))
    TABLE.write_text("{\n" + rows + "\n}\n", "utf-8")
    print(trainer, table[trainer]["version"], len(keys), "keys")


if __name__ == "__main__":
    main(*sys.argv[1:])
