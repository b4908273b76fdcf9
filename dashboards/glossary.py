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
    "attention weight": "The share of its attention that a query gives to a key; each row sums "
    "to 1.",
    "effect": "The metric with an intervention minus the metric without, in the metric's unit.",
}
