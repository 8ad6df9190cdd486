"""Titles, units and line styles that figures and HTML pages use for metrics."""

from typing import Any

# Titles of metrics that have no better name of their own.
LABELS = {
    "negative_elbo": "negative ELBO",
    "reconstruction": "reconstruction, -log p(x | latents)",
    "kl": "KL, all latents",
    "classification": "cross-entropy of the labelled images",
    "entropy": "mean entropy of q(y | x)",
    "balance": "KL(mean q(y | x) || p(y))",
    "smoothness": "local distributional smoothness",
    "x_labelled": "reconstruction, labelled images",
    "kl_z_labelled": "KL of z, labelled images",
    "y_labelled": "-log p(y), labelled images",
    "kl_a": "log q(a | x) - log p(a | y, z, x)",
    "kl_a_labelled": "log q(a | x) - log p(a | y, z, x), labelled images",
    "accuracy": "accuracy",
    "mean_squared_error": "mean squared error",
    "squared_error": "squared error",
    "squared_error_and_kl": "squared error + KL (-ELBO without its constant)",
    "bits_per_dim": "negative ELBO",
    "loss": "squared error + codebook + commitment",
    "codebook": "codebook loss",
    "commitment": "commitment loss",
    "usage": "codes used",
    "perplexity": "perplexity of the codes",
    "nats_per_code": "-log p(codes)",
    "nats_per_token": "negative ELBO per token",
    "token_perplexity": "perplexity, exp(negative ELBO per token)",
    "tokens": "length of a sequence, with its end",
    "negative_log_p": "-log p(x)",
    "ais": "-log p(x) by AIS",
    "ais_reverse": "-log p(x) by reverse AIS",
    "ais_difference": "-IWAE minus AIS",
    "ais_gap": "AIS minus reverse AIS",
}
# Units of metrics that are not in nats per image or per point.
UNITS = {
    "bits_per_dim": "bits per dimension",
    "accuracy": "fraction",
    "calibration_error": "fraction",
    "loss": "mean over values",
    "codebook": "squared error per value",
    "commitment": "squared error per value",
    "usage": "fraction",
    "perplexity": "codes",
    "nats_per_code": "nats per code",
    "nats_per_token": "nats per token",
    "token_perplexity": "tokens",
    "tokens": "tokens",
    "mean_squared_error": "per value",
    "squared_error": "per image",
}
# A figure leaves out a metric if it has one of these instead, whose curve says the same: the other one has no
# constant, or the unit that is published, or it is the loss.
REPLACED_BY = {
    "negative_elbo": ("squared_error_and_kl", "bits_per_dim", "loss"),
    "reconstruction": ("squared_error", "mean_squared_error"),
    "codebook": ("commitment",),  # equal in value
    "negative_log_p": ("nats_per_code",),
}
# Legend text and line style of each split in metrics.jsonl.
SPLITS: dict[str, tuple[str, dict[str, Any]]] = {
    "train": ("training, single minibatches", {"color": "0.6", "lw": 0.8}),
    "test": ("test set", {"color": "C0", "marker": "o", "ms": 3}),
    "validation": ("validation set", {"color": "C1", "marker": "o", "ms": 3}),
}


def metric_title(name: str) -> str:
    """Returns the title of a metric; the KL term `kl_z2` becomes "KL of z2"."""
    latent = name.removeprefix("kl_")
    return LABELS.get(name, f"KL of {latent}" if latent != name else name)


def format_setting(value: Any) -> str:
    """Returns a setting as a user types it: `0` for 0.0."""
    return f"{value:g}" if isinstance(value, float) else str(value)
