"""Fine-tuning end to end: base and data in, an adapter or a checkpoint with its manifest out.

A run has one folder and can be killed at any moment: restarted with the same request, it resumes from its
last saved state, with the same numbers as without the interruption.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from openvla_ros.errors import StatisticsError, TrainingError
from openvla_ros.integrity.disk import writing
from openvla_ros.integrity.folder_lock import locked
from openvla_ros.manifest import Manifest, differences_from, sha256_of_adapter
from openvla_ros.model.checkpoints.adapter_config import read_adapter_config
from openvla_ros.model.checkpoints.safetensors import digest_of_weights, load_model
from openvla_ros.model.inference.checkpoint_files import CheckpointFiles
from openvla_ros.model.inference.out_of_memory import is_out_of_memory
from openvla_ros.model.inference.predictor import read_checkpoint_statistics
from openvla_ros.preprocessing.action_tokens import ActionCodec, normalise
from openvla_ros.preprocessing.augmentation import Augmentation
from openvla_ros.preprocessing.dataset_statistics import DatasetStatistics, select_statistics
from openvla_ros.profile import available_profiles, load_profile
from openvla_ros.training.checkpoint_export import SETTINGS, write_checkpoint, write_description
from openvla_ros.training.data.batch import Batch
from openvla_ros.training.data.batch_order import BatchOrder, Order, part_of
from openvla_ros.training.data.example_maker import ExampleMaker
from openvla_ros.training.data.frame_cache import FrameStore, open_store, store_key
from openvla_ros.training.data.question_answers import read_questions
from openvla_ros.training.distributed import Processes, whole
from openvla_ros.training.lora_layers import LowRankOptions, factors, write_adapter
from openvla_ros.training.memory_advice import advice, largest_that_fits
from openvla_ros.training.metrics import TRAINING, VALIDATION, Records, read_records
from openvla_ros.training.recipe import ADAPTERS
from openvla_ros.training.report_page import write_report
from openvla_ros.training.request import FinetuneRequest, Listener
from openvla_ros.training.run_state import Position, collect_state, read_state, restore_state, write_state
from openvla_ros.training.trainable import make_trainable
from openvla_ros.training.trainer import Scores, StepResult, Trainer
from openvla_ros.training.validation import BATCH, open_loop_episodes, validation_batches

CACHE, BAD_BATCH = "frames", "bad_batch.safetensors"


class Run:
    """One run in one folder."""

    def __init__(self, request: FinetuneRequest, listener: Listener, processes: Processes) -> None:
        """Read base and data, and the last state if there is one.

        Raises ``CheckpointError``, ``DatasetError``, ``StatisticsError``, and ``TrainingError`` if the folder
        contains another run.
        """
        self.request, self.listener, self.processes = request, listener, processes
        recipe = request.recipe
        request.output.mkdir(parents=True, exist_ok=True)
        saved = read_state(request.output)
        if saved is not None and saved[1].key != request.key():
            raise TrainingError(
                f"{request.output} contains a run with other settings{self._changed()}; choose a new folder"
            )
        self.base = base = CheckpointFiles.read(request.base, offline=request.offline)
        self.store, self.data_key = self._open_store(base.transform, saved[1] if saved else None)
        self.robot = self._robot()
        self.statistics = self._statistics()
        torch.manual_seed(recipe.seed + processes.rank)
        network = load_model(
            base.folder,
            dtype=request.dtype,
            device=request.device,
            quantization="nf4" if recipe.method == "qlora" else None,
            progress=False,
        )
        self.targets = make_trainable(network, recipe)
        self.trainer = Trainer(network, recipe, self.store.space.width, processes)
        questions = [pair for path in request.questions for pair in read_questions(path)]
        self.maker = ExampleMaker(
            store=self.store,
            normalised=normalise(self.store.actions, self.statistics.action),
            questions=questions,
            transform=base.transform,
            tokenizer=base.tokenizer,
            codec=ActionCodec(base.config.action_vocab_size, base.config.n_action_bins),
            style=base.prompt_style,
            pad_id=base.config.pad_token_id,
            seed=recipe.seed,
            augmentation=Augmentation() if recipe.augment else None,
        )
        self.order = self._order(len(questions))
        self.step = 0
        if saved is not None:
            restore_state(saved[0], self.trainer.parameters, self.trainer.optimizer)
            self.step = saved[1].step
            listener.note(f"resumed after step {self.step}")

    def train(self) -> None:
        """Train to the last step, saving and validating on the way, and write the result."""
        recipe = self.request.recipe
        settings = self.request.output / SETTINGS
        if self.processes.is_first:
            settings.write_text(json.dumps(self.request.settings(), indent=2) + "\n", encoding="utf-8")
        with Records(self.request.output / self._rank_folder(), self.step) as records:
            for batch in self._batches():
                result = self._step(batch)
                self.step += 1
                self._note_step(records, result)
                if self.step % recipe.validate_every == 0 or self.step == recipe.steps:
                    self._validate(records)
                    if self.step < recipe.steps:
                        self._report()
                if self.step % recipe.save_every == 0 or self.step == recipe.steps:
                    self.save()
        self.export()
        self.processes.wait()

    def save(self) -> None:
        """Save the state from which the run can resume."""
        tensors = collect_state(self.trainer.parameters, self.trainer.optimizer)
        if self.processes.is_first:
            write_state(self.request.output, tensors, Position(self.step, self.request.key(), self.data_key))
        self.processes.wait()

    def export(self) -> None:
        """Write the result: adapter or checkpoint, statistics, manifest, report."""
        request, recipe = self.request, self.request.recipe
        trained = {name: whole(value) for name, value in self.trainer.parameters.items()}
        if not self.processes.is_first:
            return
        if recipe.method in ADAPTERS:
            options = LowRankOptions(recipe.rank, recipe.scale_numerator, recipe.dropout)
            tensors = factors(self.trainer.network, trained)
            write_adapter(request.output, tensors, self.targets, options, request.base)
        else:
            write_checkpoint(request.output, self.base.folder, trained)
        write_description(request.output, self._manifest())
        self._report()

    def _rank_folder(self) -> str:
        """Return the folder for this process's records: the run's folder for the first process."""
        if self.processes.is_first:
            return "."
        folder = self.request.output / f"process_{self.processes.rank}"
        folder.mkdir(exist_ok=True)
        return folder.name

    def _changed(self) -> str:
        """Return the settings that differ from those of the run in the folder, if it has them."""
        try:
            before = json.loads((self.request.output / SETTINGS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return ""
        now = json.loads(json.dumps(self.request.settings()))
        lines = [f"{n} {before.get(n)!r}, now {v!r}" for n, v in now.items() if before.get(n) != v]
        return f" ({'; '.join(lines)})" if lines else ""

    def _open_store(self, transform: Any, saved: Position | None) -> tuple[FrameStore, str]:
        """Return the frames and their digest; raises ``TrainingError`` if the run used other data."""
        folder, selection = self.request.output / CACHE, self.request.selection
        asked = self.request.how_opened()
        if not self.processes.is_first:
            self.processes.wait()
        sources = [data.request.open() for data in self.request.data]
        key = store_key(sources, transform, selection, asked)
        if saved is not None and saved.data != key:
            raise TrainingError(
                f"{self.request.output} contains a run on other data: files were added, removed or changed "
                "since it began; choose a new folder"
            )
        store = open_store(folder, sources, transform, selection, self.listener.reading, asked)
        if self.processes.is_first:
            self.processes.wait()
        if store.skipped:
            self.listener.note(f"{len(store.skipped)} episodes skipped; the first: {store.skipped[0]}")
        if not len(store.rows(held_out=True)):
            self.listener.note("no episodes are held out for validation")
        return store, key

    def _robot(self) -> str:
        """Return which robot the data is for, before time is spent on training.

        Raises ``TrainingError`` if that is not known, or if the requested robot does not match the data.
        """
        asked, stated = self.request.robot, self.store.robot
        if not asked:
            if not stated:
                raise TrainingError(
                    "the data does not contain the robot it was recorded with; give --robot, one of "
                    f"{', '.join(available_profiles())}, or a profile's file"
                )
            return stated
        profile = load_profile(asked)
        lines = differences_from(profile, "data", self.store.space, (self.store.camera,))
        if lines:
            raise TrainingError(
                f"the data (recorded with {stated or 'an unknown robot'}) does not match --robot {asked}:\n"
                + "\n".join(f"  {line}" for line in lines)
            )
        if stated and stated != profile.name:
            self.listener.note(f"the data was recorded with {stated}; the result is for {profile.name}")
        return profile.name

    def _statistics(self) -> DatasetStatistics:
        folder, key = self.base.folder, self.request.keep_statistics
        if key is None:
            return self.store.statistics()
        _, kept = select_statistics(read_checkpoint_statistics(folder, self.base.config), key or None)
        kept.action.check_space(self.store.space, str(folder))
        if not kept.action.has_extremes:
            raise StatisticsError(f"{folder}: cannot keep the statistics of {key!r}, they lack min and max")
        return kept

    def _order(self, questions: int) -> BatchOrder:
        recipe, rows = self.request.recipe, self.store.rows(held_out=False)
        weights = np.array([data.weight for data in self.request.data])[self.store.sources()[rows]]
        weights = weights * np.where(self.store.intervention[rows], recipe.intervention_weight, 1.0)
        pairs = Order(np.arange(questions), np.ones(questions), recipe.seed + 1) if questions else None
        actions = Order(rows, weights, recipe.seed)
        return BatchOrder(actions, pairs, recipe.words_share, recipe.batch_size)

    def _batches(self) -> Iterator[Batch]:
        """Yield this process's part of every batch from the current step on, prefetching one."""
        with ThreadPoolExecutor(1, "batch") as maker:
            coming: Future[Batch] | None = None
            for step in range(self.step, self.request.recipe.steps):
                present = coming or maker.submit(self._make, step)
                coming = None
                if step + 1 < self.request.recipe.steps:
                    coming = maker.submit(self._make, step + 1)
                yield present.result()

    def _make(self, step: int) -> Batch:
        places = part_of(self.order.batch(step), self.processes.rank, self.processes.count)
        return self.maker.batch(places)

    def _step(self, batch: Batch) -> StepResult:
        try:
            return self.trainer.step(batch, self.step)
        except TrainingError as error:
            path = self.request.output / self._rank_folder() / BAD_BATCH
            save_file({name: value.contiguous() for name, value in vars(batch).items()}, path)
            raise TrainingError(f"{error}; the batch is in {path}, the last good state is kept") from error
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(self._advice(batch)) from error

    def _advice(self, batch: Batch) -> str:
        recipe = self.request.recipe
        size = min(recipe.micro_batch or len(batch), len(batch))
        self.trainer.optimizer.zero_grad(set_to_none=True)

        def attempt(count: int) -> None:
            self.trainer.try_memory(batch.split(count)[0])

        if self.processes.count > 1:  # the others are not there to try with
            return f"out of memory with {size} examples at once per process; lower --micro-batch"
        fits = largest_that_fits(attempt, size)
        return advice(recipe.method, size, fits, recipe.rank)

    def _note_step(self, records: Records, result: StepResult) -> None:
        values = {**_values(result.scores), "gradient_norm": result.gradient_norm}
        records.add(TRAINING, self.step, {**values, "learning_rate": result.learning_rate})
        self.listener.stepped(self.step, self.request.recipe.steps, result)

    def _validate(self, records: Records) -> None:
        if not len(self.store.rows(held_out=True)):
            return
        state = torch.get_rng_state()
        scores = self.trainer.evaluate(
            validation_batches(self.maker, self.processes.rank, self.processes.count, self._at_once())
        )
        torch.set_rng_state(state)
        records.add(VALIDATION, self.step, _values(scores))
        self.listener.validated(self.step, scores)

    def _at_once(self) -> int:
        """Return how many held-out examples to evaluate at once: no more than training has memory for."""
        recipe = self.request.recipe
        return min(BATCH, recipe.micro_batch or max(1, recipe.batch_size // self.processes.count))

    def _manifest(self) -> Manifest:
        request, store = self.request, self.store
        adapter = sha256_of_adapter(request.output) if request.recipe.method in ADAPTERS else None
        return Manifest(
            base_model=request.base,
            base_revision=self.base.revision,
            adapter_sha256=adapter,
            dataset_key=request.keep_statistics or request.dataset_key,
            statistics=self.statistics,
            action_space=store.space,
            prompt_style=self.base.prompt_style,
            image_transform=self.maker.transform,
            center_crop=request.recipe.augment,
            cameras=(store.camera,),
            robot=self.robot,
            base_weights=None if adapter is None else digest_of_weights(self.base.folder),
            adapter_config=None if adapter is None else read_adapter_config(request.output).meaning(),
        )

    def _report(self) -> None:
        """Write the current report page; skipped if the parameters are sharded over processes."""
        store, recipe = self.store, self.request.recipe
        if not self.processes.is_first or (self.processes.count > 1 and recipe.method not in ADAPTERS):
            return
        episodes = open_loop_episodes(
            self.trainer.network, self.maker, self.statistics.action, 3, self._at_once()
        )
        trained = sum(parameter.numel() for parameter in self.trainer.parameters.values())
        facts = {
            "optimizer steps": f"{self.step} of {recipe.steps}",
            "batch size": f"{recipe.batch_size} examples per step",
            "data": f"{len(store.spans)} episodes, {len(store)} steps",
            "held out": f"{sum(span.held_out for span in store.spans)} episodes",
            "corrections": f"{int(store.intervention.sum())} of {len(store)} steps",
            "trained parameters": f"{trained:,} (total)",
            "adapted": f"{len(self.targets)} layers",
        }
        write_report(
            self.request.output,
            facts,
            self.request.settings(),
            read_records(self.request.output),
            episodes,
            store.space.names,
            store.skipped,
        )


def finetune(request: FinetuneRequest, listener: Listener, processes: Processes | None = None) -> None:
    """Train as specified by ``request``, from the start or from the last state in its folder.

    Raises as ``Run``; and ``TrainingError`` if the training fails, or its folder cannot be written.
    """
    if processes is not None and processes.count > 1 and request.recipe.batch_size % processes.count:
        raise TrainingError(
            f"batch_size {request.recipe.batch_size} is not a multiple of the {processes.count} processes"
        )
    taken = f"another process trains into {request.output}; wait until it ends, or choose another folder"
    processes = processes or Processes()
    with writing(request.output, TrainingError), ExitStack() as stack:
        if processes.is_first:
            request.output.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(request.output, TrainingError, taken))
        Run(request, listener, processes).train()


def _values(scores: Scores) -> dict[str, Any]:
    return {**asdict(scores), "l1": scores.l1}
