"""The layers of the server: who may import whom, and which packages each part may touch."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SERVER = ROOT / "server" / "kudurru_server"
OURS = "kudurru_server"

BELOW = {
    "__init__": set(),
    "model": set(),
    "errors": set(),
    "frame": {"model"},
    "logs": set(),
    "cost": set(),
    "metrics": set(),
    "metrics_endpoint": {"metrics"},
    "settings": {"model"},
    "storage.interface": {"model", "errors"},
    "storage.block": {"model", "errors", "storage.interface"},
    "storage.observed": {"model", "cost", "metrics", "storage.interface"},
    "storage.sqlite": {"model", "errors", "storage.interface", "storage.block", "storage.sqlite"},
    "storage.blobs": {"errors", "storage.blobs", "storage.dynamodb.aws", "storage.dynamodb.retries"},
    "storage.dynamodb": {"model", "errors", "frame", "storage.interface", "storage.blobs", "storage.dynamodb"},
    "engine": {"model", "errors", "cost", "frame", "storage.interface", "engine"},
    "api": {"_proto", "model", "errors", "cost", "metrics", "frame", "engine", "api"},
    "stores": {
        "cost",
        "engine",
        "errors",
        "settings",
        "storage.interface",
        "storage.blobs",
        "storage.dynamodb",
        "storage.sqlite",
    },
    "app": {
        "_proto",
        "model",
        "errors",
        "cost",
        "metrics",
        "metrics_endpoint",
        "settings",
        "stores",
        "storage.observed",
        "api",
        "engine",
    },
    "cli": {"app", "errors", "logs", "settings", "stores"},
    "__main__": {"cli"},
}
"""Of each part, the parts it may import."""

FOREIGN = {
    "model": set(),
    "errors": set(),
    "frame": set(),
    "cost": set(),
    "metrics": {"prometheus_client"},
    "metrics_endpoint": {"prometheus_client"},
    "engine": {"structlog"},
    "storage.observed": set(),
    "storage.blobs": {"aiobotocore", "botocore"},
    "storage.dynamodb": {"aiobotocore", "aiohttp", "botocore", "structlog", "xxhash", "zstandard"},
    "storage.interface": set(),
    "storage.block": set(),
    "storage.sqlite": {"numpy", "structlog", "xxhash"},
    "api": {"grpc", "grpc_health", "google", "structlog"},
}
"""Of each part that has a rule about it, the packages beyond the standard library it may import."""

STORAGE_ONLY = {"sqlite3", "aiobotocore", "botocore"}


def modules() -> list[str]:
    """Return every module of the server but the generated ones, dotted, without the package's name."""
    paths = (path.relative_to(SERVER).with_suffix("") for path in SERVER.rglob("*.py"))
    names = (".".join(path.parts) for path in paths if path.parts[0] != "_proto")
    return sorted(name.removesuffix(".__init__") for name in names)


def path_of(module: str) -> Path:
    plain = SERVER.joinpath(*module.split("."))
    return plain / "__init__.py" if plain.is_dir() else plain.with_suffix(".py")


def part_of(module: str) -> str | None:
    """Return the most specific part that a module belongs to."""
    fitting = [part for part in BELOW if module == part or module.startswith(f"{part}.")]
    return max(fitting, key=len, default=None)


def imports(path: Path) -> Iterator[str]:
    """Yield the full names a file imports: `from a import b` as `a.b`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def standard(package: str) -> bool:
    return package in sys.stdlib_module_names


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_only_what_lies_below_it(module: str) -> None:
    part = part_of(module)
    if part is None:
        assert not list(imports(path_of(module))), f"{module} belongs to no layer"
        return
    for name in imports(path_of(module)):
        if name.startswith(f"{OURS}."):
            inner = name.removeprefix(f"{OURS}.")
            assert any(inner == below or inner.startswith(f"{below}.") for below in BELOW[part]), f"{module}: {name}"


@pytest.mark.parametrize("module", [module for module in modules() if part_of(module) in FOREIGN])
def test_a_module_imports_no_package_foreign_to_its_layer(module: str) -> None:
    part = part_of(module)
    assert part is not None
    packages = {name.partition(".")[0] for name in imports(path_of(module))} - {OURS}
    assert {package for package in packages if not standard(package)} <= FOREIGN[part]


@pytest.mark.parametrize("module", modules())
def test_only_stores_touch_their_drivers(module: str) -> None:
    if not module.startswith("storage."):
        assert not {name.partition(".")[0] for name in imports(path_of(module))} & STORAGE_ONLY


@pytest.mark.parametrize("module", [module for module in modules() if module != "api.status"])
def test_only_status_names_a_status_code(module: str) -> None:
    names = {
        node.attr if isinstance(node, ast.Attribute) else node.id
        for node in ast.walk(ast.parse(path_of(module).read_text()))
        if isinstance(node, ast.Attribute | ast.Name)
    }
    assert "StatusCode" not in names


@pytest.mark.parametrize("module", [module for module in modules() if module.startswith("api.")])
def test_the_api_knows_neither_settings_nor_stores(module: str) -> None:
    forbidden = (f"{OURS}.settings", f"{OURS}.storage", f"{OURS}.app")
    assert not [name for name in imports(path_of(module)) if name.startswith(forbidden)]


def test_the_sdk_never_imports_the_server() -> None:
    for path in (ROOT / "sdk_python" / "kudurru").rglob("*.py"):
        if path.parent.name != "_proto":
            assert not [name for name in imports(path) if name.startswith(OURS)], path.name
