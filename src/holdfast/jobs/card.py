"""The model card of an exported network, in the form of Hugging Face: what it is, how it was made, and how each figure is known."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast._files import yaml_text
from holdfast._formats import CONTROL, count, number, percent, setting
from holdfast.config.schema import DataConfig, plain_default
from holdfast.record.schema import EvaluationFigures, Summary

LIBRARIES = {".onnx": "onnx", ".pt2": "pytorch", ".safetensors": "pytorch"}
OBSERVED = "observed: an upper bound, since a stronger attack may find more"
PROVED = "verified: proved for every point of the threat set"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of an exported network.

    Attributes:
        file: its name, without folder; ``suffix`` its format.
        version: of Holdfast.
        digest: SHA-256 of the file.
        network: name of its class.
        parameters: how many numbers it has.
        shape: of one example; ``dtype`` of its numbers, such as ``float32``.
        outputs: numbers in one output.
        summary: figures of its run; ``None`` for a network without one.
        config: the run's configuration, empty where no file describes it.
        weights: ``last`` or ``best``, of a run.
        same: whether the run's last and best weights are the same numbers.
    """

    file: str
    version: str
    suffix: str
    digest: str
    network: str
    parameters: int
    shape: tuple[int, ...]
    dtype: str
    outputs: int
    summary: Summary | None = None
    config: Mapping[str, Any]
    weights: str = ""
    same: bool = False


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of the card; ``claim`` says how it is known."""

    name: str
    share: float | None
    bound: str
    claim: str

    @property
    def text(self) -> str:
        """The share with its bound."""
        return f"{self.bound} {percent(self.share)}".strip()


def card_text(facts: Facts) -> str:
    """The whole card, in Markdown."""
    sections = [_heading(facts), _network(facts)]
    if facts.summary is not None:
        sections += [
            _trained(facts, facts.summary),
            *_evaluated(facts, facts.summary),
            _certificate(facts.summary),
        ]
    sections += [_loading(facts), _provenance(facts)]
    front = yaml_text(_front(facts))
    return f"---\n{front}# license: choose one, such as apache-2.0\n---\n\n" + "\n\n".join(sections) + "\n"


def _plain(text: object) -> str:
    """Text of a record on one line of Markdown, which it cannot leave."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", _line(text))


def _line(text: object) -> str:
    return " ".join(CONTROL.sub("", str(text)).split())


def _code(text: object) -> str:
    return f"`{_line(text).replace('`', '')}`"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _front(facts: Facts) -> dict[str, Any]:
    summary = facts.summary
    task = "image-classification" if len(facts.shape) == 3 else "tabular-classification"
    front: dict[str, Any] = {
        "library_name": LIBRARIES[facts.suffix],
        "tags": ["holdfast", "adversarial-robustness", *(["onnx"] if facts.suffix == ".onnx" else [])],
    }
    if summary is None:
        return front
    front |= {"pipeline_tag": task, "metrics": ["accuracy"]}
    results = [
        {
            "task": {"type": task},
            "dataset": {"type": _slug(data), "name": _line(data), "split": _line(part)},
            "metrics": [
                {"type": "accuracy", "name": f"{one.name} ({one.claim})", "value": one.share}
                for one in figures
                if one.share is not None
            ],
        }
        for _, data, part, figures in _blocks(facts, summary)
    ]
    if any(result["metrics"] for result in results):
        front["model-index"] = [{"name": _line(summary.name or facts.file), "results": results}]
    return front


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "data"


def _heading(facts: Facts) -> str:
    summary = facts.summary
    name = facts.file if summary is None or not summary.name else summary.name
    said = f"# {_plain(name)}\n\nA classifier, exported to {_code(facts.file)} by Holdfast {facts.version}."
    if summary is not None and summary.threat:
        said += (
            f" It was trained on {_plain(summary.data.name)} against an adversary who may change an input within "
            f"{_code(summary.threat)}."
        )
    return said


