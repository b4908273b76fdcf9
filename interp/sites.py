"""Where activations are patched, exactly or by estimate: the names of the sites."""

from interp.errors import PromptError

STREAM_SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
"""By layer and position."""
VECTOR_SITES = ("z", "q", "k", "v")
"""By layer and head, at all positions together or at each alone."""
HEAD_SITES = (*VECTOR_SITES, "pattern")
"""By layer and head."""
SITES = (*STREAM_SITES, *HEAD_SITES)


def check_site(site: str, per_position: bool) -> None:
    """Raise PromptError for a site that does not exist, or has no positions of its own."""
    if site not in SITES:
        raise PromptError(
            f"There is no site {site!r}. By layer and position: {', '.join(STREAM_SITES)}; by "
            f"layer and head: {', '.join(HEAD_SITES)}."
        )
    if per_position and site == "pattern":
        raise PromptError("A pattern belongs to query and key positions; use z, q, k or v.")
