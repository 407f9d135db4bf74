"""The recorder of a stage: it checks what was asked for, gives paths, and keeps numbers, tables and figures."""

import contextlib
import datetime
import hashlib
import importlib
import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import myst_nb
import numpy as np
import pandas as pd
from filelock import Timeout
from threadpoolctl import threadpool_limits

from memgen import config, display, manifest
from memgen.config import STAGES, Cell, InputError, Profile, RunConfig
from memgen.display import SHARES
from memgen.place import Place, put_in_place, sync
from memgen.published import MODEL, RUN_COLUMNS, Published, metrics_of, take_model
from memgen.published import published as read_published

COUNTED = ("neurons", "pairs", "inputs", "steps")
UNITS = (*SHARES, *COUNTED, "AUROC 0-1", "nats", "activation", "correlation", "ratio", "0 or 1")
NOT_MEASURED = "not measured"


def begin(
    stage: str,
    *,
    profile: str,
    task: str = "",
    model: str = "",
    seed: int = 0,
    results: str = "results",
    table: str = "",
    resume: bool = False,
    **others: str | int | float | bool,
) -> "Run":
    """Check what the stage was asked for and start recording.

    A wrong parameter, and a missing or changed earlier stage, is an InputError; nothing was touched then.

    Parameters
    ----------
    profile, task, model, seed, table
        The run, as in :func:`memgen.config.resolve`; a stage of the whole profile takes the profile alone. The model
        "published" is that of :func:`memgen.published.take_model`.
    results
        The folder that holds the results.
    resume
        Whether to keep the files that an interrupted run left which had the same settings, inputs, code, versions,
        threads and device.
    **others
        Parameters that this notebook alone has; numbers are 0 or more.
    """
    if stage not in STAGES:
        raise ValueError(f"stage must be one of {', '.join(STAGES)}, not {stage!r}.")
    # One thread, or as many as OMP_NUM_THREADS says: their number changes the last digits of sums.
    n_threads = os.environ.setdefault("OMP_NUM_THREADS", "1")  # for torch, which notebooks import later
    first = n_threads.partition(",")[0].strip()
    config.require(first.isdecimal() and int(first) > 0, f"OMP_NUM_THREADS must be a whole number, not {n_threads!r}.")
    threadpool_limits(int(first))
    warnings.filterwarnings("ignore", message="IProgress not found")  # text bars of tqdm are fine
    is_name = isinstance(results, str) and results != ""
    config.require(is_name, f"The parameter results must be text that names a folder, not {results!r}.")
    for name, value in others.items():
        fits = isinstance(value, str | bool) or (isinstance(value, int | float) and 0 <= value < math.inf)
        config.require(fits, f"The parameter {name} must be text, true or false, or a number from 0, not {value!r}.")
    settings: Profile | RunConfig
    if STAGES[stage].of_profile:
        settings, place = config.load_profile(profile), Place(stage, profile, results=results)
    elif model == MODEL:
        place = Place(stage, profile, task, model, seed, results, table)
        settings = take_model(place)
    else:
        config.require(isinstance(table, str), f"The parameter table must be the path of a table, not {table!r}.")
        settings = config.resolve(profile, task, model, seed, table)
        place = Place(stage, profile, task, settings.model.name, seed, results, table)
    return Run(place, place.parameters | others, settings, resume)