def _network(facts: Facts) -> str:
    kind = "one signed output: positive is class 1" if facts.outputs == 1 else "one logit per class"
    rows = [
        ["network", _code(facts.network)],
        ["parameters", count(facts.parameters)],
        ["input", f"(batch, {', '.join(map(str, facts.shape))}), {facts.dtype}"],
        ["output", f"(batch, {facts.outputs}), {kind}" if facts.summary else f"(batch, {facts.outputs})"],
    ]
    if facts.summary is not None:
        seen = facts.summary
        rows += [["activation", _plain(seen.network.activation)]] if seen.network.activation else []
        rows += [["classes", ", ".join(map(_plain, seen.data.class_names))]] if seen.data.class_names else []
        which = "last, which are also the best," if facts.same else facts.weights
        rows.append(["weights", f"the {which} of the run"])
    return "## The network\n\n" + _table(["", ""], rows)


def _trained(facts: Facts, summary: Summary) -> str:
    data = summary.data
    parts = (
        ("train", data.train),
        ("validation", data.validation),
        ("test", data.test),
        ("extra", data.extra),
    )
    rows = [
        [
            "data",
            f"{_plain(data.name)}: {', '.join(f'{count(size)} {part}' for part, size in parts if size)}",
        ],
        ["threat", _code(summary.threat)],
        ["attack in training", _plain(summary.attack)],
        ["objective", _plain(summary.objective or "robust-loss")],
        ["loss", _plain(summary.loss)],
        ["recipe", _plain(facts.config.get("recipe") or "none")],
        ["epochs", count(summary.epochs)],
        ["optimizer", f"{_plain(summary.optimizer)}, learning rate {setting(summary.learning_rate)}"],
        ["batch size", count(summary.batch_size)],
        ["averaging of weights", _plain(summary.averaging or "none")],
        ["seed", str(summary.seed)],
    ]
    said = "## Training\n\n" + _table(["", ""], rows)
    if summary.interrupted:
        said += "\n\nThe run was interrupted before its end."
    return said


def _blocks(facts: Facts, summary: Summary) -> Iterator[tuple[str, str, str, tuple[Figure, ...]]]:
    """Where figures of these very weights come from: in words, data, part, figures."""
    found = summary.evaluation
    if found is not None and (found.weights == facts.weights or facts.same):
        yield (
            _under(found),
            str(found.data),
            str(found.part),
            _three(found.clean_accuracy, found.robust_accuracy, found.robust_accuracy_verified),
        )
    of_these = summary.accuracy_weights == facts.weights or facts.same
    covered = found is not None and found.threat == summary.threat and found.part == summary.accuracy_on
    if of_these and summary.clean_accuracy is not None and not (covered and found and not found.population):
        attacks = "" if summary.closing is None else ", ".join(map(_plain, summary.closing.attacks))
        said = f"At the end of training, on {summary.accuracy_of}, within {_code(summary.threat)}"
        said += f", under {attacks}." if attacks else "."
        yield (
            said,
            str(summary.data.name),
            str(summary.accuracy_on),
            _three(summary.clean_accuracy, summary.robust_accuracy, summary.robust_accuracy_verified),
        )


def _three(clean: float | None, robust: float | None, verified: float | None) -> tuple[Figure, ...]:
    found = [
        Figure(name="clean accuracy", share=clean, bound="", claim="observed"),
        Figure(name="robust accuracy", share=robust, bound="at most", claim=OBSERVED),
    ]
    if verified is not None:
        found.append(Figure(name="verified robust accuracy", share=verified, bound="at least", claim=PROVED))
    return tuple(found)


def _under(found: EvaluationFigures) -> str:
    many = f"{count(found.examples)} examples of the {_plain(found.part)} part of {_plain(found.data)}"
    sampled = f", drawn at random out of {count(found.population)}" if found.population else ""
    bounds = f", bounds by {_plain(found.verify)}" if found.verify else ", without bounds"
    return f"`holdfast evaluate`: {many}{sampled}, within {_code(found.threat)}, suite of attacks {_plain(found.attacks)}{bounds}."


def _evaluated(facts: Facts, summary: Summary) -> list[str]:
    blocks = list(_blocks(facts, summary))
    said = [
        f"{where}\n\n"
        + _table(["figure", "value", "claim"], [[one.name, one.text, one.claim] for one in figures])
        for where, _, _, figures in blocks
    ]
    if not blocks:
        said = [
            f"Nothing was measured of the {facts.weights} weights of this run. `holdfast evaluate RUN --weights "
            f"{facts.weights}` does it."
        ]
    found = summary.evaluation
    if found is not None and blocks and found.verdict.warnings:
        said += ["Signs that attacks failed, so that the robust accuracy may be lower than it seems:"]
        said += ["\n".join(f"- {_plain(warning.sentence)}" for warning in found.verdict.warnings)]
    return ["## Accuracy", *said]


