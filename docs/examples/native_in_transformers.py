"""Loads a CherryQ native folder into transformers, in float32, and continues a text.

    python native_in_transformers.py FOLDER "Once upon a time"

Needs torch and transformers (made with 2.13.0 and 5.23.0) beside what read_native.py needs.
"""

import sys

import torch
from read_native import read_native
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer


def load_native(folder):
    config = AutoConfig.from_pretrained(folder)
    del config.quantization_config  # transformers does not know it; the weights come as plain numbers
    state = {name: torch.from_numpy(weight) for name, weight in read_native(folder).items()}
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(state)
    return model.eval()


if __name__ == "__main__":
    folder, prompt = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(prompt, return_tensors="pt")
    continued = load_native(folder).generate(**tokens, max_new_tokens=50, do_sample=False)
    print(tokenizer.decode(continued[0], skip_special_tokens=True))
