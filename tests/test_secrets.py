"""No value that holds a secret shows it in its ``repr``, which tracebacks, logs and failed tests print."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import kbuild

# Credentials stand in the variables of a process, too; a queue's url has its password.
HIDING = re.compile(r"environ|environment|secrets?|token|password|headers")
# What has no credentials though it is called so: where secrets were found, and what is answered.
KNOWN = {("image_layers.py", "secrets"), ("reply.py", "headers")}


def fields() -> dict[tuple[str, str], bool]:
    """Each field of a dataclass by such a name, and whether its ``repr`` leaves it out."""
    found = {}
    for path in Path(kbuild.__file__).parent.rglob("*.py"):
        source = path.read_text("utf-8")
        for node in ast.walk(ast.parse(source)) if "dataclass" in source else ():
            if not isinstance(node, ast.ClassDef) or "dataclass" not in "".join(map(ast.dump, node.decorator_list)):
                continue
            whole = any("arg='repr', value=Constant(value=False)" in ast.dump(each) for each in node.decorator_list)
            for each in node.body:
                if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
                    name = each.target.id
                    is_text = "str" in ast.unparse(each.annotation)
                    if (is_text and HIDING.fullmatch(name)) or (path.name, name) == ("address.py", "url"):
                        told = ast.dump(each.value) if each.value is not None else ""
                        found[path.name, name] = whole or "arg='repr', value=Constant(value=False)" in told
    return found


def test_what_may_hold_a_secret_is_not_shown() -> None:
    found = fields()
    assert found["webhooks.py", "secret"] and found["address.py", "url"] and found["run_checks.py", "environ"]
    assert [each for each, hidden in found.items() if not hidden and each not in KNOWN] == []
