"""The trainings of the zoo: each source with two or three schedules, optimizers and lengths."""

from __future__ import annotations

import _zoo_objectives as objectives
import _zoo_sequences as sequences
import _zoo_vision as vision
from _zoo_training import Training

_ADAM, _SGD = "Adam", "SGD"
_MOMENTUM = (("momentum", 0.9),)

# source: how the task is made, and for each training steps, rate, schedule, optimizer, options
_SOURCES = {
    "digits": (vision.classify("digits"), [
        (1200, 2e-3, "cosine", _ADAM),
        (900, 0.1, "step", _SGD),
        (400, 1e-3, "constant", _ADAM),
    ]),
    "digits_dropout": (vision.classify("digits", (128, 128), 64, 0.4), [
        (2000, 1e-3, "warmup_cosine", "AdamW"),
        (800, 2e-3, "plateau", _ADAM),
    ]),
    "digits_label_noise": (vision.classify("digits", (256,), 32, noisy=0.3), [
        (2500, 1e-3, "constant", _ADAM),
        (1500, 0.05, "linear", _SGD, _MOMENTUM),
    ]),
    "digits_cnn": (vision.digits_cnn(), [
        (1000, 2e-3, "one_cycle", _ADAM),
        (1400, 0.03, "restarts", _SGD, _MOMENTUM),
    ]),
    "digits_norm": (vision.digits_cnn(64, norm=True, smoothing=0.1), [
        (900, 0.1, "cosine", _SGD, _MOMENTUM),
        (700, 3e-3, "step", "AdamW"),
    ]),
    "breast_cancer": (vision.classify("breast_cancer", (32,), 16), [
        (700, 1e-3, "constant", _ADAM),
        (1200, 0.03, "exponential", _SGD),
    ]),
    "wine": (vision.classify("wine", (16,), 16), [
        (500, 3e-3, "linear", _ADAM),
        (1000, 0.02, "constant", _SGD),
    ]),
    "iris": (vision.classify("iris", (16,), 8), [
        (600, 5e-3, "cosine", _ADAM),
        (1500, 0.05, "warmup_linear", _SGD),
    ]),
    "diabetes": (vision.regress("diabetes"), [
        (1500, 1e-3, "constant", _ADAM),
        (800, 0.01, "step", _SGD),
        (600, 3e-3, "cosine", "RMSprop"),
    ]),
    "friedman1": (vision.regress("friedman1", (64, 64)), [
        (2500, 2e-3, "cosine", _ADAM),
        (2000, 0.03, "constant", _SGD),
        (1500, 2e-3, "plateau", _ADAM),
    ]),
    "friedman2": (vision.regress("friedman2", (48,), 64), [
        (1500, 3e-3, "wsd", "AdamW"),
        (1200, 0.05, "linear", _SGD, _MOMENTUM),
    ]),
    "friedman3": (vision.regress("friedman3", (48,), 8), [
        (3000, 1e-3, "exponential", _ADAM),
        (2000, 0.02, "restarts", _SGD),
    ]),
    "drawn_regression": (vision.regress("regression", (16,), 32, robust=True), [
        (1200, 3e-3, "constant", _ADAM),
        (900, 0.05, "one_cycle", _SGD),
    ]),
    "least_squares": (vision.linear(), [
        (3000, 0.03, "constant", _SGD),
        (2000, 0.05, "cosine", _SGD),
        (2500, 0.01, "inverse_root", _ADAM),
    ]),
    "least_squares_full": (vision.linear(512, 1000.0), [
        (1500, 0.2, "constant", _SGD),
        (1000, 0.3, "wsd", _SGD),
    ]),
    "series_gru": (vision.series("gru"), [
        (700, 3e-3, "cosine", _ADAM),
        (500, 2e-3, "constant", _ADAM),
    ]),
    "series_convolution": (vision.series("convolution"), [
        (1800, 1e-3, "warmup_cosine", "AdamW"),
        (1500, 0.02, "step", _SGD, _MOMENTUM),
    ]),
    "tones": (vision.tones(), [
        (1500, 1e-3, "linear", _ADAM),
        (2000, 0.05, "plateau", _SGD, _MOMENTUM),
    ]),
    "autoencoder": (vision.autoencoder(), [
        (2000, 1e-3, "constant", _ADAM),
        (1500, 3e-3, "one_cycle", "AdamW"),
        (2500, 0.5, "cosine", _SGD, _MOMENTUM),
    ]),
    "masked_digits": (vision.autoencoder(24, 0.5), [
        (2000, 2e-3, "warmup_cosine", _ADAM),
        (1500, 1e-3, "constant", "RMSprop"),
    ]),
    "vae": (vision.vae(), [
        (1800, 1e-3, "constant", _ADAM),
        (1500, 2e-3, "cosine", _ADAM),
    ]),
    "vae_warmup": (vision.vae(64, 600), [
        (2000, 1e-3, "exponential", _ADAM),
        (1500, 1e-3, "constant", _ADAM),
    ]),
    "diffusion": (vision.diffusion(), [
        (3000, 2e-3, "constant", _ADAM),
        (2000, 2e-3, "linear", "AdamW"),
    ]),
    "gan": (vision.gan(), [
        (2000, 1e-3, "constant", _ADAM),
        (1500, 2e-3, "linear", _ADAM),
    ]),
    "segmentation": (vision.segmentation(), [
        (500, 3e-3, "cosine", _ADAM),
        (600, 2e-3, "constant", _ADAM),
    ]),
    "detection": (vision.detection(), [
        (1500, 1e-3, "step", _ADAM),
        (1200, 0.02, "warmup_cosine", _SGD, _MOMENTUM),
    ]),
    "language": (sequences.language(), [
        (1500, 3e-3, "warmup_cosine", "AdamW"),
        (1200, 2e-3, "wsd", "AdamW"),
        (900, 1e-3, "constant", _ADAM),
    ]),
    "language_lstm": (sequences.language("lstm"), [
        (1200, 5e-3, "linear", _ADAM),
        (1000, 3e-3, "inverse_root", _ADAM),
    ]),
    "language_experts": (sequences.language("experts"), [
        (900, 3e-3, "cosine", "AdamW"),
        (700, 2e-3, "warmup_linear", "AdamW"),
    ]),
    "language_epochs": (sequences.language("lstm", bytes_=6000), [
        (1500, 3e-3, "constant", _ADAM),
        (1200, 5e-3, "cosine", _ADAM),
    ]),
    "masked_language": (sequences.masked(), [
        (1200, 3e-3, "warmup_linear", "AdamW"),
        (900, 2e-3, "constant", "AdamW"),
    ]),
    "translation": (sequences.translation(), [
        (1000, 2e-3, "cosine", _ADAM),
        (1200, 1e-3, "inverse_root", _ADAM),
    ]),
    "translation_curriculum": (sequences.translation(curriculum=120), [
        (1200, 2e-3, "linear", _ADAM),
        (1000, 1e-3, "constant", _ADAM),
    ]),
    "recommendation": (sequences.recommendation(), [
        (1500, 1e-2, "constant", _ADAM),
        (1200, 2e-2, "exponential", "Adagrad"),
    ]),
    "recommendation_implicit": (sequences.recommendation(implicit=True), [
        (1200, 1e-2, "cosine", _ADAM),
        (900, 5e-3, "plateau", _ADAM),
    ]),
    "graph": (sequences.graph(), [
        (400, 1e-2, "constant", _ADAM),
        (600, 1e-2, "step", _ADAM),
    ]),
    "policy_walk": (sequences.policy(), [
        (700, 5e-3, "constant", _ADAM),
        (900, 5e-3, "linear", _ADAM),
    ]),
    "policy_bandit": (sequences.policy("bandit", 32), [
        (1500, 5e-3, "constant", _ADAM),
        (1200, 1e-2, "cosine", _ADAM),
    ]),
    "oscillator": (sequences.equation(), [
        (2000, 3e-3, "constant", _ADAM),
        (2500, 3e-3, "exponential", _ADAM),
    ]),
    "heat": (sequences.equation("heat"), [
        (1500, 3e-3, "cosine", _ADAM),
        (1200, 2e-3, "constant", _ADAM),
    ]),
    "contrastive": (objectives.contrastive(), [
        (1500, 1e-3, "cosine", _ADAM),
        (1200, 0.1, "warmup_cosine", _SGD, _MOMENTUM),
    ]),
    "metric_learning": (objectives.contrastive(64, triplet=True), [
        (1200, 1e-3, "constant", _ADAM),
        (1000, 2e-3, "step", _ADAM),
    ]),
    "distillation": (objectives.distillation(), [
        (1500, 2e-3, "linear", _ADAM),
        (1200, 0.05, "constant", _SGD),
    ]),
    "finetuning": (objectives.finetuning(), [
        (500, 5e-4, "linear", "AdamW"),
        (800, 0.02, "constant", _SGD),
    ]),
    "multitask": (objectives.multitask(), [
        (1200, 2e-3, "cosine", _ADAM),
        (1500, 0.01, "step", _SGD, _MOMENTUM),
    ]),
    "density_mixture": (objectives.density(), [
        (2500, 2e-3, "cosine", _ADAM),
        (1800, 1e-3, "constant", _ADAM),
    ]),
    "density_normal": (objectives.density("normal"), [
        (1800, 1e-3, "linear", _ADAM),
        (1500, 2e-3, "step", _ADAM),
    ]),
    "survival": (objectives.density("survival"), [
        (1500, 2e-3, "constant", _ADAM),
        (1200, 3e-3, "cosine", "RMSprop"),
    ]),
    "ranking": (objectives.ranking(), [
        (1500, 2e-3, "constant", _ADAM),
        (1200, 3e-3, "one_cycle", _ADAM),
    ]),
    "embeddings": (objectives.embeddings(), [
        (2500, 2e-2, "linear", _ADAM),
        (2000, 1e-2, "constant", _ADAM),
    ]),
}  # fmt: skip


def trainings() -> list[Training]:
    """All trainings, those of different sources in turn."""
    found = []
    for place in range(3):
        for number, (source, (task, variants)) in enumerate(_SOURCES.items()):
            if place < len(variants):
                steps, rate, schedule, optimizer, *options = variants[place]
                name = f"{source}-{schedule}-{optimizer.lower()}"
                given = options[0] if options else ()
                found.append(
                    Training(name, source, task, steps, rate, schedule, optimizer, given, 100 * place + number)
                )
    return found