STATUS = {
    "certified": "certified: proved, rounding included",
    "estimate": "estimate: not proved",
    "void": "void: nothing is claimed",
}


def _certificate(summary: Summary) -> str:
    proof, kind = summary.certificate, summary.certificate_status
    if proof is None or kind is None:
        return "## Convergence certificate\n\nThere is none."
    rows = [["status", STATUS.get(kind, _plain(kind))], ["reason", _plain(summary.certificate_reason)]]
    if kind != "void":
        lower = number(summary.robust_loss_lower_bound)
        lower += "" if summary.certificate_informative is not False else ", which says nothing"
        rows += [
            ["parameter radius", setting(proof.radius)],
            ["best robust loss in the ball: at least", lower],
            [
                "best loss reached under the training attack (observed)",
                f"{number(summary.surrogate_loss)}, by {_plain(summary.surrogate_weights)}",
            ],
            ["gap between them", number(summary.gap)],
        ]
    return (
        "## Convergence certificate\n\nHow far training ended from the best network in a ball around the initial weights, on the robust "
        "loss of the training part. It says nothing about other data.\n\n" + _table(["", ""], rows)
    )


def _loading(facts: Facts) -> str:
    name = facts.file
    shape = ", ".join(map(str, facts.shape))
    command = f"holdfast evaluate {name} --data DATA --threat THREAT"
    if facts.summary is not None:
        command = f"holdfast evaluate {name} {_options(facts)}"
    if facts.suffix == ".onnx":
        code = (
            "import numpy as np\nimport onnxruntime\n\n"
            f'session = onnxruntime.InferenceSession("{name}")\n'
            f'outputs = session.run(None, {{"input": np.zeros((1, {shape}), "{facts.dtype}")}})[0]'
        )
    elif facts.suffix == ".pt2":
        command += " --trusted"
        code = (
            f'import torch\n\nnetwork = torch.export.load("{name}").module()  # runs code: only from a source you trust\n'
            f"outputs = network(torch.zeros(1, {shape}, dtype=torch.{facts.dtype}))"
        )
    else:
        command += " --network NETWORK"
        code = (
            "import holdfast as hf\n\n"
            f'network = hf.load_model(network, weights="{name}")  # a network of the class and the sizes above'
        )
    return f"## Loading it\n\n```python\n{code}\n```\n\nAttacks and bounds again:\n\n```shell\n{command}\n```"


def _options(facts: Facts) -> str:
    """The data and the threat of the run, as options."""
    assert facts.summary is not None
    given, known = facts.config.get("data"), DataConfig.__dataclass_fields__
    words = ["--data DATA"]
    if isinstance(given, Mapping):
        words = [f"--data {_word(given.get('name'))}"]
        words += [
            f"--data.{key.replace('_', '-')} {_word(value)}"
            for key, value in given.items()
            if key in known and key != "name" and _listed(value) != _listed(plain_default(known[key]))
        ]
        words += [f"--seed {int(facts.config['seed'])}"] if facts.config.get("seed") else []
    return " ".join([*words, f"--threat {_word(facts.summary.threat)}"])


def _listed(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _word(value: object) -> str:
    """A value as one word of a shell."""
    text = str(value).lower() if isinstance(value, bool) else CONTROL.sub("", str(value)).replace("`", "")
    return shlex.quote(" ".join(text.split()).replace(", ", ",") if isinstance(value, list | tuple) else text)


def _provenance(facts: Facts) -> str:
    rows = [
        ["file", _code(facts.file)],
        ["SHA-256", _code(facts.digest)],
        ["written by", f"Holdfast {facts.version}"],
    ]
    if facts.summary is not None and facts.summary.versions:
        made = ", ".join(f"{_plain(name)} {_plain(what)}" for name, what in facts.summary.versions.items())
        rows.append(["trained with", made])
    return "## Provenance\n\n" + _table(["", ""], rows)
