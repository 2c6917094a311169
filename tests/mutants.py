"""Mutations of the proofs' constants, each of which the named tests must catch: `make mutants`.

A mutation replaces one piece of source text, which must occur exactly once. It is applied to a copy of ``src``; the named tests run on that
copy and must fail. A survivor, a text that is gone, and a named test that fails on the sources as they are, each end the run with status 1.

    python tests/mutants.py                # all
    python tests/mutants.py second_order   # those whose file or text contains this word
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Mutation:
    """``old`` becomes ``new`` in ``file`` (below src/holdfast); ``tests`` are pytest's names, below tests."""

    file: str
    old: str
    new: str
    tests: str


DEEP, CHECKED, BOUNDS = (
    "test_saturation_deep.py",
    "test_saturation_verification.py",
    "test_saturation_bounds.py",
)
HANDED = f"{DEEP}::test_what_is_handed_down_is_reached"
SECOND = f"{CHECKED}::test_a_pair_whose_weights_differ_leaves_what_is_said"
LINES = f"{CHECKED}::test_lines_and_intervals_hold_to_the_last_bit"
LEVEL = f"{BOUNDS}::test_a_line_of_the_kernel_problem_is_below_the_exact_tangent"
SMOOTH = f"{BOUNDS}::test_smooth_curvature_is_reached"
WINDOW = "test_saturation_windows.py"
ALLOWED = f"{CHECKED}::test_margins_of_an_affine_network_are_below_the_exact_ones"
PROJECTED = "test_threats.py::test_project_inside_projects_onto_the_stated_radius"
SLICE = "test_threats.py::test_projected_points_of_a_slice_keep_the_stated_distance_from_its_edges"
BALL = "test_training.py::test_projected_weights_lie_in_the_ball_after_rounding"
NOTHING = "test_training.py::test_radii_that_float32_rounds_up_are_kept_by_weights_that_start_at_nothing"
LENGTH = "test_training.py::test_a_rough_length_does_not_pass_for_the_exact_one"
SINGLE = f"{CHECKED}::test_rows_on_products_in_float32_allow_for_those_in_float64"
INTERVAL = f"{CHECKED}::test_intervals_through_a_dense_layer_hold_to_the_last_bit"

