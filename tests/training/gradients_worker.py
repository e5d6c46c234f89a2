"""One rank of the gradient test: answers, then four steps of the real engine in float32, written to a file.

Arguments: model folder, shard folder, output file. The packs are made by ``packs_of_steps``, which the test uses too.
As for the real model, no parameter stays gathered between uses (persistence threshold 0), where a difference in what
ranks gather shows at once, activations are computed again in backward, and lm_head takes several chunks of positions.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from phi3v_dist.cluster.process_group import everyone, process_group
from phi3v_dist.cluster.who import who_am_i
from phi3v_dist.config.options import DocumentOptions, RunConfig
from phi3v_dist.documents.labels import answer_labels
from phi3v_dist.documents.processor import Document, DocumentProcessor
from phi3v_dist.evaluation.generate import answer_samples
from phi3v_dist.packing.collate import blank_batch, collate
from phi3v_dist.packing.steps import StepPlan, micro_steps, pack_of
from phi3v_dist.shards.index import load_index
from phi3v_dist.shards.read import ShardReader

LEARNING_RATE = 1e-3
BORDER_OF_RANK_0 = 43  # tokens: prompts have about 40
CHUNK_POSITIONS = 32


def configuration(model_folder, deepspeed_config="ds_configs/zero3.json"):
    training = {"precision": "fp32", "device": "cpu", "learning_rate": LEARNING_RATE, "gradient_clipping": 0.5}
    training["deepspeed_config"] = str(deepspeed_config)
    model = {"folder": str(model_folder), "activation_checkpointing": True}
    return RunConfig.model_validate({"training": training, "model": model})


def packs_of_steps(model_folder, shards_folder):
    """Per step its packs as lists of documents: pictures beside text alone; text alone, an odd number; a pack in
    which nothing is supervised beside one with pictures; many pictures, two of them in one document, beside one.
    """
    processor = DocumentProcessor.from_folder(model_folder, DocumentOptions())
    reader = ShardReader(load_index(shards_folder))
    pictures = [processor.document(reader.sample(number)) for number in range(8)]

    samples = [reader.sample(number) for number in (8, 9)]
    two_pictures = processor.document(replace(samples[0], images=samples[0].images + samples[1].images))

    def text(words):
        prompt = processor.prompt([])
        ids = np.concatenate([prompt.input_ids, processor.template.answer_ids(words)])
        return Document(ids, [], [], answer_labels(ids, len(prompt.input_ids)), sample=-1)

    texts = [text(f"Product: number {number}, Category: TEXTS, Full Price: {number}") for number in range(7)]
    blanks = [processor.blank_document(number, document.grids) for number, document in enumerate(pictures[:2])]
    return processor, [
        [pictures[:4], texts[:3]],
        [texts[:2], texts[2:4], texts[4:]],
        [blanks, pictures[4:]],
        [[two_pictures, *pictures[:3]], [pictures[4]], [texts[0], pictures[5]], pictures[6:]],
    ]


def nothing_persists(folder):
    settings = json.loads(Path("ds_configs/zero3.json").read_text())
    settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    (folder / "zero3.json").write_text(json.dumps(settings))
    return folder / "zero3.json"


def supervised_tokens(packs):
    return sum(int((document.labels != -100).sum()) for pack in packs for document in pack)


def answers(engine, model_folder, shards_folder, who):
    """What this rank answers to its three products: rank 1's prompts are other ones than rank 0's, and rank 0's alone
    cross the border where RoPE factors change.
    """
    processor = DocumentProcessor.from_folder(model_folder, DocumentOptions())
    numbers = [3 * who.rank, 3 * who.rank + 1, 3 * who.rank + 2]
    reader = ShardReader(load_index(shards_folder))
    engine.eval()
    border = engine.module.config.original_max_position_embeddings
    engine.module.config.original_max_position_embeddings = BORDER_OF_RANK_0 if who.is_rank_0 else border
    given = answer_samples(engine.module, processor, reader, numbers, max_new_tokens=6,
                           everyone_done=lambda done: everyone(done, engine.device))  # fmt: skip
    engine.train()
    engine.module.config.original_max_position_embeddings = border
    return [prediction.answer for prediction in given]


def main():
    model_folder, shards_folder, output = sys.argv[1:]
    config, who = configuration(model_folder, nothing_persists(Path(output).parent)), who_am_i()
    from phi3v_dist.model import loss
    from phi3v_dist.training.backend import choose_backend
    from phi3v_dist.training.engine import build_engine
    from phi3v_dist.training.step import take_step

    loss._CHUNK_POSITIONS = CHUNK_POSITIONS
    backend = choose_backend(config, who)
    with process_group(who, backend.process_group, 5):
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_grad

        engine = build_engine(config, backend, who)
        told = {"answers": answers(engine, model_folder, shards_folder, who)}
        update = engine.step

        def look_and_update():
            if engine.is_gradient_accumulation_boundary():
                for name, parameter in engine.module.named_parameters():
                    if parameter.requires_grad:
                        told[f"{number}.{name}"] = safe_get_full_grad(parameter).clone()
            update()

        engine.step = look_and_update
        processor, steps = packs_of_steps(model_folder, shards_folder)
        for number, packs in enumerate(steps):
            plan = StepPlan(number, 0, [np.array([place]) for place in range(len(packs))], supervised_tokens(packs))
            places = [pack_of(plan, m, who.rank, who.num_ranks) for m in range(micro_steps(len(packs), who.num_ranks))]
            batches = [blank_batch(processor) if p is None else collate(packs[p[0]]) for p in places]
            sums = take_step(engine, plan, batches, learning_rate=LEARNING_RATE, num_ranks=who.num_ranks)
            told[f"{number}.loss"] = torch.tensor(sums.loss)
            told[f"{number}.model_flops"] = sums.model_flops
            told[f"{number}.gradient_norm"] = torch.tensor(sums.gradient_norm)
        for name, parameter in engine.module.named_parameters():
            told[f"end.{name}"] = safe_get_full_fp32_param(parameter).clone() if parameter.requires_grad else None
        if who.is_rank_0:
            torch.save(told, output)


if __name__ == "__main__":
    main()
