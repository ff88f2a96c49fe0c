"""Deployment and nodes files: YAML, validated, every error naming its field."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from dsi_mqtt.core import deployment as schema
from dsi_mqtt.core import site as nodes_schema
from dsi_mqtt.core.deployment import Deployment, parse_units
from dsi_mqtt.core.model import ModelSpec
from dsi_mqtt.core.site import SiteFile
from dsi_mqtt.core.sizes import MIB
from dsi_mqtt.errors import MESSAGE_MAX, ConfigError
from dsi_mqtt.wire.control import complaints
from dsi_mqtt.wire.ranges import WITH_CREDENTIALS, first_out_of_range
from dsi_mqtt.wire.topics import check_name

FILE_MAX: Final = MIB
# What aliases blow a file up to: how deep, and how many values.
DEPTH_MAX: Final = 64
VALUES_MAX: Final = 500_000
INFINITY: Final = float("inf")
PACKAGE: Final = "package:"
T = TypeVar("T")

_DTYPES: Final = ("float32", "float16", "bfloat16")

_WHOLE: Final = "must be a whole number, not <given>"
_NUMBER: Final = "must be a number, not <given>"
_SWITCH: Final = "must be true or false, not <given>"
_WORDS: Final = {
    "unexpected_keyword_argument": "is no field here; check its spelling and indentation",
    "missing": "is missing",
    "dataclass_type": "must hold fields, like {name: value}",
    "dict_type": "must hold fields, like {name: value}",
    "tuple_type": "must be a list, like [a, b]",
    "string_type": 'must be text; put numbers and unit ranges in quotes, like "0:3"',
    "literal_error": "must be <expected>, not <given>",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), _WHOLE),
    **dict.fromkeys(("float_type", "float_parsing"), _NUMBER),
    **dict.fromkeys(("bool_type", "bool_parsing"), _SWITCH),
}
# In a file an unknown key is a spelling mistake, unlike on the wire. (Why a tuple: wire.control.)
FORBID: Final = ConfigDict(extra="forbid")


@cache
def _deployments() -> TypeAdapter[tuple[Deployment]]:
    return TypeAdapter(tuple[Deployment], config=FORBID)


@cache
def _sites() -> TypeAdapter[tuple[SiteFile]]:
    return TypeAdapter(tuple[SiteFile], config=FORBID)


class _Loader(yaml.SafeLoader):
    """YAML keeps the last of two equal fields; in these files that is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in names:
                problem = f"field {key.value!r:.40} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            names.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> list[dict[str, Any]]:
    """The documents of a YAML file. Raises ConfigError naming the file."""
    try:
        if path.stat().st_size > FILE_MAX:
            raise ConfigError(f"{path}: over {FILE_MAX} bytes; this is no configuration file")
        documents = [d for d in yaml.load_all(path.read_text("utf-8"), _Loader) if d is not None]
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable"
        raise ConfigError(f"{path}: not valid YAML{where}: {problem}") from None
    except (ValueError, RecursionError) as error:  # such as a date that does not exist
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    _check_extent(documents, path)
    for document in documents:
        if not isinstance(document, dict):
            raise ConfigError(f"{path}: expected fields like `name: …`, found {document!r:.40}")
    if not documents:
        raise ConfigError(f"{path}: is empty; see examples/hazards.yaml")
    return documents


def _check_extent(documents: list[Any], path: Path) -> None:
    """Raises ConfigError where values hold themselves, or more than anybody can walk through, or
    text that cannot be written: an alias makes either of a few lines.
    """
    waiting: list[tuple[object, int]] = [(documents, 0)]
    for _ in range(VALUES_MAX):
        if not waiting:
            return
        value, depth = waiting.pop()
        if depth > DEPTH_MAX:
            raise ConfigError(f"{path}: its values lie more than {DEPTH_MAX} deep in each other")
        if isinstance(value, dict):
            waiting += ((part, depth + 1) for pair in value.items() for part in pair)
        elif isinstance(value, list | tuple | set):
            waiting += ((part, depth + 1) for part in value)
        elif isinstance(value, str) and not _writable(value):
            raise ConfigError(f"{path}: {value!r:.40} holds a character that is none; correct it")
    raise ConfigError(f"{path}: aliases make it more than {VALUES_MAX:,} values; write fewer")


