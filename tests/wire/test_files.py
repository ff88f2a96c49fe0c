"""Deployment files: the two of the contract, and what is said of each wrong field."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsi_mqtt.core.deployment import CodecError, Deployment, Fallback, SplitPart, parse_units
from dsi_mqtt.core.model import ModelSpec, UnitRange
from dsi_mqtt.core.site import nodes_without_effect
from dsi_mqtt.errors import MESSAGE_MAX, ConfigError
from dsi_mqtt.wire.files import read_nodes, read_site, read_yaml

HAZARDS = """
schema: dsi.deployment/1
name: hazards
kind: one-pass
model: {path: ./minilm, tier: layer, dtype: float32}
input: {max_bytes: 1000000, batch_max: 8, dedupe_s: 600}
sla: {latency_ms: 300, percentile: 95, deadline_ms: 2000, rate_per_s: 5}
privacy: {units: {"0:3": [city], "7:8": [city, cloud]}, max_exposure: 1.0}
prices: {currency: EUR, node_hour: {default: 0.02, cloud: 0.6}, gib: {default: 0, cloud: 0.09},
         kwh: 0.3}
objective: {latency: 1.0, cost: 0.1, exposure: 0.0}
policy: {use: builtin, cooldown_s: 5, min_gain: 0.15, horizon_s: 60, max_segments: 4, standbys: 1,
         pin: {"0:1": city}, forbid: [gw-old]}
codecs: {allow: [raw, fp16, int8g64],
         error: {metric: cosine, min: 0.999, samples: ./samples.jsonl}}
split: null
fallback: {model: ./tiny}
"""
CHAT = """
schema: dsi.deployment/1
name: chat
kind: generation
model: {path: ./llama, tier: layer, dtype: float32, tokenizer: ./llama}
generation: {context: 2048, sessions_max: 64, kv_mib_max: 2048, idle_s: 60, queue_max: 200,
             temperature: 0.7, max_tokens: 256}
sla: {first_token_ms: 1500, token_ms: 120, percentile: 95, deadline_ms: 60000, rate_per_s: 0.5,
      prompt_tokens: 200, new_tokens: 100}
privacy: {units: {"0:2": [plant], "25:26": [plant]}}
prices: {currency: EUR, node_hour: {default: 0.02}, gib: {default: 0}, kwh: 0.3}
objective: {latency: 1.0, cost: 0.0, exposure: 0.0}
policy: {use: builtin, cooldown_s: 10, min_gain: 0.2, horizon_s: 120, standbys: 0}
codecs: {allow: [raw, fp16, int8g32],
         error: {metric: perplexity_increase, max: 0.01, samples: ./heldout.txt}}
split: [{units: "0:2", nodes: [cell-1]}, {units: "2:25", nodes: [hall-gw, hall-gw2]},
        {units: "25:26", nodes: [cell-1]}]
