"""Check nodes, paths, network and a cut-down model before training: started like launch/train.py, under a minute."""

import argparse
import os
import sys
import time
from pathlib import Path

from phi3v_dist.cluster.who import ClusterInfo, who_am_i
from phi3v_dist.config.loading import load_config
from phi3v_dist.console import run_command
from phi3v_dist.errors import UserError
from phi3v_dist.training.farewell import farewell

EXAMPLE = (
    "example:\n  deepspeed --num_gpus 2 launch/preflight.py --config launch/recipes/demo_cpu.yaml --floor-node 0.1"
)
SECONDS_FOR_THE_OTHER_TO_SPEAK = 20.0


def main(who: ClusterInfo) -> int:
    """Parse, call."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, metavar="RECIPE", help="YAML recipe, the run's own")
    parser.add_argument("--floor-node", type=float, default=0.0, metavar="GB/S", help="least all-reduce in a node")
    parser.add_argument("--floor-network", type=float, default=0.0, metavar="GB/S", help="least one between nodes")
    parser.add_argument("--local_rank", "--local-rank", help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options laid over the recipe's")
    args = parser.parse_intermixed_args()
    loaded = load_config(args.config, args.overrides)
    from phi3v_dist.training.preflight import preflight  # after --help: it imports torch and transformers
    from phi3v_dist.training.preflight_scene import Floors

    with farewell(Path(loaded.config.run_folder), who):
        return preflight(loaded, who, Floors(node=args.floor_node, network=args.floor_network))


def start() -> int:
    """Run ``main`` as the rank that the launcher made this process; the exit code."""
    who = who_am_i()
    silent = False

    def speaks(error: UserError) -> bool:
        nonlocal silent
        silent = error.said_elsewhere or (error.on_every_rank and not who.is_rank_0)
        return not silent

    code = run_command(lambda: main(who), speaks=speaks)
    if silent:
        time.sleep(SECONDS_FOR_THE_OTHER_TO_SPEAK)  # the launcher ends all ranks when the first ends
    return code


if __name__ == "__main__":
    code = run_command(start)
    sys.stdout.flush()
    os._exit(code)  # a tidy end of Python could wait for ranks that are gone
