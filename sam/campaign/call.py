"""One call of a campaign: tests and benchmark once, then run after run, each measured at its end, until the time is over."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from pathlib import Path

from sam.campaign import report, rows, stages
from sam.campaign.campaign import Campaign, opened
from sam.campaign.clock import CallClock, TimeUp
from sam.campaign.options import AUTO, Options
from sam.campaign.plan import Planned
from sam.campaign.timing import missing, seconds_to_measure
from sam.core.device import pick_device
from sam.evaluation.measuring import measure_runs
from sam.results import identity, records
from sam.sharpness.notions import work
from sam.training import cost, lock
from sam.training.interrupts import BY_HAND, REQUEUE_ME, Preempted
from sam.training.run import run as train

TESTS_FAILED = 3
SOMETHING_FAILED = 1
TOGETHER = (("ascent", "gap"), ("average",), ("hessian",))  # the gap takes its training loss from L^Asc's first pass


@dataclass
class Call:
    """A campaign, the time there is, the rows so far, and what went wrong."""

    campaign: Campaign
    clock: CallClock
    rows: dict[str, rows.Row]
    begun: bool = False  # whether any work was done in this call
    problems: list[str] = field(default_factory=list)

    # ------------------------------------------------------------------------------------------------------------- stages

    def stages(self) -> None:
        """Tests and benchmark, each once in a campaign."""
        options, done = self.campaign.options, self.campaign.content["stages"]
        cuda = pick_device(options.device).type == "cuda"
        for name, wish in (("tests", options.tests), ("benchmark", options.benchmark)):
            if name in done or self.clock.over or wish == "false" or (wish == AUTO and not cuda):
                continue
            self.clock.say(f"{name} ...")
            if name == "tests":
                outcome = stages.run_tests(self.campaign.out, self.clock)
            else:
                outcome = stages.run_benchmark(self.campaign.out, self.clock, "gpu" if cuda else "cpu")
            if self.clock.signum is not None:
                return
            self.clock.say(f"{name}: {outcome['status']}; {outcome['summary']}")
            done[name] = outcome
            self.campaign.save()

    # ----------------------------------------------------------------------------------------------------- training, measuring

    def work(self) -> None:
        """Every planned run in order: train what is not trained, measure what is not measured; ends when the time does."""
        for run in self.campaign.runs:
            if self.over:
                return
            if self._finished(run):
                self._measure(run)

    @property
    def over(self) -> bool:
        """The time is up and something was done in it, or a signal came."""
        return self.clock.signum is not None or (self.clock.over and self.begun)

    def _finished(self, run: Planned) -> bool:
        """Train a run as far as the time goes; whether its row is there."""
        if run.label in self.rows and self.rows[run.label]["status"] in (records.FINISHED, records.DIVERGED):
            return True
        config = self.campaign.config(run)
        units = cost.cost(config, cost.check(config)).backwards
        seconds = config.epochs * self.campaign.timing.epoch(config)
        self.clock.begin(run.label, units, seconds, training=True, guaranteed=True)
        self.begun = True
        try:
            record = train(config)
        except Preempted:
            if self.clock.signum is None:
                self.clock.say(f"{run.label}: the time of this call is over; saved.")
            return False
        except (RuntimeError, ValueError) as error:  # out of memory, a full disk, ...: the next run may do better
            self._problem(f"{run.label}: failed ({type(error).__name__}: {' '.join(str(error).split())[:300]}).")
            return False
        finally:
            self.clock.training = False
            rows.write(self.campaign, self.rows)
        self.rows[run.label] = rows.from_run(run, config, record, self.campaign.options.commit)
        self._write()
        measured_on, accuracy, _ = records.reached(record["final"])
        self.clock.say(f"{run.label}: {record['status']}, {measured_on} accuracy {round(accuracy, 2)}%")
        return True

    def _measure(self, run: Planned) -> None:
        """Measure what this run's row lacks, as far as the time goes: each notion as soon as it fits."""
        row, campaign = self.rows[run.label], self.campaign
        folder = identity.run_folder(campaign.config(run))
        if row["status"] == records.DIVERGED or not (folder / records.CHECKPOINT).exists():
            return
        reasons = {name: missing(name) for name in campaign.sharpness.chosen}
        for group in TOGETHER:
            wanted = [name for name in group if name not in row["measured"] and name in campaign.wanted]
            if not wanted or self.over:
                continue
            seconds = seconds_to_measure(wanted, campaign.sizes(run), campaign.sharpness, campaign.timing)
            if self.begun and seconds > self.clock.left:
                self.clock.say(f"{run.label}: {', '.join(wanted)} would take {seconds:.0f} s; left to the next call.")
                continue
            self._measure_notions(run, folder, wanted, seconds)
        row["notes"] = [note for note in row["notes"] if "not measured, this version" not in note]
        row["notes"] += [reason for name, reason in reasons.items() if reason is not None and name not in row["measured"]]
        self._write()

    def _measure_notions(self, run: Planned, folder: Path, names: list[str], seconds: float) -> None:
        row, config = self.rows[run.label], self.campaign.evaluate(names)
        record, problems = records.read_run(folder), list[str]()
        assert record is not None
        units = work(names, self.campaign.sizes(run), config.sharpness)
        self.clock.begin(f"{run.label}: {', '.join(names)}", units, seconds, training=False, guaranteed=not self.begun)
        self.begun = True
        try:
            measured = measure_runs([(folder, record)], config, problems).get(folder)
        except TimeUp:
            return
        except RuntimeError as error:
            measured, problems = None, [f"{run.label}: {', '.join(names)}: {' '.join(str(error).split())[:300]}"]
        for problem in problems:
            self._problem(problem)
        if measured is not None:
            row["measures"] |= measured.values
            row["measured"] = [*row["measured"], *names]
            self._write()

    def _problem(self, sentence: str) -> None:
        self.problems.append(sentence)
        self.clock.say(f"error: {sentence}")

    def _write(self) -> None:
        rows.write(self.campaign, self.rows)
        report.write(self.campaign, self.rows)


def sit(options: Options, began: float) -> int:
    """One call. began: time.monotonic() of its start. Returns the exit status. Raises ConfigError, DataError, LockedError: one sentence.

    0: the time was used, or nothing is left to do; 1: some run or measurement failed, and is tried again by the next call; 3: tests
    failed in this call, all else went on; 75, 130: stopped by a signal, saved.
    """
    out = Path(options.out)
    clock = CallClock(began, options.seconds, out / "log.txt")
    with lock.hold(out, clock.say), clock.running():
        campaign = opened(options, clock.say)
        clock.say(report.opening(campaign))
        call = Call(campaign, clock, rows.read(out))
        known = "tests" in campaign.content["stages"]
        call.stages()
        call.work()
        campaign.content["calls"][-1]["seconds"] = round(options.seconds - clock.left, 1)
        campaign.save()
        call._write()
        clock.say(report.closing(campaign, call.rows))
    if clock.signum is not None:
        return BY_HAND if clock.signum == signal.SIGINT else REQUEUE_ME
    if not known and campaign.content["stages"].get("tests", {}).get("status") == "failed":
        return TESTS_FAILED
    return SOMETHING_FAILED if call.problems else 0