def _writable(text: str) -> bool:
    """Halves of surrogate pairs are in no encoding."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def validated(
    document: dict[str, Any],
    file: str,
    expected: str,
    adapter: TypeAdapter[tuple[T]],
    check: Callable[[T], None],
) -> T:
    """One YAML document of the schema `expected`, as `adapter` and `check` have it.

    Raises ConfigError naming file and field.
    """
    try:
        _expect_schema(document, expected)
        (value,) = adapter.validate_python((document,))
        check(value)
    except ValidationError as error:
        raise ConfigError(_all_that_fit(file, complaints(error, _WORDS))) from None
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    return value


def deployment_of(document: dict[str, Any], path: Path) -> Deployment:
    """Validates one YAML document. `path` is named in errors; its folder anchors paths in it."""
    found = validated(document, path.name, schema.SCHEMA, _deployments(), _check)
    return _anchored(found, path)


def _anchored(deployment: Deployment, file: Path) -> Deployment:
    """The same with every path in it absolute."""

    def absolute(given: str | None) -> str | None:
        return None if given is None else _absolute(given, file)

    model, fallback, error = deployment.model, deployment.fallback, deployment.codecs.error
    return replace(
        deployment,
        model=replace(model, path=absolute(model.path), tokenizer=absolute(model.tokenizer)),
        fallback=fallback and replace(fallback, model=_absolute(fallback.model, file)),
        codecs=replace(
            deployment.codecs, error=error and replace(error, samples=absolute(error.samples))
        ),
    )


def _absolute(given: str, file: Path) -> str:
    """An absolute path. "package:NAME/folder" lies inside an installed Python package."""
    if not given.startswith(PACKAGE):
        try:
            return str((file.parent / Path(given).expanduser()).resolve())
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(f"{file.name}: {given!r:.60} is no path: {error}") from None
    package, _, inside = given.removeprefix(PACKAGE).partition("/")
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None:
        raise ConfigError(f"{file.name}: {given!r:.60}: that package is not installed")
    return str(Path(spec.origin).parent / inside)


def read_site(path: Path) -> tuple[list[Deployment], SiteFile | None]:
    """Everything for one machine: deployments, and the nodes to run them on, in one file.

    Raises ConfigError naming file and field.
    """
    deployments: list[Deployment] = []
    site: SiteFile | None = None
    for document in read_yaml(path):
        if document.get("schema") == nodes_schema.SCHEMA:
            if site is not None:
                raise ConfigError(f"{path.name}: holds {nodes_schema.SCHEMA} twice; keep one")
            site = site_of(document, path)
        else:
            deployments.append(deployment_of(document, path))
    if not deployments:
        raise ConfigError(f"{path.name}: holds no deployment (schema: {schema.SCHEMA})")
    names = [deployment.name for deployment in deployments]
    if len(set(names)) < len(names):
        raise ConfigError(f"{path.name}: two deployments have the same name")
    return deployments, site


def read_nodes(path: Path) -> SiteFile:
    """A file of nodes alone. Raises ConfigError naming file and field."""
    documents = read_yaml(path)
    if len(documents) > 1:
        raise ConfigError(f"{path.name}: holds {len(documents)} documents; give the nodes alone")
    try:
        _expect_schema(documents[0], nodes_schema.SCHEMA)
    except ConfigError as error:
        raise ConfigError(f"{path.name}: {error}") from None
    site = site_of(documents[0], path)
    if not site.nodes:
        raise ConfigError(f"{path.name}: nodes: is empty; name one at least, like {{id: city}}")
    return site


def site_of(document: dict[str, Any], path: Path) -> SiteFile:
    """Validates one YAML document of nodes."""
    return validated(document, path.name, nodes_schema.SCHEMA, _sites(), _check_site)


def _all_that_fit(file: str, complaints: list[str]) -> str:
    """As many complaints as one sentence holds, the first at least, and how many more there are."""
    told = ""
    for number, complaint in enumerate(complaints):
        longer = f"{told}; {complaint}" if told else f"{file}: {complaint}"
        left = len(complaints) - number
        more = f" (and {left - 1} more)" if left > 1 else ""
        if told and len(longer) + len(more) > MESSAGE_MAX:
            return f"{told} (and {left} more)"
        told = longer
    return told


def _check_site(site: SiteFile) -> None:
    for i, node in enumerate(site.nodes):
        check_name(node.id, f"nodes[{i}].id")
        check_name(node.zone, f"nodes[{i}].zone")
        if node.memory_mib is not None and not 0 < node.memory_mib < INFINITY:
            raise ConfigError(f"nodes[{i}].memory_mib: {node.memory_mib} must be greater than 0")
        if node.broker is not None and "@" in node.broker:
            raise ConfigError(f"nodes[{i}].broker: {WITH_CREDENTIALS}")
        if node.threads < 1:
            raise ConfigError(f"nodes[{i}].threads: {node.threads} must be 1 or more")
    _check_ranges(site)
    ids = [node.id for node in site.nodes]
    if len(set(ids)) < len(ids):
        raise ConfigError("nodes: two nodes have the same id")


def _expect_schema(document: dict[str, Any], expected: str) -> None:
    given = document.get("schema")
    if given is None:
        raise ConfigError(f'schema: is missing; begin the file with "schema: {expected}"')
    if given != expected:
        raise ConfigError(f"schema: {given!r:.40} is not supported; this program reads {expected}")


def _check(deployment: Deployment) -> None:
    check_name(deployment.name, "name")
    if deployment.kind == "generation" and deployment.model.tier not in ("layer", "fake"):
        raise ConfigError("kind: generation needs a model of tier layer, with a cache")
    if deployment.kind == "one-pass" and deployment.generation is not None:
        raise ConfigError(
            "generation: has no effect without kind: generation; add that, or remove this"
        )
    if "raw" not in deployment.codecs.allow:
        raise ConfigError("codecs.allow: must hold raw; what another codec does not take goes raw")
    _check_model(deployment.model)
    if deployment.fallback is not None:
        _check_options(deployment.fallback.options, "fallback.options")
    _check_ranges(deployment)
    for units, zones in deployment.privacy.units.items():
        parse_units(units, "privacy.units")
        if not zones:
            raise ConfigError(f'privacy.units: "{units}" names no zone; nobody could compute it')
    for units in deployment.policy.pin:
        parse_units(units, "policy.pin")
    for i, part in enumerate(deployment.split or ()):
        parse_units(part.units, f"split[{i}].units")


def _check_ranges(part: Deployment | SiteFile) -> None:
    out_of_range = first_out_of_range(part)
    if out_of_range is not None:
        raise ConfigError(out_of_range)


def _check_model(model: ModelSpec) -> None:
    if model.tier == "layer" and model.path is None:
        raise ConfigError("model.path: is missing; a layer model is a checkpoint folder")
    if model.tier in ("sequential", "graph") and model.factory is None:
        raise ConfigError('model.factory: is missing; name it "package.module:function"')
    _check_options(model.options, "model.options")
    if model.dtype not in _DTYPES:
        raise ConfigError(f"model.dtype: {model.dtype!r:.20} is not one of {', '.join(_DTYPES)}")


def _check_options(value: object, field: str) -> None:
    """They are handed on as JSON, and to a factory as they were read there: what JSON would turn
    into something else is refused.
    """
    if isinstance(value, dict):
        for key, part in value.items():
            if not isinstance(key, str):
                raise ConfigError(f"{field}: the name {key!r:.40} must be text; put it in quotes")
            _check_options(part, f"{field}.{key:.40}")
    elif isinstance(value, list):
        for i, part in enumerate(value):
            _check_options(part, f"{field}[{i}]")
    elif isinstance(value, float) and not abs(value) < INFINITY:
        raise ConfigError(f"{field}: {value} must be a finite number")
    elif not isinstance(value, str | bool | int | float | None):
        told = f"a {type(value).__name__}, which JSON cannot hold; put it in quotes"
        raise ConfigError(f"{field}: {value!r:.40} is {told}")
