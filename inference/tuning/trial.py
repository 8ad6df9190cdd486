"""A run of a sweep as a trial of Ray Tune. Ray's workers import this module, and not torch."""

import json
from typing import Any

from ray import tune

from inference.tuning.process import RunProcess


class Trial(tune.Trainable):
    """Reports the measurements of a run to Tune. The run folder is its checkpoint: Tune keeps none."""

    def setup(self, config: dict[str, Any]) -> None:
        """Takes a run, which the first step starts.

        Args:
            config: `run`, the run as JSON.
        """
        self.run = RunProcess(json.loads(config["run"]))

    def step(self) -> dict[str, Any]:
        """Returns the next measurement, see `RunProcess.step`."""
        return self.run.step()

    def cleanup(self) -> None:
        """Stops the run, which saves a checkpoint."""
        self.run.stop()
