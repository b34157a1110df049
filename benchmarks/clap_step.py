"""One training step of CLAP and SLAP against transformers.ClapModel: same towers, batch and optimiser, interleaved.

Ours is the contrastive objective of the recipe on HTS-AT and RoBERTa towers of ClapModel's own configuration and with
its weights; the reference is ``ClapModel(..., return_loss=True)``. Claim: at most 1.0x its time.

    python benchmarks/clap_step.py [--rounds 20] [--batch 8] [--size small|tiny|base] [--compile]
"""

import argparse
import statistics
import time

import torch
from torch import nn
from transformers import ClapAudioConfig, ClapConfig, ClapModel, ClapTextConfig

from byol_ext.audio.htsat import HTSAT
from byol_ext.bootstrap import Bootstrap, Branch, SetTerm, Target
from byol_ext.heads import LogitScale
from byol_ext.losses.contrastive import infonce_cross
from byol_ext.predictors import mlp_predictor
from byol_ext.text.encoders import HFText
from recipes.slap_model import slap_edges

SIZES = {
    "small": (32, (2, 2, 2, 2), (2, 4, 8, 8), 128, 4),
    "tiny": (96, (2, 2, 6, 2), (4, 8, 16, 32), 768, 12),
    "base": (128, (2, 2, 12, 2), (4, 8, 16, 32), 768, 12),
}


def reference(size: str) -> ClapModel:
    channels, depths, heads, width, layers = SIZES[size]
    audio = ClapAudioConfig(
        patch_embeds_hidden_size=channels, hidden_size=8 * channels, depths=depths, num_attention_heads=heads
    )
    text = ClapTextConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
        vocab_size=50_265,
    )
    config = ClapConfig(audio_config=audio.to_dict(), text_config=text.to_dict(), projection_dim=512)
    return ClapModel(config).train()


def branches_of(clap: ClapModel) -> dict[str, Branch]:
    """Our branches with the same architecture and weights."""
    twin = ClapModel(clap.config).train()
    twin.load_state_dict(clap.state_dict())
    audio = Branch(HTSAT.from_tower(twin.audio_model), nn.Sequential(twin.audio_projection))
    text = Branch(HFText(twin.text_model, pool="pooler"), nn.Sequential(twin.text_projection))
    return {"audio": audio.train(), "text": text.train()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--size", choices=sorted(SIZES), default="tiny" if torch.cuda.is_available() else "small")
    parser.add_argument("--compile", action="store_true", help="torch.compile the towers on both sides")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    clap = reference(args.size)
    views = {"audio": "audio", "text": "text"}
    ours = branches_of(clap)
    term = SetTerm("clap", ("audio", "text"), infonce_cross, keys=("a", "b"), scale=LogitScale())
    model = Bootstrap(ours, views, set_terms=[term])
    slap_branches = branches_of(clap)
    slap = Bootstrap(
        slap_branches,
        views,
        target=Target(slap_branches, tau=0.95, buffers="copy"),
        predictors={name: mlp_predictor(512, 4096) for name in views},
        plan=slap_edges(0.5),
    )
    mel = torch.randn(args.batch, 1, 1001, 64, device=device) * 20 - 40
    ids = torch.randint(5, 50_000, (args.batch, args.tokens), device=device)
    tokens = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    modules = {"transformers ClapModel": clap, "byol_ext CLAP": model, "byol_ext SLAP": slap}
    optimisers = {}
    for name, module in modules.items():
        module.to(device)
        optimisers[name] = torch.optim.AdamW((p for p in module.parameters() if p.requires_grad), lr=1e-5, fused=True)
    if args.compile:
        clap.audio_model.compile()
        clap.text_model.compile()
        for branch in (*ours.values(), *slap_branches.values()):
            branch.encoder.compile()
    losses = {
        "transformers ClapModel": lambda: clap(input_features=mel, is_longer=None, return_loss=True, **tokens).loss,
        "byol_ext CLAP": lambda: model({"audio": mel, "text": tokens}).loss,
        "byol_ext SLAP": lambda: slap({"audio": mel, "text": tokens}).loss,
    }

    def step(name: str) -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16, enabled=device == "cuda"):
            loss = losses[name]()
        optimisers[name].zero_grad(set_to_none=True)
        loss.backward()
        optimisers[name].step()
        if hasattr(modules[name], "after_step"):
            modules[name].after_step(0)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    times: dict[str, list[float]] = {name: [] for name in losses}
    for round_ in range(args.rounds + 2):
        for name in losses:
            elapsed = step(name)
            if round_ >= 2:
                times[name].append(elapsed)
    where = torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    parameters = sum(p.numel() for p in clap.parameters()) / 1e6
    print(f"{args.size} towers ({parameters:.1f} M), batch {args.batch}, 10 s, {args.tokens} tokens, {where}")
    print(f"{'':26}{'median ms':>10}{'min ms':>10}")
    for name, values in times.items():
        print(f"{name:26}{1e3 * statistics.median(values):10.1f}{1e3 * min(values):10.1f}")
    base = times["transformers ClapModel"]
    paired = {
        name: statistics.median(a / b for a, b in zip(values, base, strict=True)) for name, values in times.items()
    }
    print(
        f"median of ratios to ClapModel: CLAP {paired['byol_ext CLAP']:.2f} (claim: <= 1.00), "
        f"SLAP {paired['byol_ext SLAP']:.2f}"
    )


if __name__ == "__main__":
    main()
