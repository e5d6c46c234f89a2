"""Check nodes, paths, network and a cut-down model before training: started like launch/train.py, under a minute."""

import argparse
from pathlib import Path

from phi3v_dist.cluster.who import ClusterInfo
from phi3v_dist.config.loading import load_config
from phi3v_dist.console import CommandParser
from phi3v_dist.training.farewell import be_a_rank, farewell

EXAMPLE = (
    "example:\n  deepspeed --num_gpus 2 launch/preflight.py --config launch/recipes/demo_cpu.yaml --floor-node 0.1"
)


def main(who: ClusterInfo) -> int:
    """Parse, call."""
    parser = CommandParser(description=__doc__, epilog=EXAMPLE)
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


if __name__ == "__main__":
    be_a_rank(main)
