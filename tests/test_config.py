"""The configuration of a run: every way to write it, its round trip, and one sentence for everything that is wrong."""

import dataclasses
import subprocess
import sys

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import holdfast as hf
from holdfast.config import schema as configuration
from holdfast.config.build import build_network
from holdfast.config.options import LEAVES, LONG, SHORT, options_help
from holdfast.config.reading import read_config
from holdfast.config.schema import NetworkConfig, RunConfig, from_dict, optional, to_dict
from holdfast.errors import InputError
from holdfast.losses import LOSSES
from holdfast.networks.activations import ACTIVATIONS
from holdfast.training.optimizers import OPTIMIZERS


def read(*argv):
    return read_config([str(argument) for argument in argv])[0]


def write(folder, text):
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_nothing_given_is_the_default():
    assert read() == RunConfig()


def test_options_go_over_the_file_and_the_file_over_the_defaults(tmp_path):
    path = write(tmp_path, "training: {epochs: 5, momentum: 0.5}\nseed: 7\n")
    config = read(path, "--epochs", 6)
    assert (config.training.epochs, config.training.momentum, config.seed) == (6, 0.5, 7)
    assert config.training.batch_size == RunConfig().training.batch_size


def test_sections_of_one_type_keep_their_own_defaults():
    config = read("--final.momentum", 0.5)
    assert config.final.momentum == 0.5
    assert config.final.steps == RunConfig().final.steps != RunConfig().attack.steps


@pytest.mark.parametrize(
    ("argv", "path", "value"),
    [
        (["--data", "digits"], "data.name", "digits"),
        (["--threat=l2:0.5"], "threat.spec", "l2:0.5"),
        (["--width", "64"], "network.width", 64),
        (["--network.width", "64"], "network.width", 64),
        (["--batch_size", "32"], "training.batch_size", 32),
        (["--batch-size", "null"], "training.batch_size", None),
        (["--classes", "3,8"], "data.classes", (3, 8)),
        (["--data.classes=3,8"], "data.classes", (3, 8)),
        (["--classes", "[3, 8]"], "data.classes", (3, 8)),
        (["--learning-rate", "1e-3"], "training.learning_rate", 1e-3),
        (["--network.constant", "-0.5"], "network.constant", -0.5),
        (["--network.paired", "no"], "network.paired", False),
        (["--data.flatten"], "data.flatten", True),
        (["--data.flatten", "--seed", "1"], "data.flatten", True),
        (["--attack", "fgsm"], "attack.name", "fgsm"),
        (["--final.restarts", "9"], "final.restarts", 9),
        (["--out", "3"], "out", "3"),
        (
            ["--network", "my.Net", "--network.init-args.hidden_size", "5"],
            "network.init_args",
            {"hidden_size": 5},
        ),
        (
            ["--network", "my.Net", "--network.init_args", "{a: 1, b: x}"],
            "network.init_args",
            {"a": 1, "b": "x"},
        ),
    ],
)
def test_every_spelling_of_an_option_is_understood(argv, path, value):
    config = read(*argv)
    for part in path.split("."):
        config = getattr(config, part)
    assert config == value
    assert type(config) is type(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data: digits", {"data": {"name": "digits"}}),
        ("threat: l2:1/2", {"threat": {"spec": "l2:1/2"}}),
        ("attack: fgsm", {"attack": {"name": "fgsm"}}),
        (
            "network: {class_path: not_there.Net, init_args: {size: 3}}",
            {"network": {"name": "not_there.Net", "init_args": {"size": 3}}},
        ),
        ("threat: {class_path: not_there:Threat}", {"threat": {"spec": "not_there:Threat"}}),
        (
            "training: {optimizer: {class_path: torch.optim.RMSprop, init_args: {alpha: 0.9}}}",
            {"training": {"optimizer": "torch.optim.RMSprop", "optimizer_args": {"alpha": 0.9}}},
        ),
        ("training: {learning_rate: 1e-3}", {"training": {"learning_rate": 1e-3}}),  # text in YAML 1.1
        ("data: {classes: [3, 8]}", {"data": {"classes": (3, 8)}}),
        ("{}", {}),
    ],
)
def test_files_may_be_written_short_or_with_class_paths(tmp_path, text, expected):
    assert read(write(tmp_path, text)) == from_dict(expected)


