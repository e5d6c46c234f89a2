"""Which page a folder gets, told by what lies in it.

Enters: a shard folder or a run's folder. Leaves: the path of the page that was written into it.
"""

from pathlib import Path

from phi3v_dist.config.loading import load_config
from phi3v_dist.errors import ConfigError, RunError
from phi3v_dist.shards.manifest import MANIFEST_NAME
from phi3v_dist.tracking.metrics import METRICS_FILE


def write_report(folder: Path, recipe: str | None = None) -> Path:
    """Write the page of the data set or run in ``folder``. ``recipe``: for a data set, whose model counts the texts.

    Raises ``RunError`` where neither lies there, ``ConfigError`` for a recipe beside a run, and what the page raises.
    """
    if (folder / MANIFEST_NAME).exists():
        config = load_config(recipe, []).config if recipe else None
        from phi3v_dist.reports.dataset import write_dataset_report  # counts crops: seconds of torch

        return write_dataset_report(folder, config)
    if (folder / "train" / METRICS_FILE).exists():
        if recipe:
            mend = "Leave it out, or name a shard folder."
            raise ConfigError("only the page of a data set asks a recipe", where="--config", value=recipe, mend=mend)
        from phi3v_dist.reports.run import write_run_report

        return write_run_report(folder)
    raise RunError(
        f"holds neither shards ({MANIFEST_NAME}, index.parquet) nor a run (train/{METRICS_FILE})",
        where=str(folder),
        mend="Name the folder that tools/make_shards.py wrote, or the one around the run_folder of launch/train.py.",
    )
