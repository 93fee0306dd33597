"""One run, from its configuration to its record: skip what is finished, continue what is not, keep whatever was computed."""

import sys
from typing import Any

import torch

import data
from sam.config import ConfigError
from sam.core.device import number_format
from sam.core.replicas import ReplicaError, Replicas
from sam.runs import checkpoint, distributed, identity, lock, progress, records
from sam.runs.progress import Progress, progress_for
from sam.runs.session import Session
from sam.runs.signals import watching
from sam.schema import to_dict
from sam.settings import TrainConfig
from sam.training import cost
from sam.training.loop import Trainer


def run(config: TrainConfig) -> dict[str, Any]:
    """Train as configured and return the record; a finished (or diverged) run's as it is, unless `force`, which continues only what it has
    begun. Raises Preempted after a signal, when the state is saved; LockedError, ConfigError, DataError, StorageError with one sentence."""
    config = distributed.with_replicas(config)
    description = cost.check(config)
    records.check_folder(config)
    replicas = distributed.join()
    try:
        return _lead(config, description, replicas) if replicas.rank == 0 else _work(config, replicas)
    except BaseException as error:
        if not getattr(error, "told", False):  # the others leave together with a run that was preempted while it trained
            distributed.give_up()
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error):
            sizes = f"model={config.model.label}, batch_size={config.batch_size}, micro_batch={config.micro_batch}"
            raise ConfigError(f"{sizes}: memory is too small for them on device={config.device}; make one of them smaller.") from error
        raise


def _lead(config: TrainConfig, description: data.Description, replicas: Replicas) -> dict[str, Any]:
    """Rank 0: decide whether to run, train, write. `tell` broadcasts the decision to the other ranks."""
    folder = identity.run_folder(config)
    key = f"{identity.run_fingerprint(config)} in {folder}"
    force = config.force and not (progress.shared and key in progress.shared.finished)  # points of a sweep with one identity run once
    with distributed.telling(replicas) as tell:
        record = records.existing(config)
        if records.is_done(record) and not force:
            if progress.shared is None:  # a sweep's plan has said it
                print(f"{record['name']}: {record['status']} already; nothing to do (force=true redoes it).", file=sys.stderr)
            tell(record=record)
            return record
        device = distributed.take_device(config)
        with (
            number_format(config.precision, config.threads),
            progress_for(cost.cost(config, description).backwards, identity.short_name(config)) as shown,
            lock.hold(folder, shown.say) as may_write,
            watching() as interrupts,
        ):
            record = records.existing(config)  # another process may have finished it while this one waited for the lock
            if records.is_done(record) and not force:
                tell(record=record)
                return record
            images = data.load(**to_dict(config.dataset), seed=config.seed)
            for note in images.notes:
                shown.say_once(f"data: {note}.")
            if progress.shared is None and (other := records.another(config)):  # a sweep's plan has said it
                shown.say(other)
            trainer = Trainer(config, images, device, replicas)
            for note in trainer.notes:
                shown.say(f"init_from={config.init_from}: {note}")
            kept = [path.name for path in checkpoint.kept(folder).values()]
            anew = force and not records.force_began(config, record)
            recorded = [records.CHECKPOINT, records.PREVIOUS, records.RUN, records.METRICS, *kept] if anew else []
            checkpoint.tidy(folder, *recorded)  # only now, when nothing in the settings and data can stop the run any more
            session = Session(trainer, folder, shown, may_write, interrupts)
            tell(state=session.resume(None if anew else record))
            distributed.refuse_shared_gpus(replicas, device)
            record = session.train(None if anew else record)
            shown.finished.add(key)
            return record


def _work(config: TrainConfig, replicas: Replicas) -> dict[str, Any]:
    """Any other rank: compute its part of every batch, write nothing. ReplicaError if rank 0 stopped before training began."""
    told = replicas.from_first()
    if "error" in told:
        raise ReplicaError(f"the first process of this run stopped: {told['error']}")
    if "record" in told:
        return dict(told["record"])
    device, quiet = distributed.take_device(config), Progress(1, "", quiet=True)
    distributed.refuse_shared_gpus(replicas, device)
    with number_format(config.precision, config.threads), watching() as interrupts:
        trainer = Trainer(config, data.load(**to_dict(config.dataset), seed=config.seed), device, replicas)
        if told["state"] is not None:
            trainer.load_state_dict(told["state"])
        return Session(trainer, identity.run_folder(config), quiet, lambda: False, interrupts).take_part()