class Run:
    """A stage of a run while it is made; `begin` starts it and `finish` puts it in its place.

    `config` holds the settings: a RunConfig, or for a stage of the whole profile the Profile. `parameters` are the
    notebook's, the model's name filled in. `label` is :attr:`memgen.place.Place.run`. Files are written to `folder`:
    beside the stage's folder until `finish`, then that folder.
    """

    def __init__(self, place: Place, parameters: dict[str, Any], settings: Any, resume: bool) -> None:
        self.place, self.parameters, self.config = place, parameters, settings
        self.label, self.folder = place.run, place.partial
        self._earlier = place.check_earlier()
        table = settings.data.get("table") if place.stage == "data" else None
        self._inputs: dict[str, dict[str, Any]] = {table: manifest.digest(config.root() / table)} if table else {}
        self._records: dict[tuple, dict[str, Any]] = {}
        self._begun, self._clock = _now(), time.perf_counter()
        try:
            self._lock = place.lock()
            self._lock.acquire()
        except Timeout:
            raise InputError(f"The {place.label} is being made by another process; wait for it or end it.") from None
        except OSError as error:  # read-only, or a network's file system that has no locks
            where = os.path.relpath(place.run_folder, config.root())
            raise InputError(
                f"No file can be made and locked in {where} ({error.strerror}); let {place.results} be a folder where "
                "one can, or a link to it."
            ) from None
        place.settle()
        self._resumed = self._prepare(resume)

    def cells(self) -> list[Cell]:
        """The runs that a stage of the whole profile reads."""
        return list(dict.fromkeys(need.cell for need in self._earlier if need.task))

    def path(self, *parts: str) -> Path:
        """Where to write a file of this stage; the folders above it exist then."""
        self._require_open()
        path = self.folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def input(self, stage: str, *parts: str, cell: Cell | None = None) -> Path:
        """A file or folder of an earlier stage, noted in the manifest as an input; a folder counts with all its files.

        A stage of the whole profile, which reads many runs, names the run by `cell`. A file that the earlier stage does
        not have, or that was changed since, is an InputError.
        """
        need, name = self.place.at(stage, cell), "/".join(parts)
        if need not in self._earlier:
            raise ValueError(f"{self.place.stage} does not read {need.label}; config.STAGES says what it reads.")
        outputs, path = self._earlier[need]["outputs"], need.folder / name
        used = {file: outputs[file] for file in outputs if f"{file}/".startswith(f"{name}/" if name else "")}
        if not used:  # what was added after the stage finished, such as the manifest itself
            config.require(path.is_file(), f"The {need.label} has no {name}; make it again with `{need.command}`.")
            used = {name: manifest.digest(path)}
        elif not self.place.task:  # otherwise `begin` has compared them all
            need.check_files(used)
        prefix = need.folder.relative_to(self.place.run_folder).as_posix()
        self._inputs |= {f"{prefix}/{file}": entry for file, entry in used.items()}
        return path

    def rng(self, name: str) -> np.random.Generator:
        """A random generator that the seed, the stage and the name decide."""
        words = hashlib.sha256(f"{self.place.stage}/{name}".encode()).digest()
        return np.random.default_rng([self.place.seed, int.from_bytes(words[:16], "big")])

    def metrics(self, *, comparisons: bool = True) -> pd.DataFrame:
        """The numbers of all runs, or of the main runs, that a stage of the whole profile reads, one a row.

        Columns are :data:`memgen.published.RUN_COLUMNS` and those of the records.
        """
        cells = self.cells() if comparisons else self.config.main_cells()
        needs = [need for need in self._earlier if need.cell in cells]
        for need in needs:
            self.input(need.stage, "metrics.json", cell=need.cell)
        frames = [metrics_of(need, self.config) for need in needs]
        return manifest.in_order(pd.concat(frames, ignore_index=True), [*RUN_COLUMNS, "measure"])

    def published(self, profile: str = "full") -> Published | None:
        """The published results of a profile, noted as inputs; None if there are none.

        The profile itself has none either: what was published of it never decides what is published next.
        """
        found = None if profile == self.place.profile else read_published(profile)
        if found is not None:
            prefix = found.folder.relative_to(config.root()).as_posix()
            self._inputs |= {f"{prefix}/{name}": entry for name, entry in manifest.digest_folder(found.folder).items()}
        return found

    def record(
        self, measure: str, value: Any, *, definition: str, unit: str, n: int | None = None, **coordinates: Any
    ) -> None:
        """Keep a number for ``metrics.json``; the same measure at the same coordinates replaces an earlier one.

        The `definition` is a sentence, the `unit` one of `UNITS`, and `n` the rows, groups or seeds behind the number;
        an :class:`memgen.intervals.Estimate` brings its interval and n. NaN is refused unless n is 0. `coordinates` say
        where it was measured, such as ``layer=2, method="study"``; missing values are left out.
        """
        # An estimate is known by its fields: the module of its class would load scipy wherever this one is imported.
        row = value._asdict() if hasattr(value, "_asdict") else {"value": value, "n": n}
        key, record = _record(measure, row, definition, unit, coordinates)
        self._require_open()
        self._records[key] = record

    def record_table(
        self, frame: pd.DataFrame, *, definition: str, unit: str, measure: str = "", coordinates: Iterable[str] = ()
    ) -> None:
        """Keep a number for each row of a table with the columns `value`, `n`, and `ci_low` and `ci_high` if known.

        Columns are fields of the `definition`, as in ``"Accuracy of {probe}."`` Without a `measure` of all rows, a
        column names each row's. `coordinates` are the columns that say where the row was measured.
        """
        records: dict[tuple, dict[str, Any]] = {}
        for row in frame.to_dict("records"):
            where = {name: row[name] for name in coordinates}
            key, record = _record(measure or row["measure"], row, definition.format(**row), unit, where)
            if key in records:
                raise ValueError(f"two rows have the measure and coordinates {key}.")
            records[key] = record
        self._require_open()
        self._records |= records

    def glue(self, key: str, query: str, **variables: Any) -> None:
        """Let prose paste a number of this stage: ``{glue:text}`key``` becomes ``97.4 % [95.1, 99.1]``.

        The number is the only record that `pandas.DataFrame.query` finds with `query`, which names `variables` with
        ``@``. If there is none, the text says so.
        """
        found = manifest.records_frame(list(self._records.values())).query(query, local_dict=variables)
        if len(found) > 1:
            raise ValueError(f"{len(found)} records answer {query!r}; glue pastes one.")
        self.glue_text(key, in_words(found.iloc[0].to_dict()) if len(found) else NOT_MEASURED)

    def glue_text(self, key: str, text: str) -> None:
        """Let prose paste a text: ``{glue:text}`key```."""
        myst_nb.glue(key, text, display=False)

    def figure(self, chart: Any, name: str, *, caption: str, data: pd.DataFrame) -> display.Figure:
        """Write a chart, its data and its picture to ``figures/`` and return it (:class:`memgen.display.Figure`)."""
        figure = display.Figure(chart, name, caption=caption, data=data)
        self.path("figures", f"{name}.vl.json").write_text(figure.specification, encoding="utf-8")
        self.path("figures", f"{name}.csv").write_text(figure.csv, encoding="utf-8")
        self.path("figures", f"{name}.png").write_bytes(figure.png)
        return figure

    def table(self, frame: pd.DataFrame, name: str, *, caption: str, **shown: Any) -> display.Table:
        """Write a table to ``tables/`` and return it for display; `shown` as in :class:`memgen.display.Table`."""
        table = display.Table(frame, name, caption=caption, **shown)
        self.path("tables", f"{name}.csv").write_text(table.csv, encoding="utf-8")
        return table

    def finish(self) -> None:
        """Write the metrics, then the manifest, and put the stage in its place."""
        manifest.write_json(self.path("metrics.json"), list(self._records.values()))
        self._note.unlink(missing_ok=True)
        seconds, provenance = round(time.perf_counter() - self._clock, 3), manifest.provenance()
        about = {
            "stage": self.place.stage,
            "parameters": self.parameters,
            "config": self.config.model_dump(mode="json"),
            "command": self.place.command,
            "begun": self._begun,
            "finished": _now(),
            "resumed": self._resumed,
            "wall_seconds": seconds,
            **provenance,
            "inputs": dict(sorted(self._inputs.items())),
            "outputs": manifest.digest_folder(self.folder),
        }
        sync(self.folder)  # a manifest says that all else is there, after a power cut, too
        manifest.write_json(self.path("manifest.json"), about)
        put_in_place(self.folder, self.place.folder)
        self._lock.release(force=True)
        self.folder = self.place.folder
        where, memory = os.path.relpath(self.folder, config.root()), provenance["peak_memory_bytes"] >> 20
        print(f"Finished the {self.place.label}: {seconds:.0f} s, {memory} MiB of memory, in {where}")

    @property
    def _note(self) -> Path:
        return self.place.partial / ".begun.json"

    def _prepare(self, resume: bool) -> bool:
        """Make the partial folder, empty unless it is to be kept and was begun the same way; tell if files were."""
        begun, now = {}, self._decisive() if resume else {}
        with contextlib.suppress(OSError, ValueError):  # none, or of a process that was killed while it wrote
            begun = json.loads(self._note.read_text(encoding="utf-8"))
        others = [name for name in now if begun.get(name) != now[name]]
        if begun and others:
            print(f"▶ The interrupted {self.place.label} had other {', '.join(others)}: it starts anew.")
        self.folder.mkdir(exist_ok=True)
        for path in self.folder.iterdir():
            if not resume or others or path.name in ("figures", "tables") or path.name.startswith("."):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if resume:
            manifest.write_json(self._note, now)
        return any(path.is_file() and path != self._note for path in self.folder.rglob("*"))

    def _decisive(self) -> dict[str, str]:
        """All that decides the numbers of this stage, as digests: what resumes must have begun with the same."""
        importlib.import_module("torch")  # for its threads and its device
        scripts = [config.root() / f"notebooks/{self.place.stage}.py"]
        scripts.append(Path(config.__file__).with_name("tasks") / f"{getattr(self.config, 'base_task', '')}.py")
        decisive = {
            "parameters": self.parameters,
            "settings": self.config,
            "earlier results": [entry["outputs"] for entry in self._earlier.values()],
            **manifest.means(*filter(Path.is_file, scripts)),
        }
        return {name: hashlib.sha256(repr(value).encode()).hexdigest() for name, value in decisive.items()}

    def _require_open(self) -> None:
        if self.folder != self.place.partial:
            raise RuntimeError(f"the {self.place.label} is finished; run the cell that begins it again first.")


