"""Imports go one way: data_gen, recipes and eval know depthlm and not each other; depthlm knows none of them."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {"depthlm": set(), "data_gen": {"depthlm"}, "recipes": {"depthlm"}, "eval": {"depthlm"}}


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere, also inside functions and by entry-point strings."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_imports_go_one_way():
    wrong, files = [], 0
    for package, allowed in MAY_IMPORT.items():
        for path in (ROOT / package).rglob("*.py"):
            files += 1
            for name in imported(path) & (set(MAY_IMPORT) - allowed - {package}):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert files > 40
    assert not wrong


def test_importing_the_library_needs_neither_vllm_nor_trl():
    top = {"vllm", "trl", "peft", "transformers"}
    seen, todo = set(), ["sample", "dataset", "suite", "store", "answers", "metrics", "cli"]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        path = ROOT / "depthlm" / f"{name}.py"
        if path.exists():
            tree = ast.parse(path.read_text())
            found = {n.module for n in tree.body if isinstance(n, ast.ImportFrom) and n.module}
            found |= {a.name for n in tree.body if isinstance(n, ast.Import) for a in n.names}
            assert not {f.split(".")[0] for f in found} & top, name
            todo += [f.removeprefix("depthlm.") for f in found if f.startswith("depthlm.")]
    assert "canonical" in seen
