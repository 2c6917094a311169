"""The works a run rests on: each method it used cites its paper."""

from dataclasses import dataclass

from holdfast.report.collect import Run


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

# A work is cited where one of its words occurs in what the run says of its attack, bounds and data.
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
        ("autoattack", "apgd"),
        Citation(
            authors="F. Croce, M. Hein",
            title="Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks",
            where="ICML 2020",
            link="https://arxiv.org/abs/2003.01690",
            used_for="evaluation under attack",
        ),
    ),
    (
        ("crown",),
        Citation(
            authors="H. Zhang, T.-W. Weng, P.-Y. Chen, C.-J. Hsieh, L. Daniel",
            title="Efficient Neural Network Robustness Certification with General Activation Functions",
            where="NeurIPS 2018",
            link="https://arxiv.org/abs/1811.00866",
            used_for="the verified bounds on the network's outputs",
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


def citations(runs: list[Run]) -> tuple[Citation, ...]:
    """The works these runs used, the theorem first."""
    said = " ".join(_said(run) for run in runs).lower()
    return (*ALWAYS, *(work for words, work in BY_WORD if any(word in said for word in words)))


def _said(run: Run) -> str:
    s = run.summary
    told = (
        s.text("attack"),
        s.inner("data").text("name"),
        s.text("robust_loss_upper_method"),
        s.text("evaluation"),
    )
    return " ".join(text for text in told if text)