fallback: null
"""
LEAST = """
schema: dsi.deployment/1
name: hazards
model: {path: ./minilm}
"""
# Thirty lines that hold nine of the line above each.
LAUGHS = (
    "{k0: &k0 [1], "
    + ", ".join(f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 9)}]" for i in range(1, 30))
    + "}"
)


def read(folder: Path, text: str) -> Deployment:
    file = folder / "given.yaml"
    file.write_text(text, "utf-8")
    deployments, _ = read_site(file)
    assert len(deployments) == 1
    return deployments[0]


def complaint(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as refused:
        read(folder, text)
    sentence = str(refused.value)
    assert "given.yaml" in sentence
    assert "\n" not in sentence
    return sentence


def test_the_one_pass_file_of_the_contract_is_read_whole(tmp_path: Path) -> None:
    found = read(tmp_path, HAZARDS)
    assert found.model == ModelSpec(path=str(tmp_path / "minilm"))
    assert found.input.dedupe_s == 600
    assert found.sla.latency_ms == 300
    assert found.privacy.units == {"0:3": ("city",), "7:8": ("city", "cloud")}
    assert found.prices.node_hour == {"default": 0.02, "cloud": 0.6}
    assert found.policy.pin == {"0:1": "city"}
    assert found.policy.forbid == ("gw-old",)
    assert found.codecs.error == CodecError(
        "cosine", min=0.999, samples=str(tmp_path / "samples.jsonl")
    )
    assert found.fallback == Fallback(str(tmp_path / "tiny"))
    assert found.split is None


def test_the_generation_file_of_the_contract_is_read(tmp_path: Path) -> None:
    given = read(tmp_path, CHAT)
    assert given.kind == "generation"
    assert given.generation is not None
    assert given.generation.queue_max == 200
    assert given.split is not None
    assert given.split[1] == SplitPart("2:25", ("hall-gw", "hall-gw2"))


def test_what_generates_needs_a_cache_and_its_limits_a_generation(tmp_path: Path) -> None:
    said = complaint(tmp_path, CHAT.replace("kind: generation", "kind: one-pass"))
    assert "generation: has no effect without kind: generation" in said
    said = complaint(tmp_path, CHAT.replace("tier: layer", "tier: graph, factory: 'a:b'"))
    assert "kind: generation needs a model of tier layer" in said
    said = complaint(tmp_path, CHAT.replace("sessions_max: 64", "sessions_max: 0"))
    assert "generation.sessions_max" in said


def test_what_is_left_out_has_a_default(tmp_path: Path) -> None:
    expected = Deployment("hazards", ModelSpec(path=str(tmp_path / "minilm")))
    assert read(tmp_path, LEAST) == expected


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("schema: dsi.deployment/2", "schema: 'dsi.deployment/2' is not supported"),
        ("schema: null", 'begin the file with "schema: dsi.deployment/1"'),
        ("name: null", "name: must be text"),
        ("name: 5", "name: must be text"),
        ("name: a/b", "name: 'a/b' is no name"),
        ("name: " + "n" * 65, "is no name; use 1 to 64"),
        ("kind: two-pass", "kind: must be 'one-pass' or 'generation', not 'two-pass'"),
        ("modle: {path: ./minilm}", "modle: is no field here"),
        ("model: null", "model: must hold fields"),
        ("model: ./minilm", "model: must hold fields"),
        ("model: {tier: layer}", "model.path: is missing"),
        ("model: {tier: sequential}", "model.factory: is missing"),
        ("model: {tier: graph}", "model.factory: is missing"),
        ("model: {path: a, tier: whole}", "model.tier: must be 'layer', "),
        ("model: {path: a, dtype: int8}", "model.dtype: 'int8' is not one of float32"),
        ("model: {path: 'package:no_such_package_here/m'}", "that package is not installed"),
        ("input: {max_bytes: 0}", "input.max_bytes: 0 must be greater than 0"),
        ("input: {max_bytes: 1.5}", "input.max_bytes: must be a whole number, not 1.5"),
        ("input: {batch_max: -1}", "input.batch_max: -1 must be greater than 0"),
        ("input: {dedupe_s: .inf}", "input.dedupe_s: inf must be at most 2,147,483,648"),
        ("input: {maxbytes: 5}", "input.maxbytes: is no field here"),
        ("sla: 300", "sla: must hold fields"),
        ("sla: {deadline_ms: .nan}", "sla.deadline_ms: nan must be greater than 0"),
        ("sla: {latency_ms: 0}", "sla.latency_ms: 0.0 must be greater than 0"),
        ("sla: {rate_per_s: soon}", "sla.rate_per_s: must be a number, not 'soon'"),
        ("sla: {percentile: 101}", "sla.percentile: 101.0 must be at most 100"),
        ("privacy: {units: [city]}", "privacy.units: must hold fields"),
        ('privacy: {units: {"0:3": city}}', "privacy.units.0:3: must be a list"),
        ('privacy: {units: {"0:3": []}}', 'privacy.units: "0:3" names no zone'),
        ('privacy: {units: {"3:3": [city]}}', "privacy.units: '3:3' is no unit range"),
        ('privacy: {units: {"a:b": [city]}}', "privacy.units: 'a:b' is no unit range"),
        ("privacy: {units: {1:30: [city]}}", 'quotes, like "0:3"'),
        ("privacy: {max_exposure: -1}", "privacy.max_exposure: -1.0 must be 0 or more"),
        ("prices: {kwh: -0.1}", "prices.kwh: -0.1 must be 0 or more"),
        ("prices: {node_hour: {cloud: -1}}", "prices.node_hour.cloud: -1.0 must be 0 or more"),
        ("prices: {gib: {cloud: dear}}", "prices.gib.cloud: must be a number, not 'dear'"),
        ("objective: {cost: -1}", "objective.cost: -1.0 must be 0 or more"),
        ("policy: {cooldown_s: -1}", "policy.cooldown_s: -1.0 must be 0 or more"),
        ("policy: {min_gain: 1}", "policy.min_gain: 1.0 must be less than 1"),
        ("policy: {horizon_s: 0}", "policy.horizon_s: 0.0 must be greater than 0"),
        ("policy: {max_segments: 0}", "policy.max_segments: 0 must be greater than 0"),
        ("policy: {standbys: -1}", "policy.standbys: -1 must be 0 or more"),
        ('policy: {pin: {"1": city}}', "policy.pin: '1' is no unit range"),
        ("policy: {forbid: gw-old}", "policy.forbid: must be a list"),
        ("codecs: {allow: [fp16]}", "codecs.allow: must hold raw"),
        ("codecs: {allow: [raw, zip]}", "codecs.allow: 'zip' is no codec; known are raw, fp16"),
        ("codecs: {error: {min: 1}}", "codecs.error.metric: is missing"),
        ("split: [{units: 2:25, nodes: [a]}]", "split[0].units: must be text"),
        ('split: [{units: "5:2", nodes: [a]}]', "split[0].units: '5:2' is no unit range"),
        ('split: [{units: "0:2"}]', "split[0].nodes: is missing"),
        ("fallback: ./tiny", "fallback: must hold fields"),
        ("fallback: {}", "fallback.model: is missing"),
        ("generation: {context: many}", "generation.context: must be a whole number, not 'many'"),
        ("? [a]\n: 1", "not valid YAML"),
        ("name: [", "not valid YAML in line"),
        ("name: hazards\nname: other", "not valid YAML in line 4: field 'name' is given twice"),
        ("input: {max_bytes: 1, max_bytes: 2}", "field 'max_bytes' is given twice"),
        ("since: 2024-13-45", "not valid YAML: month must be in 1..12"),
        ("deep: " + "[" * 5_000, "not valid YAML"),
        ("name: !!python/object:os.system x", "not valid YAML in line"),
        ('name: "\a"', "not valid YAML: special characters are not allowed"),
        ('name: "\\ud800"', "holds a character that is none"),
        ('model: {path: "a\\0b"}', "'a\\x00b' is no path"),
        ("model: {path: ~nobody-of-this-name/m}", "is no path: Could not determine home"),
        ("model: &a {path: a, options: *a}", "lie more than 64 deep in each other"),
        ("model: {path: a, options: {a: &a [*a]}}", "lie more than 64 deep in each other"),
        (f"model: {{path: a, options: {LAUGHS}}}", "aliases make it more than 500,000 values"),
        ("model: {path: a, options: {a: [.nan]}}", "model.options.a[0]: nan must be a finite"),
        ("model: {path: a, options: {a: 2024-01-13}}", "which JSON cannot hold"),
        ("model: {path: a, options: {a: !!set {b}}}", "which JSON cannot hold"),
        ("model: {path: a, options: {a: {1: 2}}}", "model.options.a: the name 1 must be text"),
        ("fallback: {model: a, options: {a: .inf}}", "fallback.options.a: inf must be"),
        ("objective: {throughput: .nan}", "objective.throughput: nan must be 0 or more"),
        ("policy: {replicas: 0}", "policy.replicas: 0 must be greater than 0"),
        ("codecs: {error: {metric: cosine, min: .nan}}", "codecs.error.min: nan must be"),
    ],
)
def test_each_wrong_field_is_named_in_one_sentence(tmp_path: Path, line: str, said: str) -> None:
    field = line.partition(":")[0]
    kept = [old for old in LEAST.splitlines() if old and not old.startswith(f"{field}:")]
    assert said in complaint(tmp_path, "\n".join([*kept, line]))


def test_all_that_is_wrong_is_said_as_far_as_it_fits_unknown_fields_first(tmp_path: Path) -> None:
    misspelt = LEAST.replace("name:", "nmae:").replace("model:", "modle:")
    unknown = "is no field here; check its spelling and indentation"
    assert complaint(tmp_path, misspelt) == (
        f"given.yaml: nmae: {unknown}; modle: {unknown}; name: is missing; model: is missing"
    )
    many = misspelt + "".join(f"field_{i}: 1\n" for i in range(9))
    assert complaint(tmp_path, many).endswith("(and 11 more)")


@pytest.mark.parametrize(("count", "end"), [(1, ""), (2, ""), (3, " (and 1 more)")])
def test_what_does_not_fit_is_counted(tmp_path: Path, count: int, end: str) -> None:
    said = complaint(tmp_path, LEAST + f"policy: {{forbid: {[7] * count}}}\n")
    wrong = 'must be text; put numbers and unit ranges in quotes, like "0:3"'
    told = [f"policy.forbid[{i}]: {wrong}" for i in range(min(count, 2))]
    assert said == f"given.yaml: {'; '.join(told)}{end}"
    assert len(said) <= MESSAGE_MAX


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"# nothing\n", "is empty"),
        (b"hazards", "expected fields like"),
        (b"- a\n- b", "expected fields like"),
        (b"name: \xff", "cannot be read: not UTF-8 text"),
        (b"a: 1\n---\nb: 2", "schema: is missing"),
        (b" " * (1024 * 1024 + 1), "over 1048576 bytes"),
    ],
)
def test_what_is_no_deployment_file_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "given.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        read_site(file)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
        read_yaml(Path("none.yaml"))
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_yaml(tmp_path)


def test_paths_begin_at_the_file_and_packages_where_they_are_installed(tmp_path: Path) -> None:
    text = LEAST.replace("./minilm", "package:dsi_mqtt/models")
    package = Path(__file__).parents[2] / "dsi_mqtt"
    assert read(tmp_path, text).model.path == str(package / "models")
    assert read(tmp_path, LEAST.replace("./minilm", "/models/m")).model.path == "/models/m"


# --- everything for one machine ---------------------------------------------------------------

NODES = """
schema: dsi.nodes/1
brokers: {site: {control: "mqtt://10.0.0.1:1883", data: "mqtt://10.0.0.1:1884"}}
nodes:
  - {id: city, zone: city, broker: site, memory_mib: 512, price: default,
     watts: {idle: 4, busy: 12}, compute: {profile: city.json},
     link: {up_mbit_s: 900, down_mbit_s: 900, rtt_ms: 1}}
  - {id: cloud, zone: cloud, broker: site, memory_mib: 16384, price: cloud,
     watts: {idle: 60, busy: 200},
     compute: {gflops: {float32: 900}, memory_gib_s: 60, overhead_ms: 0.3},
     link: {up_mbit_s: 10, down_mbit_s: 20, rtt_ms: 40, trace: drive-a.csv}}
