"""What words mean here: tooltips, and the glossary of the help page."""

MEANING = {
    "BOS": "The token `<|endoftext|>` at the beginning of the text. GPT-2 was trained with it "
    "between documents, and many heads rest on it when they have nothing to look for.",
    "query": "The position that looks: it asks with its vector q.",
    "key": "The position that is looked at: it answers with its vector k. Only positions up to the "
    "query can be seen (causal mask).",
    "layer": "One of the model's blocks, from the first, 0: attention, then an MLP.",
    "head": "One of the attention units of a layer; each has its own queries, keys and values.",
    "answer": "The token whose logit is measured at the end of the prompt. A word inside a "
    "sentence carries the space before it, shown as `·`.",
    "wrong answer": "The token that the answer is compared with: logit difference = logit(answer) "
    "- logit(wrong answer).",
    "attention weight": "The share of its attention that a query gives to a key; each row sums to "
    "1.",
    "score": "q·k times the score factor (1/√d_head in a plain GPT-2), before the softmax. Only "
    "differences between the keys of one query matter; what is masked has -inf.",
    "rank": "Place of the key in the query's row by weight, 1 the highest; the first token, where "
    "many heads rest, does not count.",
    "lift": "The weight divided by even attention to all keys that the query sees; 1 = even.",
    "share": "The part of a head's output that is read from one key: A v W_O, projected on the "
    "whole output. Shares sum to 1; a negative one works against the rest.",
    "effect": "The metric with an intervention minus the metric without, in the metric's unit.",
    "head score": "A number in [0, 1] for what a head attends to, averaged over queries. Random "
    "text: random tokens shown twice, of which the second half is measured.",
    "QK circuit": "W_Q W_Kᵀ, which tokens a head looks for. The score is q·k/√d_head for the two "
    "tokens alone, minus its mean over the key tokens.",
    "OV circuit": "W_V W_O, which logits rise when a head reads a token. Relative to reading an "
    "average token, for a final LayerNorm scale of 1; the direct path only.",
    "overlap": "The share of attention that two heads give to the same keys, averaged over "
    "queries: 1 = the same patterns, 0 = never the same key.",
    "ablation": "What a head or an MLP writes is replaced at every position of the prompt. Zero: "
    "by nothing. Mean: by its mean over reference prompts. Positional mean: by that mean at the "
    "same position. Resample: by what it writes in one reference prompt.",
    "reference": "Other prompts of the same length, whose values take the place of the prompt's.",
    "interplay": "The effect of taking all out together, minus the sum of the effects of each "
    "alone, in logits. 0: they act independently.",
    "corrupted prompt": "The same prompt with a minimal change that changes the answer. It must "
    "have as many tokens as the clean one, because positions are patched one into the other.",
    "site": "The activation that is patched. Of the stream, attn_out and mlp_out: one cell for "
    "each layer and position. Of z, q, k, v and pattern: one for each layer and head.",
    "denoising": "Denoising puts values of the clean run into the corrupted run: is this place "
    "enough to bring the answer back? Noising puts corrupted values into the clean run: is this "
    "place needed?",
    "recovered fraction": "(patched - corrupted) / (clean - corrupted) of the logit difference: 0 "
    "is the corrupted run, 1 the clean run. The effect is patched minus the run that is patched, "
    "in logits.",
    "logit difference": "logit(answer) - logit(wrong answer) at the end of the prompt, in logits.",
    "moved attention": "The share of a head's attention that goes to other keys in the other run: "
    "half the sum of |difference| over a row, mean over the queries that both have, without the "
    "first. 0 = the same, 1 = none of it stayed.",
    "divergence": "Jensen-Shannon divergence of the rows of two patterns, in bits, mean over the "
    "queries that both have, without the first. 0 = the same, 1 = no key in common.",
    "probability": "What the model gives a token among all tokens, before temperature and top-k "
    "change it: from 0 to 1.",
    "residual stream": "The vector at each position that every sublayer reads and adds to; its "
    "sum of all that was written is what the prediction is read from.",
    "logit lens": "The residual stream at some depth, read through the final LayerNorm and W_U as "
    "if the model ended there. pre: before a block, mid: after its attention, post: after its MLP.",
    "promoted": "Tokens whose logits a vector raises most (promotes) or lowers most (suppresses) "
    "through the final LayerNorm, its scale frozen at the run's value, and W_U. In logits, against "
    "the mean over the vocabulary, on which no prediction depends.",
    "direct logit attribution": "What a part of the model adds by itself to logit(answer) - "
    "logit(wrong answer), the final LayerNorm's scale frozen at the run's value. In logits; "
    "positive favours the answer. The parts sum to the logit difference.",
    "residue": "The model's logit difference minus the sum of all parts: rounding, near 0.",
    "temperature": "Divides the logits before a token is drawn: below 1 the probable tokens gain, "
    "above 1 the improbable ones. 0 takes the most probable token each time.",
    "activation store": "A folder with the activations of many texts: for each token and hook a "
    "row of numbers, with checksums, and enough about the texts to find rows by token.",
    "hook": "The name of a value inside the model, such as `blocks.2.hook_resid_post`: the "
    "residual stream after layer 2. `*` stands for every layer.",
    "norm": "The Euclidean length of a row of numbers: how large an activation is at one position.",
    "stored difference": "The largest |stored - live| of all values of a hook. Allowed is half a "
    "step of the stored type at the largest value, and 0.0001 of it for the order of sums.",
}

LIMITS = (
    "**Attention is not explanation.** A weight says where information may come from, not that "
    "the answer depends on it. That is why effects stand beside weights.",
    "**The first token is a resting place.** Many heads put most of their weight on it when they "
    "have nothing to look for; hide it to see the rest.",
    "**An effect of nothing is not proof of nothing.** Other heads may carry the same "
    "information, or take over when one is cut.",
    "**One prompt is one prompt.** What a head does here it need not do elsewhere; the "
    "walk-through and the head page measure on many.",
    "**Direct attribution sees direct paths only.** What a head does through later layers counts "
    "as those layers'.",
    "**The embedded model is small** and knows an invented language; what is found in it is not "
    "thereby true of large models.",
)
"""What the numbers do not show."""

PRIVACY = (
    "Nothing. The server answers this machine only, sends no statistics, and loads nothing from "
    "the network. Only a model of the hub is downloaded, and only when you ask for it."
)

KEYBOARD = {
    "Ctrl+Enter": "in the prompt: show it",
    "Tab": "to the next control, picture or row of tokens",
    "arrow keys": "in a picture: from cell to cell; in the row of tokens: from token to token",
    "Enter": "choose the cell, or the token as the query",
    "k": "in the row of tokens: the token becomes the key (as shift and click)",
    "Esc": "leave the cell",
}
"""Keys and what they do."""
