"""What a batch script does beside training: `begin` before it, `end` after it. slurm/common.sh calls both."""

import sys
from pathlib import Path

from phi3v_dist.cluster.slurm import this_job
from phi3v_dist.config.loading import load_config
from phi3v_dist.console import CommandParser, count, run_command
from phi3v_dist.training.requeue import begin_job, end_job

FINISHED_ALREADY = 3
EXAMPLE = (
    "exit code 0: go on; 2: a person must act, said in one line; 3 (begin): the run is finished already\n\n"
    "example:\n  python launch/job.py begin --config launch/recipes/demo_cpu.yaml training.learning_rate=1e-5"
)


def main() -> int:
    """Parse, call; `begin` writes the run folder to a file, for the script to read."""
    parser = CommandParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("when", choices=["begin", "end"], help="before or after training")
    parser.add_argument("--config", type=Path, required=True, metavar="RECIPE", help="recipe of the run")
    parser.add_argument(
        "--most-attempts", type=count, default=3, help="begin: attempts without a new step (default: 3)"
    )
    parser.add_argument("--tell-run-folder", type=Path, metavar="FILE", help="begin: where to write the run folder")
    parser.add_argument("--srun-code", type=int, default=0, help="end: exit code of srun")
    parser.add_argument("--srun-errors", type=Path, metavar="FILE", help="end: what srun said on standard error")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options laid over the recipe's")
    args = parser.parse_intermixed_args()
    run_folder = Path(load_config(args.config, args.overrides).config.run_folder)
    job = this_job()
    if args.when == "begin":
        if args.tell_run_folder:
            args.tell_run_folder.write_text(str(run_folder))
        return 0 if begin_job(run_folder, job, args.most_attempts) else FINISHED_ALREADY
    errors = args.srun_errors.read_text(errors="replace") if args.srun_errors else ""
    end_job(run_folder, job, srun_code=args.srun_code, srun_errors=errors)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