"""


def test_deployment_and_nodes_of_the_contract_may_share_a_file(tmp_path: Path) -> None:
    file = tmp_path / "given.yaml"
    file.write_text(f"{HAZARDS}\n---\n{NODES}", "utf-8")
    (deployment,), site = read_site(file)
    assert deployment.name == "hazards"
    assert site is not None
    assert [(node.id, node.zone, node.memory_mib) for node in site.nodes] == [
        ("city", "city", 512),
        ("cloud", "cloud", 16384),
    ]
    assert site.nodes[1].link is not None
    assert site.nodes[1].link.trace == "drive-a.csv"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("id: cloud", "id: city", "two nodes have the same id"),
        ("id: cloud", "id: a b", r"nodes\[1\].id"),
        ("broker: site", "broker: mqtt://u:p@h", r"nodes\[0\].broker: holds a user name"),
        ("mqtt://10.0.0.1:1884", "mqtt://u:p@h", r"brokers.site.data: holds a user name"),
        ("zone: cloud", "zone: [x]", r"nodes\[1\].zone: must be text"),
        ("memory_mib: 512", "memory_mib: 0", r"nodes\[0\].memory_mib: 0.0 must be greater"),
        ("memory_mib: 512", "memory: 5", r"nodes\[0\].memory: is no field here"),
        ("rtt_ms: 40", "rtt: 40", r"nodes\[1\].link.rtt: is no field here"),
        ("dsi.nodes/1", "dsi.nodes/2", "schema: 'dsi.nodes/2' is not supported"),
    ],
)
def test_a_wrong_node_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    file = tmp_path / "given.yaml"
    file.write_text(f"{HAZARDS}\n---\n{NODES.replace(old, new)}", "utf-8")
    with pytest.raises(ConfigError, match=said):
        read_site(file)


def test_a_file_holds_each_deployment_and_its_nodes_once(tmp_path: Path) -> None:
    file = tmp_path / "given.yaml"
    for text, said in (
        (f"{LEAST}\n---\n{LEAST}", "two deployments have the same name"),
        (f"{LEAST}\n---\n{NODES}\n---\n{NODES}", "holds dsi.nodes/1 twice"),
        (NODES, "holds no deployment"),
    ):
        file.write_text(text, "utf-8")
        with pytest.raises(ConfigError, match=said):
            read_site(file)


def test_nodes_may_have_a_file_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "given.yaml"
    file.write_text(NODES, "utf-8")
    assert [node.id for node in read_nodes(file).nodes] == ["city", "cloud"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LEAST, "schema: 'dsi.deployment/1' is not supported; this program reads dsi.nodes/1"),
        (f"{LEAST}\n---\n{NODES}", "holds 2 documents; give the nodes alone"),
        ("schema: dsi.nodes/1\nnodes: []", "nodes: is empty"),
        ("schema: dsi.nodes/1\nnodes: [{zone: city}]", r"nodes\[0\].id: is missing"),
        ("nodes: [{id: a}]", 'begin the file with "schema: dsi.nodes/1"'),
    ],
)
def test_what_is_no_file_of_nodes_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "given.yaml"
    file.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=said) as refused:
        read_nodes(file)
    assert str(refused.value).startswith("given.yaml: ")


def test_what_is_said_of_nodes_and_does_nothing_is_known(tmp_path: Path) -> None:
    file = tmp_path / "given.yaml"
    file.write_text(NODES, "utf-8")
    told = nodes_without_effect(read_nodes(file))
    assert told == (
        "brokers", "nodes.broker", "nodes.compute", "nodes.link"
    )  # fmt: skip
    file.write_text("schema: dsi.nodes/1\nnodes: [{id: a, spare: true, threads: 2}]", "utf-8")
    assert nodes_without_effect(read_nodes(file)) == ()


@pytest.mark.parametrize(
    "text",
    ["", ":", "1:", ":1", "1", "2:1", "1:1", "-1:2", "1:2:3", "٣:٤", "a:b", f"0:{'9' * 5000}"],
)
def test_what_is_no_unit_range(text: str) -> None:
    with pytest.raises(ConfigError, match=r"split: .* is no unit range"):
        parse_units(text, "split")


def test_a_unit_range_is_half_open() -> None:
    assert parse_units("2:25", "split") == UnitRange(2, 25)
    assert [unit in parse_units("2:4", "split") for unit in range(1, 6)] == [
        False,
        True,
        True,
        False,
        False,
    ]
