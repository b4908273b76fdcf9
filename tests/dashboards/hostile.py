"""A model whose vocabulary is full of text that pages must not read as anything but text."""

from pathlib import Path

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

import interp
from interp import HookedGPT2, ModelConfig, Tokenizer, save_huggingface

TOKENS = {
    "script": "</script><script>alert('canary')</script>",
    "image": "\"'><img src=canary onerror=alert(1)>",
    "formula": "$canary^2$",
    "bold": "**canary**",
    "heading": "\n# canary\n",
    "colour": ":red[canary]",
    "icon": ":material/home: canary",
    "emoji name": ":smile:canary",
    "link": "[canary](http://example.org)",
    "address": "http://canary.example.org",
    "code": "``canary`",
    "table": "|canary|\n|-|",
    "template": "{{canary}} ${canary} %s",
    "signal": "datum.canary']",
    "emoji": "🦀👩‍👩‍👧 canary",
    "right to left": "\u202eשלום canary",
    "zero width": "can\u200bary",
    "null": "canary\x00canary",
}


def model_folder(folder: Path) -> Path:
    """A random model of these tokens, and of those of the embedded model."""
    tokenizer = interp.load().tokenizer
    assert tokenizer is not None
    backend = Backend.from_str(tokenizer.backend.to_str())
    backend.add_tokens([AddedToken(token, normalized=False) for token in TOKENS.values()])
    own = Tokenizer(backend)
    cfg = ModelConfig(n_layers=2, n_heads=2, d_model=32, d_mlp=32, d_vocab=len(own), n_ctx=128)
    save_huggingface(HookedGPT2(cfg, own), folder)
    return folder