def test_one_argument_of_an_own_class_is_changed_without_losing_the_others(tmp_path):
    path = write(tmp_path, "network: {class_path: my.Net, init_args: {depth: 2, hidden: 3}}")
    assert read(path, "--network.init-args.hidden", 9).network.init_args == {"depth": 2, "hidden": 9}


WORDS = st.text(alphabet="abcXYZ09:._- ", min_size=1, max_size=12)


def values_of(path):
    """Values an entry may have, by its type and limits."""
    entry = LEAVES[path][0]
    text, facts = str(entry.type), entry.metadata
    if "Literal" in text:
        found = st.sampled_from(entry.type.__args__)
    elif facts["names"]:
        found = st.sampled_from(facts["names"])
        found = found | st.just("my_package.parts:Part") if facts["own"] else found
    elif "dict" in text:
        found = st.dictionaries(st.sampled_from(["size", "hidden_size"]), st.integers() | WORDS, max_size=2)
    elif "tuple" in text:
        found = st.lists(st.integers(0, 9), max_size=4).map(tuple)
    elif "bool" in text:
        found = st.booleans()
    elif "int" in text:
        found = st.integers(facts["least"] or 0, 10**9)
    elif "float" in text:
        above = facts["above"]
        least = facts["least"] if above is None else above
        top = next((facts[key] for key in ("below", "most") if facts[key] is not None), 1e30)
        least = -1e30 if least is None else least  # infinity is refused, by another test
        found = st.floats(least, top, exclude_min=above is not None, exclude_max=facts["below"] is not None)
    else:
        found = WORDS
    return st.none() | found if optional(entry) else found


def test_the_names_written_out_are_those_there_are():
    assert set(configuration.ACTIVATIONS) == set(ACTIVATIONS)
    assert set(configuration.LOSSES) == set(LOSSES)
    assert set(configuration.OPTIMIZERS) == set(OPTIMIZERS)


def test_a_wrong_name_is_refused_before_torch_is_imported():
    code = "import sys; from holdfast.cli.main import main; status = main(sys.argv[1:]); print(status, 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "--network", "two_layer"], capture_output=True, text=True
    )
    assert done.stdout.split() == ["2", "False"], done.stderr
    assert "did you mean two-layer?" in done.stderr


def fitting(key, entries):
    """Those entries of a section that apply beside the others."""
    section = getattr(RunConfig(), key)
    if not isinstance(entries, dict):
        return entries
    tags = {tag for entry in dataclasses.fields(section) for tag in entry.metadata["of"]}
    chosen = configuration.with_entries(section, {tag: entries[tag] for tag in tags}, key)
    return {name: value for name, value in entries.items() if configuration.applies(chosen, name)}


@settings(max_examples=20)
@given(values=st.fixed_dictionaries({path: values_of(path) for path in LEAVES}))
def test_the_written_configuration_reads_back_to_the_same_run(tmp_path_factory, values):
    sections = {}
    for path, value in values.items():
        section, dot, name = path.partition(".")
        if dot:
            sections.setdefault(section, {})[name] = value
        else:
            sections[section] = value
    sections = {key: fitting(key, entries) for key, entries in sections.items()}
    config = from_dict(sections)
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(yaml.safe_dump(to_dict(config), sort_keys=False), encoding="utf-8")
    assert read(path) == config


