"""The configuration of a run, which config.json holds."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from inference.data.observations import OBSERVATIONS, DataKind
from inference.data.vocabulary import Vocabulary
from inference.rundir.config import EVALUATIONS, TrainConfig, check_options
from inference.rundir.kinds import (
    CLASSES,
    COLUMNS,
    FRACTION,
    INDICES,
    NAMES,
    OBJECT,
    SHAPE,
    SIZE,
    TEXT,
    TEXTS,
    VOCABULARY,
    WHOLE,
    or_none,
)
from ppl_models import MODELS
from ppl_models.base import LatentVariableModel


@dataclass(frozen=True, kw_only=True)
class RunConfig(TrainConfig):
    """The configuration of a run: `TrainConfig` without None, the model, the data and how the run was made.

    Attributes:
        model: name of the model in `MODELS`.
        options: the model's own options.
        data: name or path of the data set.
        data_dir: folder of named data sets.
        checksum: digest of every pixel and label.
        shape: of an image or a point; empty in the oldest runs.
        classes: number of labels that differ.
        scale: value of white in an .npz or .npy file.
        columns: names, means and standard deviations of a table's columns, as in `Dataset.columns`.
        vocabulary: tokens of a text with their unit and the length of a sequence, as in `Dataset.vocabulary`.
        label_column: name of the labels' column in a table.
        image_size: height and width to which the images of a folder are resized and cropped.
        class_names: labels of the classes 0, 1, 2, ..., if they are not these numbers.
        observation: how raw values become observations, in words.
        device: "auto", "cpu" or "cuda".
        validation: fraction of the training set that is held out for validation.
        labelled: indices of the labelled training images.
        labelled_file: name of the file that lists them.
        stage1_run: folder of the first stage, for a prior of codes.
        init_from: run folder or saved model whose weights the run started from.
        init_checksum: digest of these weights.
        command: the command line.
        versions, gpu, platform, threads, processes, commit: of the software and the machine.
        format: layout of the run folder.
        source: the content of config.json, if an older version wrote it.
    """

    model: str = field(metadata={"kind": TEXT})
    options: dict[str, Any] = field(metadata={"kind": OBJECT})
    data: str = field(metadata={"kind": TEXT})
    data_dir: str = field(metadata={"kind": TEXT})
    checksum: str = field(metadata={"kind": TEXT})
    observation: str = field(metadata={"kind": TEXT})
    device: str = field(default="auto", metadata={"kind": TEXT})
    shape: list[int] = field(default_factory=list, metadata={"kind": SHAPE})
    classes: int = field(default=0, metadata={"kind": CLASSES})
    scale: int | None = field(default=None, metadata={"kind": or_none(WHOLE)})
    columns: dict[str, Any] | None = field(default=None, metadata={"kind": or_none(COLUMNS)})
    vocabulary: dict[str, Any] | None = field(default=None, metadata={"kind": or_none(VOCABULARY)})
    label_column: str | None = field(default=None, metadata={"kind": or_none(TEXT)})
    image_size: int | None = field(default=None, metadata={"kind": or_none(SIZE)})
    class_names: list[str] | None = field(default=None, metadata={"kind": or_none(NAMES)})
    validation: float = field(default=0.0, metadata={"kind": FRACTION})
    labelled: list[int] | None = field(default=None, metadata={"kind": INDICES})
    labelled_file: str | None = field(default=None, metadata={"kind": or_none(TEXT)})
    stage1_run: str | None = field(default=None, metadata={"kind": TEXT})
    init_from: str | None = field(default=None, metadata={"kind": TEXT})
    init_checksum: str | None = field(default=None, metadata={"kind": TEXT})
    command: str | None = field(default=None, metadata={"kind": TEXT})
    versions: dict[str, str] | None = field(default=None, metadata={"kind": TEXTS})
    gpu: str | None = field(default=None, metadata={"kind": or_none(TEXT)})
    platform: str | None = field(default=None, metadata={"kind": TEXT})
    threads: int | None = field(default=None, metadata={"kind": WHOLE})
    processes: int | None = field(default=None, metadata={"kind": WHOLE})
    commit: str | None = field(default=None, metadata={"kind": or_none(TEXT)})
    format: int = field(default=0, metadata={"kind": WHOLE})
    source: dict[str, Any] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        cls = MODELS[self.model]
        object.__setattr__(self, "options", check_options(cls, self.model, self.options))

    @property
    def model_class(self) -> type[LatentVariableModel]:
        """The class of the model."""
        return MODELS[self.model]

    @property
    def tokens(self) -> Vocabulary | None:
        """The vocabulary of a run on a text."""
        found = self.vocabulary
        return None if found is None else Vocabulary(found["unit"], tuple(found["entries"]), found["length"])

    @property
    def data_kind(self) -> DataKind:
        """The kind of the data."""
        cls = self.model_class
        return OBSERVATIONS[cls.observation_of(tuple(self.shape) or cls.example_shape)].data

    def values(self, *names: str) -> dict[str, Any]:
        """Returns some settings by name."""
        return {name: getattr(self, name) for name in names}

    def to_json(self) -> dict[str, Any]:
        """The content of config.json: in the layout of the version that wrote the run."""
        content = {key: value for key, value in asdict(self).items() if key != "source"}
        content = {key: value for key, value in content.items() if value is not None or key in ALWAYS}
        if self.source is None:
            return content
        resumed = {key: content[key] for key in ("steps", "eval_every", "device") if key in content}
        return self.source | resumed


MODEL_FILES: dict[str, str] = {}  # the FILE.py:CLASS of models that a command line named so
IN_MEMORY = "data in memory"  # `data` of a run that was started from Python
REQUIRED = (  # keys of config.json in every format
    *("data", "data_dir", "checksum", "observation", "elbo", "device"),
    *("eval_every", "steps", "batch_size", "particles", "options", "lr", "seed"),
)
ALWAYS = ("scale", "labelled_file", "gpu", "commit")  # written also if None
RENAMED = {"warmup": "kl_warmup", "pixels": "observation", "from": "stage1_run"}  # by format 3
MODES_BEFORE = {"plain": "eager", "kernels": "inductor"}  # of `compile`, by format 3


def upgraded(config: Mapping[str, Any]) -> dict[str, Any]:
    """Renames the keys and values of a configuration that format 2 or an older one wrote."""
    found = {RENAMED.get(key, key): value for key, value in config.items()}
    mode = found.get("compile")
    return found | ({"compile": MODES_BEFORE[mode]} if isinstance(mode, str) and mode in MODES_BEFORE else {})


def with_steps(config: RunConfig, steps: int) -> RunConfig:
    """The same run, trained to another number of steps."""
    return replace(config, steps=steps, eval_every=max(steps // EVALUATIONS, 1))


def model_argument(name: str) -> str:
    """Returns a model as a command line names it: FILE.py:CLASS, or the name of a registered model."""
    return MODEL_FILES.get(name, name)


def data_name(config: RunConfig) -> str:
    """The data set's name, without the folder of a file."""
    return Path(config.data).name