MUTATIONS = (
    # ---- deep curvature
    Mutation("families/dense/layered.py", "((column + radius) * bent)", "(column * bent)", HANDED),
    Mutation("families/dense/layered.py", "(norm + reach) ** 2 * relative", "norm**2 * relative", HANDED),
    Mutation(
        "families/dense/layered.py", "(lipschitz * (norm + radius)) ** 2", "(lipschitz * norm) ** 2", HANDED
    ),
    Mutation(
        "families/dense/layered.py", "squares.sqrt() + largest.sqrt() * reach", "squares.sqrt()", HANDED
    ),
    Mutation(
        "families/dense/layered.py",
        "((start.columns[h] + radius) * bent)",
        "(start.columns[h] * bent)",
        HANDED,
    ),
    Mutation("families/dense/layered.py", "own_most * norm**2", "0.5 * own_most * norm**2", HANDED),
    Mutation(
        "families/dense/layered.py",
        "squares = rest * scaled.whole[h] ** 2",
        "squares = 0.5 * rest * scaled.whole[h] ** 2",
        HANDED,
    ),
    Mutation("families/dense/layered.py", "[r + m for r, m in zip", "[r for r, m in zip", DEEP),
    Mutation(
        "families/dense/layered.py",
        "bent = constants.curvature / 2 * rho",
        "bent = constants.curvature / 4 * rho",
        DEEP,
    ),
    Mutation(
        "families/dense/layered.py",
        "relative, bent, scaled, h, radius, d, theta2, constants.lipschitz",
        "relative, bent * (h == 1), scaled, h, radius, d, theta2, constants.lipschitz",
        DEEP,
    ),
    Mutation(
        "families/dense/layered.py",
        "torch.minimum(bent[:, None], change)",
        "torch.minimum((bent * (h == 1))[:, None], change)",
        DEEP,
    ),
    Mutation("families/dense/layered.py", "lip2 = (below.abs() + lip2)", "lip2 = (below.abs())", DEEP),
    Mutation(
        "families/dense/layered.py",
        "scaled.chain + radius * most * float(d1.abs().max())",
        "scaled.chain",
        DEEP,
    ),
    Mutation(
        "families/dense/layered.py",
        "(k * most * (start.norm(1) + radius) * left)",
        "(k * most * start.norm(1) * left)",
        DEEP,
    ),
    Mutation(
        "families/dense/layered.py", "k * lip2 * (sizes / (2 * tau))", "k * lip2 * (sizes / (4 * tau))", DEEP
    ),
    Mutation(
        "families/dense/expansion.py",
        "(start.norm(h) + start.radii[h]) * result[-1]",
        "start.norm(h) * result[-1]",
        DEEP,
    ),
    Mutation(
        "families/dense/norms.py",
        "at.scale / 2 * one_sided",
        "at.scale / 3 * one_sided",
        "test_deep_curvature.py::test_bound_in_a_tiny_ball_is_above_the_exact_hessian",
    ),
    Mutation(
        "curvature/spectral.py",
        "tau + 2 * UNIT * ((n + 2) * n * tau + (k + 2) * square)",
        "tau",
        f"{DEEP}::test_a_spectral_norm_is_above_the_exact_one_however_its_gram_matrix_was_rounded",
    ),
    # ---- two layers
    Mutation(
        "families/two_layer/curvature.py",
        "weighted_grams(z, costs) / (2 * root)",
        "weighted_grams(z, costs) / (2.1 * root)",
        SMOOTH,
    ),
    Mutation(
        "families/two_layer/curvature.py",
        "weighted_grams(z, costs / taus) / (4 * root)",
        "weighted_grams(z, costs / taus) / (4.2 * root)",
        f"{BOUNDS}::test_kinks_are_reached",
    ),
    Mutation(
        "families/two_layer/curvature.py",
        "(tau[:, None] - group).clamp_min(0)",
        "(0.95 * tau[:, None] - group).clamp_min(0)",
        f"{BOUNDS}::test_kinks_are_reached",
    ),
    Mutation(
        "families/two_layer/curvature.py",
        "self.theta * sizes.sum() / (2 * root)",
        "self.theta * sizes.sum() / (2.1 * root)",
        f"{BOUNDS}::test_trained_outputs_are_reached",
    ),
    Mutation(
        "curvature/base.py",
        "costs + below * inner.clamp_min(0) if below",
        "costs + 0.9 * below * inner.clamp_min(0) if below",
        SMOOTH,
    ),
    # ---- threats and the ball of weights
    Mutation("threats/base.py", "SHRINK = 1e-5", "SHRINK = 0.0", PROJECTED),
    Mutation("threats/base.py", "UNITS = 2.0**-22", "UNITS = 0.0", PROJECTED),
    Mutation(
        "threats/lp.py",
        "((1 - SHRINK) * self.radius - UNITS * size)",
        "(self.radius - UNITS * size)",
        PROJECTED,
    ),
    Mutation(
        "threats/lp.py",
        "((1 - SHRINK) * self.radius - UNITS * size)",
        "((1 - SHRINK) * self.radius)",
        PROJECTED,
    ),
    Mutation(
        "threats/sphere.py",
        "radius = (1 - SHRINK) * self.radius - margin",
        "radius = self.radius - margin",
        SLICE,
    ),
    Mutation(
        "threats/sphere.py",
        "radius = (1 - SHRINK) * self.radius - margin",
        "radius = (1 - SHRINK) * self.radius",
        SLICE,
    ),
    Mutation(
        "threats/sphere.py", "radius.clamp(min=0.0), size - margin)", "radius.clamp(min=0.0), size)", SLICE
    ),
    Mutation(
        "threats/custom.py",
        "return 2e-6 * self._radius",
        "return 0.0",
        "test_threats.py::test_what_a_custom_maximiser_misses_is_within_what_it_says",
    ),
    Mutation("training/ball.py", "unit * _norm([self.initial[name] for name in names]) + (6", "(6", BALL),
    Mutation(
        "training/ball.py", "(6 * unit + 1e-9) * self.radius", "(0 * unit + 1e-9) * self.radius", NOTHING
    ),
    Mutation("training/ball.py", "ROUGH = 0.01", "ROUGH = -0.01", LENGTH),
    Mutation("training/ball.py", "ROUGH = 0.01", "ROUGH = 0.0", LENGTH),
    # ---- data that are not those of the start
    Mutation(
        "trace/recorder.py",
        "sums.overwritten += (marks(examples) != self._marks[rows]).sum()",
        "pass",
        "test_recorder.py::test_data_overwritten_for_one_round_void_a_window",
    ),
    Mutation(
        "trace/recorder.py",
        "float((marks(self.x) != self._marks).sum())",
        "0.0",
        "test_recorder.py::test_overwritten_data_void_a_window",
    ),
    # ---- activations
    Mutation("networks/activations.py", "curvature_above=0.25,", "curvature_above=0.24,", SMOOTH),
    Mutation(
        "networks/activations.py",
        "curvature_below=_up(2 * math.exp(-2) / SQRT_2PI)",
        "curvature_below=_up(1.9 * math.exp(-2) / SQRT_2PI)",
        SMOOTH,
    ),
    Mutation(
        "networks/activations.py", "curvature_below=0.0369143731998932", "curvature_below=0.036", SMOOTH
    ),
    Mutation("networks/activations.py", "curvature_above=2.0,", "curvature_above=1.9,", SMOOTH),
    Mutation(
        "networks/activations.py", "lipschitz=1.09983932012887", "lipschitz=1.09", "test_activations.py"
    ),
    Mutation(
        "networks/activations.py",
        "curvature_above=_up(math.sqrt(8 / math.e) / SQRT_PI)",
        "curvature_above=0.96 * _up(math.sqrt(8 / math.e) / SQRT_PI)",
        "test_activations.py",
    ),
    # ---- lower models and anchors
    Mutation(
        "curvature/lower_model.py",
        "max(0.0, top) * (1 + 1e-9) + 1e-300",
        "max(0.0, top) + 1e-300",
        f"{BOUNDS}::test_the_multiplier_is_above_the_largest_eigenvalue_however_that_was_rounded",
    ),
    Mutation(
        "curvature/lower_model.py",
        "squares / (4 * gaps)",
        "squares / (4.1 * gaps)",
        f"{BOUNDS}::test_the_dual_bound_is_reached_and_not_crossed",
    ),
    Mutation(
        "curvature/lower_model.py",
        "value=-cost - multiplier * radius**2",
        "value=-cost - 0.99 * multiplier * radius**2",
        f"{BOUNDS}::test_the_dual_bound_is_reached_and_not_crossed",
    ),
    Mutation(
        "families/two_layer/anchors.py",
        "(4 if self.kinked else 2) * self.root",
        "(4.4 if self.kinked else 2.2) * self.root",
        "test_certificate.py::test_linear_window_of_a_frozen_pass_equals_the_anchors test_certificate.py::test_value_through_the_response_equals_the_lower_model",
    ),
    # ---- rounding of windows
    Mutation("curvature/rounding.py", "outputs = 8 * steps * size * values", "outputs = 0.0", WINDOW),
    Mutation(
        "curvature/rounding.py",
        "return self.unit * (outputs + reach * gradient + reach**2 * curved + losses)",
        "return 0.0",
        WINDOW,
    ),
    Mutation(
        "curvature/rounding.py",
        "self.start_norm + self.distance, self.input_norm",
        "self.distance, self.input_norm",
        WINDOW,
    ),
    # ---- what a certificate takes on trust
    Mutation(
        "curvature/rounding.py",
        "gradient += 4 * self.width * self.inputs * linear",
        "gradient += 0.0",
        "test_certificate_trust.py::test_the_allowance_is_the_documented_sum",
    ),
    Mutation(
        "curvature/rounding.py",
        "curved = (self.examples * self.inputs + 16 * self.inputs + 32) * lam",
        "curved = 0.0",
        "test_certificate_trust.py::test_the_allowance_is_the_documented_sum",
    ),
    Mutation(
        "curvature/rounding.py",
        "losses = steps * self.loss",
        "losses = 0.0",
        "test_certificate_trust.py::test_the_allowance_is_the_documented_sum",
    ),
    Mutation(
        "curvature/lower_model.py",
        "if not all(block.finite for block in ball)",
        "if False",
        "test_certificate_trust.py::test_not_finite_blocks_bound_nothing",
    ),
    Mutation(
        "certificates/convergence.py",
        "lower = max(best.value, floor)",
        "lower = best.value",
        "test_certificate_trust.py::test_label_smoothing_has_a_floor_of_its_own",
    ),
    Mutation(
        "certificates/tripwire.py",
        "if loss + allowance < bound:",
        "if False:",
        "test_certificate_trust.py::test_a_bound_above_the_loss_of_a_network_at_hand_voids",
    ),
    Mutation(
        "certificates/convergence.py",
        "if bound <= verified + here.allowance:",
        "if True:",
        "test_certificate_trust.py::test_a_window_above_a_verified_loss_voids",
    ),
    Mutation(
        "losses.py",
        "if made(claim) > computed:",
        "if False:",
        "test_certificate_trust.py::test_a_claim_is_inherited_with_the_loss_it_is_about",
    ),
    Mutation(
        "families/exact.py",
        "changed = override(type(module), kind, held)",
        'changed = ""',
        "test_exact.py::test_altered_networks_have_no_proof_and_say_why",
    ),
    # ---- whose proof it is
    Mutation(
        "families/curvature.py",
        "if type(self) is not type(core.family.curvature()):",
        "if False:",
        "test_families.py::test_a_curvature_that_inherits_a_familys_is_not_the_familys",
    ),
    Mutation(
        "families/registry.py",
        "return FamilyCurvature.unproved(curvature, model)",
        "return curvature.unproved(model)",
        "test_families.py::test_a_curvature_that_inherits_a_familys_is_not_the_familys",
    ),
    Mutation(
        "families/registry.py",
        "return Curvature.unproved(curvature, model)",
        "return curvature.unproved(model)",
        "test_families.py::test_a_curvature_that_only_says_it_is_a_proof_certifies_nothing",
    ),
    Mutation(
        "families/exact.py",
        "(issubclass(kind, other) or issubclass(other, kind))",
        "False",
        "test_families.py::test_what_would_weaken_the_question_is_refused",
    ),
    Mutation(
        "families/exact.py",
        "if unknown:",
        "if False:",
        "test_families.py::test_what_would_weaken_the_question_is_refused",
    ),
    Mutation(
        "families/exact.py",
        'parts["family"] = origin(core.family)',
        "pass",
        "test_families.py::test_a_run_of_the_contributed_family_is_certified_again_from_its_folder",
    ),
    # ---- verified bounds
    Mutation("families/two_layer/second_order.py", "1.5 * third * apart", "1.0 * third * apart", SECOND),
    Mutation(
        "families/two_layer/second_order.py", "rate / 6 - hessian / 2", "rate / 12 - hessian / 2", SECOND
    ),
    Mutation(
        "families/two_layer/second_order.py",
        "fourth * (before - after).abs()",
        "0.8 * fourth * (before - after).abs()",
        f"{CHECKED}::test_a_pair_whose_preactivations_differ_leaves_what_is_said",
    ),
    Mutation(
        "families/two_layer/second_order.py",
        "bent.clamp(min=0.0) - spare)",
        "bent.clamp(min=0.0))",
        f"{CHECKED}::test_the_spare_covers_the_rounding_of_what_cancels",
    ),
    Mutation(
        "families/two_layer/second_order.py",
        "largest = sizes.amax((1, 2))",
        "largest = sizes.amax((1, 2)) * 0.9",
        f"{CHECKED}::test_quadratic_forms_are_reached",
    ),
    Mutation(
        "families/two_layer/second_order.py",
        "matrices.shape[1] * 2.0**-48 * torch",
        "0.0 * torch",
        f"{CHECKED}::test_quadratic_forms_are_reached",
    ),
    Mutation(
        "verification/graph.py",
        "return 4 * (terms + math.prod(self.steps[0].shape)) * 2.0**-53",
        "return 0.0",
        f"{CHECKED}::test_margins_of_an_affine_network_are_below_the_exact_ones",
    ),
    Mutation(
        "verification/region.py",
        "ROUNDING = 4 * 2.0**-53",
        "ROUNDING = 0.0",
        f"{CHECKED}::test_edges_of_boxes_are_outside_the_exact_ones",
    ),
    Mutation(
        "verification/region.py",
        "gain = radius * ball.square().sum(2).sqrt()",
        "gain = 0.95 * radius * ball.square().sum(2).sqrt()",
        f"{CHECKED}::test_least_values_over_balls_are_reached_and_not_crossed",
    ),
    Mutation("verification/relaxations.py", "allowance = 8 * UNIT", "allowance = 0 * UNIT", LINES),
    Mutation("verification/relaxations.py", "return 32 * UNIT *", "return 0 * UNIT *", LINES),
    Mutation(
        "verification/relaxations.py",
        "torch.maximum(at_lower.abs(), at_upper.abs()))",
        "at_lower.abs())",
        LINES,
    ),
    Mutation(
        "verification/smoothing.py",
        "betaincinv(hits, samples - hits + 1, alpha)",
        "betaincinv(hits, samples - hits, alpha)",
        f"{CHECKED}::test_the_smoothing_bound_is_the_exact_binomial_tail",
    ),
    Mutation(
        "verification/smoothing.py",
        "samples - hits + 1, alpha)",
        "samples - hits + 1, 2 * alpha)",
        f"{CHECKED}::test_the_smoothing_bound_is_the_exact_binomial_tail",
    ),
    Mutation(
        "verification/scalars.py",
        "torch.where(first, like.new_tensor(one), like.new_tensor(other))",
        "torch.where(first, one, other).to(like.dtype)",
        LINES,
    ),
    Mutation(
        "verification/crown.py",
        "return least + constant - state.graph.rounding * (size + more)",
        "return least + constant",
        SINGLE,
    ),
    Mutation(
        "verification/crown.py",
        "return state.region.minimum(rows.flatten(2)) + constant - state.graph.rounding * size",
        "return state.region.minimum(rows.flatten(2)) + constant",
        ALLOWED,
    ),
    Mutation("verification/intervals.py", "spare = rounding * size", "spare = 0.0 * size", INTERVAL),
    Mutation(
        "verification/pooling.py",
        "spare = 64 * UNIT",
        "spare = 0 * UNIT",
        f"{CHECKED}::test_lines_over_the_largest_of_a_window_hold_to_the_last_bit",
    ),
    Mutation(
        "verification/single.py",
        "- gamma * (1 + 8 * UNIT) * wide",
        "- 0.0 * wide",
        "test_verification_single.py::test_numbers_that_all_round_down_are_allowed_for",
    ),
    Mutation(
        "verification/recording.py",
        "if LOST in numbers:",
        "if False:",
        "test_verification_fixedness.py::test_memory_reached_under_another_name_is_refused",
    ),
    Mutation(
        "verification/recording.py",
        "if torch.Tag.nondeterministic_seeded in func.tags:",
        "if False:",
        "test_verification_fixedness.py::test_what_hangs_on_circumstances_is_refused",
    ),
    Mutation(
        "verification/tracing.py",
        "if tracer.refused is not None:",
        "if False:",
        "test_verification_fixedness.py::test_what_leaves_torch_is_refused",
    ),
    # ---- theory
    Mutation("theory/optimal/finite.py", "tangent - UNIT * (slopes.numel() + 16) * terms", "tangent", LEVEL),
    Mutation(
        "theory/optimal/finite.py",
        "square.clamp_min(0) + KERNEL_ROUNDING * absolute",
        "square.clamp_min(0)",
        f"{BOUNDS}::test_norms_in_a_kernels_space_allow_for_the_kernels_rounding",
    ),
    Mutation(
        "theory/capacity.py",
        "math.floor(value * (1 - 1e-12)) + 1",
        "math.ceil(value) + 1",
        f"{BOUNDS}::test_capacity_bounds_on_their_edges",
    ),
    Mutation(
        "theory/projected.py",
        "float(values[-width:].sum()) + slack <= needed",
        "float(values[-width:].sum()) <= needed",
        f"{BOUNDS}::test_no_width_is_excluded_by_rounding",
    ),
    Mutation(
        "theory/sign_patterns.py",
        "2 * math.e * polynomials * degree / variables",
        "math.e * polynomials * degree / variables",
        f"{BOUNDS}::test_half_spaces_are_counted_exactly",
    ),
    Mutation(
        "theory/sign_patterns.py",
        "for k in range(min(dimension, points - 1) + 1)",
        "for k in range(min(dimension, points - 1))",
        f"{BOUNDS}::test_half_spaces_are_counted_exactly",
    ),
    # ---- losses
    Mutation(
        "losses.py",
        "return residual / beyond.clamp_min(1.0)",
        "return residual / beyond.clamp_min(1.1)",
        "test_losses.py",
    ),
    Mutation(
        "losses.py",
        "torch.where(sign * outputs < 1, -sign,",
        "torch.where(sign * outputs < 1, -0.9 * sign,",
        "test_losses.py",
    ),
    Mutation(
        "losses.py",
        "0.5 * (outputs - self._target(outputs, labels)).square()",
        "0.45 * (outputs - self._target(outputs, labels)).square()",
        "test_losses.py",
    ),
)


