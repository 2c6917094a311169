"""A threat of your own: an adversary who can erase ink from a digit, but not add any."""

import torch

import holdfast as hf

data = hf.data.digits(classes=(3, 8))


def erase(points: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The nearest image in which no pixel is darker than in ``x``, or lighter by more than 0.3."""
    return torch.minimum(torch.maximum(points, (x - 0.3).clamp(min=0.0)), x)


threat = hf.CustomThreat(erase, radius_hint=0.3 * data.features**0.5, name="erase")


def network() -> hf.networks.TwoLayer:
    return hf.networks.TwoLayer(
        data.features,
        data.classes,
        width=200,
        scale=0.4,
        center=data.train.x.mean(0),
        constant=0.5,
    )


for name, attack in (("without an attack", "clean"), ("under attack", hf.PGD(steps=5))):
    model = network()
    run = hf.train(
        model,
        data,
        threat,
        attack=attack,
        parameter_radius=10.0,
        epochs=10,
        seed=0,
        progress=False,
    )
    found = hf.PGD(steps=20).run(model, data.test.x, data.test.y, threat)
    assert (found.x <= data.test.x).all()  # nothing was added
    print(
        f"trained {name}: {int(found.success.sum())} of {len(found.success)} test examples broken"
    )

print(f"certificate: {run.certificate.status}, gap {run.certificate.gap:.3f}")
