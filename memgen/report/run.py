"""The recorder of one stage of one run."""

import dataclasses
import datetime
import hashlib
import math
import os
import shutil
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from memgen import config
from memgen.config import Cell, InputError
from memgen.report import display, parameters, provenance, publication, stages
from memgen.report.publication import Published
from memgen.report.stages import PROFILE_STAGES, Place


def begin(stage: str, namespace: Mapping[str, Any], *, keep_partial: bool = False) -> "Run":
    """Check what the stage was asked for and start recording.

    Parameters
    ----------
    stage : str
        One of `report.STAGES`.
    namespace : mapping
        The notebook's ``globals()``, which hold its parameters.
    keep_partial : bool
        Whether files that an interrupted run of the same settings and inputs left are kept, to resume from.

    Raises
    ------
    InputError
        For an unknown or wrong parameter, or a missing or changed earlier stage; nothing was touched then.
    """
    if stage not in stages.STAGES:
        raise ValueError(f"stage must be one of {', '.join(stages.STAGES)}, not {stage!r}.")
    _limit_threads()
    # Of tqdm, which libraries import: without widgets its bars are text, and that is well.
    warnings.filterwarnings("ignore", message="IProgress not found")
    given = parameters.read(namespace)
    settings: config.RunConfig | config.Profile
    if stage in PROFILE_STAGES:
        settings = config.load_profile(given["profile"])
        place = Place(stage, settings.name, results=given["results"])
    else:
        settings = config.resolve(given["profile"], given["task"], given["model"], given["seed"])
        given["model"] = settings.model.name
        place = Place(stage, settings.profile, settings.task, settings.model.name, settings.seed, given["results"])
    return Run(place, given, settings, stages.check_needs(place), keep_partial)


