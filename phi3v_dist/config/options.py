"""Every option of a run: one frozen pydantic model per room, each option with its help, range and default.

Enters: the merged raw dictionary of ``loading.py``. Leaves: one ``RunConfig``. A user may read this file from top to
bottom as the manual of recipes; section ``fetch`` is a page of its own, ``fetch_options.py``. Here stand only the
checks that one option can decide alone; what needs two rooms is checked in ``loading.check_rooms``.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from phi3v_dist.config.fetch_options import FetchOptions
from phi3v_dist.config.option_types import (
    Count,
    CountOrZero,
    NamedColumns,
    NamedNumbers,
    Names,
    Number,
    OneOrMoreNames,
    Options,
    Share,
)

# What each rule does, with examples: catalog/rules.py.
TextRule = Literal[
    "strip_html",
    "unescape_lines",
    "collapse_spaces",
    "first_of_list",
    "deepest_of_list",
    "first_of_path",
    "last_of_path",
]
PriceRule = Literal["decimal_point", "decimal_comma"]
PictureRule = Literal["magento_path"]


class ColumnOptions(Options):
    """Which column of the product table holds what. Defaults: the DBQ Burberry tables.

    A list of columns: the first that isn't empty counts; of ``image_path`` all do.
    """

    product_code: OneOrMoreNames = Field(("product_code",), description="Unique code of a product; decides its split.")
    title: OneOrMoreNames = Field(("title",), description="Name of the product.")
    category: OneOrMoreNames = Field(("category3_code",), description="Category of the product.")
    price: OneOrMoreNames = Field(("full_price",), description="Price, a decimal number above 0 (or catalog.rules).")
    currency: Names = Field(("currency_code",), description="Currency of the price; null: catalog.currency is.")
    image_path: OneOrMoreNames = Field(
        ("local_image_path",), description="Pictures: files relative to catalog.image_root, URLs, or bytes."
    )
    further: Annotated[dict[str, str], AfterValidator(NamedColumns)] = Field(
        NamedColumns(), description="More text that travels with a product: name → column, as in brand: Vendor."
    )


class RuleOptions(Options):
    """Named rules that clean the cells of a column, one after the other; catalog/rules.py shows each."""

    title: tuple[TextRule, ...] = Field((), description="Rules for titles.")
    category: tuple[TextRule, ...] = Field((), description="Rules for categories.")
    price: tuple[PriceRule, ...] = Field((), description="Rules for prices; without one only 1299.00 is a number.")
    image_path: tuple[PictureRule, ...] = Field((), description="Rules for picture paths and URLs.")
    further: tuple[TextRule, ...] = Field((), description="Rules for all texts of columns.further.")


RejectOrRepair = Literal["reject", "repair"]
RejectOrKeep = Literal["reject", "keep"]
Policy = Literal["reject", "repair", "keep"]


class PolicyOptions(Options):
    """What becomes of a product with a fault that one can live with: reject it, repair the fault, or keep it.

    Faults that are not named here always reject. A picture is repaired by saving it anew as a plain RGB JPEG.
    """

    control_characters: RejectOrRepair = Field("reject", description="In a text; repair: they become spaces.")
    long_text: RejectOrRepair = Field("reject", description="repair: cut behind the last whole word that fits.")
    other_currency: RejectOrKeep = Field("reject", description="Another currency than the catalogue's.")
    bad_picture: RejectOrRepair = Field(
        "reject", description="One of several pictures can't be used; repair: go on with the others."
    )
    damaged_inside: RejectOrKeep = Field("reject", description="A JPEG with a hole that most programs don't notice.")
    extreme_shape: RejectOrKeep = Field("reject", description="Longer than catalog.max_aspect_ratio allows.")
    turned: Policy = Field("keep", description="A picture that its EXIF note turns.")
    cmyk: Policy = Field("keep", description="A picture for print.")
    deep: Policy = Field("keep", description="A picture of 16 bits; training sees 8.")
    transparent: Policy = Field("keep", description="A picture with transparency; training sees white there.")
    animated: Policy = Field("keep", description="A picture with several frames; training sees the first.")


class CatalogOptions(Options):
    """catalog/: from a product table to checked products."""

    table: str = Field(
        "catalog/products.csv",
        description="Product table: file (CSV, TSV, JSONL, Parquet, Arrow), folder, or Hugging Face data set name.",
    )
    format: Literal["auto", "csv", "tsv", "jsonl", "parquet", "arrow", "dataset"] = Field(
        "auto", description="Kind of table; auto: by its ending. arrow: also a folder of save_to_disk."
    )
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = Field(
        None, description="Sign between the cells of a CSV or TSV file; default: comma or tab."
    )
    dataset_split: str = Field("train", description="Split of a data set to read, as the datasets library names it.")
    dataset_config: str | None = Field(None, description="Configuration of a data set that has several.")
    dataset_revision: str | None = Field(None, description="Commit or tag of a data set on the hub.")
    image_root: str | None = Field(None, description="Folder that picture paths start from; default: the table's.")
    columns: ColumnOptions = Field(default_factory=ColumnOptions, description="Column names.")
    rules: RuleOptions = Field(default_factory=RuleOptions, description="Rules that clean cells.")
    picture_separator: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="Sign between several pictures in one cell; a JSON list needs none."
    )
    join_rows: bool = Field(False, description="Rows of one code that follow each other are one product.")
    max_pictures: Annotated[Count, Field(le=99)] = Field(
        3, description="Of more pictures the first so many are kept; 3 of 16 crops fill a pack of 8192 tokens."
    )
    currency: str | None = Field(None, description="Only currency accepted; default: the most frequent one.")
    heldout_share: Share = Field(0.1, description="Share of products held out from training, by hash of the code.")
    check_pictures: bool = Field(
        True,
        description="false: only a picture's header is read: much faster, but damaged pictures become samples, and "
        "products that show the same may stand on both sides of the split.",
    )
    min_image_side: Count = Field(16, description="Pictures with a shorter side than this are rejected (pixels).")
    max_aspect_ratio: Number = Field(20.0, description="Longer side by shorter side of a picture, at most.")
    max_image_side: CountOrZero = Field(
        0, description="Larger pictures are made smaller and saved anew (pixels); 0: kept as they came."
    )
    policy: PolicyOptions = Field(default_factory=PolicyOptions, description="Reject, repair or keep, per fault.")
    max_image_megapixels: Number = Field(100.0, description="Larger pictures are rejected unread (megapixels).")
    max_text_characters: Count = Field(500, description="Longer titles or categories are rejected (characters).")
    max_further_characters: Count = Field(10_000, description="The same for each text of columns.further.")
    max_reject_share: Share = Field(0.2, description="Above this share of rejects the command ends with code 3.")
    fetched_folder: str = Field("fetched", description="Folder of the pictures that tools/fetch_products.py downloads.")


class ShardOptions(Options):
    """shards/: checked products as WebDataset tar files with an index."""

    folder: str = Field("shards", description="Folder or URL of {train,heldout}/*.tar, index.parquet, manifest.json.")
    sources: Annotated[dict[str, Number], AfterValidator(NamedNumbers)] = Field(
        NamedNumbers(),
        description="Several folders to train on in place of shards.folder: folder → its epochs in one of the run.",
    )
    samples_per_shard: Count = Field(1000, description="Samples in one tar file, less those with a wrong picture.")
    workers: Count = Field(2, description="Processes that check pictures and write shards.")
    cache_folder: str = Field(
        "~/.cache/phi3v_dist",
        description="Folder of decoded index and lengths (0.3 GB per million samples), best on the node.",
    )
    local_copy: str | None = Field(
        None, description="Folder on a disk of the node: tar files are copied there when first read; null: they aren't."
    )
    local_copy_gb: Number = Field(200.0, description="Most that all tar files in shards.local_copy may take (GB).")


class ModelOptions(Options):
    """model/: the folder that training begins from, and how it is run."""

    folder: str = Field("base", description="Model folder in the official layout: config.json, *.safetensors, …")
    attention: Literal["auto", "flash_attn_3", "flash_attn_4", "flash_attn", "varlen", "sdpa"] = Field(
        "auto", description="Attention kernel of the language model; auto takes the fastest that runs here."
    )
    loss: Literal["auto", "liger", "chunked"] = Field(
        "auto", description="Kernel of lm_head with its loss; auto takes the fastest that runs here."
    )
    rope_mode: Literal["per_document", "short", "long"] = Field(
        "per_document", description="LongRoPE factors: by each document's length, or always one list."
    )
    train_vision: bool = Field(True, description="Train the vision tower and the projector too.")
    activation_checkpointing: bool = Field(True, description="Recompute layers and crops in backward: less memory.")


class DocumentOptions(Options):
    """documents/: from a sample to token ids, labels and crops."""

    template: Literal["mission", "official"] = Field(
        "mission", description="mission: `<|end|><|assistant|>`; official: a newline between the two."
    )
    num_crops: CountOrZero = Field(0, description="Most crops per picture; 0: as the model's preprocessor says.")


class PackingOptions(Options):
    """packing/: which documents share a sequence, in which order."""

    pack_tokens: Annotated[Count, Field(ge=64, le=1_048_576)] = Field(
        8192, description="Longest pack (tokens). Nothing is padded, packs may be shorter."
    )
    packs_per_step: Count = Field(384, description="Packs in one optimizer step, whatever the number of ranks.")
    window_shards: Count = Field(32, description="Fewest shards shuffled and packed together.")
    window_packs: Count = Field(2048, description="Fewest packs, about, that such a window gives.")
    pool_documents: Count = Field(1024, description="Oldest unplaced documents that a pack may choose from.")
    choose_documents: Count = Field(160, description="Candidates for the exact filling of a pack's last part.")
    balance_steps: Count = Field(32, description="Steps among which packs are dealt, alike ones into one micro-step.")
    group_packs: Count = Field(64, description="Packs that are dealt together, best as many as there are ranks.")
    long_documents: Literal["error", "drop", "truncate"] = Field(
        "error", description="Longer than a pack: stop before training, leave it out, or cut its text, all counted."
    )
    workers: CountOrZero = Field(2, description="Loader processes per rank; 0 loads in the training process.")
    prefetch_packs: Count = Field(4, description="Packs each loader process prepares ahead, at most.")
    shared_memory_gb: Number = Field(4.0, description="Most that the batches of a rank take in shared memory (GB).")
    wait_minutes: Number = Field(5.0, description="A batch that takes longer to come ends the run; 0: never.")
    max_damaged_share: Share = Field(0.001, description="Above this share of damaged samples the run stops.")


class TrainingOptions(Options):
    """training/: the optimization."""

    steps: CountOrZero = Field(0, description="Optimizer steps; 0: training.epochs decides.")
    epochs: Number = Field(1.0, description="Passes over the training split, when training.steps is 0.")
    seed: CountOrZero = Field(0, description="Order of documents. Same seed, same run.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where there is one, else cpu.")
    precision: Literal["bf16", "fp32"] = Field("bf16", description="Weights and arithmetic; master copy always fp32.")
    deepspeed_config: str = Field("ds_configs/zero3.json", description="DeepSpeed settings that no option covers.")
    learning_rate: Number = Field(1e-5, description="Highest learning rate.")
    min_learning_rate_share: Share = Field(0.1, description="Last learning rate as a share of the highest.")
    warmup_share: Share = Field(0.03, description="Share of the steps in which the learning rate rises from 0.")
    beta1: Share = Field(0.9, description="AdamW: decay of the mean gradient.")
    beta2: Share = Field(0.95, description="AdamW: decay of the mean squared gradient.")
    epsilon: Number = Field(1e-8, description="AdamW: added to the denominator.")
    weight_decay: Number = Field(0.01, description="AdamW: not applied to norms, biases and separators.")
    gradient_clipping: Number = Field(1.0, description="Largest gradient norm; 0: no clipping.")
    hang_minutes: Number = Field(10.0, description="A micro-step without an end for so long ends the run; 0: never.")


class EvaluationOptions(Options):
    """evaluation/: what is looked at during a run. A count of 0 or every_steps 0 leaves it out."""

    every_steps: CountOrZero = Field(200, description="Steps between validations (and one after the last step).")
    loss_packs: CountOrZero = Field(
        64, description="Held-out packs for the validation loss; up to half as many more where few are left."
    )
    generate_products: CountOrZero = Field(32, description="Held-out products whose answers are generated.")
    max_new_tokens: Count = Field(96, description="Longest generated answer (tokens).")


class CheckpointOptions(Options):
    """checkpoints/: what a run can go on from."""

    every_steps: Count = Field(200, description="Steps between checkpoints (and one after the last step).")
    keep_last: Count = Field(2, description="Newest checkpoints that are kept; older ones are deleted.")
    keep_best: CountOrZero = Field(0, description="Kept besides: those with the lowest validation loss; 0: none.")
    spare_seconds: Number = Field(60.0, description="Under Slurm: kept free between the last save and the time limit.")


class TrackingOptions(Options):
    """tracking/: what is told to the outside."""

    wandb: Literal["online", "offline", "disabled"] = Field("offline", description="Weights & Biases, rank 0 alone.")
    project: str = Field("phi3v-dist", description="W&B project.")
    run_name: str | None = Field(None, description="W&B run name; default: the run folder's name.")
    tensorboard: bool = Field(False, description="Also write TensorBoard files.")
    console_every: Count = Field(10, description="Steps between console lines.")


class RunConfig(Options):
    """A whole recipe. Relative paths start from the folder that the command is called in."""

    run_folder: str = Field("runs/train", description="Everything a run writes (DESIGN: a run's folder).")
    catalog: CatalogOptions = Field(default_factory=CatalogOptions)
    fetch: FetchOptions = Field(default_factory=FetchOptions)
    shards: ShardOptions = Field(default_factory=ShardOptions)
    model: ModelOptions = Field(default_factory=ModelOptions)
    documents: DocumentOptions = Field(default_factory=DocumentOptions)
    packing: PackingOptions = Field(default_factory=PackingOptions)
    training: TrainingOptions = Field(default_factory=TrainingOptions)
    evaluation: EvaluationOptions = Field(default_factory=EvaluationOptions)
    checkpoints: CheckpointOptions = Field(default_factory=CheckpointOptions)
    tracking: TrackingOptions = Field(default_factory=TrackingOptions)
