"""The works a run rests on: each method it used cites its paper."""

import re
from dataclasses import dataclass

from holdfast.record.schema import EvaluationFigures
from holdfast.report.collect import RunPage


@dataclass(frozen=True, kw_only=True)
class Citation:
    """One work; ``used_for`` says what it gave to the run."""

    authors: str
    title: str
    where: str
    link: str
    used_for: str


ALWAYS = (
    Citation(
        authors="R. Gao, T. Cai, H. Li, L. Wang, C.-J. Hsieh, J. D. Lee",
        title="Convergence of Adversarial Training in Overparametrized Neural Networks",
        where="NeurIPS 2019",
        link="https://arxiv.org/abs/1906.07916",
        used_for="the convergence theorem that the certificate turns into a number",
    ),
)

# A work is cited where one of its words occurs in what the run says of its attacks, bounds and data. A word
# is met where it
# starts and ends one: pgd is not in apgd, nor crown in crowned.
BY_WORD: tuple[tuple[tuple[str, ...], Citation], ...] = (
    (
        ("pgd",),
        Citation(
            authors="A. Madry, A. Makelov, L. Schmidt, D. Tsipras, A. Vladu",
            title="Towards Deep Learning Models Resistant to Adversarial Attacks",
            where="ICLR 2018",
            link="https://arxiv.org/abs/1706.06083",
            used_for="adversarial training with projected gradient descent",
        ),
    ),
    (
        ("fgsm",),
        Citation(
            authors="I. J. Goodfellow, J. Shlens, C. Szegedy",
            title="Explaining and Harnessing Adversarial Examples",
            where="ICLR 2015",
            link="https://arxiv.org/abs/1412.6572",
            used_for="the one-step attack",
        ),
    ),
    (
        ("autoattack", "apgd", "suite-standard"),
        Citation(
            authors="F. Croce, M. Hein",
            title="Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse "
            "Parameter-free Attacks",
            where="ICML 2020",
            link="https://arxiv.org/abs/2003.01690",
            used_for="evaluation under attack: APGD, its losses and the standard cascade",
        ),
    ),
    (
        ("apgd-l1",),
        Citation(
            authors="F. Croce, M. Hein",
            title="Mind the Box: l1-APGD for Sparse Adversarial Attacks on Image Classifiers",
            where="ICML 2021",
            link="https://arxiv.org/abs/2103.01208",
            used_for="APGD for the l1 ball within its box",
        ),
    ),
    (
        ("fab",),
        Citation(
            authors="F. Croce, M. Hein",
            title="Minimally Distorted Adversarial Examples with a Fast Adaptive Boundary Attack",
            where="ICML 2020",
            link="https://arxiv.org/abs/1907.02044",
            used_for="the FAB attack",
        ),
    ),
    (
        ("square",),
        Citation(
            authors="M. Andriushchenko, F. Croce, N. Flammarion, M. Hein",
            title="Square Attack: A Query-efficient Black-box Adversarial Attack via Random Search",
            where="ECCV 2020",
            link="https://arxiv.org/abs/1912.00049",
            used_for="the Square attack, which needs no gradient",
        ),
    ),
    (
        ("carlini-wagner",),
        Citation(
            authors="N. Carlini, D. Wagner",
            title="Towards Evaluating the Robustness of Neural Networks",
            where="IEEE Symposium on Security and Privacy 2017",
            link="https://arxiv.org/abs/1608.04644",
            used_for="the search by distance",
        ),
    ),
    (
        ("ibp",),
        Citation(
            authors="S. Gowal, K. Dvijotham, R. Stanforth, R. Bunel, C. Qin, J. Uesato, R. Arandjelovic, "
            "T. Mann, P. Kohli",
            title="On the Effectiveness of Interval Bound Propagation for Training Verifiably Robust Models",
            where="2018",
            link="https://arxiv.org/abs/1810.12715",
            used_for="interval bounds",
        ),
    ),
    (
        ("crown",),
        Citation(
            authors="H. Zhang, T.-W. Weng, P.-Y. Chen, C.-J. Hsieh, L. Daniel",
            title="Efficient Neural Network Robustness Certification with General Activation Functions",
            where="NeurIPS 2018",
            link="https://arxiv.org/abs/1811.00866",
            used_for="CROWN: verified bounds by linear relaxation",
        ),
    ),
    (
        ("alpha-crown",),
        Citation(
            authors="K. Xu, H. Zhang, S. Wang, Y. Wang, S. Jana, X. Lin, C.-J. Hsieh",
            title="Fast and Complete: Enabling Complete Verification with Rapid and Massively Parallel "
            "Incomplete Verifiers",
            where="ICLR 2021",
            link="https://arxiv.org/abs/2011.13824",
            used_for="alpha-CROWN: optimised slopes",
        ),
    ),
    (
        ("second-order",),
        Citation(
            authors="S. Singla, S. Feizi",
            title="Second-Order Provable Defenses against Adversarial Attacks",
            where="ICML 2020",
            link="https://arxiv.org/abs/2006.00731",
            used_for="the second-order bound",
        ),
    ),
    (
        ("verdict-given",),
        Citation(
            authors="M. Pintor, L. Demetrio, A. Sotgiu, A. Demontis, N. Carlini, B. Biggio, F. Roli",
            title="Indicators of Attack Failure: Debugging and Improving Optimization of Adversarial Examples",
            where="NeurIPS 2022",
            link="https://arxiv.org/abs/2106.09947",
            used_for="the signs by which a failed attack is told",
        ),
    ),
    (
        ("mnist",),
        Citation(
            authors="Y. LeCun, L. Bottou, Y. Bengio, P. Haffner",
            title="Gradient-Based Learning Applied to Document Recognition",
            where="Proceedings of the IEEE, 1998",
            link="https://doi.org/10.1109/5.726791",
            used_for="the MNIST data",
        ),
    ),
    (
        ("digits",),
        Citation(
            authors="E. Alpaydin, C. Kaynak",
            title="Optical Recognition of Handwritten Digits",
            where="UCI Machine Learning Repository, 1998",
            link="https://doi.org/10.24432/C50P49",
            used_for="the digits data",
        ),
    ),
)


# What the bounds' methods build on.
BOUNDS = {
    "crown-ibp": "crown ibp",
    "alpha": "crown alpha-crown",
    "auto": "ibp crown alpha-crown",
}


def citations(runs: list[RunPage]) -> tuple[Citation, ...]:
    """The works these runs used, the theorem first."""
    said = " ".join(_said(run) for run in runs).lower()
    return (*ALWAYS, *(work for words, work in BY_WORD if any(_met(word, said) for word in words)))


def _met(word: str, said: str) -> bool:
    return re.search(rf"(?<![a-z]){re.escape(word)}(?![a-z])", said) is not None


def _said(run: RunPage) -> str:
    told = (run.summary.attack, run.summary.data.name)
    return " ".join([*(text for text in told if text), *_evaluated(run.summary.evaluation)])


def _evaluated(record: EvaluationFigures | None) -> list[str]:
    """What an evaluation used: a step that had nothing to do, or was left out, took no time."""
    if record is None:
        return []
    told = ["verdict-given"] if record.verdict.word else []
    if record.attacks == "standard":
        told.append("suite-standard")
    for stage in record.stages:
        name = stage.name or ""
        if stage.seconds is not None and stage.seconds <= 0:
            continue
        told.append(BOUNDS.get(name, name) if stage.kind == "bound" else name)
        if name.startswith("apgd") and (record.threat or "").startswith("l1:"):
            told.append("apgd-l1")
    return told