def test_everything_has_an_option_with_a_help_text_and_no_two_share_a_name():
    assert len(SHORT) == len(set(SHORT.values()))
    assert not set(SHORT) & set(LONG)
    shown = options_help({"--resume": "go on"})
    for option in (*LONG, *SHORT, "--resume"):
        assert f"{option} " in shown or f"{option}," in shown or f"{option}\n" in shown
    assert all(entry.metadata["help"] for entry, _ in LEAVES.values())


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (["--epocs", "3"], "--epocs does not exist; did you mean --epochs?"),
        (["--trainig.epochs", "3"], "did you mean --training.epochs?"),
        (["--lerning-rate", "3"], "did you mean --learning-rate?"),
        (["--momentun", "3"], "--momentun does not exist; did you mean"),
        (["-e", "3"], "-e does not exist"),
        (["--epochs"], "--training.epochs needs a value"),
        (["--epochs", "many"], "training.epochs must be a whole number, got 'many'"),
        (["--epochs", "2.5"], "training.epochs must be a whole number, got '2.5'"),
        (["--epochs", "0"], "epochs must be >= 1, got 0"),
        (["--epochs", "null"], "training.epochs must be a whole number"),
        (["--learning-rate", "nan"], "learning_rate must be"),
        (["--learning-rate", "0"], "learning_rate must be > 0, got 0"),
        (["--training.momentum", "1"], "momentum must be >= 0 and < 1, got 1"),
        (["--network.outputs", "one"], "network.outputs must be one of signed, dense, got 'one'"),
        (["--network.paired", "perhaps"], "network.paired"),
        (["--classes", "three"], "data.classes must be a list of whole numbers"),
        (["--network.init-args", "3"], "network.init_args must be a mapping"),
        (["one.yaml", "two.yaml"], "at most one configuration file"),
        (["missing.yaml"], "missing.yaml (No such file or directory)"),
    ],
)
def test_a_wrong_option_is_refused_in_one_sentence(argv, what):
    with pytest.raises(InputError) as refused:
        read(*argv)
    message = str(refused.value)
    assert what in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("trainig: {}", "trainig in"),
        ("training: {epocs: 3}", "did you mean training.epochs?"),
        ("training: {epochs: many}", "training.epochs must be a whole number, got 'many'"),
        ("training: {epochs: null}", "training.epochs must be a whole number, got null"),
        ("training: 3", "training in"),
        ("training: {optimizer: {path: x}}", "training.optimizer.path in"),
        ("- 1\n- 2", "must hold `key: value` lines, got list"),
        ("", "must hold `key: value` lines, got NoneType"),
        ("a: [1, 2", "must be YAML, but line"),
        ("a: !!python/object/apply:os.getcwd []", "must be YAML"),
        ("started_from: python\ndata: digits", "run its script again"),
        ("seed: -1", "seed must be >= 0 and <= 9223372036854775807, got -1"),
        ("1: 2", "1 in"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(tmp_path, text, what):
    with pytest.raises(InputError) as refused:
        read(write(tmp_path, text))
    message = str(refused.value)
    assert what in message
    assert "\n" not in message


def test_limits_hold_from_python_too():
    with pytest.raises(InputError, match="width must be >= 1, got 0"):
        NetworkConfig(width=0)


def test_reading_a_configuration_imports_neither_torch_nor_the_users_modules(tmp_path):
    path = write(tmp_path, "network: {class_path: not_there.Net}\ntraining: {optimizer: torch.optim.Adam}")
    check = (
        "import sys; from holdfast.config.reading import read_config;"
        f"read_config([{str(path)!r}]); print('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", check], check=True, capture_output=True, text=True, timeout=60
    )
    assert result.stdout.strip() == "False"


def test_a_dense_network_takes_signed_outputs_and_centred_softplus():
    data = hf.data.digits(classes=(0, 1, 2))
    config = NetworkConfig(name="dense", width=20, depth=2, activation="csp2", input_layer=False)
    signed = build_network(config, data, seed=0)
    assert signed.output == "signed"
    assert signed.width == 24  # a multiple of two signs for each of three outputs
    assert signed.activation.name == "csp2"
    assert signed.input_weight is None
    gaussian = build_network(NetworkConfig(name="dense", width=21, outputs="dense"), data, seed=0)
    assert (gaussian.output, gaussian.width) == ("gaussian", 21)
    with pytest.raises(InputError, match=r"activation must be .* or csp1, csp2"):
        NetworkConfig(activation="csp")
