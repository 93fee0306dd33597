"""Every command and every piece of Python that the documents show: it composes, its points are valid, and what can be run here runs."""

import itertools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

import data
from sam.evaluation.settings import EvaluateConfig
from sam.runs import identity
from sam.runs.hydra_schema import register, resolve
from sam.runs.sweep import points
from sam.schema import to_dict
from sam.settings import TrainConfig
from sam.training import cost
from sam.training.loop import Trainer

ROOT = Path(__file__).resolve().parents[1]
# What needs a plug-in, docs/plugins.md whole, is tried where its commands run: examples/plugin/test_docs.py.
PAGES = [ROOT / "README.md", *sorted(page for page in (ROOT / "docs").glob("*.md") if page.name != "plugins.md")]
README = (ROOT / "README.md").read_text()
EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf/experiment").glob("*.yaml"))
OF_PLANNERS = ("throttle", "max_array", "runs_per_task", "sbatch", "sort", "select")  # their own keys
OF_PLANNERS += ("hours", "processes", "spread", "runs", "rates", "steps", "tests", "out")
PLANNERS = ("scripts/status.py", "scripts/grid.py", "scripts/plan.py")  # take the arguments of `train.py -m`
TRIED_ELSEWHERE = (
    "scripts/doctor.py",
    "scripts/dashboard.py",
    "scripts/benchmark.py",
    "scripts/rows.py",
    "scripts/claims.py",
    "scripts/theory.py",
)  # tests/runs, tests/scripts, tests/evaluation
SCRIPTS = ("train.py", "evaluate_sharpness.py", "scripts/prepare_data.py", *PLANNERS, *TRIED_ELSEWHERE)


@dataclass(frozen=True)
class Command:
    where: str
    text: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text, comments=True)

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


def blocks(language: str, page: Path) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def shown() -> list[Command]:
    """Commands of the README's bash blocks, of the scripts' docstrings and of the comments in conf."""
    found = [
        Command(page.relative_to(ROOT).as_posix(), line)
        for page in PAGES
        for block in blocks("bash", page)
        for line in block.replace("\\\n", " ").splitlines()
    ]
    sources = [ROOT / "train.py", ROOT / "evaluate_sharpness.py", *sorted((ROOT / "conf").rglob("*.yaml"))]
    for path in sources:
        for line in path.read_text().splitlines():
            match = re.match(r"(?:#\s*(?:Command:)?)?\s*(python \S+\.py\b.*)", line)
            if match:
                found.append(Command(str(path.relative_to(ROOT)), match[1]))
    limited = [command for command in found if command.words[:1] == ["timeout"]]
    found += [Command(one.where, one.text[one.text.index("python ") :]) for one in limited]
    return [command for command in found if command.words and "plugins=" not in command.text.lower()]


def of_script(script: str) -> list[Command]:
    return [command for command in shown() if command.words[:2] == ["python", script]]


@pytest.fixture(scope="module", autouse=True)
def hydra() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield
    torch.set_num_threads(before)


def sweep_points(overrides: Sequence[str], name: str = "train") -> list[list[str]]:
    """The points that `-m` with these overrides would run."""
    made = GlobalHydra.instance().hydra
    assert made is not None
    whole = made.compose_config(name, list(overrides), run_mode=RunMode.MULTIRUN, with_log_configuration=False)
    return points(whole, made.config_loader)  # type: ignore[arg-type]


def compose(point: Sequence[str]) -> TrainConfig:
    return resolve(TrainConfig, GlobalHydra.instance().config_loader().load_configuration("train", list(point), RunMode.RUN))


@cache
def composed(point: tuple[str, ...]) -> TrainConfig:
    return compose(point)


def evaluation(overrides: Sequence[str]) -> EvaluateConfig:
    made = GlobalHydra.instance().hydra
    assert made is not None
    return resolve(EvaluateConfig, made.compose_config("evaluate", list(overrides), run_mode=RunMode.RUN, with_log_configuration=False))