def run(source: Path, tests: str) -> subprocess.CompletedProcess[str]:
    """The named tests on these sources; each file ends at its first failure."""
    names = [str(ROOT / "tests" / name) for name in tests.split()]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(ROOT),
        *names,
    ]
    paths = os.pathsep.join([str(source), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def verdict(mutation: Mutation) -> str:
    """Empty where the tests caught it; else what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        file = source / "holdfast" / mutation.file
        text = file.read_text(encoding="utf-8")
        if text.count(mutation.old) != 1:
            return f"its text occurs {text.count(mutation.old)} times"
        file.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
        done = run(source, mutation.tests)
        if done.returncode == 1:
            return ""
        return (
            "survived"
            if done.returncode == 0
            else f"pytest ended with {done.returncode}: {done.stdout[-300:]}"
        )


def main(words: list[str]) -> int:
    """Run the mutations that these words choose; the number of workers is the environment's MUTANT_WORKERS, default 2."""
    chosen = [m for m in MUTATIONS if all(word in f"{m.file} {m.old} {m.tests}" for word in words)]
    if not chosen:
        print(f"No mutation's file or text contains {' and '.join(words)}.")
        return 1
    plain = run(ROOT / "src", " ".join(sorted({test for m in chosen for test in m.tests.split()})))
    if plain.returncode:
        print(plain.stdout[-3000:])
        print("The named tests fail on the sources as they are: nothing is learned from mutations of them.")
        return 1
    bad = 0
    with ThreadPoolExecutor(int(os.environ.get("MUTANT_WORKERS", "2"))) as pool:
        for mutation, wrong in zip(chosen, pool.map(verdict, chosen), strict=True):
            print(
                f"{'caught' if not wrong else 'WRONG '}  {mutation.file}: {mutation.old}  ->  {mutation.new}  {wrong}",
                flush=True,
            )
            bad += bool(wrong)
    print(f"{len(chosen) - bad} of {len(chosen)} mutations caught.")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