class Run:
    """One stage of one run while it is made; `begin` starts it and `finish` puts it in its place.

    Attributes
    ----------
    config : RunConfig, or Profile for a stage of the whole profile
        The settings.
    parameters : dict
        The notebook's parameters, the model's name filled in.
    label : str
        Task, model and seed as in the path of the results; for a stage of the whole profile, the profile.
    folder : Path
        Where files are written: beside the stage's own folder until `finish`.
    """

    def __init__(
        self,
        place: Place,
        given: dict[str, Any],
        settings: config.RunConfig | config.Profile,
        earlier: dict[Place, dict[str, Any]],
        keep_partial: bool = False,
    ) -> None:
        self.place, self.parameters, self.config = place, given, settings
        self.folder = place.partial
        self.label = place.run
        self._earlier = earlier
        self._inputs: dict[str, dict[str, Any]] = {}
        self._metrics: dict[str, dict[str, Any]] = {}
        self._claims: dict[str, tuple[str | None, int]] = {}
        self._begun, self._clock = _now(), time.perf_counter()
        stages.hold(place)
        self._resumed = self._prepare(keep_partial)

    def cells(self) -> list[Cell]:
        """Return the runs that a stage of the whole profile reads: (task, model, seed)."""
        return list(dict.fromkeys((need.task, need.model, need.seed) for need in self._earlier if need.task))

    def path(self, *parts: str) -> Path:
        """Return where to write a file of this stage; the folders above it exist then."""
        self._require_open()
        path = self.folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def input(self, stage: str, *parts: str, cell: Cell | None = None) -> Path:
        """Return a file or folder of an earlier stage and note it in the manifest as an input.

        A stage of the whole profile, which reads many runs, says which one by `cell`: (task, model, seed). A folder
        counts with all files in it.

        Raises
        ------
        InputError
            If the earlier stage has no such file, or a stage of the whole profile asks for one that was changed.
        """
        need = self.place.at(stage)
        if cell is not None:
            need = dataclasses.replace(need, task=cell[0], model=cell[1], seed=cell[2])
        if need not in self._earlier:
            raise ValueError(f"{self.place.stage} does not read {need.label}; stages.NEEDS says what each stage reads.")
        name = "/".join(parts)
        outputs = self._earlier[need]["outputs"]
        used = {file: outputs[file] for file in outputs if f"{file}/".startswith(f"{name}/" if name else "")}
        path = need.folder / name
        if not used:
            if not path.is_file():
                raise InputError(f"The {need.label} has no {name}; make it again with `{need.command}`.")
            used = {name: provenance.digest(path)}
        elif not self.place.task:  # else `begin` has compared them all
            stages.check_files(need, used)
        prefix = need.folder.relative_to(self.place.run_folder).as_posix()
        self._inputs |= {f"{prefix}/{file}": entry for file, entry in used.items()}
        return path

    def metrics(self, *, comparisons: bool = True) -> pd.DataFrame:
        """Read the numbers of every earlier stage of runs, one a row; the first columns say which run and stage.

        Without `comparisons`, a stage of the whole profile gets those of the profile's main runs only.
        """
        cells = set(self.cells())
        if not comparisons and isinstance(self.config, config.Profile):
            cells = set(config.grid(self.config.runs, self.config.seeds))
        frames = []
        for need in self._earlier:
            cell = (need.task, need.model, need.seed)
            if cell not in cells:
                continue
            frame = stages.load_metrics(self.input(need.stage, "metrics.json", cell=cell).parent)
            keys = {"task": need.task, "model": need.model, "seed": need.seed, "stage": need.stage}
            frames.append(frame.assign(**keys)[[*keys, *stages.METRIC_FIELDS]])
        return pd.concat(frames, ignore_index=True)

    def published(self, profile: str = "full") -> Published | None:
        """Return the published results of a profile and note them as inputs; None if there are none.

        The profile itself has none either: what was published of it never decides what is published next.
        """
        found = None if profile == self.place.profile else publication.published(profile)
        if found is not None:
            self._inputs |= found.files
        return found

    def rng(self, name: str) -> np.random.Generator:
        """Make a random generator that the seed, the stage and the name decide."""
        words = hashlib.sha256(f"{self.place.stage}/{name}".encode()).digest()
        return np.random.default_rng([self.place.seed, int.from_bytes(words[:16], "big")])

    def record(
        self,
        name: str,
        value: Any,
        *,
        definition: str,
        unit: str,
        n: int | None = None,
        interval: Any = None,
    ) -> None:
        """Keep a number for ``metrics.json``.

        Parameters
        ----------
        name : str
            A name of its own; recording it twice is an error (running the same cell again replaces it).
        value : float or statistics.Estimate
            The number; an estimate brings its interval and n. NaN is refused unless n is 0.
        definition, unit : str
            What the number says, as a sentence, and its unit, such as "accuracy 0-1" or "nats".
        n : int
            How many rows (or seeds) are behind it.
        interval : (low, high) or statistics.Estimate
            The 95 % interval; bounds that are NaN are stored as null.
        """
        self._require_open()
        if hasattr(value, "low"):
            interval, n = interval or value, value.n if n is None else n
            value = value.value
        if n is None:
            raise ValueError(f"metric {name!r} needs n, the number of rows behind it.")
        if not (definition and unit):
            raise ValueError(f"metric {name!r} needs a definition and a unit.")
        value = float(value)
        if not math.isfinite(value) and n != 0:
            raise ValueError(f"metric {name!r} is {value}; only a metric with n = 0 may be undefined.")
        if hasattr(interval, "low"):
            interval = (interval.low, interval.high)
        low, high = map(_number, interval or (None, None))
        if low is not None and high is not None and low > high:
            raise ValueError(f"metric {name!r} has an interval from {low} to {high}.")
        self._claim(f"metric {name!r}")
        values = (name, _number(value), low, high, int(n), unit, definition)
        self._metrics[name] = dict(zip(stages.METRIC_FIELDS, values, strict=True))

    def record_rows(
        self,
        rows: pd.DataFrame,
        name: str | Mapping[str, str],
        *,
        definition: str | Mapping[str, str],
        unit: str | Mapping[str, str],
    ) -> None:
        """Keep a number for each row of a table: its columns `value`, `low`, `high` and `n`.

        Parameters
        ----------
        name, definition, unit : str or mapping
            As in `record`, with the row's columns as the fields of `str.format`; a mapping has one for each `measure`.
            In names, spaces become underscores.
        """
        for row in rows.to_dict("records"):
            texts = (text if isinstance(text, str) else text[row["measure"]] for text in (name, definition, unit))
            key, what, kind = (text.format(**row) for text in texts)
            key = key.replace(": ", "_").replace(" ", "_")
            self.record(key, row["value"], interval=(row["low"], row["high"]), definition=what, unit=kind, n=row["n"])

    def figure(self, chart: Any, name: str, *, caption: str, alt: str, data: pd.DataFrame) -> display.Figure:
        """Write a chart, its data and its picture to ``figures/``, and return it for display.

        Parameters
        ----------
        chart : altair chart
        caption : str
            A full sentence.
        alt : str
            What a reader who cannot see the figure should know; not empty.
        data : DataFrame
            The numbers that the figure shows, at most 5,000 rows.
        """
        self._require_open()
        figure = display.Figure(chart, name, caption=caption, alt=alt, data=data)
        self._claim(f"figure {name!r}")
        self.path("figures", f"{name}.vl.json").write_text(figure.specification, encoding="utf-8")
        self.path("figures", f"{name}.csv").write_text(figure.csv, encoding="utf-8")
        self.path("figures", f"{name}.png").write_bytes(figure.png)
        return figure

    def table(self, frame: pd.DataFrame, name: str, *, caption: str) -> display.Table:
        """Write a table to ``tables/`` and return it for display."""
        self._require_open()
        table = display.Table(frame, name, caption=caption)
        self._claim(f"table {name!r}")
        self.path("tables", f"{name}.csv").write_text(table.csv, encoding="utf-8")
        return table

    def finish(self) -> None:
        """Write the metrics, then the manifest, and put the stage in its place."""
        self._require_open()
        stages.write_json(self.path("metrics.json"), list(self._metrics.values()))
        self._note.unlink(missing_ok=True)
        seconds, memory = round(time.perf_counter() - self._clock, 3), provenance.peak_memory_bytes()
        manifest = {
            "stage": self.place.stage,
            "parameters": self.parameters,
            "config": dataclasses.asdict(self.config),
            "command": self.place.command,
            "begun": self._begun,
            "finished": _now(),
            "resumed": self._resumed,
            "wall_seconds": seconds,
            "peak_memory_bytes": memory,
            "machine": provenance.machine(),
            "packages": provenance.packages(),
            "git": provenance.commit(config.root()),
            "inputs": dict(sorted(self._inputs.items())),
            "outputs": provenance.digest_folder(self.folder),
        }
        stages.write_json(self.path("manifest.json"), manifest)
        stages.replace_folder(self.place)
        stages.release(self.place)
        self.folder = self.place.folder
        where = os.path.relpath(self.folder, config.root())
        print(f"Finished the {self.place.label}: {seconds:.0f} s, {memory >> 20} MiB of memory, in {where}")

    @property
    def _note(self) -> Path:
        return self.place.partial / ".begun.json"

    def _prepare(self, keep: bool) -> bool:
        """Empty the partial folder unless it is to be kept and was begun the same way; tell if it was."""
        earlier = [manifest["outputs"] for manifest in self._earlier.values()]
        fingerprint = hashlib.sha256(repr((self.parameters, self.config, earlier)).encode()).hexdigest()
        resumed = keep and self._note.is_file() and self._note.read_text() == fingerprint
        for path in self.folder.iterdir():
            if not resumed or path.name in ("figures", "tables"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._note.write_text(fingerprint)
        return resumed

    def _require_open(self) -> None:
        if self.folder != self.place.partial:
            raise RuntimeError(f"the {self.place.label} is finished; run the cell with report.begin again first.")

    def _claim(self, what: str) -> None:
        """Refuse a name that is taken, unless the same notebook cell is run again."""
        cell, count = _origin()
        taken = self._claims.get(what)
        if taken is not None and (cell is None or taken[0] != cell or taken[1] == count):
            raise ValueError(f"{what} was already recorded; give it a name of its own.")
        self._claims[what] = (cell, count)


def _limit_threads() -> None:
    """Use one thread, or as many as OMP_NUM_THREADS says: their number changes the last digits of sums."""
    number = os.environ.setdefault("OMP_NUM_THREADS", "1")  # for torch, which notebooks import later
    threadpool_limits(int(number.split(",")[0]))


def _origin() -> tuple[str | None, int]:
    """Ask which notebook cell runs now; Jupyter tells it, papermill does not."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is None or not hasattr(shell, "kernel"):
        return None, 0
    return shell.kernel.get_parent().get("metadata", {}).get("cellId"), shell.execution_count


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _number(value: Any) -> float | None:
    """Turn a number into what JSON can hold: undefined is null."""
    return None if value is None or not math.isfinite(value) else float(value)
