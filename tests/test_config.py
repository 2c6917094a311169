"""The configuration of a run: every way to write it, its round trip, and one sentence for everything that is wrong."""

import inspect
import subprocess
import sys

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import holdfast as hf
from holdfast._registry import ATTACKS, AUGMENTATIONS, AVERAGING, LOSSES, NETWORKS, OBJECTIVES, PERTURBATIONS
from holdfast._rules import rules_of
from holdfast.cli.main import main
from holdfast.config import schema as configuration
from holdfast.config.build import build_attack, build_loss, build_network
from holdfast.config.commands import TrainCommand
from holdfast.config.options import options_of
from holdfast.config.reading import read_config
from holdfast.config.schema import NetworkConfig, RunConfig, from_dict, optional, to_dict
from holdfast.errors import InputError
from holdfast.networks.activations import ACTIVATIONS
from holdfast.training.augmentation import Augmentation
from holdfast.training.averaging import Averaging
from holdfast.training.optimizers import OPTIMIZERS
from holdfast.training.perturbation import WeightPerturbation

RUN, TRAIN = options_of(RunConfig), options_of(TrainCommand)
LEAVES = RUN.leaves


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
    if facts["declared"]:
        nested = st.sampled_from([{"name": "fgsm", "start": "near"}, {"name": "apgd", "steps": 7}])
        if "Config" in text:
            return nested
        return st.sampled_from(
            [0, 1, 7, 0.25, 1.5, True, None, "random", "between", "steepest", "margin", (1, 8, 8)]
        )
    if "Literal" in text:
        found = st.sampled_from(entry.type.__args__)
    elif facts["names"]:
        found = st.sampled_from([name for name in facts["names"] if name != "transfer"])  # needs a network
        found = st.lists(found, max_size=2).map(tuple) if "tuple" in text else found
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
    said = NETWORKS.settings("two-layer")["activation"].help
    assert set(ACTIVATIONS) <= set(said.replace(",", "").split())
    assert {name for name, made in NETWORKS.items() if not inspect.isfunction(made)} == {
        "mnist-conv",
        "preact-resnet",
        "wide-resnet",
        "cnn7",
        "vit",
    }
    kinds = (
        (ATTACKS, hf.Attack),
        (LOSSES, hf.Loss),
        (OBJECTIVES, hf.objectives.Objective),
        (AUGMENTATIONS, Augmentation),
        (PERTURBATIONS, WeightPerturbation),
        (AVERAGING, Averaging),
    )
    for registry, kind in kinds:
        assert {*map(registry.get, registry)} == {
            made for made in below(kind) if made.__module__.startswith("holdfast.")
        }


def below(kind):
    """All classes that can be made and inherit from this one."""
    return {
        made
        for one in kind.__subclasses__()
        for made in ({one} if not inspect.isabstract(one) and not one.__name__.startswith("_") else set())
        | below(one)
    }


@pytest.mark.parametrize(
    ("registry", "name"),
    [(r, name) for r in (ATTACKS, LOSSES, OBJECTIVES, AUGMENTATIONS, PERTURBATIONS, AVERAGING) for name in r],
)
def test_what_is_read_from_a_class_is_what_it_takes(registry, name):
    """Names, defaults and help come from the source; the class itself and its rules agree."""
    declared, made = registry.settings(name), registry[name]
    parameters = inspect.signature(made).parameters
    assert declared.keys() == parameters.keys() == rules_of(made).keys()
    for key, one in declared.items():
        default = parameters[key].default
        assert one.default == (... if default is inspect.Parameter.empty else default), key
        assert one.help, f"{name}: {key} has no entry under Attributes"
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
    tags = {tag for name in entries for tag in LEAVES[f"{key}.{name}"][0].metadata["of"]}
    chosen = configuration.with_entries(section, {tag: entries[tag] for tag in tags}, key)
    return {
        name: value
        for name, value in entries.items()
        if configuration.applies(chosen, name) and allowed(chosen, name, value)
    }


def allowed(section, name, value):
    """Whether the class that declares a setting takes the value; others are drawn within their limits."""
    if not isinstance(section, configuration.Tagged):
        return True
    try:
        configuration.with_entries(section, {name: value}, "section")
    except InputError:
        return False
    return True


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


def test_help_shows_the_settings_of_the_attack_that_is_named(capsys):
    assert main(["train", "--attack=apgd", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--attack.rho " in shown
    assert "steps per restart (100)" in shown
    assert "--attack.momentum" not in shown
    assert "--final.momentum" in shown
    assert "random, example, between" in " ".join(shown.split())  # wherever the lines break
    assert main(["train", "--help", "--final", "apdg"]) == 2
    assert "did you mean apgd?" in capsys.readouterr().err


def test_an_attack_says_its_own_settings_and_another_beside_it_its_own():
    config = read(
        "--attack",
        "apgd",
        "--attack.steps",
        "7",
        "--attack.targets",
        "3",
        "--final",
        "square",
        "--final.queries",
        "50",
    )
    assert build_attack(config.attack) == hf.APGD(steps=7, targets=3)
    assert build_attack(config.final) == hf.Square(queries=50)
    assert build_attack(config.evaluation) == hf.PGD(steps=20)


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "transfer"])
def test_every_attack_has_a_name_and_the_defaults_of_its_class(name, tmp_path):
    config = read("--attack", name)
    nested = {"attack": hf.PGD()} if "attack" in ATTACKS.settings(name) else {}
    assert build_attack(config.attack) == ATTACKS[name](**nested)
    assert read(write(tmp_path, f"attack: {name}")) == config
    if not nested:
        assert hf.attacks.as_attack(name) == ATTACKS[name]()


