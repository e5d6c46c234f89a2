"""DeepSpeed on two ranks against plain PyTorch in one process, float32.

Four steps: one rank with pictures and one without; text alone after it (DeepSpeed would reuse stale gradients of the
vision tower) with a blank pack in the last row; a pack without a supervised token beside one with pictures; ranks with
different numbers and grids of pictures. Decoder layers and the vision tower are leaf modules, activations are computed
again in backward, and on DeepSpeed's side lm_head takes its positions in several chunks, in plain PyTorch in one.
"""

import pytest
import torch
from gradients_worker import (
    BORDER_OF_RANK_0,
    CHUNK_POSITIONS,
    LEARNING_RATE,
    configuration,
    packs_of_steps,
    supervised_tokens,
)
from safetensors.torch import load_file

from phi3v_dist.config.options import DocumentOptions
from phi3v_dist.costs import pack_flops
from phi3v_dist.documents.processor import DocumentProcessor
from phi3v_dist.evaluation.generate import answer_samples
from phi3v_dist.images import open_image
from phi3v_dist.model import Phi3VForCausalLM
from phi3v_dist.model.folder import read_config
from phi3v_dist.model.phi3v import model_sizes
from phi3v_dist.packing.collate import collate
from phi3v_dist.shards.index import load_index
from phi3v_dist.shards.read import ShardReader
from phi3v_dist.training.groups import parameter_groups
from phi3v_dist.training.step import forward


@pytest.fixture(scope="module")
def deepspeed(warm, small_demo, tmp_path_factory):
    output = tmp_path_factory.mktemp("gradients") / "told.pt"
    folders = [str(small_demo.folder / name) for name in ("base", "shards")]
    ranks = warm.run("tests/training/gradients_worker.py", *folders, output)
    assert [rank.returncode for rank in ranks] == [0, 0], ranks[0].output + ranks[1].output
    return torch.load(output)


@pytest.fixture(scope="module")
def plain(small_demo):
    """The same steps: sum of all packs' losses ÷ supervised tokens, clipped, torch's AdamW."""
    options = configuration(small_demo.folder / "base").training
    model = Phi3VForCausalLM.from_pretrained(small_demo.folder / "base", dtype=torch.float32)
    model.freeze(train_vision=True)
    groups = parameter_groups(model, options.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(options.beta1, options.beta2), eps=options.epsilon)
    _, steps = packs_of_steps(small_demo.folder / "base", small_demo.folder / "shards")
    told = {}
    for number, packs in enumerate(steps):
        optimizer.zero_grad()
        loss = sum(forward(model, collate(pack), torch.float32) for pack in packs) / supervised_tokens(packs)
        loss.backward()
        told[f"{number}.loss"] = loss.detach()
        told |= {f"{number}.{name}": p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
        trained = [p for p in model.parameters() if p.requires_grad]
        told[f"{number}.gradient_norm"] = torch.nn.utils.clip_grad_norm_(trained, options.gradient_clipping)
        optimizer.step()
    return told | {f"end.{name}": p.detach() for name, p in model.named_parameters() if p.requires_grad}


def test_answers_under_zero_3_equal_those_of_one_process(deepspeed, small_demo):
    model = Phi3VForCausalLM.from_pretrained(small_demo.folder / "base", dtype=torch.float32)
    model.config.original_max_position_embeddings = BORDER_OF_RANK_0
    processor = DocumentProcessor.from_folder(small_demo.folder / "base", DocumentOptions())
    reader = ShardReader(load_index(small_demo.folder / "shards"))
    prompts = [processor.prompt([open_image(reader.sample(number).images[0])]) for number in (0, 1, 2)]
    assert any(len(prompt.input_ids) <= BORDER_OF_RANK_0 < len(prompt.input_ids) + 6 for prompt in prompts)
    given = answer_samples(model, processor, reader, [0, 1, 2], max_new_tokens=6)
    assert deepspeed["answers"] == [prediction.answer for prediction in given]


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_two_ranks_have_the_gradients_of_plain_pytorch(deepspeed, plain, step):
    names = [
        key for key in plain if key.startswith(f"{step}.") and key not in (f"{step}.loss", f"{step}.gradient_norm")
    ]
    assert len(names) > 60
    for name in names:
        # keys' biases shift all scores of a query alike: their gradient is rounding noise around zero
        bound = 1e-6 if name.endswith("k_proj.bias") else 1e-5 * float(plain[name].abs().max())
        torch.testing.assert_close(deepspeed[name], plain[name], atol=bound, rtol=0, msg=name)


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_two_ranks_have_the_loss_and_norm_of_plain_pytorch(deepspeed, plain, step):
    for name in ("loss", "gradient_norm"):
        assert float(deepspeed[f"{step}.{name}"]) == pytest.approx(float(plain[f"{step}.{name}"]), rel=1e-5)


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_model_flops_are_those_of_all_packs_and_of_no_blank_one(deepspeed, small_demo, step):
    sizes = model_sizes(read_config(small_demo.folder / "base"))
    _, steps = packs_of_steps(small_demo.folder / "base", small_demo.folder / "shards")
    documents = [document for pack in steps[step] for document in pack]
    expected = pack_flops(
        sizes,
        lengths=[len(document.input_ids) for document in documents],
        supervised_tokens=supervised_tokens(steps[step]),
        crops=sum(1 + rows * columns for document in documents for rows, columns in document.grids),
        image_tokens=sum(int((document.input_ids < 0).sum()) for document in documents),
    )
    assert deepspeed[f"{step}.model_flops"] == pytest.approx(expected.training(), rel=1e-12)


def test_text_only_step_leaves_no_gradient_in_the_vision_tower(deepspeed):
    vision = [value for key, value in deepspeed.items() if str(key).startswith("1.model.vision_embed_tokens")]
    assert len(vision) > 40
    assert max(float(value.abs().max()) for value in vision) == 0.0
    before = [value for key, value in deepspeed.items() if key.startswith("0.model.vision_embed_tokens")]
    assert min(float(value.abs().max()) for value in before) > 0.0


def test_parameters_after_all_updates_equal_plain_pytorch(deepspeed, plain):
    for name, expected in plain.items():
        # Adam turns the noise of keys' biases into whole steps; nothing else depends on them
        if name.startswith("end.") and not name.endswith("k_proj.bias"):
            torch.testing.assert_close(deepspeed[name], expected, atol=2e-6, rtol=1e-6, msg=name)


def test_ranks_had_uneven_crops_and_several_chunks_of_positions(small_demo):
    _, steps = packs_of_steps(small_demo.folder / "base", small_demo.folder / "shards")
    grids = [[grid for document in pack for grid in document.grids] for pack in steps[3]]
    crops = [sum(1 + rows * columns for rows, columns in pack) for pack in grids]
    for rank_0, rank_1 in ((0, 1), (2, 3)):  # of the two micro-steps
        assert len(grids[rank_0]) != len(grids[rank_1])
        assert crops[rank_0] != crops[rank_1]
    assert len({grid for pack in grids for grid in pack}) > 1
    assert max(len(document.grids) for pack in steps[3] for document in pack) == 2
    assert max(supervised_tokens([pack]) for packs in steps for pack in packs) > 2 * CHUNK_POSITIONS


def test_every_trained_parameter_has_moved(deepspeed, plain, small_demo):
    before = load_file(small_demo.folder / "base/model.safetensors")
    trained = [name.removeprefix("end.") for name in plain if name.startswith("end.")]
    assert len(trained) > 60
    assert [name for name in trained if torch.equal(deepspeed[f"end.{name}"], before[name].float())] == []