def points_of(command: Command) -> list[TrainConfig]:
    options = [word for word in command.words[2:] if not word.startswith("-") and word != "job"]
    if "-m" not in command.words:
        made = GlobalHydra.instance().hydra
        assert made is not None
        whole = made.compose_config("train", options, run_mode=RunMode.RUN)
        assert not whole.hydra.sweeper.params, f"{command}: would be refused without -m"
        return [resolve(TrainConfig, whole)]
    every = sweep_points(options)
    first = {tuple(word for word in point if not word.startswith("seed=")): point for point in reversed(every)}
    return [composed(tuple(point)) for point in first.values()]  # seeds differ in nothing that could be refused


def test_the_documents_show_commands() -> None:
    """The extraction does find them."""
    places = {command.where for command in shown()}
    assert {"README.md", "train.py", "evaluate_sharpness.py"} <= places
    assert {f"conf/experiment/{name}.yaml" for name in EXPERIMENTS} <= places
    assert len(of_script("train.py")) >= 10 and len(of_script("evaluate_sharpness.py")) >= 5


def test_every_script_shown_exists() -> None:
    for command in shown():
        if command.words[0] == "python" and command.words[1].endswith(".py"):
            assert command.words[1] in SCRIPTS and (ROOT / command.words[1]).is_file(), str(command)


trained: set[str] = set()


@pytest.mark.parametrize("command", of_script("train.py"), ids=str)
def test_train_commands_are_valid(command: Command) -> None:
    """Every point composes and passes the checks; one epoch of 64 images is trained of every setting whose data are embedded."""
    for config in points_of(command):
        if config.dataset.path:
            continue  # the user's own file
        cost.check(config)
        few = replace(config.dataset, train_size=64)
        small = replace(config, epochs=1, batch_size=32, m=None, seed=0, dataset=few, keep_checkpoints=[], device="cpu")
        if config.dataset.name == "digits" and identity.run_fingerprint(small) not in trained:
            trained.add(identity.run_fingerprint(small))
            trainer = Trainer(small, data.load(**to_dict(small.dataset)), torch.device("cpu"))
            assert trainer.run_epoch(lambda units: None)["test_accuracy"] >= 0


@pytest.mark.parametrize("command", of_script("evaluate_sharpness.py"), ids=str)
def test_evaluate_commands_are_valid(command: Command) -> None:
    for point in sweep_points([word for word in command.words[2:] if word != "-m"], "evaluate"):
        assert evaluation(point).tables or "table=none" in point or evaluation(point).sweep.show == "always"


@pytest.mark.parametrize("command", [c for script in PLANNERS for c in of_script(script)], ids=str)
def test_commands_that_plan_a_sweep_are_valid(command: Command) -> None:
    words = itertools.takewhile(lambda word: word != "|", command.words[2:])
    arguments = [word for word in words if word.partition("=")[0] not in OF_PLANNERS]
    plan = "import sys; from sam.runs.sweep import planned; assert planned(sys.argv[1:])"
    subprocess.run([sys.executable, "-c", plan, *arguments], cwd=ROOT, check=True, timeout=60)  # a process without this module's Hydra


def test_other_scripts_take_the_keys_shown() -> None:
    source = (ROOT / "scripts/prepare_data.py").read_text()
    for command in of_script("scripts/prepare_data.py"):
        for word in command.words[2:]:
            assert word.split("=")[0] in source, str(command)


def test_every_make_target_shown_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = {command.words[1] for command in shown() if command.words[0] == "make"}
    used |= set(re.findall(r"`make ([a-z-]+)`", README))
    assert used and used <= targets


def test_what_make_demo_runs_is_what_the_readme_says() -> None:
    recipe = re.search(r"^demo:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    run = [shlex.split(line.replace("$(RUN)", "python")) for line in recipe[1].splitlines()]
    assert all(line in [command.words for command in shown() if command.where == "README.md"] for line in run)


# ------------------------------------------------------------------------------------------------------------------- conf

NEEDED = {"model=timm": ["model.timm_name=resnet18"], "dataset=arrays": ["dataset.path=mine.npz"]}


def group(name: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / "conf" / name).glob("*.yaml"))