def test_an_attack_that_repeats_another_holds_it_as_a_section(tmp_path):
    text = "final: {name: multi-target, classes: 3, attack: {name: pgd, steps: 5, loss: dlr}}"
    config = read(write(tmp_path, text))
    made = hf.MultiTarget(attack=hf.PGD(steps=5, loss="dlr"), classes=3)
    assert build_attack(config.final) == made
    assert read(write(tmp_path, yaml.safe_dump(to_dict(config)))) == config
    assert (
        build_attack(read("--final", "expected-gradient", "--final.attack", "fgsm").final).attack == hf.FGSM()
    )
    own = read("--final", "multi-target", "--final.attack", "not_there:Attack")
    assert configuration.names_code(own)


def test_settings_of_runs_before_this_version_are_read(tmp_path):
    old = (
        "attack: {name: pgd, steps: 10, step_size: null, restarts: 1, start: random, momentum: 0.0, keep_best: false}\n"
        "evaluation: {name: fgsm, step_size: 0.5, start: random}\nfinal: {name: random, restarts: 9}\n"
    )
    config = read(write(tmp_path, old))
    assert config.attack == RunConfig().attack
    assert build_attack(config.evaluation) == hf.FGSM(step_size=0.5, start="random")
    assert build_attack(config.final) == hf.RandomAttack(samples=9)


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (["--attack", "transfer"], "which needs surrogate; give it from Python, as Transfer(surrogate=...)"),
        (["--attack.steps", "0"], "attack.steps must be a whole number >= 1, got 0"),
        (
            ["--attack.start", "between"],
            "attack.start must be one of random, example, near, gaussian, got 'between'",
        ),
        (
            ["--attack", "apgd", "--attack.momentum", "3"],
            "attack.momentum must go with attack.name pgd, got it with apgd",
        ),
        (["--final", "multi-target", "--final.attack", "{name: pgd, stepz: 3}"], "did you mean steps?"),
        (
            ["--final", "multi-target", "--final.attack", "{name: pgd, steps: 0}"],
            "final.attack.steps must be",
        ),
        (["--final", "multi-target", "--final.attack", "fsgm"], "did you mean fgsm?"),
        (["--final", "multi-target", "--final.attack", "3"], "final.attack must be an attack's name"),
        (["--attack.loss", "margn"], "attack.loss must be"),
    ],
)
def test_a_wrong_setting_of_an_attack_is_refused_in_one_sentence(argv, what):
    with pytest.raises(InputError) as refused:
        read(*argv)
    assert what in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_loss_takes_its_arguments_and_may_be_ones_own():
    read_loss = lambda *argv: build_loss(read(*argv).training)  # noqa: E731
    assert read_loss("--loss", "huber", "--training.loss-args.delta", "0.5") == hf.Huber(delta=0.5)
    assert read_loss("--training.loss-args", "{label_smoothing: 0.1}") == hf.CrossEntropy(label_smoothing=0.1)
    assert read_loss("--loss", "holdfast.losses:Hinge") == hf.Hinge()
    with pytest.raises(InputError, match="takes delta, got detla; did you mean delta"):
        read_loss("--loss", "huber", "--training.loss-args.detla", "1")
    with pytest.raises(
        InputError, match=r"loss_args must go with training.loss cross-entropy or logistic or huber"
    ):
        read("--loss", "hinge", "--training.loss-args.delta", "1")


def test_everything_has_an_option_with_a_help_text_and_no_two_share_a_name():
    assert len(TRAIN.short) == len(set(TRAIN.short.values()))
    assert not set(TRAIN.short) & set(TRAIN.long)
    attacks = ("attack", "evaluation", "final")
    parts = {
        "network": NETWORKS,
        "objective": OBJECTIVES,
        "augmentation": AUGMENTATIONS,
        "weight-perturbation": PERTURBATIONS,
        "averaging": AVERAGING,
    }
    picked = [[f"--{part}={name}" for part in attacks] for name in (*ATTACKS, "my:A") if name != "transfer"]
    picked += [[f"--{part}={name}"] for part, registry in parts.items() for name in (*registry, "my:A")]
    shown = "\n".join(TRAIN.page(argv) for argv in ([], *picked))
    for option in (*TRAIN.long, *TRAIN.short):
        assert f"{option} " in shown or f"{option}," in shown or f"{option}\n" in shown
    assert all(entry.metadata["help"] for entry, _ in TRAIN.leaves.values())


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
        (["one.yaml", "two.yaml"], "at most one CONFIG.yaml is allowed"),
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
    with pytest.raises(InputError, match=r"network.width must be a whole number >= 1, got 0"):
        from_dict({"network": {"width": 0}})


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
    config = NetworkConfig.section("dense", width=20, depth=2, activation="csp2", input_layer=False)
    signed = build_network(config, data, seed=0)
    assert signed.output == "signed"
    assert signed.width == 24  # a multiple of two signs for each of three outputs
    assert signed.activation.name == "csp2"
    assert signed.input_weight is None
    gaussian = build_network(NetworkConfig.section("dense", width=21, outputs="dense"), data, seed=0)
    assert (gaussian.output, gaussian.width) == ("gaussian", 21)
    with pytest.raises(InputError, match=r"a centred softplus is named csp and its temperature"):
        from_dict({"network": {"activation": "csp"}})


def test_an_attack_that_needs_more_than_its_name_is_refused_in_python():
    with pytest.raises(InputError, match=r"write Transfer\(surrogate=..., attack=...\)"):
        hf.attacks.as_attack("transfer")
    with pytest.raises(InputError, match="did you mean 'apgd'"):
        hf.attacks.as_attack("apdg")
