"""Fine-tune Phi-3-Vision on packs of product documents: one GPU server, a Slurm cluster, or a CPU."""

import argparse
from pathlib import Path

from phi3v_dist.cluster.who import ClusterInfo
from phi3v_dist.config.loading import describe_config, list_recipes, load_config
from phi3v_dist.console import CommandParser, say
from phi3v_dist.errors import ConfigError
from phi3v_dist.training.farewell import be_a_rank, farewell

EXAMPLE = "example:\n  deepspeed --num_gpus 2 launch/train.py --config launch/recipes/demo_cpu.yaml training.steps=100"


def main(who: ClusterInfo) -> None:
    """Parse, call, print."""
    parser = CommandParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--config", type=Path, metavar="RECIPE", help="YAML recipe; without it, their names")
    parser.add_argument("--print-config", action="store_true", help="print all options in effect, where each is from")
    parser.add_argument("--local_rank", "--local-rank", help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options laid over the recipe's")
    args = parser.parse_intermixed_args()
    if args.config is None:
        recipes = "; ".join(f"{path} ({line})" for path, line in list_recipes())
        raise ConfigError("no recipe given", where="--config", mend=f"There are: {recipes}")
    loaded = load_config(args.config, args.overrides)
    if args.print_config:
        if who.is_rank_0:
            say(describe_config(loaded))
        return
    from phi3v_dist.training.loop import train  # after --help: it imports torch and transformers

    with farewell(Path(loaded.config.run_folder), who):
        train(loaded, who)


if __name__ == "__main__":
    be_a_rank(main)
