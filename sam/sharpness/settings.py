"""The keys of every notion of sharpness, and the table of notions. Each notion has a section of its own, `sharpness.<notion>`."""

from dataclasses import dataclass, field
from typing import Any

from sam.config import ConfigError, Settings, key
from sam.core.settings import DEFAULT_ALPHAS, STEP_RULES
from sam.registry import Registry

NOTIONS = Registry("notions")
MEASURED_SPLITS = ("test", "val")
LANDSCAPE_LINES = ("gradient", "n_step", "top_eigenvector", "random")


@dataclass(frozen=True)
class SharpnessConfig(Settings, prefix="sharpness.", sections=NOTIONS):
    """How a checkpoint is measured."""

    notions: list[str] = key(["ascent", "gap"], "which, or [all]")
    rho: list[float] = key([0.05], "radii; Eq. 4 of Tiwary & Aananth 2024: 0.05 for every method", above=0, distinct=True, some="radius")
    m: int = key(128, "size of the batches of batch-wise measures and of train-mode BatchNorm, disjoint and in the set's order", low=2)
    batchnorm: list[str] = key(
        ["eval", "train"], "running statistics; each batch's own; averages at w over batches of m", among=("eval", "train", "recalibrated")
    )
    batch_size: int = key(500, "images a forward pass in eval mode; changes memory and speed only", low=1)
    seed: int = key(0, "of random draws; two evaluations with one seed give the same numbers", low=0)
    sections: dict[str, Any] = field(default_factory=dict)  # a notion's name -> its own settings

    def relate(self) -> None:
        if not self.notions:
            raise ConfigError(f"sharpness.notions=[]: must name at least one of {', '.join(NOTIONS)}, or all.")
        if unknown := [name for name in self.notions if name not in (*NOTIONS, "all")]:
            raise ConfigError(f"sharpness.notions={unknown[0]}: must be one of {', '.join(NOTIONS)}, all.")
        if "eval" not in self.batchnorm:
            raise ConfigError(f"sharpness.batchnorm={self.batchnorm}: must hold eval, the mode in which gap and L(w) are reported.")

    @property
    def chosen(self) -> tuple[str, ...]:
        """The notions to measure, each once, in the order of the table: a cheap one first, and those that share work side by side."""
        return tuple(name for name in NOTIONS if name in self.notions or "all" in self.notions)


@dataclass(frozen=True)
class AscentConfig(Settings, prefix="sharpness.ascent."):
    """L^Asc."""

    subset: int | None = key(None, "images for the gradient and the losses; null: all", low=1)


@dataclass(frozen=True)
class GapConfig(Settings, prefix="sharpness.gap."):
    """Losses, accuracies, calibration."""

    bins: int = key(15, "equal-width confidence bins of the expected calibration error", low=1, high=100_000)
    splits: list[str] = key(
        list(MEASURED_SPLITS), "sets measured beside the training set; with [val], as for tuning, no test image is seen",
        among=MEASURED_SPLITS, late=True,
    )  # fmt: skip


@dataclass(frozen=True)
class NStepConfig(Settings, prefix="sharpness.n_step."):
    """N-step sharpness (Tiwary & Aananth 2024, Eq. 6)."""

    steps: list[int] = key([3], "the N", low=1)
    rules: list[str] = key(["split"], "step rules, as in training", among=STEP_RULES)
    subset: int | None = key(None, "images; null: all", low=1)


@dataclass(frozen=True)
class AverageConfig(Settings, prefix="sharpness.average."):
    """L^Avg."""

    draws: int = key(8, "antithetic pairs of random directions", low=2)
    subset: int | None = key(None, "images; null: all", low=1)


@dataclass(frozen=True)
class MaximumConfig(Settings, prefix="sharpness.maximum."):
    """L^Max by projected gradient ascent."""

    steps: int = key(20, "a start", low=1)
    restarts: int = key(1, "random starts beside the one at w", low=0)
    momentum: float = key(0.25, "share of the last move in the next (Auto-PGD writes 0.25 as alpha = 0.75)", low=0, high=0.9)
    draws: int = key(2, "random directions among the points compared", low=0)
    ascent_steps: int = key(3, "N of the N-step ascent among the points compared", low=1)
    subset: int | None = key(1024, "images; null: all", low=1)


