"""One rank of a real ZeRO-3 engine on the tiny model; in its second step rank 1 leaves the order in a decoder layer.

Arguments: model folder, shard folder, folder in which hang/ will hold the reports. Started with the environment that
srun gives a task. Rank 1 waits in a collective of another group, so that no wrong bytes reach the others.
"""

import sys
from pathlib import Path

import torch.distributed as dist

sys.path.append(str(Path(__file__).parents[1] / "training"))

from gradients_worker import configuration, nothing_persists, packs_of_steps, supervised_tokens

from phi3v_dist.cluster.process_group import process_group
from phi3v_dist.cluster.watchdog import Watchdog
from phi3v_dist.cluster.who import who_am_i
from phi3v_dist.packing.collate import blank_batch, collate
from phi3v_dist.packing.steps import StepPlan, micro_steps, pack_of

LIMIT_SECONDS = 6.0
GUILTY_RANK, WRONG_STEP, WRONG_LAYER = 1, 1, 1


def main():
    model_folder, shards_folder, folder = sys.argv[1:]
    who = who_am_i()
    (Path(folder) / str(who.rank)).mkdir(parents=True)
    config = configuration(model_folder, nothing_persists(Path(folder) / str(who.rank)))
    from phi3v_dist.training.backend import choose_backend
    from phi3v_dist.training.engine import build_engine

    backend = choose_backend(config, who)
    watchdog = Watchdog(Path(folder) / "hang", who, LIMIT_SECONDS)
    with process_group(who, backend.process_group, 5):
        watchdog.start()
        watchdog.at("start", patience=20.0)
        aside = dist.new_group()
        engine = build_engine(config, backend, who)
        watchdog.watch_modules(engine.module)
        packs = packs_of_steps(model_folder, shards_folder)

        def leave_the_order(*_):
            if who.rank == GUILTY_RANK and step_now == [WRONG_STEP]:
                dist.barrier(aside)

        step_now = []
        engine.module.model.layers[WRONG_LAYER].mlp.register_forward_pre_hook(leave_the_order)
        try:
            steps(watchdog, who, engine, *packs, step_now)
        finally:
            watchdog.stop()


def steps(watchdog, who, engine, processor, packs_of_step, step_now):
    from phi3v_dist.training.step import take_step

    for step, packs in enumerate(packs_of_step):
        step_now[:] = [step]
        plan = StepPlan(step, 0, [[place] for place in range(len(packs))], supervised_tokens(packs))
        places = [pack_of(plan, m, who.rank, who.num_ranks) for m in range(micro_steps(len(packs), who.num_ranks))]
        batches = [blank_batch(processor) if p is None else collate(packs[p[0]]) for p in places]

        def goes_on(micro_step, batch, step=step):
            patience = 1.0 if step == WRONG_STEP else 20.0
            where = {"step": step, "micro_step": micro_step, "samples": batch.samples, "patience": patience}
            watchdog.at("forward and backward", **where)
            return True

        take_step(engine, plan, batches, learning_rate=1e-3, num_ranks=who.num_ranks, goes_on=goes_on)


if __name__ == "__main__":
    main()