@pytest.mark.parametrize(
    "choice",
    [f"{name}={option}" for name in ("optimizer", "model", "dataset", "augmentation", "protocol", "tracking") for option in group(name)],
)
def test_every_choice_composes(choice: str) -> None:
    config = compose([choice, *NEEDED.get(choice, [])])
    if not config.dataset.path:
        cost.check(config)
    name, option = choice.split("=")
    if name in ("protocol", "dataset"):
        assert getattr(config, name).name == option


@pytest.mark.parametrize("table", group("table"))
def test_every_table_composes(table: str) -> None:
    names = list(evaluation([f"table={table}"]).tables)
    assert names == {"all": ["table2", "table3", "measures", "notions"], "none": [], "sweep": []}.get(table, [table])


def test_the_default_is_the_papers_run() -> None:
    config = compose([])
    assert (config.model.label, config.dataset.name, config.epochs, config.protocol.name) == ("WRN-28-10", "cifar10", 200, "tiwary2024")
    assert (config.optimizer.method, config.optimizer.rho, config.optimizer.ascent_steps) == ("sam", 0.05, 1)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_aliases_are_the_same_run(n: int) -> None:
    alias, plain = compose([f"optimizer=sam_n{n}"]), compose(["optimizer=sam", f"optimizer.ascent_steps={n}"])
    assert identity.run_fingerprint(alias) == identity.run_fingerprint(plain) and alias == plain


def test_the_command_line_wins_over_protocol_and_experiment() -> None:
    config = compose(["protocol=xsam", "optimizer=sam", "optimizer.rho=0.3", "epochs=7"])
    assert (config.optimizer.rho, config.epochs, config.optimizer.lr, config.augmentation.cutout) == (0.3, 7, 0.05, 16)
    assert compose(["protocol=demo", "dataset.label_noise=0"]).dataset.label_noise == 0
    assert len(sweep_points(["experiment=table2", "optimizer=sgd", "seed=1,2"])) == 2


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_point_of_an_experiment_is_valid_and_costs_what_its_header_says(name: str) -> None:
    header = (ROOT / "conf/experiment" / f"{name}.yaml").read_text()
    assert all(f"# {key}:" in header for key in ("What", "Command", "Cost", "Expect"))
    plans = [composed(tuple(point)) for point in sweep_points([f"experiment={name}"])]
    assert len(plans) > 1 and {point.runs_dir for point in plans} == {f"runs/{name}"}
    if any(point.dataset.path for point in plans):
        return  # the user's own file counts by its bytes
    assert len({identity.run_fingerprint(point) for point in plans}) == len(plans)
    costs = [cost.cost(point, cost.check(point)) for point in plans]
    claim = re.search(r"(\d+) runs.*?([\d,]+)\s+forwards\s+and\s+([\d,]+)\s+backwards", header.replace("\n#", " "))
    if claim:
        totals = (len(plans), sum(c.forwards for c in costs), sum(c.backwards for c in costs))
        assert totals == tuple(int(number.replace(",", "")) for number in claim.groups())


# --------------------------------------------------------------------------------------------------- the README's Python


@pytest.mark.parametrize("page", [page for page in PAGES if blocks("python", page)], ids=lambda page: page.name)
def test_the_pieces_of_python_run(page: Path) -> None:
    """One after the other in one namespace, as a reader would paste them."""
    torch.manual_seed(0)
    space: dict[str, Any] = {"__name__": "readme"}
    for number, piece in enumerate(blocks("python", page)):
        exec(compile(piece, f"{page.name}, piece {number + 1} of Python", "exec"), space)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "docs/plugins.md", *sorted((ROOT / "results").rglob("*.md"))], ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)):
        assert re.match(r"https?://|mailto:", target) or (page.parent / target).exists(), target


def test_the_readme_is_short_and_points_to_every_page() -> None:
    assert len(README.splitlines()) <= 200
    assert all(f"docs/{page.name}" in README for page in (ROOT / "docs").glob("*.md"))
