"""The main job from drawn products to scores, stage by stage; what is done already is not done again."""

import argparse
import subprocess
import sys
from pathlib import Path

from phi3v_dist.console import CommandParser, run_command, say
from phi3v_dist.errors import RunError
from phi3v_dist.evaluation.bars import judge
from phi3v_dist.training.rehearsal import hold_to_settings, train_through_a_kill

EXAMPLE = "example:\n  python tools/demo.py runs/demo"
RECIPE = "launch/recipes/demo_cpu.yaml"
FEWEST_STEPS = 10


def main() -> None:
    """Run the stages of a demo folder and check what they made."""
    args = _parse()
    if args.steps < FEWEST_STEPS:
        mend = f"Give {FEWEST_STEPS} or more."
        raise RunError("too few to be killed between two checkpoints", where="--steps", value=args.steps, mend=mend)
    folder, catalog = args.folder, args.folder / "catalog"
    hold_to_settings(folder, {name: vars(args)[name] for name in ("products", "seed", "steps")})
    save_every = max(2, args.steps // 5)
    options = {
        "run_folder": folder / "train",
        "catalog.table": catalog / "products.csv",
        "shards.folder": folder / "shards",
        "model.folder": folder / "base",
        "training.seed": args.seed,
        "training.steps": args.steps,
        "checkpoints.every_steps": save_every,
        "evaluation.every_steps": max(1, args.steps // 4),
    }
    recipe = ["--config", RECIPE, *(f"{key}={value}" for key, value in options.items())]
    stage("1 of 7, products", "tools/make_demo_catalog.py", "--products", args.products, catalog)
    stage("2 of 7, shards", "tools/make_shards.py", *recipe)
    seed = ["--seed", args.seed, "--catalog", catalog / "products.csv"]
    stage("3 of 7, a tiny model", "tools/make_demo_model.py", *seed, folder / "base")
    from phi3v_dist.cluster.process_group import free_port  # after --help: it imports torch

    say("--- 4 of 7, training on 2 processes")
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", "2", "--master_port", free_port()]
    command = [str(word) for word in (*launcher, "launch/train.py", *recipe)]
    train_through_a_kill(command, folder / "train", kill_at=2 * save_every + save_every // 2)
    if not (folder / "export").exists():
        stage("5 of 7, export", "tools/consolidate.py", folder / "train", folder / "export")
    if not (folder / "evaluation.json").exists():
        stage("6 of 7, evaluation", "tools/evaluate.py", folder / "export", folder / "shards", "--split", "heldout")
    stage("7 of 7, report", "tools/report.py", folder)
    say(f"made in {folder}: catalog/ shards/ base/ train/ export/ evaluation.json predictions.jsonl report.html")
    judge(folder / "evaluation.json", hold_to_bars=not args.no_bars)


def _parse() -> argparse.Namespace:
    parser = CommandParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("folder", type=Path, help="where everything is written")
    parser.add_argument("--products", type=int, default=2600, help="products drawn (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="first weights, order of training (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1300, help="training steps (default: %(default)s)")
    parser.add_argument("--no-bars", action="store_true", help="print the scores without holding them to the bars")
    return parser.parse_args()


def stage(name: str, *command: object) -> None:
    """Run one command; stop the demo where it fails."""
    say(f"--- {name}: {' '.join(map(str, command))}")
    code = subprocess.run([sys.executable, *map(str, command)], check=False).returncode
    if code:
        mend = "Mend what its own line above names and start again."
        raise RunError("the stage failed", where=name, value=code, mend=mend)


if __name__ == "__main__":
    sys.exit(run_command(main))
