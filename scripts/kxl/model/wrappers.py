"""Tensor names of a checkpoint that was saved through a wrapper: which wrapper, and how to save without it."""

EMBEDDING = "model.embed_tokens.weight"
# Parts of names by which one tells what was saved in the model's place, and what to do about it.
WRAPPERS = {
    ".base_model.model.": (
        "PEFT, around the model that an adapter belongs to,",
        "Save it without: model.merge_and_unload().save_pretrained(FOLDER)",
    ),
    ".base_layer.": (
        "PEFT, around each layer that an adapter changes,",
        "Save it without: model.merge_and_unload().save_pretrained(FOLDER)",
    ),
    "._orig_mod.": ("torch.compile", "Save the model that was compiled: model._orig_mod.save_pretrained(FOLDER)"),
    ".module.": ("DataParallel, DDP or DeepSpeed", "Save the model inside: model.module.save_pretrained(FOLDER)"),
    "._fsdp_wrapped_module.": ("FSDP", "Save a full state dict, of the model inside (accelerate: get_state_dict)"),
    "._checkpoint_wrapped_module.": ("activation checkpointing", "Save the model before it was wrapped"),
    ".language_model.": (
        "a model of text and images",
        "Save its language model alone, as the Lfm2 or Lfm2Moe causal model that config.json names",
    ),
}


def problem(stored: list[str], known: set[str], architecture: str) -> str | None:
    """What is wrong with the names in a checkpoint, with the cure; None where no wrapper shows.

    `known`: every name under which a tensor of `architecture` may be kept.
    """
    strange = [name for name in stored if name not in known]
    for mark, (what, cure) in WRAPPERS.items():
        if marked := [name for name in strange if mark in f".{name}" and "lora_" not in name]:
            return (
                f"{len(marked)} of {len(stored)} tensor names have {mark[1:]!r} in them, such as {marked[0]}: "
                f"{what} puts it there. {cure}"
            )
    short = EMBEDDING.removeprefix("model.")
    anchor = next((name for name in strange if name.endswith(short)), None)
    if anchor is None or EMBEDDING in stored:
        return None
    prefix = anchor.removesuffix(short)
    named = [name for name in stored if name.startswith(prefix)]
    begin = f"begin with {prefix!r}" if prefix else "lack the prefix 'model.'"
    return (
        f"{len(named)} of {len(stored)} tensor names {begin} where 'model.' belongs, such as {anchor}: "
        f"another class than {architecture} was saved. Save that one, or rename the tensors"
    )
