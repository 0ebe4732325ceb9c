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
                names += [n.value for n in ast.walk(keyword.value) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
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
    for name in plugins:
        if name.endswith(("Args", "Config")):
            keys |= fields_of(name, plugins)
    return keys


READERS = {"axolotl": axolotl}


def version_of(folder, trainer):
    """The version that the folder's metadata or the package itself states."""
    for path in sorted(folder.glob("*.dist-info/METADATA")) + sorted(folder.glob("PKG-INFO")):
        found = re.search(r"^Version: (\S+)", path.read_text("utf-8"), re.MULTILINE)
        if found:
            return found[1]
    raise SystemExit(f"{folder}: no metadata that states the version of {trainer}")


def main(trainer, folder):
    """Write one trainer's keys, keeping the others."""
    table = json.loads(TABLE.read_text("utf-8"))
    keys = sorted(READERS[trainer](Path(folder)))
    table[trainer] = {"version": version_of(Path(folder), trainer), "keys": keys}
    rows = ",\n".join(f" {json.dumps(name)}: {json.dumps(row)}" for name, row in sorted(table.items()))
    TABLE.write_text("{\n" + rows + "\n}\n", "utf-8")
    print(trainer, table[trainer]["version"], len(keys), "keys")


if __name__ == "__main__":
    main(*sys.argv[1:])
