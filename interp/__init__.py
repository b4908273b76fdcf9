"""A microscope for GPT-2: hooks, patching and attribution, with every claim checked by its effect.

`interp.load()` gives the model that ships with the package. Everything here loads on first use, so
that `import interp` costs little.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from interp import ablation as ablation
    from interp import agreement as agreement
    from interp import attention as attention
    from interp import attention_edges as attention_edges
    from interp import base_run as base_run
    from interp import branches as branches
    from interp import cache_commands as cache_commands
    from interp import causal_facts as causal_facts
    from interp import causal_tracing as causal_tracing
    from interp import charts as charts
    from interp import continuation as continuation
    from interp import derivatives as derivatives
    from interp import differences as differences
    from interp import edge_steps as edge_steps
    from interp import edge_tests as edge_tests
    from interp import effects as effects
    from interp import errors as errors
    from interp import features as features
    from interp import gradients as gradients
    from interp import head_circuits as head_circuits
    from interp import head_classes as head_classes
    from interp import heads as heads
    from interp import logit_attribution as logit_attribution
    from interp import logit_lens as logit_lens
    from interp import maps as maps
    from interp import memory as memory
    from interp import metrics as metrics
    from interp import pairs as pairs
    from interp import patched_patterns as patched_patterns
    from interp import patching as patching
    from interp import path_patching as path_patching
    from interp import path_tracing as path_tracing
    from interp import patterns as patterns
    from interp import pictures as pictures
    from interp import predictions as predictions
    from interp import probes as probes
    from interp import progress as progress
    from interp import prompts as prompts
    from interp import published as published
    from interp import report as report
    from interp import residual_stream as residual_stream
    from interp import results as results
    from interp import sites as sites
    from interp import sparse_autoencoder as sparse_autoencoder
    from interp import splicing as splicing
    from interp import statistics as statistics
    from interp import store as store
    from interp import tiny as tiny
    from interp import writing as writing
    from interp.model.cache import ActivationCache as ActivationCache
    from interp.model.config import ModelConfig as ModelConfig
    from interp.model.gpt2 import HookedGPT2 as HookedGPT2
    from interp.model.loading import available_models as available_models
    from interp.model.loading import load as load
    from interp.model.saving import save_huggingface as save_huggingface
    from interp.model.tokens import Tokenizer as Tokenizer
    from interp.model.weights import model_hash as model_hash

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "ablation",
        "agreement",
        "attention",
        "attention_edges",
        "base_run",
        "branches",
        "cache_commands",
        "causal_facts",
        "causal_tracing",
        "charts",
        "continuation",
        "derivatives",
        "differences",
        "edge_steps",
        "edge_tests",
        "effects",
        "errors",
        "features",
        "gradients",
        "head_circuits",
        "head_classes",
        "heads",
        "logit_attribution",
        "logit_lens",
        "memory",
        "maps",
        "metrics",
        "pairs",
        "patched_patterns",
        "patching",
        "path_patching",
        "path_tracing",
        "patterns",
        "pictures",
        "predictions",
        "probes",
        "progress",
        "prompts",
        "published",
        "report",
        "residual_stream",
        "results",
        "sites",
        "sparse_autoencoder",
        "splicing",
        "statistics",
        "store",
        "tiny",
        "writing",
    ],
    submod_attrs={
        "model.cache": ["ActivationCache"],
        "model.config": ["ModelConfig"],
        "model.gpt2": ["HookedGPT2"],
        "model.loading": ["available_models", "load"],
        "model.saving": ["save_huggingface"],
        "model.tokens": ["Tokenizer"],
        "model.weights": ["model_hash"],
    },
)