@dataclass(frozen=True)
class InteriorConfig(Settings, prefix="sharpness.interior."):
    """Where in the ball the largest loss lies, batch by batch."""

    batches: int = key(20, "training batches, drawn without repetition", low=1)
    batch_size: int | None = key(None, "images of each; null: as many as share a perturbation in training, else sharpness.m", low=2)
    points: int = key(10, "of the ray, and again between the best one's neighbours", low=2, high=10_000)
    steps: int = key(10, "of an ascent in the ball, as in maximum", low=1)
    restarts: int = key(1, "as in maximum", low=0)
    momentum: float = key(0.25, "as in maximum", low=0, high=0.9)
    batchnorm: str = key("eval", "running statistics, or each batch's own", among=("eval", "train"))


@dataclass(frozen=True)
class DirectionConfig(Settings, prefix="sharpness.direction."):
    """Where the gradient at the ascent point leads, and XSAM's search (Chen & Zhou 2026), batch by batch."""

    batches: int = key(10, "training batches, as in interior", low=1)
    batch_size: int | None = key(None, "images of each, as in interior", low=2)
    reach: list[float] = key([1.0, 2.0], "radii R of the ball, in units of rho", above=0, distinct=True, some="reach")
    ascent_steps: list[int] = key([1], "steps to the ascent point, split", low=1, some="number")
    alphas: list[float] = key(list(DEFAULT_ALPHAS), "candidates of XSAM's search", some="candidate alpha")
    angles: int = key(36, "of the polar scan of the plane", low=4, high=10_000)
    rings: int = key(2, "of the polar scan: radii R / rings, ..., R", low=1, high=1000)
    steps: int = key(10, "of an ascent in the ball, as in maximum", low=1)
    restarts: int = key(1, "as in maximum", low=0)
    momentum: float = key(0.25, "as in maximum", low=0, high=0.9)
    batchnorm: str = key("eval", "running statistics, or each batch's own", among=("eval", "train"))


@dataclass(frozen=True)
class AdaptiveConfig(Settings, prefix="sharpness.adaptive."):
    """Adaptive sharpness (Kwon et al. 2021; Andriushchenko et al. 2023): radii are relative to |w|; any list of them may be empty."""

    worst_l2: list[float] = key([0.5], "radii of the worst case", above=0, distinct=True)
    worst_linf: list[float] = key([0.001], "radii of the worst case", above=0, distinct=True)
    average_l2: list[float] = key([0.1], "radii of the average case", above=0, distinct=True)
    average_linf: list[float] = key([0.2], "radii of the average case", above=0, distinct=True)
    logits: list[str] = key(["plain", "normalized"], "as they are, and normalised", among=("plain", "normalized"))
    steps: int = key(20, "of the worst case's ascent, as in maximum", low=1)
    restarts: int = key(1, "as in maximum", low=0)
    momentum: float = key(0.25, "as in maximum", low=0, high=0.9)
    draws: int = key(8, "antithetic pairs of the average case", low=2)
    subset: int | None = key(512, "images; null: all", low=1)


@dataclass(frozen=True)
class KeskarConfig(Settings, prefix="sharpness.keskar."):
    """Keskar et al. 2017: the largest rise within a box of epsilon (|w_i| + 1)."""

    epsilon: list[float] = key([1e-3, 5e-4], "sizes of the box", above=0, distinct=True)
    iterations: int = key(10, "of L-BFGS-B, and steps of each sign ascent (one from w, `restarts` from random points)", low=1)
    restarts: int = key(1, "random starts of sign ascents", low=0)
    momentum: float = key(0.25, "of sign ascents, as in maximum", low=0, high=0.9)
    full_space: int = key(500_000, "most parameters for which L-BFGS-B runs: it takes some 60 float64 copies of them", low=0)
    subset: int | None = key(512, "images; null: all", low=1)


@dataclass(frozen=True)
class HessianConfig(Settings, prefix="sharpness.hessian."):
    """Top eigenvalues (Lanczos with thick restarts) and trace (Hutchinson beside them) of the Hessian of L."""

    eigenvalues: int = key(5, "how many", low=1)
    steps: int = key(60, "Hessian-vector products of Lanczos at most", low=1)
    tolerance: float = key(1e-4, "Lanczos ends once its residuals are below this share of the largest |eigenvalue|", above=0)
    basis: int = key(24, "vectors of all weights that Lanczos keeps at once: its memory")
    probes: int = key(30, "of the trace", low=3)
    subset: int | None = key(1024, "images; null: all", low=1)

    def relate(self) -> None:
        if self.basis < self.eigenvalues + 4:
            raise ConfigError(f"sharpness.hessian.basis={self.basis}: must be at least sharpness.hessian.eigenvalues + 4.")