def _record(
    measure: str, row: dict[str, Any], definition: str, unit: str, coordinates: dict[str, Any]
) -> tuple[tuple, dict[str, Any]]:
    """What identifies a record, and the record; `row` has value, n, and the interval if known."""
    value, low, high = (_finite(row.get(field)) for field in ("value", "ci_low", "ci_high"))
    if unit not in UNITS or not definition:
        raise ValueError(f"{measure!r} needs a definition, and a unit of {', '.join(UNITS)}, not {unit!r}.")
    if row["n"] is None:
        raise ValueError(f"{measure!r} needs n, the number of rows behind it.")
    if value is None and row["n"] != 0:
        raise ValueError(f"{measure!r} is {row['value']}; only a number with n = 0 may be undefined.")
    if low is not None and high is not None and low > high:
        raise ValueError(f"{measure!r} has an interval from {low} to {high}.")
    where = {
        name: place.item() if isinstance(place, np.generic) else place  # as JSON can hold it
        for name, place in coordinates.items()
        if not pd.isna(place)
    }
    numbers = (value, low, high, int(row["n"]), unit, definition)
    record = {"measure": measure, **where, **dict(zip(manifest.NUMBER_FIELDS, numbers, strict=True))}
    return (measure, *sorted(where.items())), record


def in_words(record: dict[str, Any]) -> str:
    """A record as a sentence says it, ``97.4 % [95.1, 99.1]``; n stands where there is no interval.

    Shares are in percent, differences of shares in percentage points. A number stays on one line with its unit, and an
    interval on one.
    """
    value, low, high = (_finite(record[field]) for field in ("value", "ci_low", "ci_high"))
    if value is None:
        return NOT_MEASURED
    unit = record["unit"]
    text = _digits(value, unit) + SHARES.get(unit, " nats" if unit == "nats" else "")
    if low is not None and high is not None:
        text += f" [{_digits(low, unit)}, {_digits(high, unit)}]"
    elif unit not in COUNTED:
        text += f" [n = {int(record['n'])}]"
    return text.replace(" ", "\u00a0").replace("\u00a0[", " [")


def _digits(value: float, unit: str) -> str:
    """A number with the digits that its unit deserves, with a minus sign, and without one before a zero."""
    if unit in SHARES:
        text = f"{100 * value:z.1f}"
    elif unit in ("AUROC 0-1", "correlation"):
        text = f"{value:z.3f}"
    elif abs(value) >= 999.5 or (unit in COUNTED and (value == round(value) or abs(value) >= 100)):
        text = f"{value:z,.0f}"
    else:
        text = f"{value:z.1f}" if unit in COUNTED else f"{value:z#.3g}".removesuffix(".")
    return text.replace("-", "\u2212")


def _finite(value: Any) -> float | None:
    """A number as JSON can hold it: undefined is null."""
    return None if value is None or not math.isfinite(value) else float(value)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