@dataclass(frozen=True)
class SpectrumConfig(Settings, prefix="sharpness.spectrum."):
    """Spectral density by stochastic Lanczos quadrature."""

    probes: int = key(2, "random starts", low=1)
    steps: int = key(40, "of each, and vectors of all weights kept at once", low=2)
    points: int = key(200, "of the curve", low=2, high=100_000)
    width: float = key(0.01, "standard deviation of its smoothing, as a share of the eigenvalues' range", above=0, high=1)
    subset: int | None = key(1024, "images; null: all", low=1)


@dataclass(frozen=True)
class RoundingConfig(Settings, prefix="sharpness.rounding."):
    """The perturbation that a forward in a coarser number format sees."""

    formats: list[str] = key(["bf16", "fp16", "tf32"], "of the weights", among=("bf16", "fp16", "tf32"))
    cosine: float = key(0.9, "to the perturbation that was meant, from which on its rho can be read", above=0, high=0.999)
    subset: int | None = key(512, "images for the gradient; null: all", low=1)


@dataclass(frozen=True)
class LandscapeConfig(Settings, prefix="sharpness.landscape."):
    """Loss along lines and over planes through w."""

    lines: list[str] = key(list(LANDSCAPE_LINES), "directions", among=LANDSCAPE_LINES)
    planes: list[str] = key(["random", "xsam"], "pairs of directions", among=("random", "eigenvectors", "xsam"))
    span: float = key(1.0, "half-width of a filter-normalised axis, in units of the filters' norms", above=0)
    reach: float = key(4.0, "half-width of a Euclidean axis, in units of rho", above=0)
    points: int = key(21, "of a line", low=3, high=10_000)
    grid: int = key(11, "points a side of a plane", low=3, high=1000)
    ascent_steps: int = key(3, "N of the line along eps_N", low=1)
    rho_max: float | None = key(None, "radius of XSAM's search, as in training; null: 2 rho", above=0)
    alphas: list[float] = key(list(DEFAULT_ALPHAS), "candidates of XSAM's search", some="candidate alpha")
    lanczos_steps: int = key(40, "Hessian-vector products spent on the eigenvectors, at most", low=2)
    subset: int | None = key(512, "images; null: all", low=1)


@dataclass(frozen=True)
class OutcomesConfig(Settings, prefix="sharpness.outcomes."):
    """Which test images are right, for a bootstrap over images."""

    batchnorm: list[str] = key(["eval", "recalibrated"], "as sharpness.batchnorm", among=("eval", "recalibrated"))


@dataclass(frozen=True)
class CorruptionConfig(Settings, prefix="sharpness.corruption."):
    """Accuracy on corrupted test images."""

    path: str | None = key(None, "a folder of CIFAR-C files (labels.npy and one .npy a corruption); null: not measured")


NOTIONS.add("ascent", "sam.sharpness.ascent", AscentConfig, reads=("rho", "m", "batchnorm", "ascent"), late=True)
NOTIONS.add("gap", "sam.sharpness.gap", GapConfig, reads=("gap",))
NOTIONS.add("n_step", "sam.sharpness.n_step", NStepConfig, reads=("rho", "n_step"))
NOTIONS.add("average", "sam.sharpness.average", AverageConfig, reads=("rho", "seed", "average"))
NOTIONS.add("maximum", "sam.sharpness.maximum", MaximumConfig, reads=("rho", "seed", "maximum"))
NOTIONS.add("interior", "sam.sharpness.interior", InteriorConfig, reads=("rho", "m", "seed", "interior"))
NOTIONS.add("direction", "sam.sharpness.direction", DirectionConfig, reads=("rho", "m", "seed", "direction"))
NOTIONS.add("adaptive", "sam.sharpness.adaptive", AdaptiveConfig, reads=("seed", "adaptive"))
NOTIONS.add("keskar", "sam.sharpness.keskar", KeskarConfig, reads=("seed", "keskar"))
NOTIONS.add("hessian", "sam.sharpness.hessian", HessianConfig, reads=("rho", "seed", "hessian"))
NOTIONS.add("spectrum", "sam.sharpness.spectrum", SpectrumConfig, reads=("seed", "spectrum"))
NOTIONS.add("landscape", "sam.sharpness.landscape", LandscapeConfig, reads=("rho", "seed", "landscape"))
NOTIONS.add("rounding", "sam.sharpness.rounding", RoundingConfig, reads=("rho", "seed", "rounding"))
NOTIONS.add("corruption", "sam.sharpness.corruption", CorruptionConfig, reads=("corruption",))
NOTIONS.add("outcomes", "sam.sharpness.outcomes", OutcomesConfig, reads=("m", "outcomes"))
